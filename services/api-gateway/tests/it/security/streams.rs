//! A stream of events is worth no more than the token it was opened with.

use std::time::Duration;

use chrono::TimeDelta;
use reqwest::{Method, RequestBuilder, Response};

use crate::support::TestApp;

async fn open(request: RequestBuilder) -> Response {
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let first = response.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(b"event: connected"), "{first:?}");
    response
}

/// Reads on; answers whether the stream ended within so many seconds.
async fn ends(response: &mut Response, seconds: u64) -> bool {
    let rest = async {
        while let Ok(Some(_)) = response.chunk().await {
            // Pings.
        }
    };
    tokio::time::timeout(Duration::from_secs(seconds), rest).await.is_ok()
}

#[tokio::test]
async fn it_ends_when_the_token_does_wherever_the_token_stood() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let mut streams = [
        open(admin.request(Method::GET, "/admin/events")).await,
        open(app.request(Method::GET, &format!("/admin/events?token={}", admin.token))).await,
    ];
    app.clock.advance(TimeDelta::minutes(59));
    for stream in &mut streams {
        assert!(!ends(stream, 3).await, "the token is still good");
    }
    app.clock.advance(TimeDelta::minutes(2));
    for stream in &mut streams {
        assert!(ends(stream, 30).await, "the token has ended");
    }
    let refused = admin.get("/admin/events").await;
    refused.refused(401, "UNAUTHORIZED", "Invalid or missing authentication token");
}

#[tokio::test]
async fn a_stream_of_a_key_does_not_outlast_the_key_by_much() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let (key, id) = admin.api_key(&["admin:all"]).await;
    let mut stream = open(app.request(Method::GET, "/admin/events").header("x-api-key", &key)).await;
    assert_eq!(admin.delete(&format!("/admin/api-keys/{id}")).await.status, 204);
    app.clock.advance(TimeDelta::minutes(16));
    assert!(ends(&mut stream, 30).await);
    let refused = app.request(Method::GET, "/admin/events").header("x-api-key", &key);
    app.send(refused).await.refused(401, "INVALID_API_KEY", "Invalid API key");
}
