//! `POST /locations`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::locations::{PointToRecord, Recorded, StoredFix};
use domain::location::Fix;
use domain::{FixId, SessionId};

use super::wire::{Location, Point, Session};
use crate::error::{ApiError, ApiResult};
use crate::features::live::tell_position;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Input, Parts};
use crate::http::limits::Budget;
use crate::http::openapi::About;
use crate::http::reply;

/// Stores one fix. Sent again, it answers with the row that is there (D18).
pub struct Record;

impl Endpoint for Record {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/locations";
    const ACCESS: Access = Access::Employees;
    const BUDGET: Budget = Budget::Own { route: "locations", limit: 10, window_s: 10 };
    type Input = OneFix;

    fn about() -> About {
        About::new("locations", "createLocation", "Store one fix of the caller's open session")
            .note("A fix sent again is answered with the row that is there.")
            .means("accuracy", "Metres.")
            .means("sequence_number", "The phone's own count; it orders nothing.")
            .created::<Location>()
    }

    async fn handle(call: Call<OneFix>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let (tenant, employee) = (caller.tenant(), caller.working_employee()?);
        let OneFix { session, fix } = call.input;
        let id = FixId::generate();
        let metrics = &call.state.metrics;
        match call.state.recorder.record(PointToRecord { tenant, session, employee, id, fix }).await? {
            Recorded::Stored { inserted: 0, .. } => {
                metrics.locations_duplicate.inc();
                let mut tx = call.state.db.tenant(tenant).await?;
                let stored = db::locations::find_at(&mut tx, session, fix.recorded_at).await?;
                tx.commit().await?;
                let stored = stored.ok_or_else(|| ApiError::Internal("a repeated fix is not there".to_owned()))?;
                Ok(reply::created(Location::from(stored)))
            }
            Recorded::Stored { measure, .. } => {
                metrics.locations_inserted.inc();
                tell_position(&call.state.live, tenant, employee, session, &fix, call.state.clock.now());
                if measure {
                    call.state.jobs.ask(tenant, session, &call.request_id);
                }
                let organization = tenant.organization();
                Ok(reply::created(Location::from(StoredFix {
                    id,
                    session,
                    organization,
                    employee,
                    fix,
                    is_duplicate: false,
                })))
            }
            Recorded::NoOpenSession => {
                metrics.location_rejected("no_open_session", 1);
                Err(ApiError::Refused("Cannot record location: invalid or closed attendance session.".to_owned()))
            }
            Recorded::BeforeSession => {
                metrics.location_rejected("before_session", 1);
                Err(ApiError::Refused(
                    "Cannot record location: recorded_at is before the session start time.".to_owned(),
                ))
            }
        }
    }
}

/// A fix and the session it belongs to.
pub struct OneFix {
    session: SessionId,
    fix: Fix,
}

impl Input for OneFix {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        // The position's fields stand beside the session's id, so one body is read as two things.
        let (session, point) = match (parts.body::<Session>(), parts.body::<Point>()) {
            (Ok(session), Ok(point)) => (session, point),
            (Err(ApiError::Invalid(mut problems)), Err(ApiError::Invalid(more))) if problems != more => {
                problems.extend(more);
                return Err(ApiError::Invalid(problems));
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        session.id().zip(point.fix()).map(|(session, fix)| Self { session, fix }).ok_or(ApiError::MalformedJson)
    }
}
