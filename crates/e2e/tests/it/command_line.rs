//! The programs as operators use them.

use std::process::Command;

use testkit::database::TestDatabase;

use crate::support::{ADMIN, PASSWORD, Product, SECRETS_KEY, program};

#[test]
fn a_wrong_configuration_is_told_whole_and_without_values() {
    for name in ["api-gateway", "distance-worker"] {
        let answer = Command::new(program(name))
            .arg("check-config")
            .env_clear()
            .env("DATABASE_URL", "mysql://user:hush@host/x")
            .env("PORT", "7")
            .env("WORKER_PORT", "7")
            .env("APP_ENV", "somewhere")
            .output()
            .unwrap();
        let complaint = String::from_utf8(answer.stderr).unwrap();
        assert_eq!(answer.status.code(), Some(78), "{complaint}");
        for variable in ["DATABASE_URL", "SYSTEM_DATABASE_URL", "REDIS_URL", "APP_ENV", "PORT"] {
            assert!(complaint.lines().any(|line| line.contains(variable)), "{variable}: {complaint}");
        }
        assert!(!complaint.contains("hush"), "{complaint}");
    }
}

#[test]
fn production_is_not_started_on_defaults() {
    let answer = Command::new(program("api-gateway"))
        .arg("check-config")
        .env_clear()
        .env("APP_ENV", "production")
        .output()
        .unwrap();
    let complaint = String::from_utf8(answer.stderr).unwrap();
    for variable in [
        "CONFIG_VERSION",
        "CORS_ORIGIN",
        "API_BASE_URL",
        "APP_BASE_URL",
        "FRONTEND_BASE_URL",
        "METRICS_SCRAPE_TOKEN",
        "SECRETS_KEY",
        "WORKERS_ENABLED",
    ] {
        assert!(complaint.lines().any(|line| line.starts_with(&format!("{variable}:"))), "{variable}: {complaint}");
    }
}

#[tokio::test]
async fn an_organization_is_made_once() {
    let database = TestDatabase::create().await;
    let create = |slug: &str, email: &str| {
        Command::new(program("api-gateway"))
            .args(["organization", "create", "--name", "Journey", "--slug", slug, "--admin-email", email])
            .env_clear()
            .env("DATABASE_URL", database.app_url())
            .env("SYSTEM_DATABASE_URL", database.system_url())
            .env("REDIS_URL", "redis://127.0.0.1:1")
            .env("SECRETS_KEY", SECRETS_KEY)
            .env("ADMIN_PASSWORD", PASSWORD)
            .output()
            .unwrap()
    };
    let made = create("journey", ADMIN);
    let line: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert!(line["organization_id"].is_string() && line["user_id"].is_string());
    for (slug, email) in
        [("journey", ADMIN), ("journey", "other@journey.example"), ("second", ADMIN), ("Not A Slug", "x@y.example")]
    {
        let again = create(slug, email);
        assert!(!again.status.success() && !again.stderr.is_empty(), "{slug} {email}");
    }
    let superuser = database.superuser().await;
    let count: i64 = superuser
        .query_one("SELECT (SELECT count(*) FROM organizations) + (SELECT count(*) FROM users)", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(count, 2);
}

#[tokio::test]
async fn the_programs_drain_when_told_and_answer_their_health_checks() {
    let mut product = Product::start(1, &[]).await;
    product.ready(product.workers[0].port).await;
    for (name, variable, port) in
        [("api-gateway", "PORT", product.gateway.port), ("distance-worker", "WORKER_PORT", product.workers[0].port)]
    {
        let check = |port: u16| {
            Command::new(program(name)).arg("healthcheck").env(variable, port.to_string()).status().unwrap()
        };
        assert!(check(port).success());
        assert!(!check(1).success());
    }
    let phone = product.phone().await;
    phone.check_out().await;
    assert_eq!(product.workers[0].terminate().code(), Some(0));
    assert_eq!(product.gateway.terminate().code(), Some(0));
}

#[tokio::test]
async fn tampering_with_the_audit_log_is_named_on_the_command_line() {
    let product = Product::start(0, &[]).await;
    let api = product.api();
    let admin = api.sign_in(ADMIN).await;
    for name in ["first", "second", "third"] {
        let key = serde_json::json!({ "name": name, "scopes": ["read:sessions"] });
        assert_eq!(api.post(&admin, "/admin/api-keys", &key).await.0, 201);
    }
    // It needs nothing but the database.
    let verify = || {
        let answer = Command::new(program("api-gateway"))
            .args(["audit", "verify"])
            .env_clear()
            .env("SYSTEM_DATABASE_URL", product.database.system_url())
            .output()
            .unwrap();
        let lines: Vec<serde_json::Value> =
            answer.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        (answer.status.code(), lines)
    };
    let superuser = product.database.superuser().await;
    let ids =
        superuser.query("SELECT id::text, organization_id::text FROM admin_audit_log ORDER BY position", &[]).await;
    let ids: Vec<(String, String)> = ids.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    let organization = &ids[0].1;
    let (code, lines) = verify();
    assert_eq!((code, lines.len()), (Some(0), 1), "{lines:?}");
    assert_eq!((&lines[0]["organization_id"], &lines[0]["intact"]), (&organization.as_str().into(), &true.into()));
    assert_eq!((&lines[0]["entries"], lines[0]["lastHash"].as_str().unwrap().len()), (&3.into(), 64));

    let tamper = async |sql: &str| superuser.batch_execute(sql).await.unwrap();
    tamper("UPDATE admin_audit_log SET payload = payload || '{\"name\": \"other\"}' WHERE position = 2").await;
    let (code, lines) = verify();
    let named = serde_json::json!({
        "organization_id": organization, "intact": false, "fault": "changed", "position": 2, "entryId": ids[1].0,
    });
    assert_eq!((code, &lines[..]), (Some(1), &[named][..]));

    tamper("DELETE FROM admin_audit_log WHERE position = 2").await;
    let (code, lines) = verify();
    let named = serde_json::json!({
        "organization_id": organization, "intact": false, "fault": "missing", "position": 2, "entryId": ids[2].0,
    });
    assert_eq!((code, &lines[..]), (Some(1), &[named][..]));

    // A database that is not there is no proof of anything.
    let away = Command::new(program("api-gateway"))
        .args(["audit", "verify"])
        .env_clear()
        .env("SYSTEM_DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing")
        .output()
        .unwrap();
    assert_eq!(away.status.code(), Some(1));
    assert!(!away.stderr.is_empty());
}
