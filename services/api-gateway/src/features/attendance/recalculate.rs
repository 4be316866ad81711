//! `POST /attendance/{sessionId}/recalculate`

use std::time::Instant;

use actix_web::HttpResponse;
use actix_web::http::Method;
use chrono::TimeDelta;
use db::measurement::{From, Outcome, measure};
use domain::SessionId;
use domain::auth::Role;
use queue::Done;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Input, Parts};
use crate::http::limits::Budget;
use crate::http::openapi::About;
use crate::http::reply;

/// Measures a session anew, from its first point, while the caller waits. Employees may ask for their own (D2).
pub struct Recalculate;

const NOT_FOUND: ApiError = ApiError::NotFound("Attendance session not found");

impl Endpoint for Recalculate {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/attendance/{sessionId}/recalculate";
    const ACCESS: Access = Access::Everyone;
    const BUDGET: Budget = Budget::Own { route: "recalculate", limit: 5, window_s: 60 };
    type Input = WhichSession;

    fn about() -> About {
        About::new("attendance", "recalculateSession", "Measure a session anew, while the caller waits")
            .note("An open session is measured up to now. Employees may ask for their own sessions.")
            .ok::<Remeasured>()
            .refuses(404, "There is no such session, or it is somebody else's.")
    }

    async fn handle(call: Call<WhichSession>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let WhichSession(id) = call.input;
        let now = call.state.clock.now();
        let config = &call.state.config;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let session = db::attendance::find(&mut tx, id).await?.ok_or(NOT_FOUND)?;
        if caller.role() == Role::Employee && session.employee != caller.working_employee()? {
            return Err(NOT_FOUND);
        }
        let lasted = session.checkout_at.unwrap_or(now) - session.checkin_at;
        if lasted > TimeDelta::hours(config.max_session_hours) {
            return Err(ApiError::Refused(format!(
                "Session {id} has an abnormal duration of {:.1} hours (maximum allowed: {} hours). \
                 Recalculation rejected. Raise MAX_SESSION_DURATION_HOURS to override.",
                lasted.as_seconds_f64() / 3600.0,
                config.max_session_hours
            )));
        }
        let since = Instant::now();
        match measure(&mut tx, id, From::Beginning, config.max_points, now).await? {
            Outcome::NoSuchSession => Err(NOT_FOUND),
            Outcome::TooManyPoints => Err(ApiError::Refused(format!(
                "Session exceeds the maximum allowed GPS points ({}). Recalculation rejected to protect the event loop. \
                 Raise MAX_POINTS_PER_SESSION to override.",
                config.max_points
            ))),
            Outcome::PointsGone => Err(ApiError::Refused(format!(
                "Session {id} is older than the GPS points that are kept. Its figures stay as they were measured."
            ))),
            Outcome::Measured(_, measured) => {
                tx.commit().await?;
                call.state.recalculations.made(Done {
                    at_ms: u64::try_from(now.timestamp_millis()).unwrap_or_default(),
                    took_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
                });
                Ok(reply::ok(Remeasured {
                    session_id: id,
                    total_distance_km: measured.distance_km,
                    total_duration_seconds: measured.duration_s,
                }))
            }
        }
    }
}

/// What a session is now known to be.
#[derive(Serialize, ToSchema)]
struct Remeasured {
    session_id: SessionId,
    total_distance_km: f64,
    total_duration_seconds: i32,
}

/// The session in the path.
pub struct WhichSession(SessionId);

impl Input for WhichSession {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        Ok(Self(parts.path_id("sessionId")?.into()))
    }
}
