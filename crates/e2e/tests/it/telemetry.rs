//! One trace from the request to the worker's queries; and no secret in any log.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::json;
use testkit::track::walk;

use crate::support::{ADMIN, PASSWORD, Product, SECRETS_KEY, eventually};

/// Receives whatever is posted, and answers 200.
fn collector() -> (String, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let received = Arc::new(Mutex::new(Vec::new()));
    std::thread::spawn({
        let received = Arc::clone(&received);
        move || {
            for stream in listener.incoming() {
                let (mut stream, received) = (stream.unwrap(), Arc::clone(&received));
                std::thread::spawn(move || {
                    let mut buffer = Vec::new();
                    let mut chunk = [0; 65_536];
                    while let Ok(read) = stream.read(&mut chunk) {
                        if read == 0 {
                            return;
                        }
                        buffer.extend_from_slice(&chunk[..read]);
                        while let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
                            let length: usize = head
                                .lines()
                                .find_map(|line| line.strip_prefix("content-length: "))
                                .unwrap()
                                .parse()
                                .unwrap();
                            if buffer.len() < end + 4 + length {
                                break;
                            }
                            received.lock().unwrap().push(buffer[end + 4..end + 4 + length].to_vec());
                            buffer.drain(..end + 4 + length);
                            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                        }
                    }
                });
            }
        }
    });
    (address, received)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn one_trace_goes_from_the_request_through_the_job_to_the_workers_queries() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let bytes: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&TRACE[2 * at..2 * at + 2], 16).unwrap()).collect();
    let (endpoint, received) = collector();
    let mut product = Product::start(1, &[("TEMPO_ENDPOINT", &endpoint), ("TRACE_SAMPLE_RATIO", "0")]).await;
    let phone = product.phone().await;
    let headers =
        [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("x-request-id", "the-check-out")];
    let (status, _) = phone.api.post_with(&phone.token, "/attendance/check-out", &json!({}), &headers).await;
    assert_eq!(status, 200);
    phone.kilometres().await;
    // Dashboards lead from the time of a request to its trace, by this name; so does the log.
    let metrics = product.http.get(format!("http://127.0.0.1:{}/metrics", product.gateway.port)).send().await.unwrap();
    let kind = metrics.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let metrics = metrics.text().await.unwrap();
    let exemplar = format!("# {{trace_id=\"{TRACE}\"}} ");
    let line = metrics.lines().find(|line| line.contains(&exemplar)).unwrap_or_else(|| panic!("{metrics}"));
    assert!(line.starts_with("http_request_duration_seconds_bucket{"), "{line}");
    assert!(line.contains("route=\"/attendance/check-out\""), "{line}");
    // Programs send what they have when they end.
    product.gateway.terminate();
    product.workers[0].terminate();
    let found =
        |name: &str, service: &str| {
            received.lock().unwrap().iter().any(|body| {
                contains(body, service.as_bytes()) && contains(body, name.as_bytes()) && contains(body, &bytes)
            })
        };
    eventually("the spans have arrived", async || {
        [
            ("POST /attendance/check-out", "fieldtrack-api"),
            ("db close session", "fieldtrack-api"),
            ("publish distance-engine", "fieldtrack-api"),
            ("process distance-engine", "fieldtrack-worker"),
            ("measure session", "fieldtrack-worker"),
            ("db read route", "fieldtrack-worker"),
        ]
        .iter()
        .all(|(name, service)| found(name, service))
    })
    .await;
    for process in [&product.gateway, &product.workers[0]] {
        let log = process.log();
        let line = log.lines().find(|line| line.contains("the-check-out")).unwrap_or_else(|| panic!("{log}"));
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (line["request_id"].as_str(), line["trace_id"].as_str()),
            (Some("the-check-out"), Some(TRACE)),
            "{line}"
        );
    }
}

#[tokio::test]
async fn logs_hold_no_secret_no_address_and_no_place() {
    let mut product = Product::start(1, &[("LOG_LEVEL", "trace")]).await;
    let track = walk(5, 40);
    let phone = product.phone().await;
    let points = phone.points(&track.points);
    phone.upload(&points).await;
    let (status, _) =
        phone.api.post("", "/auth/login", &json!({ "email": ADMIN, "password": "planted-wrong-guess" })).await;
    assert_eq!(status, 401);
    phone.api.post("planted.bad.token", "/auth/me", &json!({})).await;
    phone.check_out().await;
    phone.kilometres().await;
    product.gateway.terminate();
    product.workers[0].terminate();
    let place = points[7]["latitude"].to_string();
    let planted =
        [PASSWORD, "planted-wrong-guess", "planted.", ADMIN, SECRETS_KEY, &phone.token, &place, "fieldtrack-test"];
    for process in [&product.gateway, &product.workers[0]] {
        let log = process.log();
        assert!(log.lines().count() > 5, "{log}");
        for secret in planted {
            let line = log.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret} in {line:?}");
        }
        for line in log.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
            for field in ["ts", "level", "msg", "service", "slot", "release", "env", "target"] {
                assert!(line.get(field).is_some(), "{field} in {line}");
            }
        }
    }
}
