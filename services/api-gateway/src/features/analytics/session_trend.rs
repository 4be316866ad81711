//! `GET /admin/session-trend`

use actix_web::HttpResponse;
use actix_web::http::Method;

use super::period::AskedPeriod;
use super::wire::TrendPoint;
use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// The organization's days of a period, by default the last 90.
pub struct SessionTrend;

impl Endpoint for SessionTrend {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/session-trend";
    const ACCESS: Access = Access::Admins;
    type Input = AskedPeriod;

    fn about() -> About {
        About::new("analytics", "getSessionTrend", "Daily totals of the organization")
            .note("`from` is midnight 90 days ago when absent. Only days that have sessions, oldest first.")
            .list::<TrendPoint>()
    }

    async fn handle(call: Call<AskedPeriod>) -> ApiResult<HttpResponse> {
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let period = call.input.since_days(&mut tx, 90, call.state.clock.now()).await?;
        let days = db::figures::days(&mut tx, period).await?;
        tx.commit().await?;
        Ok(reply::ok(days.into_iter().map(TrendPoint::from).collect::<Vec<_>>()))
    }
}
