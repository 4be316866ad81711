//! What operators ask the worker.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::TestWorker;

async fn ask(port: u16, request: &str) -> (u16, String) {
    let (head, body) = ask_for_all(port, request).await;
    (head[9..12].parse().unwrap(), body)
}

async fn ask_for_all(port: u16, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(format!("{request}\r\nHost: worker\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn health_readiness_and_metrics_are_told() {
    let mut worker = TestWorker::start(&[("METRICS_SCRAPE_TOKEN", "scrape-me-please-0123456789")]).await;
    let (status, body) = ask(worker.port, "GET /health HTTP/1.1").await;
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()["status"].as_str()), (200, Some("ok")));
    let (head, _) = ask_for_all(worker.port, "GET /health HTTP/1.1").await;
    assert!(head.lines().any(|line| line.eq_ignore_ascii_case("x-release: manual")), "{head}");
    let (status, body) = ask(worker.port, "GET /ready HTTP/1.1").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(ask(worker.port, "GET /elsewhere HTTP/1.1").await.0, 404);
    assert_eq!(ask(worker.port, "POST /health HTTP/1.1").await.0, 404);

    assert_eq!(ask(worker.port, "GET /metrics HTTP/1.1").await.0, 401);
    let wrong = "GET /metrics HTTP/1.1\r\nAuthorization: Bearer something-else";
    assert_eq!(ask(worker.port, wrong).await.0, 401);
    let right = "GET /metrics HTTP/1.1\r\nAuthorization: Bearer scrape-me-please-0123456789";
    let (status, body) = ask(worker.port, right).await;
    assert_eq!(status, 200);
    assert!(body.contains("worker_capacity{queue=\"distance-engine\"} 1"), "{body}");

    worker.redis.kill();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (status, body) = ask(worker.port, "GET /ready HTTP/1.1").await;
        if status == 503 {
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["checks"]["redis"], "error", "{body}");
            assert_eq!(body["checks"]["database"], "ok", "{body}");
            break;
        }
        assert!(Instant::now() < deadline, "ready without Redis");
    }
    assert_eq!(ask(worker.port, "GET /health HTTP/1.1").await.0, 200, "alive all the same");
    worker.stop().await;
}
