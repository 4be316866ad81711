//! `GET /internal/queues/status`

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use queue::Counts;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// How deep the queues are that a check-out fills.
pub struct QueuesStatus;

impl Endpoint for QueuesStatus {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/internal/queues/status";
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        About::new("internal", "getInternalQueues", "Depth of the distance and analytics queues")
            .bare::<Answer>(200, "Counts.")
            .refuses(500, "The queue store cannot be reached.")
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let queues = &call.state.queues;
        let (distance, analytics) = tokio::try_join!(queues.distance.counts(), queues.analytics.counts())
            .map_err(|error| ApiError::Failed { message: "Failed to fetch queue status", cause: error.to_string() })?;
        Ok(reply::json(
            StatusCode::OK,
            &Answer { success: true, queues: Both { distance: Depth::of(distance), analytics: Depth::of(analytics) } },
        ))
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = QueuesStatus)]
struct Answer {
    success: bool,
    queues: Both,
}

#[derive(Serialize, ToSchema)]
#[schema(as = QueuesStatusList)]
struct Both {
    distance: Depth,
    analytics: Depth,
}

#[derive(Serialize, ToSchema)]
#[schema(as = QueueCounts)]
struct Depth {
    /// Jobs that are still to be begun, delayed ones included; MAX_QUEUE_DEPTH limits it.
    depth: u64,
    /// Running.
    active: u64,
    /// Of the depth, those whose time has not come.
    delayed: u64,
}

impl Depth {
    const fn of(counts: Counts) -> Self {
        Self { depth: counts.depth(), active: counts.active, delayed: counts.delayed }
    }
}
