//! Webhooks over HTTP: registered, changed, looked at, sent again.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Person, TestApp};

const SECRET: &str = "a-secret-of-16-or-more";

async fn registered(admin: &Person<'_>, path: &str) -> Value {
    let body = json!({
        "url": "https://hooks.example.com/ft",
        "events": ["session.checkin", "session.checkin", "expense.created"],
        "secret": SECRET,
    });
    admin.post(path, &body).await.data(201)
}

/// A delivery as the worker would have left it.
async fn delivered(app: &TestApp, webhook: &Value, status: &str, dead: bool) -> String {
    let superuser = app.database.superuser().await;
    let row = superuser
        .query_one(
            &format!(
                "INSERT INTO webhook_deliveries (organization_id, id, webhook_id, event_id, event_type, status,
                    attempt_count, response_status, response_body, last_error, last_attempt_at, next_retry_at, dead_at,
                    created_at)
                 SELECT organization_id, gen_random_uuid(), id, gen_random_uuid(), 'session.checkin', '{status}', 5, 500,
                    'text', 'HTTP 500', now(), CASE '{status}' WHEN 'pending' THEN now() END,
                    CASE WHEN {dead} THEN now() END, now()
                 FROM webhooks WHERE id = '{}' RETURNING id::text",
                webhook["id"].as_str().unwrap()
            ),
            &[],
        )
        .await
        .unwrap();
    row.get(0)
}

#[tokio::test]
async fn a_webhook_is_registered_listed_changed_and_removed_under_both_names() {
    for base in ["/admin/webhooks", "/webhooks"] {
        let app = TestApp::start().await;
        let organization = app.organization().await;
        let admin = &organization.admin;
        let made = registered(admin, base).await;
        assert_eq!(made["events"], json!(["session.checkin", "expense.created"]));
        assert_eq!((&made["is_active"], &made["organization_id"]), (&json!(true), &json!(organization.id)));
        assert_eq!(admin.get(base).await.data(200), json!([made]));
        let stored = app.database.superuser().await.query_one("SELECT w::text FROM webhooks w", &[]).await.unwrap();
        assert!(!stored.get::<_, String>(0).contains(SECRET) && !made.to_string().contains("secret"));

        let path = format!("{base}/{}", made["id"].as_str().unwrap());
        let change = json!({ "events": ["employee.created"], "is_active": false, "secret": "another-secret-of-mine" });
        let changed = admin.patch(&path, &change).await.data(200);
        assert_eq!((&changed["events"], &changed["is_active"]), (&json!(["employee.created"]), &json!(false)));
        assert_eq!(changed["url"], made["url"]);

        let stranger = app.organization().await.admin;
        stranger.patch(&path, &change).await.refused(404, "NOT_FOUND", "Webhook not found");
        stranger.delete(&path).await.refused(404, "NOT_FOUND", "Webhook not found");
        assert_eq!(admin.delete(&path).await.status, 204);
        admin.delete(&path).await.refused(404, "NOT_FOUND", "Webhook not found");
        let log = admin.get("/admin/audit-log").await;
        let events: Vec<Value> =
            log.json()["data"].as_array().unwrap().iter().map(|entry| entry["event"].clone()).collect();
        assert_eq!(events, ["WEBHOOK_DELETED", "WEBHOOK_UPDATED", "WEBHOOK_CREATED"]);
        assert!(!log.text.contains(SECRET) && !log.text.contains("another-secret"));
    }
}

#[tokio::test]
async fn what_makes_no_webhook_is_refused_by_its_name() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let body = |url: &str, events: Value, secret: &str| json!({ "url": url, "events": events, "secret": secret });
    let good = "https://hooks.example.com/ft";
    let words = r#"Invalid option: expected one of "session.checkin"|"session.checkout"|"employee.checked_in"|"employee.checked_out"|"expense.created"|"expense.approved"|"expense.rejected"|"employee.created""#;
    let at_home = "Invalid webhook URL: Loopback, private, and link-local addresses are not permitted";
    for (body, error) in [
        (
            body("", json!([]), "short"),
            "body/url url is required, body/url url must be a valid URL, body/events events must contain at least one event type, body/secret secret must be at least 16 characters".to_owned(),
        ),
        (body(good, json!(["session.checkin"]), &"x".repeat(257)), "body/secret secret must be at most 256 characters".to_owned()),
        (body(good, json!(["webhook.test"]), SECRET), format!("body/events/0 {words}")),
        (
            body("http://hooks.example.com/", json!(["session.checkin"]), SECRET),
            "Invalid webhook URL: Only HTTPS URLs are permitted (received protocol: http:)".to_owned(),
        ),
        (body("https://127.0.0.1/", json!(["session.checkin"]), SECRET), at_home.to_owned()),
        (body("https://[::ffff:10.0.0.1]/", json!(["session.checkin"]), SECRET), at_home.to_owned()),
        (body("https://localhost./", json!(["session.checkin"]), SECRET), at_home.to_owned()),
        (
            body("https://u:p@hooks.example.com/", json!(["session.checkin"]), SECRET),
            "Invalid webhook URL: Credentials in the URL are not permitted".to_owned(),
        ),
    ] {
        admin.post("/admin/webhooks", &body).await.refused(400, "VALIDATION_ERROR", &error);
    }
    let made = registered(&admin, "/admin/webhooks").await;
    let path = format!("/admin/webhooks/{}", made["id"].as_str().unwrap());
    admin.patch(&path, &json!({})).await.refused(
        400,
        "VALIDATION_ERROR",
        "body/ At least one field must be provided for update",
    );
    admin.patch(&path, &json!({ "url": "https://10.0.0.1/" })).await.refused(400, "VALIDATION_ERROR", at_home);
    admin.patch("/admin/webhooks/x", &json!({})).await.refused(400, "VALIDATION_ERROR", "params/id Invalid UUID");
    // Existence is looked at before the address.
    let nowhere = "/admin/webhooks/3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11";
    admin.patch(nowhere, &json!({ "url": "https://10.0.0.1/" })).await.refused(404, "NOT_FOUND", "Webhook not found");
}

#[tokio::test]
async fn deliveries_are_listed_and_dead_letters_with_what_was_to_be_said() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let webhook = registered(&admin, "/admin/webhooks").await;
    let other = registered(&admin, "/admin/webhooks").await;
    let dead = delivered(&app, &webhook, "failed", true).await;
    let sent = delivered(&app, &webhook, "success", false).await;
    delivered(&app, &other, "pending", false).await;
    for path in ["/admin/webhook-deliveries", "/admin/webhooks/logs", "/webhooks/logs"] {
        let page = admin.get(&format!("{path}?limit=2")).await.json();
        assert_eq!(page["pagination"], json!({ "page": 1, "limit": 2, "total": 3, "totalPages": 2 }));
        let query = format!("{path}?status=success&webhook_id={}", webhook["id"].as_str().unwrap());
        let found = admin.get(&query).await.json();
        assert_eq!((&found["pagination"]["total"], &found["data"][0]["id"]), (&json!(1), &json!(sent)));
        assert_eq!(
            (&found["data"][0]["response_code"], &found["data"][0]["response_status"]),
            (&json!(500), &json!(500))
        );
        let error = "querystring/page Too small: expected number to be >0, querystring/limit Too small: expected number to be >=1";
        admin.get(&format!("{path}?page=0&limit=0")).await.refused(400, "VALIDATION_ERROR", error);
        let error = r#"querystring/status Invalid option: expected one of "pending"|"success"|"failed""#;
        admin.get(&format!("{path}?status=dead")).await.refused(400, "VALIDATION_ERROR", error);
        admin.get(&format!("{path}?webhook_id=1")).await.refused(
            400,
            "VALIDATION_ERROR",
            "querystring/webhook_id Invalid UUID",
        );
    }
    let letters = admin.get("/admin/webhook-dlq?event_type=session.checkin").await.json();
    assert_eq!(letters["meta"], json!({ "limit": 50, "offset": 0, "count": 1 }));
    let letter = &letters["data"][0];
    assert_eq!(
        (&letter["id"], &letter["attempts"], &letter["last_error"]),
        (&json!(dead), &json!(5), &json!("HTTP 500"))
    );
    assert_eq!(letter["payload"], json!(null));
    assert_eq!(admin.get("/admin/webhook-dlq?offset=1").await.json()["data"], json!([]));
    let stranger = app.organization().await.admin;
    assert_eq!(stranger.get("/admin/webhook-dlq").await.json()["meta"]["count"], 0);
}

#[tokio::test]
async fn a_delivery_that_is_over_is_sent_again_and_a_test_is_queued() {
    let app = TestApp::start_with(&[("WORKERS_ENABLED", "true")]).await;
    let admin = app.organization().await.admin;
    let webhook = registered(&admin, "/admin/webhooks").await;
    let dead = delivered(&app, &webhook, "failed", true).await;
    let again = admin.post(&format!("/admin/webhook-dlq/{dead}/retry"), &json!({})).await.data(200);
    assert_eq!((&again["id"], &again["status"], &again["attempt_count"]), (&json!(dead), &json!("pending"), &json!(5)));
    assert_eq!(admin.get("/admin/webhook-dlq").await.json()["meta"]["count"], 0);
    for path in ["/admin/webhook-deliveries", "/admin/webhooks/logs", "/webhooks/logs"] {
        let retry = async |id: &str| admin.post(&format!("{path}/{id}/retry"), &Value::Null).await;
        retry(&dead).await.refused(400, "VALIDATION_ERROR", "Delivery is already pending — retry not needed");
        let nowhere = "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11";
        retry(nowhere).await.refused(404, "NOT_FOUND", "Delivery not found");
        let sent = delivered(&app, &webhook, "success", false).await;
        assert_eq!(retry(&sent).await.data(200)["status"], "pending");
    }
    let path = format!("/admin/webhooks/{}/test", webhook["id"].as_str().unwrap());
    let queued = app.send(admin.request(Method::POST, &path)).await.data(202);
    assert_eq!(queued["status"], "pending");
    let waiting = app.redis.call(&["ZCARD", "bull:webhook-delivery:prioritized"]).unwrap().to_string();
    assert_eq!(waiting, "5");
    let found = admin.get("/admin/webhook-deliveries").await.json();
    let test = found["data"].as_array().unwrap().iter().find(|delivery| delivery["id"] == queued["delivery_id"]);
    assert_eq!(test.unwrap()["event_type"], "webhook.test");
}

#[tokio::test]
async fn what_cannot_be_queued_stays_as_it_is() {
    let idle = TestApp::start().await;
    let admin = idle.organization().await.admin;
    let webhook = registered(&admin, "/admin/webhooks").await;
    let dead = delivered(&idle, &webhook, "failed", true).await;
    let error = "Workers not enabled — webhook delivery requires WORKERS_ENABLED=true";
    let retry = format!("/admin/webhook-dlq/{dead}/retry");
    admin.post(&retry, &json!({})).await.refused(503, "SERVICE_UNAVAILABLE", error);
    assert_eq!(admin.get("/admin/webhook-dlq").await.json()["meta"]["count"], 1);

    let full = TestApp::start_with(&[("WORKERS_ENABLED", "true"), ("MAX_QUEUE_DEPTH", "1")]).await;
    let admin = full.organization().await.admin;
    let webhook = registered(&admin, "/admin/webhooks").await;
    let dead = delivered(&full, &webhook, "failed", true).await;
    let test = format!("/admin/webhooks/{}/test", webhook["id"].as_str().unwrap());
    admin.post(&test, &json!({})).await.data(202);
    let error = "Queue overload: webhook-delivery depth 1 exceeds MAX_QUEUE_DEPTH=1";
    let refused = admin.post(&format!("/admin/webhook-dlq/{dead}/retry"), &json!({})).await;
    let body = refused.refused(503, "QUEUE_OVERLOADED", error);
    assert_eq!(body["details"], json!({ "queue": "webhook-delivery", "queueDepth": 1, "maxQueueDepth": 1 }));
    assert_eq!(admin.get("/admin/webhook-dlq").await.json()["meta"]["count"], 1);
}

#[tokio::test]
async fn an_endpoint_may_ask_for_attempts_over_three_days() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    assert_eq!(registered(&admin, "/admin/webhooks").await["retry_schedule"], "standard");
    let body = json!({
        "url": "https://hooks.example.com/ft", "events": ["session.checkin"], "secret": SECRET, "retry_schedule": "extended",
    });
    let made = admin.post("/admin/webhooks", &body).await.data(201);
    assert_eq!(made["retry_schedule"], "extended");
    let path = format!("/admin/webhooks/{}", made["id"].as_str().unwrap());
    let changed = admin.patch(&path, &json!({ "retry_schedule": "standard" })).await.data(200);
    assert_eq!(changed["retry_schedule"], "standard");
    let refused = admin.patch(&path, &json!({ "retry_schedule": "whenever" })).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
}
