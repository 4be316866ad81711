//! `/health`, `/ready` and `/metrics`, for operators; never published.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::Utc;
use db::Db;
use domain::clock::Replied;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use queue::Redis;
use ring::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// How long a dependency may take to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the pages show.
pub struct Pages {
    /// The database.
    pub db: Db,
    /// Redis.
    pub redis: Redis,
    /// What the worker counts.
    pub metrics: Arc<Metrics>,
    /// The token a scrape must bring, if any.
    pub scrape_token: Option<SecretString>,
    /// What runs here.
    pub release: String,
    /// Whether the process is on its way out.
    pub draining: AtomicBool,
}

impl Pages {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return page(StatusCode::NOT_FOUND, "text/plain", "Not Found".to_owned());
        }
        match request.uri().path() {
            "/health" => {
                let alive = serde_json::json!({ "status": "ok", "timestamp": Replied(Utc::now()) });
                let mut response = json(StatusCode::OK, &alive);
                if let Ok(release) = self.release.parse() {
                    response.headers_mut().insert("x-release", release);
                }
                response
            }
            "/ready" => self.ready().await,
            "/metrics" if !self.may_scrape(request) => {
                page(StatusCode::UNAUTHORIZED, "text/plain", "Unauthorized".to_owned())
            }
            "/metrics" => page(
                StatusCode::OK,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                self.metrics.encode(),
            ),
            _ => page(StatusCode::NOT_FOUND, "text/plain", "Not Found".to_owned()),
        }
    }

    async fn ready(&self) -> Response<Full<Bytes>> {
        let redis =
            async { tokio::time::timeout(PATIENCE, self.redis.ping()).await.is_ok_and(|answer| answer.is_ok()) };
        let (database, redis) = tokio::join!(self.db.ping(PATIENCE), redis);
        let ready = database.is_ok() && redis && !self.draining.load(Ordering::Relaxed);
        let word = |ok: bool| if ok { "ok" } else { "error" };
        json(
            if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
            &serde_json::json!({
                "status": if ready { "ready" } else { "not_ready" },
                "timestamp": Replied(Utc::now()),
                "checks": { "redis": word(redis), "database": word(database.is_ok()) },
            }),
        )
    }

    fn may_scrape(&self, request: &Request<Incoming>) -> bool {
        let Some(token) = &self.scrape_token else { return true };
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        // Compared by their digests: the time it takes says nothing about the token.
        digest(&SHA256, sent.as_bytes()).as_ref() == digest(&SHA256, token.expose_secret().as_bytes()).as_ref()
    }
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    page(status, "application/json; charset=utf-8", body.to_string())
}

fn page(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

/// Serves the pages on `listener` until the task is dropped.
pub async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(error.message = %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let pages = Arc::clone(&pages);
                async move { Ok::<_, Infallible>(pages.answer(&request).await) }
            });
            // A client that goes away is none of our trouble.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Asks the worker on this machine whether it is alive.
pub async fn is_healthy(port: u16) -> std::io::Result<bool> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        Ok(answer.ends_with(b" 200"))
    };
    tokio::time::timeout(PATIENCE, ask).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}
