//! What sessions and claims add up to: days, people, rankings.

use chrono::{DateTime, NaiveDate, Utc};

use crate::id::EmployeeId;
use crate::money::Money;

/// A span of time that figures are asked for; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Period {
    /// Its beginning; open when absent.
    pub from: Option<DateTime<Utc>>,
    /// Its end; open when absent.
    pub to: Option<DateTime<Utc>>,
}

/// What employees are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Kilometres.
    Distance,
    /// Time at work.
    Duration,
    /// How often they went to work.
    Sessions,
    /// How much they claimed.
    Expenses,
}

impl Metric {
    /// Reads the word a caller asked with; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "distance" => Some(Self::Distance),
            "duration" => Some(Self::Duration),
            "sessions" => Some(Self::Sessions),
            "expenses" => Some(Self::Expenses),
            _ => None,
        }
    }
}

/// What an organization's sessions and claims of a period add up to.
#[derive(Debug, Clone, PartialEq)]
pub struct OrganizationTotals {
    /// Closed sessions with a distance.
    pub sessions: i64,
    /// Their kilometres, to 2 decimals.
    pub distance_km: f64,
    /// Their time, in whole seconds.
    pub duration_s: i64,
    /// Claims that were submitted.
    pub expenses: i64,
    /// What was approved of them.
    pub approved: Money,
    /// What was rejected of them.
    pub rejected: Money,
    /// Employees who are at work right now, whatever the period.
    pub at_work: i64,
}

/// What one user's sessions and claims of a period add up to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UserTotals {
    /// Closed sessions with a distance.
    pub sessions: i64,
    /// Their kilometres, to 2 decimals.
    pub distance_km: f64,
    /// Their time, in whole seconds.
    pub duration_s: i64,
    /// Claims that were submitted.
    pub expenses: i64,
    /// What was approved of them.
    pub approved: Money,
}

impl UserTotals {
    /// Kilometres a session, to 2 decimals; 0 without any session.
    #[must_use]
    pub fn average_distance_km(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 sessions")]
        let sessions = self.sessions as f64;
        if self.sessions == 0 { 0.0 } else { crate::location::round_2(self.distance_km / sessions) }
    }

    /// Seconds a session, to whole ones, halves up; 0 without any session.
    #[must_use]
    pub const fn average_duration_s(&self) -> i64 {
        // floor(d / n + 1/2) = floor((2d + n) / 2n)
        if self.sessions == 0 { 0 } else { (2 * self.duration_s + self.sessions) / (2 * self.sessions) }
    }
}

/// What an organization's closed sessions of a day add up to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DayTotals {
    /// The day, in the organization's time zone.
    pub date: NaiveDate,
    /// Closed sessions with a distance.
    pub sessions: i64,
    /// Their kilometres, to 2 decimals.
    pub distance_km: f64,
    /// Their time, in whole seconds.
    pub duration_s: i64,
}

/// An employee and what they did in a period.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// Who.
    pub employee: EmployeeId,
    /// Their name.
    pub name: String,
    /// Their code.
    pub code: String,
    /// Kilometres, to 2 decimals.
    pub distance_km: f64,
    /// How often they went to work.
    pub sessions: i64,
    /// Time at work, in whole seconds.
    pub duration_s: i64,
    /// How much they claimed.
    pub expenses: Money,
}

/// What an organization is doing right now.
#[derive(Debug, Clone, PartialEq)]
pub struct Dashboard {
    /// Employees with an open session.
    pub active: i64,
    /// Employees whose last check-out was less than 24 hours ago.
    pub recent: i64,
    /// Employees who checked in once, and neither of the above.
    pub inactive: i64,
    /// Closed sessions with a distance that began today.
    pub sessions_today: i64,
    /// Their kilometres, to 2 decimals.
    pub distance_today_km: f64,
    /// Their time, in whole seconds.
    pub duration_today_s: i64,
    /// Claims that wait for a review.
    pub pending_expenses: i64,
    /// What they claim.
    pub pending_amount: Money,
    /// When the figures were last kept by a job; `None` when none has run.
    pub kept_at: Option<DateTime<Utc>>,
    /// Which day it is.
    pub today: NaiveDate,
}

/// What an employee did in the running week.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Week {
    /// Sessions that began in it.
    pub sessions: i64,
    /// Their kilometres as far as they are measured, to 2 decimals.
    pub distance_km: f64,
    /// Their time, in whole seconds.
    pub duration_s: i64,
    /// Claims ever submitted.
    pub expenses_submitted: i64,
    /// Claims ever approved.
    pub expenses_approved: i64,
}

impl Week {
    /// Hours at work, to 2 decimals.
    #[must_use]
    pub fn hours(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a week has 604,800 seconds")]
        let seconds = self.duration_s as f64;
        crate::location::round_2(seconds / 3600.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_round_half_up_and_need_a_session() {
        assert_eq!(UserTotals::default().average_distance_km(), 0.0);
        assert_eq!(UserTotals::default().average_duration_s(), 0);
        let totals = UserTotals { sessions: 8, distance_km: 1.0, duration_s: 12, ..UserTotals::default() };
        assert_eq!(totals.average_distance_km(), 0.13, "0.125");
        assert_eq!(totals.average_duration_s(), 2, "1.5");
        assert_eq!(UserTotals { sessions: 3, duration_s: 4, ..UserTotals::default() }.average_duration_s(), 1);
        assert_eq!(UserTotals { sessions: 3, duration_s: 5, ..UserTotals::default() }.average_duration_s(), 2);
    }

    #[test]
    fn metrics_are_read_by_their_words() {
        assert_eq!(Metric::parse("distance"), Some(Metric::Distance));
        assert_eq!(Metric::parse("expenses"), Some(Metric::Expenses));
        assert_eq!(Metric::parse("Distance"), None);
    }

    #[test]
    fn hours_have_two_decimals() {
        assert_eq!(Week { duration_s: 5417, ..Week::default() }.hours(), 1.5);
        assert_eq!(Week { duration_s: 5418, ..Week::default() }.hours(), 1.51);
    }
}
