//! Whoever tries doors is counted, by what they tried. That each leaves a line without a secret is shown by the program's
//! own log, in `crates/e2e`.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::TestApp;

#[tokio::test]
async fn every_kind_of_trying_has_its_count() {
    let app = TestApp::start().await;
    let (ours, theirs) = (app.organization().await, app.organization().await);
    let asha = ours.employee("Asha").await;
    let stranger = theirs.employee("Stranger").await.employee_id();
    let (reader, _) = ours.admin.api_key(&["read:sessions"]).await;
    let count = async |kind: &str| -> u64 {
        let metrics = app.get("/metrics").await.text;
        let line = format!("security_abuse_total{{kind=\"{kind}\"}} ");
        metrics.lines().find_map(|text| text.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    };
    let grant = async |kind: &str, body: Value| {
        let path = format!("/auth/v1/token?grant_type={kind}");
        app.send(app.request(Method::POST, &path).json(&body)).await
    };

    // Failed logins, by either protocol.
    app.login(&asha.email, "wrong").await.refused(401, "INVALID_CREDENTIALS", "Invalid email or password");
    assert_eq!(grant("password", json!({ "email": asha.email, "password": "wrong" })).await.status, 400);
    assert_eq!(count("login_failed").await, 2);

    // Forged tokens.
    let (head, rest) = asha.token.split_once('.').unwrap();
    let forged = format!("{head}.{}x", &rest[..rest.len() - 1]);
    for path in ["/auth/me", "/auth/v1/user"] {
        let answer = app.send(app.request(Method::GET, path).bearer_auth(&forged)).await;
        assert!(matches!(answer.status.as_u16(), 401 | 403), "{path}");
    }
    assert_eq!(grant("refresh_token", json!({ "refresh_token": "never-given-out" })).await.status, 400);
    assert_eq!(count("token_refused").await, 3);
    app.get("/expenses/my").await;
    assert_eq!(count("token_refused").await, 3, "no token is no forged one");

    // A refresh token that comes again after its time.
    let used = json!({ "refresh_token": asha.refresh_token });
    assert_eq!(grant("refresh_token", used.clone()).await.status, 200);
    app.clock.advance(chrono::TimeDelta::seconds(30));
    assert_eq!(grant("refresh_token", used).await.status, 400);
    assert_eq!(count("refresh_reused").await, 1);

    // Keys, scopes, roles.
    let guess = format!("ft_live_{}", "b".repeat(48));
    for key in ["nonsense", &guess] {
        assert_eq!(app.with_key(key, Method::GET, "/auth/me", &Value::Null).await.status, 401);
    }
    assert_eq!(count("api_key_unknown").await, 2);
    assert_eq!(app.with_key(&reader, Method::GET, "/admin/audit-log", &Value::Null).await.status, 403);
    let (all, _) = ours.admin.api_key(&["admin:all"]).await;
    assert_eq!(app.with_key(&all, Method::POST, "/admin/start-monitoring", &Value::Null).await.status, 403);
    assert_eq!(count("scope_refused").await, 2);
    asha.get("/admin/employees").await.refused(403, "FORBIDDEN", "This action requires ADMIN role");
    assert_eq!(count("role_refused").await, 1);

    // Rows of another organization, and rows of nobody: who asks cannot tell, and neither do we.
    for id in [stranger, Uuid::now_v7().to_string()] {
        assert_eq!(ours.admin.get(&format!("/admin/employees/{id}")).await.status, 404);
    }
    assert_eq!(count("foreign_id").await, 2);
    app.get("/docs/static/nothing.js").await;
    assert_eq!(app.get("/no/such/route").await.status, 404);
    assert_eq!(count("foreign_id").await, 2);

    // Signed addresses that were never handed out.
    let path = format!("/receipts/{}/{}/{}.png?expires=1&signature=x", ours.id, Uuid::now_v7(), Uuid::now_v7());
    assert_eq!(app.get(&path).await.status, 403);
    assert_eq!(count("address_refused").await, 1);

    // Limits: of sign-ins, by either protocol, and of paths that are no route.
    let email = "nobody@people.example";
    for _ in 0..10 {
        app.login(email, "wrong").await;
    }
    app.login(email, "wrong").await.refused(429, "RATE_LIMITED", "Too many requests");
    assert_eq!(grant("password", json!({ "email": email, "password": "wrong" })).await.status, 429);
    assert_eq!(count("limit_hit").await, 2);
    app.redis.call(&["SET", "rl:default:ip:127.0.0.1", "1200", "PX", "60000"]).unwrap();
    app.get("/no/such/route").await.refused(429, "RATE_LIMITED", "Too many requests");
    assert_eq!(count("limit_hit").await, 3);
    assert!(app.get("/metrics").await.text.contains(r#"security_rate_limit_hits_total{route="unmatched"} 1"#));
}
