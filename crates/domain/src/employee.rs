//! Somebody who works in the field, and the code the organization knows them by.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::attendance::{ActivityStatus, Session};
use crate::clock::stored;
use crate::id::{EmployeeId, OrganizationId, UserId};

/// An employee as administrators see them.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Employee {
    /// Their id.
    pub id: EmployeeId,
    /// For whom they work.
    #[serde(rename = "organization_id")]
    pub organization: OrganizationId,
    /// The account they sign in with, if any.
    #[serde(rename = "user_id")]
    pub user: Option<UserId>,
    /// Their name.
    pub name: String,
    /// The code the organization knows them by, unique there.
    pub employee_code: String,
    /// Their phone number as it was entered.
    pub phone: Option<String>,
    /// Whether they may work.
    pub is_active: bool,
    /// When the row was made.
    #[serde(serialize_with = "stored")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "stored")]
    pub updated_at: DateTime<Utc>,
}

/// An employee and where they stand, read from their sessions.
#[derive(Debug, Clone, PartialEq)]
pub struct EmployeeState {
    /// Who.
    pub employee: Employee,
    /// The number inside their code, by which lists sort.
    pub employee_number: Option<i64>,
    /// When they last checked in, sent a position or claimed an expense.
    pub last_activity_at: Option<DateTime<Utc>>,
    /// Their latest session; `None` when they never checked in.
    pub latest_session: Option<Session>,
    /// When they last checked out, which may be before the latest session began.
    pub last_checkout_at: Option<DateTime<Utc>>,
}

impl EmployeeState {
    /// Whether they are at work.
    #[must_use]
    pub fn is_checked_in(&self) -> bool {
        self.latest_session.as_ref().is_some_and(Session::is_open)
    }

    /// When they last checked in.
    #[must_use]
    pub fn last_checkin_at(&self) -> Option<DateTime<Utc>> {
        self.latest_session.as_ref().map(|session| session.checkin_at)
    }

    /// How live they are at `now`.
    #[must_use]
    pub fn activity(&self, now: DateTime<Utc>) -> ActivityStatus {
        self.latest_session.as_ref().map_or(ActivityStatus::Inactive, |session| session.activity(now))
    }
}

/// The code given to an employee who comes without one: `EMP` and the number padded to four digits.
#[must_use]
pub fn code_from_number(number: i64) -> String {
    format!("EMP{number:04}")
}

/// The number inside a code, by which lists sort naturally: its first run of digits. `None` without one, or when it
/// exceeds 2^53−1 and so cannot travel as a JSON number.
#[must_use]
pub fn number_from_code(code: &str) -> Option<i64> {
    let digits = code.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok().filter(|number| *number <= MAX_WIRE_INTEGER)
}

/// The largest integer a JSON number carries exactly in every client: 2^53−1.
pub const MAX_WIRE_INTEGER: i64 = 9_007_199_254_740_991;

/// A first name for an employee known by e-mail alone: the local part, dots to spaces, each word capitalised.
#[must_use]
pub fn name_from_email(email: &str) -> String {
    let local = email.split('@').next().unwrap_or_default();
    local
        .split('.')
        .filter(|word| !word.is_empty())
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default()
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_carry_their_number() {
        assert_eq!(code_from_number(7), "EMP0007");
        assert_eq!(code_from_number(12_345), "EMP12345");
        assert_eq!(number_from_code("EMP0042"), Some(42));
        assert_eq!(number_from_code("north-7/3"), Some(7));
        assert_eq!(number_from_code("north"), None);
        assert_eq!(number_from_code("X9007199254740991"), Some(9_007_199_254_740_991));
        assert_eq!(number_from_code("X9007199254740992"), None);
        assert_eq!(number_from_code("X99999999999999999999999999"), None);
    }

    #[test]
    fn names_come_from_the_local_part() {
        assert_eq!(name_from_email("asha.rao@example.com"), "Asha Rao");
        assert_eq!(name_from_email("émile@example.com"), "Émile");
    }
}
