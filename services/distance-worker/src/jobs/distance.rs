//! `recalculate` on `distance-engine`: how far did somebody go.

use db::DbError;
use db::measurement::{From, Outcome, measure};
use domain::job::RecalculateDistance;
use queue::JobError;
use serde_json::{Value, json};
use tracing::{Span, field};

use super::{Context, Kind, retry};

/// Measures the session a job names.
pub struct Distance {
    /// What it may reach.
    pub cx: Context,
    /// `MAX_POINTS_PER_SESSION`.
    pub max_points: i64,
}

impl Kind for Distance {
    type Payload = RecalculateDistance;

    async fn run(&self, asked: &RecalculateDistance) -> Result<Value, JobError> {
        let Some(tenant) = self.cx.tenant_of(asked, asked.session).await.map_err(retry)? else {
            return Err(JobError::GiveUp(format!("there is no session {}", asked.session)));
        };
        Span::current().record("organization_id", field::display(tenant.organization()));
        let mut tx = self.cx.db.tenant(tenant).await.map_err(retry)?;
        let now = self.cx.clock.now();
        match measure(&mut tx, asked.session, From::Checkpoint, self.max_points, now).await.map_err(retry)? {
            Outcome::NoSuchSession => Err(JobError::GiveUp(format!("there is no session {}", asked.session))),
            Outcome::TooManyPoints => Err(JobError::GiveUp(format!(
                "session {} has more than {} points; raise MAX_POINTS_PER_SESSION to measure it",
                asked.session, self.max_points
            ))),
            Outcome::PointsGone => Err(JobError::GiveUp(format!(
                "session {} is older than the GPS points that are kept; its figures stay as they were measured",
                asked.session
            ))),
            Outcome::Measured(session, measured) => {
                tx.commit().await.map_err(retry)?;
                Ok(json!({
                    "sessionId": session.id,
                    "totalDistanceKm": measured.distance_km,
                    "totalDurationSeconds": measured.duration_s,
                }))
            }
        }
    }

    /// When the database is away, the mark stays and the sweep comes back to it.
    async fn gave_up(&self, asked: &RecalculateDistance) {
        let marked = async {
            let Some(tenant) = self.cx.tenant_of(asked, asked.session).await? else { return Ok(()) };
            let mut tx = self.cx.db.tenant(tenant).await?;
            db::attendance::mark_failed(&mut tx, asked.session, self.cx.clock.now()).await?;
            tx.commit().await
        };
        note(asked, marked.await);
    }

    /// Else the sweep would ask again, and the session would take down one worker after the other.
    async fn lost(&self, asked: &RecalculateDistance) {
        let marked = async {
            let Some(tenant) = self.cx.tenant_of(asked, asked.session).await? else { return Ok(()) };
            let mut tx = self.cx.db.tenant(tenant).await?;
            db::attendance::mark_failed_if_due(&mut tx, asked.session, self.cx.clock.now()).await?;
            tx.commit().await
        };
        note(asked, marked.await);
    }
}

fn note(asked: &RecalculateDistance, marked: Result<(), DbError>) {
    if let Err(error) = marked {
        tracing::warn!(session.id = %asked.session, error.message = %error, "a failed measurement could not be noted");
    }
}
