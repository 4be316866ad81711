//! API keys: made, used, counted, taken back.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::TestApp;

#[tokio::test]
async fn a_key_is_shown_once_and_only_its_hash_is_kept() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let body = json!({ "name": "erp sync", "scopes": ["read:employees", "read:employees", "read:sessions"] });
    let made = organization.admin.post("/admin/api-keys", &body).await.data(201);
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("ft_live_") && key.len() == 56);
    let record = &made["record"];
    assert_eq!(record["key_preview"], format!("{}...{}", &key[..11], &key[52..]));
    assert_eq!(record["scopes"], json!(["read:employees", "read:sessions"]));
    let counters = json!([record["active"], record["request_count"], record["error_count"], record["last_used_at"]]);
    assert_eq!(counters, json!([true, 0, 0, null]));

    let listed = organization.admin.get("/admin/api-keys").await.data(200);
    assert_eq!(listed[0]["id"], record["id"]);
    assert_eq!(listed[0]["key_preview"], format!("{}...", &key[..16]));
    let superuser = app.database.superuser().await;
    let row = superuser.query_one("SELECT key_salt, key_hash, t::text FROM api_keys t", &[]).await.unwrap();
    let (salt, hash, whole): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((salt.len(), hash.len()), (32, 64));
    assert!(!whole.contains(&key[16..]));
}

#[tokio::test]
async fn what_makes_no_key_is_refused_by_its_name() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let words = r#"Invalid option: expected one of "read:employees"|"read:sessions"|"write:expenses"|"admin:all""#;
    for (body, error) in [
        (
            json!({ "name": "ab", "scopes": [] }),
            "body/name Too small: expected string to have >=3 characters, body/scopes Too small: expected array to have >=1 items".to_owned(),
        ),
        (json!({ "name": "x".repeat(65), "scopes": ["admin:all"] }), "body/name Too big: expected string to have <=64 characters".to_owned()),
        (json!({ "name": "abc", "scopes": ["read:all", "admin:all", 7] }), format!("body/scopes/0 {words}, body/scopes/2 {words}")),
        (json!({ "name": "abc", "scopes": "admin:all" }), "body/scopes Invalid input: expected array, received string".to_owned()),
        (json!({ "name": "abc" }), "body/scopes Invalid input: expected array, received undefined".to_owned()),
        (json!({ "name": "abc", "scopes": ["admin:all", "read:sessions"] }), "admin:all cannot be combined with other scopes".to_owned()),
    ] {
        admin.post("/admin/api-keys", &body).await.refused(400, "VALIDATION_ERROR", &error);
    }
    assert_eq!(admin.get("/admin/api-keys").await.data(200), json!([]));
}

#[tokio::test]
async fn a_key_does_what_its_scopes_say_and_nothing_else() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let (reader, _) = organization.admin.api_key(&["read:sessions"]).await;
    let (all, all_id) = organization.admin.api_key(&["admin:all"]).await;
    let none = Value::Null;

    let me = app.with_key(&reader, Method::GET, "/auth/me", &none).await.data(200);
    let id = me["id"].as_str().unwrap();
    assert!(id.starts_with("api_key:"), "{me}");
    assert_eq!((&me["role"], &me["orgId"]), (&json!("ADMIN"), &json!(organization.id)));

    // A key is no employee: it sees the empty page of whoever is none.
    let mine = app.with_key(&reader, Method::GET, "/attendance/my-sessions", &none).await.json();
    assert_eq!(mine["pagination"]["total"], 0);
    assert_eq!(app.with_key(&reader, Method::HEAD, "/attendance/my-sessions", &none).await.status, 200);

    let missing = "API key missing required scope: admin:all";
    let audit = app.with_key(&reader, Method::GET, "/admin/audit-log", &none).await;
    audit.refused(403, "FORBIDDEN", missing);
    assert_eq!(app.with_key(&reader, Method::HEAD, "/admin/audit-log", &none).await.status, 403);
    assert_eq!(app.with_key(&all, Method::GET, "/admin/audit-log", &none).await.status, 200);

    // A key is no user either: whose figures are meant has to be said.
    let summary = app.with_key(&all, Method::GET, "/admin/user-summary", &none).await;
    let refused = "userId query parameter is required when using API key authentication";
    summary.refused(400, "VALIDATION_ERROR", refused);

    // Keys are people's business, and the scope is asked for first.
    app.with_key(&reader, Method::GET, "/admin/api-keys", &none).await.refused(403, "FORBIDDEN", missing);
    let people = "This endpoint requires JWT user authentication";
    for (method, path) in [
        (Method::GET, "/admin/api-keys".to_owned()),
        (Method::POST, "/admin/api-keys".to_owned()),
        (Method::DELETE, format!("/admin/api-keys/{all_id}")),
    ] {
        app.with_key(&all, method, &path, &none).await.refused(403, "JWT_REQUIRED", people);
    }
    let work = app.with_key(&all, Method::POST, "/attendance/check-in", &json!({})).await;
    work.refused(403, "FORBIDDEN", "This action requires EMPLOYEE role");
}

#[tokio::test]
async fn uses_and_errors_are_counted() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let (key, id) = admin.api_key(&["admin:all"]).await;
    app.with_key(&key, Method::GET, "/auth/me", &Value::Null).await.data(200);
    let refused = app.with_key(&key, Method::POST, "/admin/employees", &json!({})).await;
    assert_eq!(refused.status, 400);
    app.with_key(&key, Method::GET, "/admin/api-keys", &Value::Null).await;
    let counted = || async {
        let keys = admin.get("/admin/api-keys").await.data(200);
        let key = keys.as_array().unwrap().iter().find(|key| key["id"] == *id).unwrap().clone();
        (key["request_count"].as_i64().unwrap(), key["error_count"].as_i64().unwrap(), key["last_used_at"].clone())
    };
    // Errors are counted behind the reply.
    let mut now = counted().await;
    for _ in 0..100 {
        if now.1 >= 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        now = counted().await;
    }
    assert_eq!((now.0, now.1), (3, 2));
    assert!(now.2.is_string());
    let metrics = app.get("/metrics").await.text;
    assert!(metrics.contains(r#"api_key_requests_total{route="/auth/me",status_code="200"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"api_key_errors_total{route="/admin/employees",status_code="400"} 1"#));
}

#[tokio::test]
async fn a_change_of_a_key_holds_from_the_next_request_on() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let (key, id) = admin.api_key(&["admin:all"]).await;
    let path = format!("/admin/api-keys/{id}");
    let call = || app.with_key(&key, Method::GET, "/admin/audit-log", &Value::Null);
    assert_eq!(call().await.status, 200);

    let changed = admin.patch(&path, &json!({ "name": "renamed", "scopes": ["read:sessions"] })).await.data(200);
    assert_eq!((&changed["name"], &changed["scopes"]), (&json!("renamed"), &json!(["read:sessions"])));
    call().await.refused(403, "FORBIDDEN", "API key missing required scope: admin:all");

    assert_eq!(admin.patch(&path, &json!({ "active": false })).await.data(200)["active"], false);
    call().await.refused(401, "INVALID_API_KEY", "Invalid API key");
    admin.patch(&path, &json!({ "active": true, "scopes": ["admin:all"] })).await.data(200);
    assert_eq!(call().await.status, 200);

    assert_eq!(admin.delete(&path).await.status, 204);
    call().await.refused(401, "INVALID_API_KEY", "Invalid API key");
    admin.delete(&path).await.refused(404, "NOT_FOUND", "API key not found");
    admin.patch(&path, &json!({ "active": true })).await.refused(404, "NOT_FOUND", "API key not found");
    let nothing = admin.patch(&path, &json!({})).await;
    nothing.refused(400, "VALIDATION_ERROR", "body/ At least one field must be provided");
    let empty = admin.patch(&path, &json!({ "scopes": [], "name": null })).await;
    empty.refused(
        400,
        "VALIDATION_ERROR",
        "body/name Invalid input: expected string, received null, body/scopes Too small: expected array to have >=1 items",
    );
    admin.delete("/admin/api-keys/x").await.refused(400, "VALIDATION_ERROR", "params/id Invalid UUID");
}

#[tokio::test]
async fn a_key_opens_its_own_organization_only() {
    let app = TestApp::start().await;
    let (ours, theirs) = (app.organization().await, app.organization().await);
    let (_, id) = ours.admin.api_key(&["admin:all"]).await;
    let (theirs_key, _) = theirs.admin.api_key(&["admin:all"]).await;
    let log = app.with_key(&theirs_key, Method::GET, "/admin/audit-log", &Value::Null).await;
    assert!(!log.text.contains(&ours.id.to_string()) && log.text.contains(&theirs.id.to_string()));
    assert_eq!(theirs.admin.get("/admin/api-keys").await.data(200).as_array().unwrap().len(), 1);
    theirs.admin.delete(&format!("/admin/api-keys/{id}")).await.refused(404, "NOT_FOUND", "API key not found");
}

#[tokio::test]
async fn a_key_has_its_own_budget() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let (key, _) = admin.api_key(&["admin:all"]).await;
    let (other, _) = admin.api_key(&["admin:all"]).await;
    let mut refused = None;
    for _ in 0..601 {
        let answer = app.with_key(&key, Method::GET, "/auth/me", &Value::Null).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let body = refused.expect("600 requests a minute").refused(429, "RATE_LIMITED", "API key rate limit exceeded");
    assert_eq!(body["retryAfter"], "60s");
    assert_eq!(app.with_key(&other, Method::GET, "/auth/me", &Value::Null).await.status, 200);
}

#[tokio::test]
async fn guessing_keys_is_counted_and_a_right_beginning_is_no_key() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let (key, _) = admin.api_key(&["admin:all"]).await;
    let near = format!("{}{}", &key[..16], "0".repeat(40));
    let upper = key.to_uppercase().replace("FT_LIVE_", "ft_live_");
    for guess in [near, upper, format!("ft_live_{}", "a".repeat(48))] {
        let answer = app.with_key(&guess, Method::GET, "/auth/me", &Value::Null).await;
        answer.refused(401, "INVALID_API_KEY", "Invalid API key");
    }
    let metrics = app.get("/metrics").await.text;
    assert!(metrics.contains(r#"security_abuse_total{kind="api_key_unknown"} 3"#), "{metrics}");
}

#[tokio::test]
async fn a_key_reviews_claims_and_the_audit_log_names_it() {
    let app = TestApp::start().await;
    let (organization, other) = (app.organization().await, app.organization().await);
    let asha = organization.employee("Asha").await;
    let claim = json!({ "amount": 12.5, "description": "Parking in town" });
    let id = asha.post("/expenses", &claim).await.data(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/admin/expenses/{id}");
    let approved = json!({ "status": "APPROVED" });
    let (reader, _) = organization.admin.api_key(&["read:employees"]).await;
    let (writer, key_id) = organization.admin.api_key(&["write:expenses"]).await;
    let (foreign, _) = other.admin.api_key(&["write:expenses"]).await;
    let refused = app.with_key(&reader, Method::PATCH, &path, &approved).await;
    refused.refused(403, "FORBIDDEN", "API key missing required scope: write:expenses");
    app.with_key(&foreign, Method::PATCH, &path, &approved).await.refused(404, "NOT_FOUND", "Expense not found");

    let reviewed = app.with_key(&writer, Method::PATCH, &path, &approved).await.data(200);
    assert_eq!((&reviewed["status"], &reviewed["reviewed_by"]), (&json!("APPROVED"), &Value::Null));
    assert!(reviewed["reviewed_at"].is_string());
    let log = organization.admin.get("/admin/audit-log?event=EXPENSE_APPROVED").await.json();
    let entry = &log["data"][0];
    assert_eq!((&entry["resource_id"], &entry["actor_id"]), (&json!(id), &Value::Null));
    assert_eq!(entry["payload"]["api_key_id"], json!(key_id), "{entry}");
}
