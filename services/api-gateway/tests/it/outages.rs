//! Redis or PostgreSQL away: what still works, what says so.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::redis::Memory;

use crate::support::{TestApp, location, point};

#[tokio::test]
async fn without_redis_everything_that_matters_works_and_soon() {
    let mut app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let email = asha.email.clone();
    let session = asha.check_in().await;
    let (token, admin_token) = (asha.token.clone(), organization.admin.token.clone());
    for frozen in [true, false] {
        if frozen {
            app.redis.freeze().unwrap();
        } else {
            app.redis.kill();
        }
        let asha = crate::support::Person {
            app: &app,
            email: email.clone(),
            token: token.clone(),
            refresh_token: String::new(),
        };
        let second = if frozen { 1 } else { 2 };
        for attempt in 0..2 {
            let begun = Instant::now();
            let answer = asha.post("/locations", &location(&app, &session, second * 10 + attempt)).await;
            assert_eq!(answer.status, 201, "{}", answer.text);
            assert!(!answer.headers.contains_key("x-ratelimit-limit"));
            assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
        }
        let batch = json!({ "session_id": session, "points": [point(&app, second)] });
        assert_eq!(asha.post("/locations/batch", &batch).await.status, 201);
        assert_eq!(asha.get("/attendance/my-sessions").await.status, 200);
        app.login(&email, crate::support::PASSWORD).await.data(200);
        let begun = Instant::now();
        assert_eq!(app.get("/health").await.status, 200);
        assert!(begun.elapsed() < Duration::from_millis(200));
        if frozen {
            app.redis.thaw().unwrap();
        } else {
            app.redis.start_again(Memory::Lost).unwrap();
        }
    }
    assert!(!admin_token.is_empty());
}

#[tokio::test]
async fn without_its_database_the_gateway_says_so_and_comes_back_by_itself() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let session = asha.check_in().await;
    let superuser = app.database.superuser().await;
    let name: String = superuser.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    superuser.batch_execute(&format!("ALTER DATABASE {name} CONNECTION LIMIT 0")).await.unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    superuser.query(cut, &[]).await.unwrap();
    let begun = Instant::now();
    for (path, body) in [("/locations", location(&app, &session, 1)), ("/attendance/check-out", json!({}))] {
        asha.post(path, &body).await.refused(503, "SERVICE_UNAVAILABLE", "Service unavailable");
    }
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(app.get("/ready").await.json()["checks"]["supabase"], "error");
    assert_eq!(app.get("/health").await.status, 200);
    superuser.batch_execute(&format!("ALTER DATABASE {name} CONNECTION LIMIT -1")).await.unwrap();
    assert_eq!(asha.post("/locations", &location(&app, &session, 1)).await.status, 201);
    asha.check_out().await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_ends_with_an_answer() {
    let app = TestApp::start_with(&[("REQUEST_TIMEOUT_MS", "300"), ("DATABASE_STATEMENT_TIMEOUT_MS", "10000")]).await;
    let asha = app.organization().await.employee("Asha").await;
    let session = asha.check_in().await;
    // Somebody holds the session's row.
    let mut superuser = app.database.superuser().await;
    let holder = superuser.transaction().await.unwrap();
    holder.execute("SELECT FROM attendance_sessions FOR UPDATE", &[]).await.unwrap();
    let batch = json!({ "session_id": session, "points": [point(&app, 1)] });
    asha.post("/locations/batch", &batch).await.refused(503, "SERVICE_UNAVAILABLE", "Service unavailable");
    holder.rollback().await.unwrap();
    assert_eq!(asha.post("/locations/batch", &batch).await.status, 201);
}

#[tokio::test]
async fn a_full_queue_refuses_nobody_and_what_does_not_fit_waits_in_the_database() {
    const TOKEN: &str = "scrape-scrape-scrape-scrape-scrape-1";
    let app = TestApp::start_with(&[("MAX_QUEUE_DEPTH", "1"), ("METRICS_SCRAPE_TOKEN", TOKEN)]).await;
    let organization = app.organization().await;
    for name in ["Asha", "Ben", "Carla"] {
        let person = organization.employee(name).await;
        person.check_in().await;
        person.check_out().await;
    }
    let refused = "queue_overload_events_total{queue=\"distance-engine\"} 2";
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let scrape = app.send(app.request(reqwest::Method::GET, "/metrics").bearer_auth(TOKEN)).await;
        if scrape.text.contains(refused) {
            break;
        }
        assert!(Instant::now() < deadline, "{}", scrape.text);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(app.redis.call(&["LLEN", "bull:distance-engine:wait"]).unwrap().to_string(), "1");
    let marked = app.database.superuser().await;
    let marked = marked.query_one("SELECT count(*) FROM attendance_sessions WHERE dirty_from IS NOT NULL", &[]).await;
    assert_eq!(marked.unwrap().get::<_, i64>(0), 3);
}
