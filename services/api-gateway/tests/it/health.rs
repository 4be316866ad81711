//! Is it alive, can it work, what does it count.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::TestApp;

#[tokio::test]
async fn the_root_says_what_this_is() {
    let app = TestApp::start().await;
    let root = app.get("/").await.json();
    assert_eq!(root, json!({ "service": "FieldTrack 2.0", "status": "online", "version": "1.0.0", "docs": "/docs" }));
}

#[tokio::test]
async fn health_answers_from_memory() {
    let mut app = TestApp::start().await;
    app.redis.kill();
    let answer = app.get("/health").await;
    let body = answer.json();
    assert_eq!((answer.status.as_u16(), &body["status"]), (200, &json!("ok")));
    assert_eq!(body["config_hash"].as_str().unwrap().len(), 12);
    assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(answer.header("x-release"), "manual");
    assert!(!answer.headers.contains_key("x-ratelimit-limit"));
}

#[tokio::test]
async fn readiness_names_what_is_away_and_remembers_for_three_seconds() {
    let mut app = TestApp::start().await;
    let ready = app.get("/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.json()["status"]), (200, &json!("ready")), "{}", ready.text);
    let checks = json!({ "redis": "ok", "supabase": "ok", "bullmq": "ok", "workers": { "status": "error", "active": 0, "expected": 4 } });
    assert_eq!(ready.json()["checks"], checks);
    app.redis.kill();
    assert_eq!(app.get("/ready").await.status, 200);
    app.clock.advance(chrono::TimeDelta::seconds(3));
    let begun = Instant::now();
    let away = app.get("/ready").await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!((away.status.as_u16(), &away.json()["status"]), (503, &json!("not_ready")));
    let checks = away.json()["checks"].clone();
    assert_eq!(
        (&checks["redis"], &checks["supabase"], &checks["bullmq"]),
        (&json!("error"), &json!("ok"), &json!("error"))
    );
}

#[tokio::test]
async fn metrics_need_the_token_and_have_the_names_of_the_contract() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let app = TestApp::start_with(&[("METRICS_SCRAPE_TOKEN", TOKEN)]).await;
    let asha = app.organization().await.employee("Asha").await;
    let session = asha.check_in().await;
    asha.post("/locations", &crate::support::location(&app, &session, 1)).await.data(201);
    for wrong in [None, Some("x"), Some("")] {
        let mut request = app.request(reqwest::Method::GET, "/metrics");
        if let Some(token) = wrong {
            request = request.bearer_auth(token);
        }
        let refused = app.send(request).await;
        assert_eq!((refused.status.as_u16(), refused.text.as_str()), (401, "Unauthorized"));
    }
    let scrape = app.send(app.request(reqwest::Method::GET, "/metrics").bearer_auth(TOKEN)).await;
    assert_eq!(scrape.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    for line in [
        r#"http_requests_total{method="POST",route="/locations",status_code="201"} 1"#,
        r#"http_request_duration_seconds_bucket{le="0.01",method="POST",route="/locations",status_code="201"}"#,
        "http_requests_in_flight ",
        "locations_inserted_total 1",
        "process_resident_memory_bytes ",
        "process_open_fds ",
    ] {
        assert!(scrape.text.contains(line), "{line}\n{}", scrape.text);
    }
}

#[tokio::test]
async fn requests_in_flight_are_counted_once_and_what_is_no_route_in_one_line() {
    let app = TestApp::start().await;
    for path in ["/no/such/route", "/nor/this"] {
        assert_eq!(app.get(path).await.status, 404);
    }
    assert_eq!(app.get("/auth/me").await.status, 401);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = app.get("/metrics").await.text;
        // The scrape itself is all there is, as soon as the server has let go of the others.
        if text.lines().any(|line| line == "http_requests_in_flight 1") {
            let unmatched = r#"http_requests_total{method="GET",route="unmatched",status_code="404"} 2"#;
            assert!(text.contains(unmatched), "{text}");
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
