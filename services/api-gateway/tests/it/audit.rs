//! The audit log over HTTP.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::support::TestApp;

#[tokio::test]
async fn what_was_done_is_listed_newest_first_and_paged_by_time() {
    let app = TestApp::start().await;
    let (organization, other) = (app.organization().await, app.organization().await);
    other.admin.api_key(&["admin:all"]).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (_, id) = organization.admin.api_key(&["read:sessions"]).await;
        ids.push(id);
        app.clock.advance(TimeDelta::seconds(1));
    }
    organization.admin.delete(&format!("/admin/api-keys/{}", ids[0])).await;

    let log = organization.admin.get("/admin/audit-log").await.json();
    assert_eq!((&log["success"], &log["count"]), (&json!(true), &json!(4)));
    let newest = &log["data"][0];
    assert_eq!(newest["event"], "API_KEY_DELETED");
    assert_eq!(newest["resource_type"], "api_key");
    assert_eq!(newest["resource_id"], json!(ids[0]));
    assert_eq!(newest["organization_id"], json!(organization.id));
    let me = organization.admin.get("/auth/me").await.data(200);
    assert_eq!(newest["actor_id"], me["id"]);
    let created = &log["data"][1];
    assert_eq!((&created["event"], &created["resource_id"]), (&json!("API_KEY_CREATED"), &json!(ids[2])));
    assert_eq!(created["payload"], json!({ "name": "erp sync", "scopes": ["read:sessions"] }));

    let page = organization.admin.get("/admin/audit-log?limit=2&event=API_KEY_CREATED").await.json();
    assert_eq!((&page["count"], &page["data"][1]["resource_id"]), (&json!(2), &json!(ids[1])));
    let before = page["data"][1]["created_at"].as_str().unwrap().replace('+', "%2B");
    let rest = organization.admin.get(&format!("/admin/audit-log?before={before}")).await.json();
    assert_eq!((&rest["count"], &rest["data"][0]["resource_id"]), (&json!(1), &json!(ids[0])));
    assert_eq!(organization.admin.get("/admin/audit-log?event=NOTHING").await.json()["data"], json!([]));
}

/// Everything that changes what people, keys, webhooks and claims may do leaves an entry: who, on what, where (D41).
#[tokio::test]
async fn every_change_leaves_its_entry() {
    let app = TestApp::start_with(&[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")]).await;
    let (organization, other) = (app.organization().await, app.organization().await);
    let admin = &organization.admin;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let asha = organization.employee("Asha").await;
    let employee = asha.employee_id();
    admin.patch(&format!("/admin/employees/{employee}"), &json!({ "phone": "+385 1 234" })).await.data(200);
    asha.check_in().await;
    let closed = admin.post("/admin/force-checkout", &json!({ "employee_id": employee })).await.data(200);
    let mut claims = Vec::new();
    for verdict in [json!({ "status": "APPROVED" }), json!({ "status": "REJECTED", "rejection_comment": "No receipt" })]
    {
        let claim = asha.post("/expenses", &json!({ "amount": 1, "description": "Fuel" })).await.data(201);
        claims.push(text(&claim["id"]));
        admin.patch(&format!("/admin/expenses/{}", claims[claims.len() - 1]), &verdict).await.data(200);
    }
    admin.patch(&format!("/admin/employees/{employee}/status"), &json!({ "is_active": false })).await.data(200);
    let (_, key) = admin.api_key(&["read:sessions"]).await;
    let change = json!({ "name": "payroll", "scopes": ["read:employees"], "active": false });
    admin.patch(&format!("/admin/api-keys/{key}"), &change).await.data(200);
    assert_eq!(admin.delete(&format!("/admin/api-keys/{key}")).await.status, 204);
    let webhook =
        json!({ "url": "http://127.0.0.1:9/", "events": ["expense.created"], "secret": "sixteen characters" });
    let webhook = text(&admin.post("/admin/webhooks", &webhook).await.data(201)["id"]);
    admin.patch(&format!("/admin/webhooks/{webhook}"), &json!({ "is_active": false })).await.data(200);
    assert_eq!(admin.delete(&format!("/admin/webhooks/{webhook}")).await.status, 204);
    let replay = admin.post("/admin/queues/replay-distance-dlq", &json!({})).await;
    assert_eq!(replay.status, 200, "{}", replay.text);

    let log = admin.get("/admin/audit-log?limit=200").await.json();
    let me = admin.get("/auth/me").await.data(200);
    let mut entries: Vec<(&str, &str, &str)> = Vec::new();
    for entry in log["data"].as_array().unwrap().iter().rev() {
        assert_eq!((&entry["organization_id"], &entry["actor_id"]), (&json!(organization.id), &me["id"]), "{entry}");
        let field = |name: &str| entry[name].as_str().unwrap();
        entries.push((field("event"), field("resource_type"), field("resource_id")));
    }
    let session = text(&closed["id"]);
    let expected = [
        ("EMPLOYEE_CREATED", "employee", &*employee),
        ("EMPLOYEE_UPDATED", "employee", &employee),
        ("SESSION_FORCE_CLOSED", "attendance_session", &session),
        ("EXPENSE_APPROVED", "expense", &claims[0]),
        ("EXPENSE_REJECTED", "expense", &claims[1]),
        ("EMPLOYEE_STATUS_CHANGED", "employee", &employee),
        ("API_KEY_CREATED", "api_key", &key),
        ("API_KEY_UPDATED", "api_key", &key),
        ("API_KEY_DELETED", "api_key", &key),
        ("WEBHOOK_CREATED", "webhook", &webhook),
        ("WEBHOOK_UPDATED", "webhook", &webhook),
        ("WEBHOOK_DELETED", "webhook", &webhook),
        ("DLQ_REPLAY_EXECUTED", "queue", "distance-failed"),
    ];
    assert_eq!(entries.remove(0).0, "USER_CREATED", "whoever was hired signs in");
    assert_eq!(entries, expected);
    // What became of the key is said; what a webhook is signed with is not.
    let updated = admin.get("/admin/audit-log?event=API_KEY_UPDATED").await.json();
    let said = json!({ "name": "payroll", "scopes": ["read:employees"], "active": false });
    assert_eq!((&updated["count"], &updated["data"][0]["payload"]), (&json!(1), &said));
    assert!(!log.to_string().contains("sixteen characters"));
    // None of it is anybody else's to read.
    assert_eq!(other.admin.get("/admin/audit-log").await.json()["data"], json!([]));
}

#[tokio::test]
async fn wrong_questions_are_refused_by_name() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    for (query, error) in [
        ("limit=201", "querystring/limit Too big: expected number to be <=200"),
        ("limit=0", "querystring/limit Too small: expected number to be >=1"),
        ("limit=1.5", "querystring/limit Invalid input: expected int, received number"),
        ("before=yesterday", "querystring/before Invalid ISO datetime"),
        ("before=2026-03-10T08:00:00", "querystring/before Invalid ISO datetime"),
        ("event=a%00", "querystring/event must not contain characters that cannot be stored"),
    ] {
        admin.get(&format!("/admin/audit-log?{query}")).await.refused(400, "VALIDATION_ERROR", error);
    }
}

#[tokio::test]
async fn tampering_is_named_over_http() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    for _ in 0..3 {
        organization.admin.api_key(&["read:sessions"]).await;
    }
    let verify = || organization.admin.get("/admin/audit-log/verify");
    let intact = verify().await.data(200);
    assert_eq!((&intact["intact"], &intact["entries"]), (&json!(true), &json!(3)));
    assert_eq!(intact["lastHash"].as_str().unwrap().len(), 64);
    let row = app
        .database
        .superuser()
        .await
        .query_one("UPDATE admin_audit_log SET event = 'NOTHING' WHERE position = 2 RETURNING id::text", &[])
        .await
        .unwrap();
    let id: String = row.get(0);
    let broken = verify().await.data(200);
    assert_eq!(broken, json!({ "intact": false, "fault": "changed", "position": 2, "entryId": id }));
}
