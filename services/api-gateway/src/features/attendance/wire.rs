//! How sessions look in lists.

use chrono::{DateTime, Utc};
use domain::attendance::{ActivityStatus, Session};
use serde::Serialize;
use utoipa::ToSchema;

/// A session in a list. Only administrators are told whose it is.
#[derive(Serialize, ToSchema)]
#[schema(as = SessionListItem)]
pub struct ListItem {
    #[serde(flatten)]
    session: Session,
    employee_code: Option<String>,
    employee_name: Option<String>,
    #[serde(rename = "activityStatus")]
    activity_status: ActivityStatus,
}

impl ListItem {
    /// A session of the caller's own.
    pub fn own(session: Session, now: DateTime<Utc>) -> Self {
        Self { activity_status: session.activity(now), session, employee_code: None, employee_name: None }
    }

    /// A session of the employee with this code and name.
    pub fn of(session: Session, code: String, name: String, now: DateTime<Utc>) -> Self {
        Self { employee_code: Some(code), employee_name: Some(name), ..Self::own(session, now) }
    }
}
