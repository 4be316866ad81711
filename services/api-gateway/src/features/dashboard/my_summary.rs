//! `GET /dashboard/my-summary`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::analytics::Week;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// The caller's running week; zeros for whoever is no employee.
pub struct MySummary;

impl Endpoint for MySummary {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/dashboard/my-summary";
    const ACCESS: Access = Access::Everyone;
    type Input = ();

    fn about() -> About {
        About::new("dashboard", "getMySummary", "The caller's figures of the running week")
            .note(
                "The week begins on Monday, 00:00 in the organization's time zone. A session that goes on counts as far as it \
                 was measured. The two counts of expenses are of all time. Whoever is no employee has zeros.",
            )
            .ok::<Summary>()
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let week = match caller.employee() {
            None => Week::default(),
            Some(employee) => {
                let mut tx = call.state.db.tenant(caller.tenant()).await?;
                let week = db::figures::week(&mut tx, employee, call.state.clock.now()).await?;
                tx.commit().await?;
                week
            }
        };
        Ok(reply::ok(Summary {
            sessions_this_week: week.sessions,
            distance_this_week: week.distance_km,
            hours_this_week: week.hours(),
            expenses_submitted: week.expenses_submitted,
            expenses_approved: week.expenses_approved,
        }))
    }
}

/// An employee's running week.
#[derive(Serialize, ToSchema)]
#[schema(as = MySummary)]
#[serde(rename_all = "camelCase")]
struct Summary {
    sessions_this_week: i64,
    /// Kilometres, to 2 decimals.
    distance_this_week: f64,
    /// To 2 decimals.
    hours_this_week: f64,
    expenses_submitted: i64,
    expenses_approved: i64,
}
