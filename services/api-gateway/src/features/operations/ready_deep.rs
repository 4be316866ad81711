//! `GET /internal/ready-deep`

use std::time::{Duration, Instant};

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use chrono::DateTime;
use domain::clock::Replied;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;
use crate::queues::EXPECTED;
use crate::state::State;

/// Asks every dependency at once and says how long it took to answer; nothing is remembered.
pub struct ReadyDeep;

/// How long a dependency may take to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(2);

impl Endpoint for ReadyDeep {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/internal/ready-deep";
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        About::new("internal", "getReadyDeep", "Uncached dependency probe with latencies")
            .note("Unlike /ready, missing workers make the result degraded.")
            .ok::<Found>()
            .bare::<Degraded>(503, "Something is away; `success` is true all the same.")
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let state = &call.state;
        let redis = timed(async {
            tokio::time::timeout(PATIENCE, state.queues.ping()).await.is_ok_and(|answer| answer.is_ok())
        });
        let database = timed(async { state.db.ping(PATIENCE).await.is_ok() });
        let (redis, database, workers) = tokio::join!(redis, database, workers(state));
        let well = [&redis.status, &database.status].into_iter().all(|word| *word == Answers::Ok)
            && workers.status != WorkersWord::Error;
        let data = Found {
            status: if well { Overall::Healthy } else { Overall::Degraded },
            checked_at: Replied(state.clock.now()),
            checks: Checks { redis, database, workers },
        };
        // Clients read the status in the body: it is an answer, not an error.
        let code = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Ok(reply::json(code, &Degraded { success: true, data }))
    }
}

async fn timed(answers: impl Future<Output = bool>) -> Dependency {
    let since = Instant::now();
    let (status, error) = if answers.await { (Answers::Ok, None) } else { (Answers::Error, Some("unreachable")) };
    Dependency { status, latency_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX), error }
}

/// Whether somebody is there for every kind of job, and when a job was done last.
async fn workers(state: &State) -> Workers {
    let asked = async { tokio::try_join!(state.queues.kinds_served(), state.queues.last_done_ms()) };
    let found = tokio::time::timeout(PATIENCE, asked).await.ok().and_then(Result::ok);
    let healthy = found.is_some_and(|(kinds, _)| kinds >= EXPECTED);
    let last = found.and_then(|(_, last)| DateTime::from_timestamp_millis(i64::try_from(last?).ok()?));
    let status = match (state.config.workers_enabled, healthy) {
        (_, true) => WorkersWord::Ok,
        (true, false) => WorkersWord::Error,
        // Nobody is expected.
        (false, false) => WorkersWord::Skipped,
    };
    Workers { status, healthy, last_processed_at: last.map(Replied) }
}

/// The answer when something is away; the same envelope as otherwise.
#[derive(Serialize, ToSchema)]
#[schema(as = ReadyDeepDegraded)]
struct Degraded {
    success: bool,
    data: Found,
}

/// What the dependencies said.
#[derive(Serialize, ToSchema)]
#[schema(as = ReadyDeep)]
#[serde(rename_all = "camelCase")]
struct Found {
    status: Overall,
    checked_at: Replied,
    checks: Checks,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ReadyDeepStatus)]
#[serde(rename_all = "lowercase")]
enum Overall {
    Healthy,
    Degraded,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ReadyDeepChecks)]
struct Checks {
    redis: Dependency,
    database: Dependency,
    workers: Workers,
}

/// Something that was asked.
#[derive(Serialize, ToSchema)]
#[schema(as = DependencyCheck)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    status: Answers,
    /// How long the answer took, or how long it was waited for.
    latency_ms: u64,
    /// What is wrong, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<&'static str>,
}

#[derive(Serialize, ToSchema, PartialEq)]
#[schema(as = DependencyStatus)]
#[serde(rename_all = "lowercase")]
enum Answers {
    Ok,
    Error,
}

/// Whoever does the jobs.
#[derive(Serialize, ToSchema)]
#[schema(as = ReadyDeepWorkers)]
#[serde(rename_all = "camelCase")]
struct Workers {
    /// `skipped`: none is expected (WORKERS_ENABLED).
    status: WorkersWord,
    /// Whether somebody is there for every kind of job.
    healthy: bool,
    /// When a job of any kind was done last, as far as records are kept.
    last_processed_at: Option<Replied>,
}

#[derive(Serialize, ToSchema, PartialEq)]
#[schema(as = ReadyDeepWorkersStatus)]
#[serde(rename_all = "lowercase")]
enum WorkersWord {
    Ok,
    Error,
    Skipped,
}
