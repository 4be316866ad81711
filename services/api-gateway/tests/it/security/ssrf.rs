//! Addresses that requests may not be sent to are refused when a webhook is registered, and when it is changed.

use serde_json::json;

use crate::support::TestApp;

#[tokio::test]
async fn a_webhook_at_home_cannot_be_registered() {
    const REFUSED: &str = "Invalid webhook URL: Loopback, private, and link-local addresses are not permitted";
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let webhook = |url: &str| json!({ "url": url, "secret": "a-secret-of-16-or-more", "events": ["session.checkin"] });
    let id = admin.post("/admin/webhooks", &webhook("https://hooks.example.com/x")).await.data(201)["id"].clone();
    let path = format!("/admin/webhooks/{}", id.as_str().unwrap());
    for url in [
        "https://localhost/",
        "https://a.localhost/",
        "https://localhost./",
        "https://0.0.0.0/",
        "https://10.1.2.3/",
        "https://100.64.0.1/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://169.254.169.254/latest/meta-data",
        "https://172.31.255.255/",
        "https://192.168.1.1/",
        "https://198.18.0.1/",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://[2002:a00:1::1]/",
        "https://[fc00::1]/",
        "https://[fe80::1]/",
        "https://redis:6379/",
        "https://metadata.google.internal/",
    ] {
        admin.post("/admin/webhooks", &webhook(url)).await.refused(400, "VALIDATION_ERROR", REFUSED);
        admin.patch(&path, &json!({ "url": url })).await.refused(400, "VALIDATION_ERROR", REFUSED);
    }
    for (url, error) in [
        ("https://u:p@hooks.example.com/", "Invalid webhook URL: Credentials in the URL are not permitted"),
        ("http://hooks.example.com/", "Invalid webhook URL: Only HTTPS URLs are permitted (received protocol: http:)"),
    ] {
        admin.post("/admin/webhooks", &webhook(url)).await.refused(400, "VALIDATION_ERROR", error);
    }
    let kept = admin.get("/admin/webhooks").await.data(200);
    assert_eq!((kept.as_array().unwrap().len(), &kept[0]["url"]), (1, &json!("https://hooks.example.com/x")));
}
