//! Who watches, and whom they see on the map.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::{stored, stored_or_null};
use crate::id::{EmployeeId, MonitoringSessionId, OrganizationId, SessionId, UserId};

/// A stretch of time that an administrator watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MonitoringSession {
    /// Its id.
    pub id: MonitoringSessionId,
    /// Who watched.
    #[serde(rename = "admin_id")]
    pub admin: UserId,
    /// Where.
    #[serde(rename = "organization_id")]
    pub organization: OrganizationId,
    /// Since when.
    #[serde(serialize_with = "stored")]
    pub started_at: DateTime<Utc>,
    /// Until when; `null` while it goes on.
    #[serde(serialize_with = "stored_or_null")]
    pub ended_at: Option<DateTime<Utc>>,
    /// When it was written down.
    #[serde(serialize_with = "stored")]
    pub created_at: DateTime<Utc>,
}

/// Whether somebody on the map is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum MarkerStatus {
    /// A session is open.
    Active,
    /// The last one was closed less than 24 hours ago.
    Recent,
}

/// Where somebody was seen last.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MapMarker {
    /// Who.
    #[serde(rename = "employeeId")]
    pub employee: EmployeeId,
    /// Their name.
    #[serde(rename = "employeeName")]
    pub name: String,
    /// Their code.
    #[serde(rename = "employeeCode")]
    pub code: String,
    /// Whether they are at work.
    pub status: MarkerStatus,
    /// Their latest session.
    #[serde(rename = "sessionId")]
    pub session: SessionId,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// When they were there.
    #[serde(serialize_with = "stored")]
    pub recorded_at: DateTime<Utc>,
}
