//! Jobs of a check-out that could not be queued, and when that is tried again.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::stored;
use crate::id::{EmployeeId, OrganizationId, RetryIntentId, SessionId};
use crate::job::{Payload, RecalculateDistance, UpdateMetrics};

/// Tries after which an intent is given up.
pub const MOST_FAILURES: i32 = 8;

/// How long after that many failed tries the next one is due: 5 s, doubling to five minutes. `chance`, from 0 to 1,
/// lengthens it by up to a fifth. `None`: there is none.
#[must_use]
pub fn next_try_after(failures: i32, chance: f64) -> Option<TimeDelta> {
    if failures >= MOST_FAILURES {
        return None;
    }
    let seconds = (5.0 * 2_f64.powi(failures.max(0))).min(300.0);
    #[expect(clippy::cast_possible_truncation, reason = "six minutes at the most, in ms")]
    let milliseconds = (seconds * 1000.0 * (1.0 + 0.2 * chance.clamp(0.0, 1.0))) as i64;
    Some(TimeDelta::milliseconds(milliseconds))
}

/// A job that an intent is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntendedJob {
    /// Measure the session.
    Distance(RecalculateDistance),
    /// Set the day's totals.
    Totals(UpdateMetrics),
}

impl IntendedJob {
    /// The queue it could not be put on.
    #[must_use]
    pub const fn queue(&self) -> &'static str {
        match self {
            Self::Distance(_) => RecalculateDistance::QUEUE,
            Self::Totals(_) => UpdateMetrics::QUEUE,
        }
    }

    /// What stands for it on that queue: there is one intent a session and queue.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Distance(job) => job.session.to_string(),
            Self::Totals(job) => format!("analytics:{}", job.session),
        }
    }

    /// Its payload, as JSON.
    pub fn payload(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Distance(job) => serde_json::to_string(job),
            Self::Totals(job) => serde_json::to_string(job),
        }
    }

    /// Reads one back; `None` when no job of ours is on that queue or the payload is not its.
    #[must_use]
    pub fn parse(queue: &str, payload: &str) -> Option<Self> {
        match queue {
            RecalculateDistance::QUEUE => serde_json::from_str(payload).ok().map(Self::Distance),
            UpdateMetrics::QUEUE => serde_json::from_str(payload).ok().map(Self::Totals),
            _ => None,
        }
    }

    /// The measurement of a session that was closed.
    #[must_use]
    pub const fn measure(organization: OrganizationId, session: SessionId) -> Self {
        Self::Distance(RecalculateDistance { session, organization: Some(organization) })
    }

    /// The totals of a session that was closed.
    #[must_use]
    pub const fn total(organization: OrganizationId, session: SessionId, employee: EmployeeId) -> Self {
        Self::Totals(UpdateMetrics { session, organization: Some(organization), employee: Some(employee) })
    }
}

/// A job that could not be queued.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RetryIntent {
    /// Its id.
    pub id: RetryIntentId,
    /// The queue.
    #[schema(value_type = IntentQueue)]
    pub queue_name: String,
    /// What stands for the job there.
    pub job_key: String,
    /// What the job carries.
    #[schema(value_type = Object)]
    pub payload: serde_json::Value,
    /// `pending`, `resolved` or `dead`.
    pub status: String,
    /// How often it was tried again in vain.
    pub retry_count: i32,
    /// Why it could not be queued.
    pub error_message: Option<String>,
    /// When it is tried again; of one that is over, when it would have been.
    #[serde(serialize_with = "stored")]
    pub next_retry_at: DateTime<Utc>,
    /// When it came about.
    #[serde(serialize_with = "stored")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "stored")]
    pub updated_at: DateTime<Utc>,
}

/// The queues that intents are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "kebab-case")]
pub enum IntentQueue {
    /// Measurements.
    DistanceEngine,
    /// Daily totals.
    Analytics,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_spread_from_five_seconds_to_five_minutes_and_end_with_the_eighth() {
        let seconds = |chance: f64| -> Vec<i64> {
            (0..).map_while(|failures| next_try_after(failures, chance)).map(|delay| delay.num_seconds()).collect()
        };
        assert_eq!(seconds(0.0), [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(seconds(1.0), [6, 12, 24, 48, 96, 192, 360, 360]);
        assert_eq!(next_try_after(-3, 0.0), next_try_after(0, 0.0));
    }

    #[test]
    fn a_job_is_read_back_as_it_was_meant() {
        let (organization, session, employee) =
            (OrganizationId::generate(), SessionId::generate(), EmployeeId::generate());
        for job in [IntendedJob::measure(organization, session), IntendedJob::total(organization, session, employee)] {
            assert_eq!(IntendedJob::parse(job.queue(), &job.payload().unwrap()), Some(job));
        }
        assert_eq!(IntendedJob::measure(organization, session).key(), session.to_string());
        assert_eq!(IntendedJob::total(organization, session, employee).key(), format!("analytics:{session}"));
        assert_eq!(IntendedJob::parse("snapshot-engine", "{}"), None);
        assert_eq!(IntendedJob::parse("analytics", "{}"), None);
    }
}
