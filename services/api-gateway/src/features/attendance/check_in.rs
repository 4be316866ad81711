//! `POST /attendance/check-in`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::SessionId;
use domain::attendance::Session;
use domain::event::Event;
use domain::location::Coordinate;
use garde::Validate;
use serde::Deserialize;

use crate::error::{ApiError, ApiResult, Problem};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Opens a session; with a position, that becomes its first fix.
pub struct CheckIn;

impl Endpoint for CheckIn {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/attendance/check-in";
    const ACCESS: Access = Access::Employees;
    type Input = Place;

    fn about() -> About {
        About::new("attendance", "checkIn", "Begin to work")
            .note("Opens a session; there is at most one open session an employee. A position becomes its first fix.")
            .means("latitude", "Given together with longitude, or not at all.")
            .created::<Session>()
    }

    async fn handle(call: Call<Place>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let employee = caller.working_employee()?;
        let now = call.state.clock.now();
        let id = SessionId::generate();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let session = db::attendance::open(&mut tx, id, employee, now).await.map_err(|error| {
            if error.is_conflict_with(db::attendance::ALREADY_OPEN) {
                ApiError::Refused("Cannot check in: you already have an active session. Check out first.".to_owned())
            } else {
                error.into()
            }
        })?;
        // Asked of the row, which stays locked: a deactivation at this very moment comes before or after, and whoever it
        // came before has no session that nobody would close. After the session, as everywhere: nobody waits in a circle.
        if !db::employees::touch_if_active(&mut tx, employee, now).await? {
            return Err(ApiError::NoEmployee);
        }
        if let Some(at) = call.input.0 {
            db::locations::insert_first(&mut tx, id, employee, at, now).await?;
        }
        db::events::record(&mut tx, &Event::CheckedIn(session.clone()), now).await?;
        tx.commit().await?;
        Ok(reply::created(session))
    }
}

/// Where the work begins, if the phone knows.
pub struct Place(Option<Coordinate>);

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(custom(rules::nullable), custom(rules::at_least(-90.0)), custom(rules::at_most(90.0)))]
    latitude: Field<f64>,
    #[serde(default)]
    #[garde(custom(rules::nullable), custom(rules::at_least(-180.0)), custom(rules::at_most(180.0)))]
    longitude: Field<f64>,
}

object!(Body: latitude, longitude);

impl Input for Place {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let Some(body) = parts.optional_body::<Body>()? else { return Ok(Self(None)) };
        let missing = |field: &str, other: &Field<f64>| {
            let message = format!("Invalid input: expected number, received {}", other.received());
            Err(ApiError::Invalid(vec![Problem { field: format!("body/{field}"), message }]))
        };
        match (body.latitude.value(), body.longitude.value()) {
            (Some(latitude), Some(longitude)) => Ok(Self(Coordinate::new(*latitude, *longitude))),
            (None, None) => Ok(Self(None)),
            (Some(_), None) => missing("longitude", &body.longitude),
            (None, Some(_)) => missing("latitude", &body.latitude),
        }
    }
}
