//! How positions look on the wire.

use db::locations::StoredFix;
use domain::clock::Stored;
use domain::location::{Coordinate, Fix};
use domain::{EmployeeId, FixId, OrganizationId, SessionId};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::input::{Field, Moment, UtcText, UuidText, object};
use crate::http::rules;

/// Which session positions belong to.
#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
pub struct Session {
    #[serde(default)]
    #[garde(custom(rules::required), custom(rules::uuid("session_id must be a valid UUID")))]
    session_id: Field<UuidText>,
}

object!(Session: session_id);

impl Session {
    /// Its id; `None` if the rules were not asked first.
    pub fn id(&self) -> Option<SessionId> {
        Some(self.session_id.value()?.0?.into())
    }
}

/// A position as a phone sends it.
#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
pub struct Point {
    #[serde(default)]
    #[garde(custom(rules::required), custom(rules::at_least(-90.0)), custom(rules::at_most(90.0)))]
    latitude: Field<f64>,
    #[serde(default)]
    #[garde(custom(rules::required), custom(rules::at_least(-180.0)), custom(rules::at_most(180.0)))]
    longitude: Field<f64>,
    #[serde(default)]
    #[garde(custom(rules::required), custom(rules::at_least(0.0)))]
    accuracy: Field<f64>,
    #[serde(default)]
    #[garde(custom(rules::required), custom(rules::utc), custom(rules::not_from_the_future))]
    recorded_at: Field<UtcText>,
    #[serde(default)]
    #[garde(
        custom(rules::optional),
        custom(rules::whole),
        custom(rules::not_negative("sequence_number must be >= 0"))
    )]
    sequence_number: Field<f64>,
}

object!(Point: latitude, longitude, accuracy, recorded_at, sequence_number);

impl Point {
    /// The phone's counter.
    pub fn sequence_number(&self) -> Option<i64> {
        #[expect(clippy::cast_possible_truncation, reason = "the rules keep it a whole number below 2^53")]
        self.sequence_number.value().map(|number| *number as i64)
    }

    /// The position itself; `None` if the rules were not asked first.
    pub fn fix(&self) -> Option<Fix> {
        Some(Fix {
            at: Coordinate::new(*self.latitude.value()?, *self.longitude.value()?)?,
            recorded_at: self.recorded_at.value()?.0?,
            accuracy_m: self.accuracy.value().copied(),
            sequence_number: self.sequence_number(),
        })
    }
}

/// A stored position as clients read it.
#[derive(Serialize, ToSchema)]
pub struct Location {
    id: FixId,
    session_id: SessionId,
    organization_id: OrganizationId,
    employee_id: EmployeeId,
    latitude: f64,
    longitude: f64,
    accuracy: Option<f64>,
    recorded_at: Stored,
    sequence_number: Option<i64>,
    is_duplicate: bool,
}

impl From<StoredFix> for Location {
    fn from(stored: StoredFix) -> Self {
        Self {
            id: stored.id,
            session_id: stored.session,
            organization_id: stored.organization,
            employee_id: stored.employee,
            latitude: stored.fix.at.latitude(),
            longitude: stored.fix.at.longitude(),
            accuracy: stored.fix.accuracy_m,
            recorded_at: Stored(stored.fix.recorded_at),
            sequence_number: stored.fix.sequence_number,
            is_duplicate: stored.is_duplicate,
        }
    }
}
