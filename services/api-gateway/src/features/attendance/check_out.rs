//! `POST /attendance/check-out`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::attendance::Session;
use domain::event::Event;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// Closes the caller's open session and has it measured.
pub struct CheckOut;

impl Endpoint for CheckOut {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/attendance/check-out";
    const ACCESS: Access = Access::Employees;
    type Input = ();

    fn about() -> About {
        About::new("attendance", "checkOut", "End the work")
            .note("Closes the caller's open session. Its distance is measured a moment later. Any body is ignored.")
            .ok::<Session>()
            .refuses(400, "There is no open session.")
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let employee = caller.working_employee()?;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let now = call.state.clock.now();
        let Some(session) = db::attendance::close(&mut tx, employee, now).await? else {
            return Err(ApiError::Refused("Cannot check out: no active session found. Check in first.".to_owned()));
        };
        db::events::record(&mut tx, &Event::CheckedOut(session.clone()), now).await?;
        tx.commit().await?;
        call.state.jobs.ask_at_check_out(caller.tenant(), session.id, &call.request_id);
        Ok(reply::ok(session))
    }
}
