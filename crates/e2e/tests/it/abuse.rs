//! Whoever tries doors leaves a line a try in the program's log, and no secret in it.

use serde_json::{Value, json};

use crate::support::{ADMIN, PASSWORD, Product};

#[tokio::test]
async fn every_try_leaves_one_line_that_says_what_and_by_whom_and_no_secret() {
    let mut product = Product::start(0, &[("RATE_LIMIT_MULTIPLIER", "1")]).await;
    let api = product.api();
    let admin = api.sign_in(ADMIN).await;
    let key = json!({ "name": "reader", "scopes": ["read:sessions"] });
    let (_, made) = api.post(&admin, "/admin/api-keys", &key).await;
    let key = made["data"]["key"].as_str().unwrap().to_owned();
    let key_id = made["data"]["record"]["id"].as_str().unwrap().to_owned();
    let near = format!("{}{}", &key[..16], "0123456789".repeat(4));
    let forged = format!("{}x", &admin[..admin.len() - 1]);
    let foreign = "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11";

    let base = format!("http://127.0.0.1:{}", product.gateway.port);
    let call = async |id: &str, request: reqwest::RequestBuilder| {
        let answer = request.header("x-request-id", id).send().await.unwrap();
        assert!(answer.status().is_client_error(), "{id}: {}", answer.status());
    };
    let http = &product.http;
    let login =
        |password: &str| http.post(format!("{base}/auth/login")).json(&json!({ "email": ADMIN, "password": password }));
    call("try-login", login("planted-wrong-guess")).await;
    let grant = http.post(format!("{base}/auth/v1/token?grant_type=password"));
    call("try-grant", grant.json(&json!({ "email": ADMIN, "password": "planted-wrong-guess" }))).await;
    call("try-token", http.get(format!("{base}/auth/me")).bearer_auth(&forged)).await;
    call("try-query", http.get(format!("{base}/admin/events?token={forged}"))).await;
    call("try-key", http.get(format!("{base}/auth/me")).header("x-api-key", &near)).await;
    call("try-scope", http.get(format!("{base}/admin/audit-log")).header("x-api-key", &key)).await;
    call("try-role", http.post(format!("{base}/attendance/check-in")).bearer_auth(&admin)).await;
    call("try-foreign", http.get(format!("{base}/admin/employees/{foreign}")).bearer_auth(&admin)).await;
    for _ in 0..9 {
        login("planted-wrong-guess").send().await.unwrap();
    }
    call("try-limit", login("planted-wrong-guess")).await;
    let metrics = http.get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap();
    product.gateway.terminate();

    let log = product.gateway.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let about = |id: &str| -> Vec<&Value> {
        lines.iter().filter(|line| line["request_id"] == id && line.get("abuse.kind").is_some()).collect()
    };
    for (id, kind, route) in [
        ("try-login", "login_failed", "/auth/login"),
        ("try-grant", "login_failed", "/auth/v1/token"),
        ("try-token", "token_refused", "/auth/me"),
        ("try-query", "token_refused", "/admin/events"),
        ("try-key", "api_key_unknown", "/auth/me"),
        ("try-scope", "scope_refused", "/admin/audit-log"),
        ("try-role", "role_refused", "/attendance/check-in"),
        ("try-foreign", "foreign_id", "/admin/employees/{id}"),
        ("try-limit", "limit_hit", "/auth/login"),
    ] {
        let found = about(id);
        assert_eq!(found.len(), 1, "{id}: {found:?}");
        let line = found[0];
        assert_eq!((&line["abuse.kind"], &line["level"]), (&json!(kind), &json!("warn")), "{line}");
        assert_eq!(line["route"], route, "{line}");
        assert_eq!(line["remote_addr"], "127.0.0.1", "{line}");
        assert!(metrics.contains(&format!("security_abuse_total{{kind=\"{kind}\"}} ")), "{kind}: {metrics}");
    }
    assert!(metrics.contains("login_failures_total 10"), "{metrics}");
    // Who it was, where that is known.
    let foreign_line = about("try-foreign")[0];
    assert!(foreign_line["organization_id"].is_string() && foreign_line["actor"].is_string(), "{foreign_line}");
    let key_line = lines.iter().find(|line| line["request_id"] == "try-scope" && line["msg"] == "request answered");
    assert_eq!(key_line.unwrap()["status"], 403);
    for secret in [PASSWORD, "planted-wrong-guess", &near, &key, &forged, &admin, ADMIN] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "a secret in {line:?}");
    }
    assert!(!key_id.is_empty());
}
