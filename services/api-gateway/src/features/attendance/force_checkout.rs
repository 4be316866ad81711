//! `POST /admin/force-checkout`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::{self, Entry};
use domain::EmployeeId;
use domain::attendance::{Session, duration_s};
use domain::event::Event;
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, UuidText, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Closes an employee's open session, with everything that a check-out brings about (D19).
pub struct ForceCheckout;

impl Endpoint for ForceCheckout {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/admin/force-checkout";
    const ACCESS: Access = Access::Admins;
    type Input = WhichEmployee;

    fn about() -> About {
        About::new("admin", "forceCheckout", "Close an employee's open session")
            .note("With everything that a check-out brings about.")
            .ok::<Closed>()
            .refuses(404, "There is no open session of such an employee.")
    }

    async fn handle(call: Call<WhichEmployee>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let WhichEmployee(employee) = call.input;
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let Some(session) = db::attendance::close(&mut tx, employee, now).await? else {
            return Err(ApiError::NothingFound(format!("No active session found for employee {employee}")));
        };
        db::events::record(&mut tx, &Event::CheckedOut(session.clone()), now).await?;
        let entry = Entry::new("SESSION_FORCE_CLOSED", caller.actor())
            .on("attendance_session", session.id)
            .with("employee_id", employee.to_string());
        audit::record(&mut tx, &entry, now).await?;
        tx.commit().await?;
        call.state.jobs.ask_at_check_out(caller.tenant(), session.id, &call.request_id);
        let duration_seconds = session.checkout_at.map(|ended| duration_s(session.checkin_at, ended));
        Ok(reply::ok(Closed { session, duration_seconds }))
    }
}

/// A session that was closed.
#[derive(Serialize, ToSchema)]
#[schema(as = ClosedSession)]
struct Closed {
    #[serde(flatten)]
    session: Session,
    /// Whole seconds between check-in and check-out.
    duration_seconds: Option<i32>,
}

/// Whose session to close.
pub struct WhichEmployee(EmployeeId);

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(custom(rules::required), custom(rules::uuid("Invalid UUID")))]
    employee_id: Field<UuidText>,
}

object!(Body: employee_id);

impl Input for WhichEmployee {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let body: Body = parts.body()?;
        // The rules have asked for it.
        Ok(Self(body.employee_id.value().and_then(|id| id.0).unwrap_or_default().into()))
    }
}
