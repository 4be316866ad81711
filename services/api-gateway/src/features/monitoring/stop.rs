//! `POST /admin/stop-monitoring`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::monitoring::MonitoringSession;

use super::person;
use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// Closes the caller's monitoring session.
pub struct Stop;

impl Endpoint for Stop {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/admin/stop-monitoring";
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        About::new("admin", "stopMonitoring", "Close the caller's monitoring session")
            .note("Any body is ignored.")
            .ok::<MonitoringSession>()
            .refuses(404, "None is open.")
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let admin = person(caller)?;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let closed = db::monitoring::stop(&mut tx, admin, call.state.clock.now()).await?;
        tx.commit().await?;
        let session = closed.ok_or(ApiError::NotFound("No active monitoring session found. Start one first."))?;
        Ok(reply::ok(session))
    }
}
