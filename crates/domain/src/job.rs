//! Work that can be asked for. A payload says what to look at, never the answer, so running it twice is harmless.

use serde::{Deserialize, Serialize};

use crate::id::{OrganizationId, SessionId};

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

impl RecalculateDistance {
    /// The queue these jobs travel on.
    pub const QUEUE: &'static str = "distance-engine";
    /// The job's name on that queue.
    pub const NAME: &'static str = "recalculate";
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
