//! `GET /admin/top-performers`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::EmployeeId;
use domain::analytics::{Metric, Ranked};
use serde::Serialize;
use utoipa::ToSchema;

use super::ranking::AskedRanking;
use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// Employees ranked by one figure of the sessions that began in a period, open ones included.
pub struct TopPerformers;

impl Endpoint for TopPerformers {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/top-performers";
    const ACCESS: Access = Access::Admins;
    type Input = AskedRanking<false>;

    fn about() -> About {
        About::new("analytics", "getTopPerformers", "Employees ranked by one figure")
            .note(
                "Read from the sessions that began in the period, open ones included; `from` is midnight 30 days ago when \
                 absent. Of equals, whoever checked in last comes first.",
            )
            .list::<TopPerformer>()
    }

    async fn handle(call: Call<AskedRanking<false>>) -> ApiResult<HttpResponse> {
        let AskedRanking { metric, period, most } = call.input;
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let period = period.since_days(&mut tx, 30, call.state.clock.now()).await?;
        let rows = db::figures::top_performers(&mut tx, metric, period, most).await?;
        tx.commit().await?;
        Ok(reply::ok(rows.into_iter().map(|row| TopPerformer::of(row, metric)).collect::<Vec<_>>()))
    }
}

/// A place in the ranking; of the three values the one that was asked for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TopPerformer {
    employee_id: EmployeeId,
    employee_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    total_distance_km: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    total_duration_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sessions_count: Option<i64>,
}

impl TopPerformer {
    fn of(row: Ranked, metric: Metric) -> Self {
        Self {
            employee_id: row.employee,
            employee_name: row.name,
            total_distance_km: (metric == Metric::Distance).then_some(row.distance_km),
            total_duration_seconds: (metric == Metric::Duration).then_some(row.duration_s),
            sessions_count: (metric == Metric::Sessions).then_some(row.sessions),
        }
    }
}
