//! Whoever guesses API keys is slow, and is noticed.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;

use crate::support::TestApp;

#[tokio::test]
async fn a_guess_near_a_real_key_costs_a_whole_comparison_each_time() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let (key, _) = admin.api_key(&["admin:all"]).await;
    // The right beginning, by which the row is found; so there is something to compare with.
    let near = format!("{}{}", &key[..16], "0".repeat(40));
    let guess = async |key: &str| {
        let begun = Instant::now();
        let answer = app.with_key(key, Method::GET, "/auth/me", &Value::Null).await;
        (answer, begun.elapsed())
    };
    guess(&key).await.0.data(200);
    // A right key is compared once a minute, a wrong one every time.
    let (_, known) = guess(&key).await;
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let (answer, took) = guess(&near).await;
        answer.refused(401, "INVALID_API_KEY", "Invalid API key");
        quickest = quickest.min(took);
    }
    assert!(quickest > Duration::from_millis(10), "{quickest:?}");
    assert!(quickest > known, "{quickest:?} for a guess, {known:?} for a key that is known");
}

#[tokio::test]
async fn guesses_have_a_budget_and_a_right_key_is_not_kept_out_by_it() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let (key, _) = admin.api_key(&["admin:all"]).await;
    let guess = format!("ft_live_{}", "a".repeat(48));
    // As if this address had been refused 1198 times within the minute.
    app.redis.call(&["SET", "rl:refused:ip:127.0.0.1", "1198", "PX", "60000"]).unwrap();
    for _ in 0..2 {
        let answer = app.with_key(&guess, Method::GET, "/auth/me", &Value::Null).await;
        answer.refused(401, "INVALID_API_KEY", "Invalid API key");
    }
    for _ in 0..3 {
        let answer = app.with_key(&guess, Method::GET, "/auth/me", &Value::Null).await;
        answer.refused(429, "RATE_LIMITED", "Too many requests");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() <= 60);
    }
    assert_eq!(app.with_key(&key, Method::GET, "/auth/me", &Value::Null).await.status, 200);
    let metrics = app.get("/metrics").await.text;
    for line in [
        r#"security_abuse_total{kind="api_key_unknown"} 2"#,
        r#"security_abuse_total{kind="limit_hit"} 3"#,
        r#"security_rate_limit_hits_total{route="/auth/me"} 3"#,
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}
