//! A session: from check-in to check-out, and what is measured of it.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::{stored, stored_or_null};
use crate::id::{EmployeeId, OrganizationId, SessionId};
use crate::location::round_2;

/// How far the distance of a session is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DistanceStatus {
    /// Points or a check-out have come that are not measured yet.
    Pending,
    /// Kept for rows of older systems; not written here.
    Processing,
    /// Distance and duration are those of the stored points.
    Done,
    /// The measurement gave up; an operator or a recalculation has to look.
    Failed,
}

impl DistanceStatus {
    /// As it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Reads the stored word; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Processing, Self::Done, Self::Failed].into_iter().find(|status| status.as_str() == text)
    }
}

/// An attendance session as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Who is at work.
    #[serde(rename = "employee_id")]
    pub employee: EmployeeId,
    /// For whom.
    #[serde(rename = "organization_id")]
    pub organization: OrganizationId,
    /// When the work began, by the server's clock.
    #[serde(serialize_with = "stored")]
    pub checkin_at: DateTime<Utc>,
    /// When it ended; `None` while it is open.
    #[serde(serialize_with = "stored_or_null")]
    pub checkout_at: Option<DateTime<Utc>>,
    /// Kilometres to 2 decimals, once measured.
    pub total_distance_km: Option<f64>,
    /// Whole seconds, once measured.
    pub total_duration_seconds: Option<i32>,
    /// How far the distance is known.
    #[serde(rename = "distance_recalculation_status")]
    pub distance_status: DistanceStatus,
    /// When the row was made.
    #[serde(serialize_with = "stored")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "stored")]
    pub updated_at: DateTime<Utc>,
}

impl Session {
    /// Whether work goes on.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.checkout_at.is_none()
    }

    /// How live it is at `now`.
    #[must_use]
    pub fn activity(&self, now: DateTime<Utc>) -> ActivityStatus {
        ActivityStatus::of_session(self.checkout_at, now)
    }
}

/// A closed session counts as recent for this long.
pub const RECENT: TimeDelta = TimeDelta::hours(24);

/// How live an employee or a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ActivityStatus {
    /// A session is open.
    Active,
    /// The last check-out was less than 24 hours ago.
    Recent,
    /// Everything else.
    Inactive,
}

/// Somebody counts as recently active for this long after they last did something.
const RECENTLY_ACTIVE: TimeDelta = TimeDelta::days(7);

impl ActivityStatus {
    /// Of a session that ended at `checkout_at`, or goes on when there is none.
    #[must_use]
    pub fn of_session(checkout_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Self {
        match checkout_at {
            None => Self::Active,
            Some(ended) if now - ended < RECENT => Self::Recent,
            Some(_) => Self::Inactive,
        }
    }

    /// Of somebody who last did something at `last`: the other meaning of these words, which the own profile has. Active
    /// for 24 hours, recent for 7 days.
    #[must_use]
    pub fn of_activity(last: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Self {
        match last {
            Some(last) if now - last < RECENT => Self::Active,
            Some(last) if now - last < RECENTLY_ACTIVE => Self::Recent,
            _ => Self::Inactive,
        }
    }
}

/// Whole seconds between two times: floor, never negative, at most what the column holds.
#[must_use]
pub fn duration_s(from: DateTime<Utc>, to: DateTime<Utc>) -> i32 {
    i32::try_from((to - from).num_milliseconds().max(0) / 1000).unwrap_or(i32::MAX)
}

/// Average speed in km/h to 2 decimals; 0 when no time has passed.
#[must_use]
pub fn average_speed_kmh(kilometres: f64, duration_s: i32) -> f64 {
    if duration_s <= 0 { 0.0 } else { round_2(kilometres / (f64::from(duration_s) / 3600.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn durations_are_whole_seconds_and_never_negative() {
        assert_eq!(duration_s(at(0), at(10) + TimeDelta::milliseconds(999)), 10);
        assert_eq!(duration_s(at(10), at(0)), 0);
    }

    #[test]
    fn no_time_means_no_speed() {
        assert_eq!(average_speed_kmh(10.0, 0), 0.0);
        assert_eq!(average_speed_kmh(10.0, 1800), 20.0);
    }

    #[test]
    fn status_words_are_read_back() {
        for status in
            [DistanceStatus::Pending, DistanceStatus::Processing, DistanceStatus::Done, DistanceStatus::Failed]
        {
            assert_eq!(DistanceStatus::parse(status.as_str()), Some(status));
        }
        assert_eq!(DistanceStatus::parse("Done"), None);
    }

    #[test]
    fn somebody_is_active_for_a_day_and_recent_for_a_week_after_their_last_deed() {
        let of = |seconds| ActivityStatus::of_activity(Some(at(0)), at(seconds));
        assert_eq!([of(0), of(86_399)], [ActivityStatus::Active; 2]);
        assert_eq!([of(86_400), of(7 * 86_400 - 1)], [ActivityStatus::Recent; 2]);
        assert_eq!(of(7 * 86_400), ActivityStatus::Inactive);
        assert_eq!(ActivityStatus::of_activity(None, at(0)), ActivityStatus::Inactive);
    }

    #[test]
    fn a_session_is_recent_for_a_day() {
        let mut session = Session {
            id: SessionId::generate(),
            employee: EmployeeId::generate(),
            organization: OrganizationId::generate(),
            checkin_at: at(0),
            checkout_at: None,
            total_distance_km: None,
            total_duration_seconds: None,
            distance_status: DistanceStatus::Pending,
            created_at: at(0),
            updated_at: at(0),
        };
        assert_eq!(session.activity(at(1)), ActivityStatus::Active);
        session.checkout_at = Some(at(100));
        assert_eq!(session.activity(at(100 + 86_399)), ActivityStatus::Recent);
        assert_eq!(session.activity(at(100 + 86_400)), ActivityStatus::Inactive);
    }
}
