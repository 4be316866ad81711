//! `POST /admin/start-monitoring`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::monitoring::MonitoringSession;

use super::person;
use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// Opens a monitoring session of the caller, or shows the one that is open.
pub struct Start;

impl Endpoint for Start {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/admin/start-monitoring";
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        About::new("admin", "startMonitoring", "Open a monitoring session for the caller")
            .note("While one is open it is answered again, also with 201. Any body is ignored.")
            .created::<MonitoringSession>()
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let admin = person(caller)?;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let now = call.state.clock.now();
        let mut session = db::monitoring::start(&mut tx, admin, now).await?;
        if session.is_none() {
            // Somebody closed it between the two looks.
            session = db::monitoring::start(&mut tx, admin, now).await?;
        }
        let session =
            session.ok_or_else(|| ApiError::Unavailable("the session is opened and closed all the time".to_owned()))?;
        tx.commit().await?;
        Ok(reply::created(session))
    }
}
