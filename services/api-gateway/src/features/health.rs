//! Health: is this process alive, can it do its work, what does it count.

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
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint, Routes};
use crate::http::input::{Input, Parts};
use crate::http::limits::Budget;
use crate::http::openapi::About;
use crate::http::reply;
use crate::queues::EXPECTED;
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

    fn about() -> About {
        About::new("health", "getRoot", "What this is").bare::<Service>(200, "It is up.")
    }

    async fn handle(_: Call<()>) -> ApiResult<HttpResponse> {
        Ok(reply::json(
            StatusCode::OK,
            &Service { service: "FieldTrack 2.0", status: "online", version: "1.0.0", docs: "/docs" },
        ))
    }
}

/// What answers here.
#[derive(Serialize, ToSchema)]
struct Service {
    service: &'static str,
    status: &'static str,
    version: &'static str,
    /// Where it is described.
    docs: &'static str,
}

/// `GET /health`: from memory only, in any outage.
struct Health;

impl Endpoint for Health {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/health";
    const ACCESS: Access = Access::Public;
    const BUDGET: Budget = Budget::Exempt;
    type Input = ();

    fn about() -> About {
        About::new("health", "getHealth", "Is this process alive")
            .note("From memory only, in any outage.")
            .bare::<Alive<'_>>(200, "It is.")
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let config = &call.state.config;
        let timestamp = Replied(call.state.clock.now());
        let mut response =
            reply::json(StatusCode::OK, &Alive { status: Alright::Ok, timestamp, config_hash: &config.config_hash });
        if let Ok(release) = config.telemetry.release.parse() {
            response.headers_mut().insert(HeaderName::from_static("x-release"), release);
        }
        Ok(response)
    }
}

/// A process that answers.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
struct Alive<'a> {
    status: Alright,
    timestamp: Replied,
    /// Of the settings it runs with: 12 hexadecimal digits.
    config_hash: &'a str,
}

/// The one thing that a process which answers can say.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Alright {
    Ok,
}

/// `GET /ready`: can it do its work.
struct Ready;

impl Endpoint for Ready {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/ready";
    const ACCESS: Access = Access::Public;
    const BUDGET: Budget = Budget::Exempt;
    type Input = ();

    fn about() -> About {
        About::new("health", "getReady", "Can this process do its work")
            .note("Remembered for 3 s; nothing is asked for longer than 2 s. Workers are reported and never decide.")
            .bare::<Readable>(200, "Everything it needs answers.")
            .bare::<Readable>(503, "Something it needs is away, or it is on its way out.")
    }

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
        let workers =
            Workers { status: Word::of(found.workers >= EXPECTED), active: found.workers, expected: EXPECTED };
        Ok(reply::json(
            status,
            &Readable {
                status: if ready { Able::Ready } else { Able::NotReady },
                timestamp: Replied(now),
                checks: Checks {
                    redis: Word::of(found.redis),
                    supabase: Word::of(found.database),
                    bullmq: Word::of(found.queues),
                    workers,
                },
            },
        ))
    }
}

/// What `/ready` says.
#[derive(Serialize, ToSchema)]
#[schema(as = Ready)]
struct Readable {
    status: Able,
    timestamp: Replied,
    checks: Checks,
}

/// Whether a process can do its work.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Able {
    Ready,
    NotReady,
}

/// What it looked at, by the names that clients know.
#[derive(Serialize, ToSchema)]
struct Checks {
    redis: Word,
    /// The database.
    supabase: Word,
    /// The queues.
    bullmq: Word,
    workers: Workers,
}

/// Whether something answers.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Word {
    Ok,
    Error,
}

impl Word {
    const fn of(fine: bool) -> Self {
        if fine { Self::Ok } else { Self::Error }
    }
}

/// The workers of the queues.
#[derive(Serialize, ToSchema)]
struct Workers {
    status: Word,
    /// Kinds of jobs that somebody is there for.
    active: u64,
    /// Kinds of jobs.
    expected: u64,
}

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
    let redis = async { tokio::time::timeout(PATIENCE, state.queues.ping()).await.is_ok_and(|answer| answer.is_ok()) };
    let workers = async { tokio::time::timeout(PATIENCE, state.queues.kinds_served()).await.ok().and_then(Result::ok) };
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

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /metrics`: from memory, for whoever has the token.
struct Metrics;

/// The `Authorization` header, if any.
struct Authorization(Option<String>);

impl Input for Authorization {
    const READS_BODY: bool = false;
    const IS_JUDGED: bool = false;

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

    fn about() -> About {
        About::new("internal", "getMetrics", "What this process counts")
            .note("For whoever has METRICS_SCRAPE_TOKEN, when that is set.")
            .opened_by(&["", "scrapeToken"])
            .text(200, OPEN_METRICS, "OpenMetrics.")
            .text(401, "text/plain", "The token is missing or wrong.")
    }

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
        Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, OPEN_METRICS)).body(body))
    }
}
