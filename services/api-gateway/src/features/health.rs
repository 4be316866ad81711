//! Health: is this process alive, can it do its work, what does it count.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use actix_web::http::{Method, StatusCode};
use chrono::{DateTime, TimeDelta, Utc};
use domain::clock::Replied;
use secrecy::ExposeSecret;
use serde::Serialize;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint, Routes};
use crate::http::input::{Input, Parts};
use crate::http::limits::Budget;
use crate::http::reply;
use crate::state::State;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<Root>().add::<Health>().add::<Ready>().add::<Metrics>();
}

/// How long a dependency may take to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long `/ready` repeats itself.
const REMEMBERED: TimeDelta = TimeDelta::seconds(3);

/// `GET /`: what this is.
struct Root;

impl Endpoint for Root {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/";
    const ACCESS: Access = Access::Public;
    type Input = ();

    async fn handle(_: Call<()>) -> ApiResult<HttpResponse> {
        Ok(reply::json(
            StatusCode::OK,
            &BTreeMap::from([
                ("service", "FieldTrack 2.0"),
                ("status", "online"),
                ("version", "1.0.0"),
                ("docs", "/docs"),
            ]),
        ))
    }
}

/// `GET /health`: from memory only, in any outage.
struct Health;

impl Endpoint for Health {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/health";
    const ACCESS: Access = Access::Public;
    const BUDGET: Budget = Budget::Exempt;
    type Input = ();

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        #[derive(Serialize)]
        struct Alive<'a> {
            status: &'static str,
            timestamp: Replied,
            config_hash: &'a str,
        }
        let config = &call.state.config;
        let timestamp = Replied(call.state.clock.now());
        let mut response =
            reply::json(StatusCode::OK, &Alive { status: "ok", timestamp, config_hash: &config.config_hash });
        if let Ok(release) = config.telemetry.release.parse() {
            response.headers_mut().insert(HeaderName::from_static("x-release"), release);
        }
        Ok(response)
    }
}

/// `GET /ready`: can it do its work.
struct Ready;

impl Endpoint for Ready {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/ready";
    const ACCESS: Access = Access::Public;
    const BUDGET: Budget = Budget::Exempt;
    type Input = ();

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let state = &call.state;
        let now = state.clock.now();
        let found = match state.readiness.recent(now) {
            Some(found) => found,
            None => {
                let found = look(state).await;
                state.readiness.remember(found, now);
                found
            }
        };
        let ready = found.is_ready() && !state.is_draining();
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let word = |ok: bool| if ok { "ok" } else { "error" };
        Ok(reply::json(
            status,
            &serde_json::json!({
                "status": if ready { "ready" } else { "not_ready" },
                "timestamp": Replied(now),
                "checks": {
                    "redis": word(found.redis),
                    "supabase": word(found.database),
                    "bullmq": word(found.queues),
                    "workers": {
                        "status": word(found.workers >= EXPECTED_WORKERS),
                        "active": found.workers,
                        "expected": EXPECTED_WORKERS,
                    },
                },
            }),
        ))
    }
}

/// Worker processes that should be there at the least.
const EXPECTED_WORKERS: u64 = 1;

/// What the dependencies said.
#[derive(Debug, Clone, Copy)]
struct Found {
    redis: bool,
    database: bool,
    queues: bool,
    workers: u64,
}

impl Found {
    /// Workers are reported and never decide: requests are served without them.
    const fn is_ready(self) -> bool {
        self.redis && self.database && self.queues
    }
}

async fn look(state: &State) -> Found {
    let database = state.db.ping(PATIENCE);
    let redis = async { tokio::time::timeout(PATIENCE, state.queue.ping()).await.is_ok_and(|answer| answer.is_ok()) };
    let workers = async { tokio::time::timeout(PATIENCE, state.queue.workers()).await.ok().and_then(Result::ok) };
    let (database, redis, workers) = tokio::join!(database, redis, workers);
    Found { redis, database: database.is_ok(), queues: workers.is_some(), workers: workers.unwrap_or(0) }
}

/// What `/ready` last found.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<(DateTime<Utc>, Found)>>);

impl Readiness {
    fn recent(&self, now: DateTime<Utc>) -> Option<Found> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(at, _)| (now - *at).abs() < REMEMBERED).map(|(_, found)| found)
    }

    fn remember(&self, found: Found, now: DateTime<Utc>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, found));
    }
}

/// `GET /metrics`: from memory, for whoever has the token.
struct Metrics;

/// The `Authorization` header, if any.
struct Authorization(Option<String>);

impl Input for Authorization {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let header = parts.request.headers().get(AUTHORIZATION);
        Ok(Self(header.and_then(|value| value.to_str().ok()).map(str::to_owned)))
    }
}

impl Endpoint for Metrics {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/metrics";
    const ACCESS: Access = Access::Public;
    const BUDGET: Budget = Budget::Exempt;
    type Input = Authorization;

    async fn handle(call: Call<Authorization>) -> ApiResult<HttpResponse> {
        if let Some(token) = &call.state.config.metrics_scrape_token {
            let sent = call.input.0.as_deref().and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
            // Compared by their digests: the time it takes says nothing about the token.
            let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
            if digest(sent).as_ref() != digest(token.expose_secret()).as_ref() {
                return Ok(HttpResponse::Unauthorized().content_type("text/plain; charset=utf-8").body("Unauthorized"));
            }
        }
        let body = call.state.metrics.encode();
        Ok(HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8"))
            .body(body))
    }
}
