//! How employees and where they stand look on the wire.

use chrono::{DateTime, Utc};
use domain::attendance::ActivityStatus;
use domain::clock::Stored;
use domain::employee::EmployeeState;
use domain::location::Coordinate;
use domain::{EmployeeId, OrganizationId, UserId};
use serde::Serialize;
use utoipa::ToSchema;

/// An employee with everything their own row says.
#[derive(Serialize, ToSchema)]
#[schema(as = EmployeeRow)]
pub struct Row {
    id: EmployeeId,
    organization_id: OrganizationId,
    user_id: Option<UserId>,
    name: String,
    employee_code: String,
    employee_number: Option<i64>,
    phone: Option<String>,
    is_active: bool,
    last_activity_at: Option<Stored>,
    created_at: Stored,
    updated_at: Stored,
    is_checked_in: bool,
    last_check_in_at: Option<Stored>,
}

impl From<EmployeeState> for Row {
    fn from(state: EmployeeState) -> Self {
        let (is_checked_in, checkin_at) = (state.is_checked_in(), state.last_checkin_at());
        let employee = state.employee;
        Self {
            id: employee.id,
            organization_id: employee.organization,
            user_id: employee.user,
            name: employee.name,
            employee_code: employee.employee_code,
            employee_number: state.employee_number,
            phone: employee.phone,
            is_active: employee.is_active,
            last_activity_at: state.last_activity_at.map(Stored),
            created_at: Stored(employee.created_at),
            updated_at: Stored(employee.updated_at),
            is_checked_in,
            last_check_in_at: checkin_at.map(Stored),
        }
    }
}

/// An employee as the list shows them: also where they were seen last, and how live they are.
#[derive(Serialize, ToSchema)]
#[schema(as = EmployeeListItem)]
pub struct ListItem {
    #[serde(flatten)]
    row: Row,
    last_check_out_at: Option<Stored>,
    last_latitude: Option<f64>,
    last_longitude: Option<f64>,
    last_location_at: Option<Stored>,
    activity_status: ActivityStatus,
}

impl ListItem {
    /// `place` is where they were seen last, and when.
    pub fn new(state: EmployeeState, place: Option<(Coordinate, DateTime<Utc>)>, now: DateTime<Utc>) -> Self {
        Self {
            last_check_out_at: state.last_checkout_at.map(Stored),
            last_latitude: place.map(|(place, _)| place.latitude()),
            last_longitude: place.map(|(place, _)| place.longitude()),
            last_location_at: place.map(|(_, at)| Stored(at)),
            activity_status: state.activity(now),
            row: state.into(),
        }
    }
}
