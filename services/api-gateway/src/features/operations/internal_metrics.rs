//! `GET /internal/metrics`

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// A few counters as JSON, for whoever has no Prometheus.
pub struct InternalMetrics;

impl Endpoint for InternalMetrics {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/internal/metrics";
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        About::new("internal", "getInternalMetrics", "Process counters as JSON")
            .note("Without the envelope. Counters begin anew with the process.")
            .bare::<Counters>(200, "Snapshot.")
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let state = &call.state;
        let distance = &state.queues.distance;
        let (counts, done) = tokio::try_join!(distance.counts(), distance.done())?;
        let counters = Counters {
            uptime_seconds: state.started.elapsed().as_secs(),
            queue_depth: counts.depth(),
            total_recalculations: state.recalculations.total(done),
            total_locations_inserted: state.metrics.locations_inserted.get(),
            avg_recalculation_ms: state.recalculations.average_ms(distance).await?,
        };
        Ok(reply::json(StatusCode::OK, &counters))
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = InternalMetrics)]
#[serde(rename_all = "camelCase")]
struct Counters {
    /// Seconds since this process started.
    uptime_seconds: u64,
    /// Measurements that are still to be begun.
    queue_depth: u64,
    /// Measurements since then: by workers, and here while somebody waited.
    total_recalculations: u64,
    /// Fixes that this process stored.
    total_locations_inserted: u64,
    /// How long the last hundred measurements took on average; 0 when there was none.
    avg_recalculation_ms: u64,
}
