//! Somebody who signs in, as administrators see them.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Role;
use crate::clock::{stored, stored_or_null};
use crate::id::{EmployeeId, OrganizationId, UserId};

/// For how long somebody is kept out who is kept out: about a hundred years.
pub const BAN: TimeDelta = TimeDelta::hours(876_000);

/// A user of an organization. Nothing here lets anybody in: hashes stay where they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = OrganizationUser)]
pub struct User {
    /// Their id.
    pub id: UserId,
    /// Where they belong.
    #[serde(rename = "organization_id")]
    pub organization: OrganizationId,
    /// Their address, lower case.
    pub email: String,
    /// Their role.
    pub role: Role,
    /// The employee they are, active or not.
    #[serde(rename = "employee_id")]
    pub employee: Option<EmployeeId>,
    /// Until when they may not sign in.
    #[serde(serialize_with = "stored_or_null")]
    pub banned_until: Option<DateTime<Utc>>,
    /// When they last signed in with their password.
    #[serde(serialize_with = "stored_or_null")]
    pub last_sign_in_at: Option<DateTime<Utc>>,
    /// When the row was made.
    #[serde(serialize_with = "stored")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "stored")]
    pub updated_at: DateTime<Utc>,
}
