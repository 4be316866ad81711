//! The API's description: it is whole, served, and says what the contract says.

use api_gateway::http::openapi;
use serde_json::Value;

use crate::support::TestApp;

#[test]
fn the_description_contradicts_itself_nowhere() {
    let document = openapi::document().unwrap();
    let read: utoipa::openapi::OpenApi = serde_json::from_str(&document.json).unwrap();
    assert!(read.paths.paths.len() >= 20);
    let yaml: Value = yaml_serde::from_str(&document.yaml).unwrap();
    assert_eq!(yaml, serde_json::from_str::<Value>(&document.json).unwrap());
}

#[tokio::test]
async fn the_description_is_served_as_json_as_yaml_and_as_a_page() {
    let app = TestApp::start().await;
    let document = openapi::document().unwrap();
    for (path, kind, text) in [
        ("/openapi.json", "application/json; charset=utf-8", &document.json),
        ("/docs/json", "application/json; charset=utf-8", &document.json),
        ("/docs/yaml", "application/x-yaml", &document.yaml),
    ] {
        let answer = app.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, kind), "{path}");
        assert_eq!(&answer.text, text, "{path}");
    }
    for path in ["/docs", "/docs/"] {
        let page = app.get(path).await;
        assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"), "{path}");
        let policy = page.header("content-security-policy");
        assert!(policy.contains("script-src 'self';") && !policy.contains("upgrade-insecure-requests"), "{policy}");
        let wanted: Vec<&str> =
            page.text.split('"').filter(|part| part.starts_with('/') && *part != "/openapi.json").collect();
        assert_eq!(wanted.len(), 4, "{wanted:?}");
        for asset in wanted {
            assert_eq!(app.get(asset).await.status, 200, "{asset}");
        }
        assert!(!page.text.contains("//"), "something is loaded from elsewhere");
    }
    app.get("/docs/static/..%2fmain.rs").await.refused(404, "NOT_FOUND", "There is no such file");
}
