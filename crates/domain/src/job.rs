//! Work that can be asked for. A payload says what to look at, never the answer, so running it twice is harmless.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::{OrganizationId, SessionId};

/// What a job of one kind carries, and how it travels.
///
/// Blue and green share the queues: a name is never reused for other work, and a field is only ever added.
pub trait Payload: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The queue these jobs travel on.
    const QUEUE: &'static str;
    /// The job's name on that queue.
    const NAME: &'static str;
    /// Its fields in words, for whoever sent something else.
    const FIELDS: &'static str;
    /// How often it may be tried.
    const ATTEMPTS: u32 = 5;
    /// First delay between attempts; it doubles each time.
    const BACKOFF: Duration = Duration::from_secs(1);
    /// How long it waits before its first attempt: what is asked for meanwhile collapses into it.
    const DELAY: Duration = Duration::ZERO;
    /// Where a copy is kept for operators once it was given up; `None` when the kind keeps its own record.
    const DEAD_LETTERS: Option<&'static str>;

    /// For whom; absent in jobs of producers that do not know.
    fn organization(&self) -> Option<OrganizationId>;

    /// What it must not do twice: it collapses into a waiting job of the same name, and while one runs, the last that
    /// was asked for runs afterwards.
    fn deduplication(&self) -> Option<String> {
        None
    }
}

/// The name of every job on a dead-letter queue.
pub const DEAD_LETTER: &str = "dead-letter";

/// Measure a session anew from its stored points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecalculateDistance {
    /// The session to measure.
    #[serde(rename = "sessionId")]
    pub session: SessionId,
    /// Its organization; absent in jobs of foreign producers.
    #[serde(rename = "organizationId", default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<OrganizationId>,
}

impl Payload for RecalculateDistance {
    const QUEUE: &'static str = "distance-engine";
    const NAME: &'static str = "recalculate";
    const FIELDS: &'static str = "{sessionId, organizationId}";
    const DEAD_LETTERS: Option<&'static str> = Some("distance-failed");

    fn organization(&self) -> Option<OrganizationId> {
        self.organization
    }

    fn deduplication(&self) -> Option<String> {
        Some(self.session.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_organization_may_be_missing() {
        let job: RecalculateDistance =
            serde_json::from_str(r#"{"sessionId":"c1d5a0de-64f4-4c1b-b6d8-7b8a8f3d2c33","more":1}"#).unwrap();
        assert_eq!(job.organization, None);
        assert_eq!(serde_json::to_string(&job).unwrap(), r#"{"sessionId":"c1d5a0de-64f4-4c1b-b6d8-7b8a8f3d2c33"}"#);
    }
}
