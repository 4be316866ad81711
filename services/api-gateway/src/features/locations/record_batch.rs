//! `POST /locations/batch`

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use db::locations::{BatchToRecord, Recorded};
use domain::SessionId;
use domain::location::Fix;
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::wire::Point;
use crate::error::{ApiError, ApiResult};
use crate::features::live::tell_position;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, UuidText, invalid, object};
use crate::http::limits::Budget;
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Stores the fixes a phone gathered, whether it was online or not: all of them, or none.
pub struct RecordBatch;

impl Endpoint for RecordBatch {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/locations/batch";
    const ACCESS: Access = Access::Employees;
    const BUDGET: Budget = Budget::Own { route: "locations-batch", limit: 10, window_s: 10 };
    type Input = Batch;

    fn about() -> About {
        About::new("locations", "createLocationBatch", "Store the fixes a phone gathered: all of them, or none")
            .note("Fixes that are there already are skipped. When every fix has a sequence_number, they must not descend.")
            .bare::<Receipt>(201, "Stored.")
    }

    async fn handle(call: Call<Batch>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let (tenant, employee) = (caller.tenant(), caller.working_employee()?);
        let Batch { session, fixes } = call.input;
        let metrics = &call.state.metrics;
        let sent = fixes.len() as u64;
        let newest = fixes.iter().max_by_key(|fix| fix.recorded_at).copied();
        match call.state.recorder.record_batch(BatchToRecord { tenant, session, employee, fixes }).await? {
            Recorded::Stored { inserted, measure } => {
                metrics.locations_inserted.inc_by(u64::from(inserted));
                if let Some(newest) = newest.filter(|_| inserted > 0) {
                    tell_position(&call.state.live, tenant, employee, session, &newest, call.state.clock.now());
                }
                metrics.locations_duplicate.inc_by(sent - u64::from(inserted));
                if measure {
                    call.state.jobs.ask(tenant, session, &call.request_id);
                }
                Ok(reply::json(StatusCode::CREATED, &Receipt { success: true, inserted }))
            }
            Recorded::NoOpenSession => {
                metrics.location_rejected("no_open_session", sent);
                Err(ApiError::Refused("Cannot record locations: invalid or closed attendance session.".to_owned()))
            }
            Recorded::BeforeSession => {
                metrics.location_rejected("before_session", sent);
                Err(ApiError::Refused(
                    "Cannot record locations: one or more points have recorded_at before the session start time."
                        .to_owned(),
                ))
            }
        }
    }
}

/// How many rows were written; it stands beside `success`, not inside `data`.
#[derive(Serialize, ToSchema)]
struct Receipt {
    success: bool,
    inserted: u32,
}

/// Fixes of one session.
pub struct Batch {
    session: SessionId,
    fixes: Vec<Fix>,
}

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(custom(rules::required), custom(rules::uuid("session_id must be a valid UUID")))]
    session_id: Field<UuidText>,
    #[serde(default)]
    #[garde(custom(rules::items_at_least(1)), custom(rules::items_at_most(100)), dive)]
    points: Field<Vec<Field<Point>>>,
}

object!(Body: session_id, points, latitude, longitude, accuracy, recorded_at, sequence_number);

impl Input for Batch {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let body: Body = parts.body()?;
        let session = body.session_id.value().and_then(|id| id.0);
        let points: Vec<Point> = body.points.into_value().into_iter().flatten().filter_map(Field::into_value).collect();
        let order: Option<Vec<i64>> = points.iter().map(Point::sequence_number).collect();
        if order.is_some_and(|order| !order.is_sorted()) {
            return Err(invalid("body", "", "points must be in non-descending sequence_number order"));
        }
        let fixes: Option<Vec<Fix>> = points.iter().map(Point::fix).collect();
        session
            .zip(fixes)
            .map(|(session, fixes)| Self { session: session.into(), fixes })
            .ok_or(ApiError::MalformedJson)
    }
}
