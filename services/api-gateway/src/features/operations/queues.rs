//! `GET /admin/queues`

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use queue::Counts;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// How many jobs are in which state, of all organizations: no tenant's data (D13).
pub struct QueueCounts;

impl Endpoint for QueueCounts {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/queues";
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        About::new("admin", "getQueues", "Job counts of the analytics and distance queues")
            .note("Of all organizations together.")
            .bare::<Answer>(200, "Counts.")
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let queues = &call.state.queues;
        let (distance, analytics, letters) =
            tokio::try_join!(queues.distance.counts(), queues.analytics.counts(), queues.analytics_letters.counts())?;
        let analytics = WithLetters {
            jobs: Jobs::of(analytics),
            dlq: Letters { waiting: letters.waiting + letters.prioritized, failed: letters.failed },
        };
        Ok(reply::json(
            StatusCode::OK,
            &Answer { success: true, queues: Both { analytics, distance: Jobs::of(distance) } },
        ))
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = AdminQueues)]
struct Answer {
    success: bool,
    queues: Both,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AdminQueueList)]
struct Both {
    analytics: WithLetters,
    distance: Jobs,
}

/// Jobs of one queue.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminQueueJobs)]
struct Jobs {
    /// To be begun now.
    waiting: u64,
    /// Running.
    active: u64,
    /// Done and kept.
    completed: u64,
    /// Given up and kept.
    failed: u64,
}

impl Jobs {
    const fn of(counts: Counts) -> Self {
        Self {
            waiting: counts.waiting + counts.prioritized,
            active: counts.active,
            completed: counts.completed,
            failed: counts.failed,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = AdminQueueJobsWithLetters)]
struct WithLetters {
    #[serde(flatten)]
    jobs: Jobs,
    dlq: Letters,
}

/// Copies of jobs that were given up.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminQueueLetters)]
struct Letters {
    /// To be looked at.
    waiting: u64,
    /// Looked at in vain.
    failed: u64,
}
