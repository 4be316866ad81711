//! What every answer has, whatever the question.

use reqwest::Method;
use serde_json::json;

use crate::support::TestApp;

const ORIGIN: &str = "https://console.fieldtrack.test";

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let app = TestApp::start().await;
    let answers = [
        app.get("/health").await,
        app.get("/nowhere").await,
        app.get("/auth/me").await,
        app.send(app.request(Method::OPTIONS, "/")).await,
        app.get("/auth/v1/health").await,
    ];
    for answer in answers {
        for (name, value) in [
            ("strict-transport-security", "max-age=31536000; includeSubDomains"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "SAMEORIGIN"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("origin-agent-cluster", "?1"),
            ("x-dns-prefetch-control", "off"),
            ("x-download-options", "noopen"),
            ("x-permitted-cross-domain-policies", "none"),
            ("x-xss-protection", "0"),
        ] {
            assert_eq!(answer.header(name), value);
        }
        assert_eq!(
            answer.header("content-security-policy"),
            "default-src 'self';script-src 'self';style-src 'self' 'unsafe-inline';img-src 'self' data:;\
             base-uri 'self';font-src 'self' https: data:;form-action 'self';frame-ancestors 'self';\
             object-src 'none';script-src-attr 'none';upgrade-insecure-requests"
        );
    }
}

#[tokio::test]
async fn a_request_keeps_its_id() {
    let app = TestApp::start().await;
    let with = async |id: &str| app.send(app.request(Method::GET, "/auth/me").header("x-request-id", id)).await;
    let kept = with("phone-7.a:b_c").await;
    assert_eq!(kept.header("x-request-id"), "phone-7.a:b_c");
    assert_eq!(kept.json()["requestId"], "phone-7.a:b_c");
    let replaced = with("not acceptable").await;
    assert_eq!(uuid::Uuid::parse_str(replaced.header("x-request-id")).unwrap().get_version_num(), 4);
}

#[tokio::test]
async fn what_is_no_route_says_so_in_its_own_shape() {
    let app = TestApp::start().await;
    for (method, path) in [
        (Method::GET, "/nowhere?x=1"),
        (Method::DELETE, "/attendance/check-in"),
        (Method::GET, "/attendance/check-in"),
        (Method::GET, "/Health"),
        (Method::GET, "/health/"),
        (Method::PUT, "/"),
    ] {
        let answer = app.send(app.request(method.clone(), path)).await;
        let body = answer.json();
        let expected = json!({
            "message": format!("Route {method}:{path} not found"), "error": "Not Found", "statusCode": 404,
            "success": false, "requestId": answer.header("x-request-id"), "code": "NOT_FOUND",
        });
        assert_eq!((answer.status.as_u16(), body), (404, expected));
    }
}

#[tokio::test]
async fn head_mirrors_get() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    for path in ["/", "/health", "/attendance/my-sessions"] {
        let get = asha.get(path).await;
        let head = app.send(asha.request(Method::HEAD, path)).await;
        assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"));
    }
    assert_eq!(app.send(app.request(Method::HEAD, "/auth/me")).await.status, 401);
}

#[tokio::test]
async fn listed_origins_may_read_answers_and_others_may_not() {
    let app = TestApp::start().await;
    let from = async |origin: &str| app.send(app.request(Method::GET, "/nowhere").header("origin", origin)).await;
    let allowed = from(ORIGIN).await;
    assert_eq!(allowed.header("access-control-allow-origin"), ORIGIN);
    assert_eq!(allowed.header("access-control-allow-credentials"), "true");
    assert!(allowed.header("vary").contains("Origin"));
    for other in ["https://evil.example", "https://console.fieldtrack.test.evil.example", "null"] {
        assert!(!from(other).await.headers.contains_key("access-control-allow-origin"), "{other}");
    }
}

#[tokio::test]
async fn preflights_are_answered_on_any_path() {
    let app = TestApp::start().await;
    for path in ["/locations/batch", "/nowhere"] {
        let request = app
            .request(Method::OPTIONS, path)
            .header("origin", ORIGIN)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type,authorization");
        let answer = app.send(request).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("access-control-allow-methods"), "GET, POST, PUT, PATCH, DELETE");
        assert_eq!(answer.header("access-control-allow-headers"), "content-type,authorization");
        assert_eq!(answer.header("access-control-allow-origin"), ORIGIN);
        let bare = app.send(app.request(Method::OPTIONS, path)).await;
        assert_eq!((bare.status.as_u16(), bare.text.as_str()), (400, "Invalid Preflight Request"));
    }
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_can_read_that() {
    let app = TestApp::start().await;
    let answer = app.send(app.request(Method::GET, "/").header("accept-encoding", "gzip")).await;
    assert_eq!(answer.header("content-encoding"), "gzip");
    assert!(!app.get("/").await.headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn json_says_that_it_is_utf_8() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/auth/me").await.header("content-type"), "application/json; charset=utf-8");
}

#[tokio::test]
async fn a_draining_gateway_finishes_and_then_ends() {
    let mut app = TestApp::start().await;
    let asha_session = {
        let asha = app.organization().await.employee("Asha").await;
        asha.check_in().await
    };
    assert!(!asha_session.is_empty());
    app.stop().await;
    assert!(app.request(Method::GET, "/health").send().await.is_err(), "nobody listens any more");
}
