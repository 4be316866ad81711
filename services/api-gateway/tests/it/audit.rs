//! The audit log over HTTP.

use chrono::TimeDelta;
use serde_json::json;

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
