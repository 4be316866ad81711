//! The list that bookkeeping takes away, however long it is.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use crate::support::{Organization, PASSWORD, SECRETS_KEY, TestApp};

const HEADER: &str =
    "id,employee_code,employee_name,amount,description,status,rejection_comment,submitted_at,reviewed_at";

/// Puts claims of one employee behind everybody's back, each a second older than the one before.
async fn fill(app: &TestApp, organization: &Organization<'_>, claims: i32) {
    let client = app.database.superuser().await;
    client
        .batch_execute(&format!(
            "INSERT INTO expenses (organization_id, id, employee_id, amount, description, submitted_at)
             SELECT organization_id, gen_random_uuid(), id, n + 0.5, rpad('Fuel ' || n || ' ', 480, 'x'),
                    timestamptz '2026-03-10 08:00:00+00' - n * interval '1 second'
             FROM (SELECT organization_id, id FROM employees WHERE organization_id = '{}' LIMIT 1) AS someone,
                  generate_series(1, {claims}) AS n",
            organization.id
        ))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_export_holds_every_claim_as_the_contract_writes_it() {
    let app = TestApp::start_with(&[("RATE_LIMIT_MULTIPLIER", "1000")]).await;
    let (organization, theirs) = (app.organization().await, app.organization().await);
    let admin = &organization.admin;
    let path = "/admin/expenses/export";
    let empty = admin.get(path).await;
    assert_eq!((empty.status.as_u16(), &*empty.text), (200, HEADER));
    assert_eq!(empty.header("content-type"), "text/csv; charset=utf-8");
    let name = format!("attachment; filename=\"expenses-{}.csv\"", app.now().format("%Y-%m-%d"));
    assert_eq!(empty.header("content-disposition"), name);

    let (asha, ben) = (organization.employee("Asha").await, organization.employee("Ben").await);
    let client = app.database.superuser().await;
    client.execute("UPDATE employees SET name = '=' || name WHERE name = 'Asha'", &[]).await.unwrap();
    let stranger = theirs.employee("Stranger").await;
    stranger.post("/expenses", &json!({ "amount": 1, "description": "Elsewhere" })).await.data(201);
    let mut ids = Vec::new();
    for (person, amount, description) in [
        (&asha, json!(250.50), "Fuel, and \"toll\""),
        (&ben, json!(3), "=HYPERLINK(\"http://x\")"),
        (&ben, json!(0.1), "two\nlines"),
        (&asha, json!(1e3), "+49 30 1234"),
    ] {
        let body = json!({ "amount": amount, "description": description });
        let stored = person.post("/expenses", &body).await.data(201);
        ids.insert(0, (stored["id"].as_str().unwrap().to_owned(), stored["submitted_at"].as_str().unwrap().to_owned()));
        app.clock.advance(TimeDelta::seconds(90));
    }
    let body = json!({ "status": "REJECTED", "rejection_comment": "@manager: no receipt" });
    let reviewed = admin.patch(&format!("/admin/expenses/{}", ids[3].0), &body).await.data(200);

    let line = |place: usize, rest: &str| format!("{},{}", ids[place].0, rest.replace("AT", &ids[place].1));
    let lines = [
        HEADER.to_owned(),
        line(0, "EMP0001,'=Asha,1000,'+49 30 1234,PENDING,,AT,"),
        line(1, "EMP0002,Ben,0.1,\"two\nlines\",PENDING,,AT,"),
        line(2, "EMP0002,Ben,3,\"'=HYPERLINK(\"\"http://x\"\")\",PENDING,,AT,"),
        format!(
            "{},EMP0001,'=Asha,250.5,\"Fuel, and \"\"toll\"\"\",REJECTED,'@manager: no receipt,{},{}",
            ids[3].0,
            ids[3].1,
            reviewed["reviewed_at"].as_str().unwrap()
        ),
    ];
    assert_eq!(admin.get(path).await.text, lines.join("\r\n"));
    let whose = reviewed["employee_id"].as_str().unwrap();
    let hers = admin.get(&format!("{path}?employee_id={whose}")).await.text;
    assert_eq!(hers, [&lines[0][..], &lines[1], &lines[4]].join("\r\n"));
    assert_eq!(admin.get(&format!("{path}?employee_id={}", Uuid::new_v4())).await.text, HEADER);
    admin.get(&format!("{path}?employee_id=7")).await.refused(
        400,
        "VALIDATION_ERROR",
        "querystring/employee_id Invalid UUID",
    );
    let head = app.send(admin.request(Method::HEAD, path)).await;
    assert_eq!((head.status.as_u16(), head.header("content-disposition"), &*head.text), (200, &*name, ""));
}

#[tokio::test]
async fn pieces_join_without_a_gap_and_without_a_double() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    organization.employee("Asha").await;
    for (claims, total) in [(500, 500), (1, 501), (998, 1499), (1, 1500)] {
        // Every other claim shares its moment with another one; their ids tell them apart.
        fill(&app, &organization, claims).await;
        let text = organization.admin.get("/admin/expenses/export").await.text;
        let ids: Vec<&str> = text.split("\r\n").skip(1).map(|line| line.split_once(',').unwrap().0).collect();
        assert_eq!(ids.len(), total);
        assert_eq!(ids.into_iter().collect::<std::collections::BTreeSet<_>>().len(), total);
    }
}

#[tokio::test]
async fn whoever_reads_slowly_or_goes_away_holds_no_connection() {
    let app = TestApp::start_with(&[("DATABASE_POOL_SIZE", "1")]).await;
    let organization = app.organization().await;
    organization.employee("Asha").await;
    fill(&app, &organization, 40_000).await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut reader = tokio::net::TcpStream::connect(app.api.trim_start_matches("http://")).await.unwrap();
        let request = format!(
            "GET /admin/expenses/export HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
            organization.admin.token
        );
        reader.write_all(request.as_bytes()).await.unwrap();
        let mut beginning = [0; 4096];
        reader.read_exact(&mut beginning).await.unwrap();
        assert!(beginning.starts_with(b"HTTP/1.1 200"));
        slow.push(reader);
    }
    // The only connection serves others while three lists wait to be read on.
    for _ in 0..5 {
        assert_eq!(organization.admin.get("/admin/expenses?limit=1").await.json()["pagination"]["total"], 40_000);
    }
    drop(slow);
    assert_eq!(organization.admin.get("/admin/expenses?limit=1").await.status, 200);
}

#[tokio::test]
async fn an_export_that_cannot_go_on_breaks_off_audibly() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    organization.employee("Asha").await;
    fill(&app, &organization, 40_000).await;
    let mut answer = organization.admin.request(Method::GET, "/admin/expenses/export").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.chunk().await.unwrap().unwrap();
    app.database.superuser().await.batch_execute("ALTER TABLE expenses RENAME TO mislaid").await.unwrap();
    let broken = loop {
        match answer.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broken, "an incomplete list looks complete");
    // Where nothing has been sent yet, the status says it.
    organization.admin.get("/admin/expenses/export").await.refused(500, "INTERNAL_ERROR", "Internal server error");
}

/// A gateway in a process of its own.
struct Gateway(Child);

impl Gateway {
    /// Memory it holds now, in KiB.
    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_hundred_thousand_claims_pass_through_constant_memory() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    organization.employee("Asha").await;
    fill(&app, &organization, 100_000).await;
    let free = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let gateway = Gateway(
        Command::new(env!("CARGO_BIN_EXE_api-gateway"))
            .env_clear()
            .env("APP_ENV", "test")
            .env("PORT", port.to_string())
            .env("DATABASE_URL", app.database.app_url())
            .env("SYSTEM_DATABASE_URL", app.database.system_url())
            .env("REDIS_URL", app.redis.url())
            .env("SECRETS_KEY", SECRETS_KEY)
            .env("LOG_LEVEL", "warn")
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let api = format!("http://127.0.0.1:{port}");
    let begun = std::time::Instant::now();
    while app.http.get(format!("{api}/health")).send().await.is_err() {
        assert!(begun.elapsed().as_secs() < 30, "the gateway does not start");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let credentials = json!({ "email": organization.admin.email, "password": PASSWORD });
    let signed_in = app.send(app.http.post(format!("{api}/auth/login")).json(&credentials)).await.data(200);
    let token = signed_in["access_token"].as_str().unwrap();
    let before = gateway.resident_kib();
    let (mut most, mut bytes, mut lines) = (before, 0_usize, 0_usize);
    let mut answer = app.http.get(format!("{api}/admin/expenses/export")).bearer_auth(token).send().await.unwrap();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        bytes += chunk.len();
        lines += chunk.iter().filter(|byte| **byte == b'\n').count();
        most = most.max(gateway.resident_kib());
    }
    assert_eq!(lines, 100_000);
    assert!(bytes > 50_000_000, "{bytes}");
    let grown = most - before;
    assert!(grown < 16 * 1024, "{grown} KiB more than before for a list of {} KiB", bytes / 1024);
}
