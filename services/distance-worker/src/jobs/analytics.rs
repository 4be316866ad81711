//! `update-metrics` on `analytics`: the daily totals of a closed session.
//!
//! Measuring a session sets them already, in its own transaction. This job is what producers that know the queue by its
//! contract ask for, and it mends whatever else has changed the session.

use domain::job::UpdateMetrics;
use queue::JobError;
use serde_json::{Value, json};

use super::{Context, Kind, retry};

/// Sets the daily totals of a session's employee and organization, and the dashboard.
pub struct Analytics {
    /// What it may reach.
    pub cx: Context,
}

impl Kind for Analytics {
    type Payload = UpdateMetrics;

    async fn run(&self, asked: &UpdateMetrics) -> Result<Value, JobError> {
        let nobody = || JobError::GiveUp(format!("there is no session {}", asked.session));
        let tenant = self.cx.tenant_of(asked, asked.session).await.map_err(retry)?.ok_or_else(nobody)?;
        let mut tx = self.cx.db.tenant(tenant).await.map_err(retry)?;
        let session = db::attendance::find(&mut tx, asked.session).await.map_err(retry)?.ok_or_else(nobody)?;
        if session.is_open() {
            return Err(JobError::Retry(format!("session {} is still open", session.id)));
        }
        if session.total_distance_km.is_none() {
            return Err(JobError::Retry(format!("session {} is not measured yet", session.id)));
        }
        let now = self.cx.clock.now();
        db::figures::session_counts(&mut tx, session.id, now).await.map_err(retry)?;
        db::figures::set_dashboard(&mut tx, now).await.map_err(retry)?;
        tx.commit().await.map_err(retry)?;
        Ok(json!({ "sessionId": session.id, "employeeId": session.employee }))
    }
}
