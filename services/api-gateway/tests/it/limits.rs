//! Who may ask how often.

use chrono::TimeDelta;
use serde_json::json;

use crate::support::{PASSWORD, TestApp, location, point};

#[tokio::test]
async fn replies_say_what_is_left() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let first = asha.get("/auth/me").await;
    let second = asha.get("/auth/me").await;
    assert_eq!((first.header("x-ratelimit-limit"), second.header("x-ratelimit-limit")), ("1200", "1200"));
    let left = |answer: &crate::support::Answer| answer.header("x-ratelimit-remaining").parse::<u32>().unwrap();
    assert_eq!(left(&first) - left(&second), 1);
    assert!(second.header("x-ratelimit-reset").parse::<u32>().unwrap() <= 60);
}

#[tokio::test]
async fn uploads_have_a_budget_of_their_own_and_refusals_do_not_use_it() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let session = asha.check_in().await;
    for _ in 0..15 {
        assert_eq!(asha.post("/locations", &json!({})).await.status, 400);
    }
    for second in 1..=10 {
        assert_eq!(asha.post("/locations", &location(&app, &session, second)).await.status, 201);
    }
    let refused = asha.post("/locations", &location(&app, &session, 11)).await;
    let body = refused.refused(429, "RATE_LIMITED", "Too many requests");
    let wait: u32 = refused.header("retry-after").parse().unwrap();
    assert!((1..=10).contains(&wait));
    assert_eq!(body["retryAfter"], format!("{wait}s"));
    // Batches are counted apart, and so is everybody else.
    let batch = json!({ "session_id": session, "points": [point(&app, 12)] });
    assert_eq!(asha.post("/locations/batch", &batch).await.status, 201);
    let ben = organization.employee("Ben").await;
    let bens = ben.check_in().await;
    assert_eq!(ben.post("/locations", &location(&app, &bens, 1)).await.status, 201);
}

#[tokio::test]
async fn recalculations_are_few() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let path = format!("/attendance/{}/recalculate", asha.check_in().await);
    for _ in 0..5 {
        asha.post(&path, &json!({})).await.data(200);
    }
    asha.post(&path, &json!({})).await.refused(429, "RATE_LIMITED", "Too many requests");
}

#[tokio::test]
async fn refused_requests_are_charged_to_the_address() {
    let app = TestApp::start().await;
    let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
    for _ in 0..13 {
        let burst = (0..100).map(|_| app.get("/auth/me"));
        for answer in futures_util::future::join_all(burst).await {
            *statuses.entry(answer.status.as_u16()).or_default() += 1;
        }
    }
    assert_eq!(statuses, [(401, 1200), (429, 100)].into());
}

#[tokio::test]
async fn callers_do_not_choose_the_address_they_are_charged_to() {
    let charge = |app: &TestApp, address: &str| {
        app.redis.call(&["SET", &format!("rl:default:ip:{address}"), "1200", "PX", "60000"]).unwrap();
    };
    let status = async |app: &TestApp, forwarded: &str| {
        let request = app.request(reqwest::Method::GET, "/no/such/route").header("x-forwarded-for", forwarded);
        app.send(request).await.status.as_u16()
    };
    // Nor is this machine spared.
    let app = TestApp::start().await;
    charge(&app, "127.0.0.1");
    assert_eq!(status(&app, "203.0.113.9").await, 429);
    // A proxy that is trusted says whom it serves: whatever stands before that is the caller's.
    let behind = TestApp::start_with(&[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    charge(&behind, "127.0.0.1");
    charge(&behind, "198.51.100.7");
    assert_eq!(status(&behind, "203.0.113.9").await, 404);
    assert_eq!(status(&behind, "203.0.113.9, 198.51.100.7").await, 429);
}

#[tokio::test]
async fn failed_sign_ins_are_few_and_a_success_forgets_them() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    for _ in 0..9 {
        app.login(&admin.email, "wrong password").await.refused(
            401,
            "INVALID_CREDENTIALS",
            "Invalid email or password",
        );
    }
    app.login(&admin.email, PASSWORD).await.data(200);
    for _ in 0..10 {
        app.login(&admin.email.to_uppercase(), "wrong password").await.refused(
            401,
            "INVALID_CREDENTIALS",
            "Invalid email or password",
        );
    }
    app.login(&admin.email, PASSWORD).await.refused(429, "RATE_LIMITED", "Too many requests");
    // Somebody else at the same address is not kept out.
    let other = app.organization().await.admin;
    app.login(&other.email, PASSWORD).await.data(200);
    app.clock.advance(TimeDelta::seconds(1));
}
