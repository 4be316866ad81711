//! `GET /admin/system-health`

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use domain::clock::Replied;
use queue::{Counts, QueueError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;
use crate::queues::EXPECTED;

/// Whether work gets done: workers, backlogs, and how webhooks fare.
pub struct SystemHealth;

/// The organization's newest deliveries that are looked at.
const LOOKED_AT: i64 = 500;

/// A figure that could not be read.
const UNKNOWN: i64 = -1;

impl Endpoint for SystemHealth {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/system-health";
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        About::new("admin", "getSystemHealth", "Workers, backlogs and webhook success rate")
            .note(
                "Workers and queues are those of all organizations; a queue figure is -1 when it could not be read. \
                 Webhook figures are those of the organization's newest 500 deliveries.",
            )
            .bare::<Answer>(200, "State.")
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let state = &call.state;
        let queues = &state.queues;
        let (deliveries, analytics, distance, kinds) = tokio::join!(
            queues.deliveries.counts(),
            queues.analytics.counts(),
            queues.distance.counts(),
            queues.kinds_served()
        );
        let mut tx = state.db.tenant(call.caller()?.tenant()).await?;
        let tally = db::webhooks::tally(&mut tx, LOOKED_AT).await?;
        tx.commit().await?;
        let mut tx = state.db.system().await?;
        let (_, dead) = db::webhooks::troubles(&mut tx).await?;
        tx.commit().await?;
        let active = kinds.unwrap_or(0);
        let ended = tally.succeeded + tally.failed;
        let rate = if ended == 0 { 100 } else { (tally.succeeded * 100 + ended / 2) / ended };
        Ok(reply::json(
            StatusCode::OK,
            &Answer {
                success: true,
                timestamp: Replied(state.clock.now()),
                workers: Workers { active, expected: EXPECTED, healthy: active >= EXPECTED },
                queues: Queues {
                    webhook: WithLetters { backlog: backlog(&deliveries, Counts::depth), dlq: dead },
                    analytics: Backlog {
                        backlog: backlog(&analytics, |counts| counts.waiting + counts.prioritized + counts.active),
                    },
                    distance: Backlog { backlog: backlog(&distance, Counts::depth) },
                },
                webhooks: Webhooks {
                    success_rate_pct: rate,
                    failure_count: tally.failed,
                    retry_count: tally.retried,
                    total_deliveries: tally.deliveries,
                },
            },
        ))
    }
}

fn backlog(counts: &Result<Counts, QueueError>, figure: impl Fn(&Counts) -> u64) -> i64 {
    counts.as_ref().map_or(UNKNOWN, |counts| i64::try_from(figure(counts)).unwrap_or(i64::MAX))
}

#[derive(Serialize, ToSchema)]
#[schema(as = SystemHealth)]
struct Answer {
    success: bool,
    timestamp: Replied,
    workers: Workers,
    queues: Queues,
    webhooks: Webhooks,
}

/// Whoever does the jobs.
#[derive(Serialize, ToSchema)]
#[schema(as = SystemHealthWorkers)]
struct Workers {
    /// Kinds of jobs that somebody is there for.
    active: u64,
    /// Kinds of jobs.
    expected: u64,
    healthy: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SystemHealthQueues)]
struct Queues {
    webhook: WithLetters,
    analytics: Backlog,
    distance: Backlog,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SystemHealthBacklogAndLetters)]
struct WithLetters {
    /// Jobs that are still to be begun.
    backlog: i64,
    /// Deliveries that were given up.
    dlq: i64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SystemHealthBacklog)]
struct Backlog {
    /// Jobs that are not done.
    backlog: i64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SystemHealthWebhooks)]
#[serde(rename_all = "camelCase")]
struct Webhooks {
    /// Of those that ended, how many were accepted, in percent; 100 when none ended.
    success_rate_pct: i64,
    /// Given up.
    failure_count: i64,
    /// Those that needed more than one attempt.
    retry_count: i64,
    /// How many were looked at.
    total_deliveries: i64,
}
