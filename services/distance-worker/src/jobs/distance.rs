//! `recalculate` on `distance-engine`: how far did somebody go.

use std::sync::Arc;

use db::measurement::{From, Outcome, measure};
use db::{Db, DbError};
use domain::job::RecalculateDistance;
use domain::{Clock, Tenant};
use queue::{Handler, Job, JobError};
use serde_json::{Value, json};
use tracing::{Instrument, Span, field};

use crate::metrics::Metrics;

/// Measures the session a job names.
pub struct Distance {
    /// The database.
    pub db: Db,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// `MAX_POINTS_PER_SESSION`.
    pub max_points: i64,
    /// What the worker counts.
    pub metrics: Arc<Metrics>,
}

impl Handler for Distance {
    async fn handle(&self, job: Job) -> Result<Value, JobError> {
        let carrier = job.carrier.as_deref();
        let span = tracing::info_span!(
            "job",
            otel.name = format!("process {}", RecalculateDistance::QUEUE),
            otel.kind = "consumer",
            otel.status_code = field::Empty,
            messaging.system = "redis",
            messaging.destination.name = RecalculateDistance::QUEUE,
            messaging.message.id = job.id,
            queue = RecalculateDistance::QUEUE,
            job_id = job.id,
            attempt = job.attempts_started,
            request_id = field::Empty,
            organization_id = field::Empty,
        );
        if let Some(request_id) = carrier.and_then(|carrier| telemetry::traces::follow_carrier(&span, carrier)) {
            span.record("request_id", request_id.as_str());
        }
        let is_last = job.attempts_made + 1 >= job.max_attempts;
        async {
            let result = self.run(&job, is_last).await;
            let outcome = match &result {
                Ok(_) => Some("success"),
                Err(JobError::GiveUp(_)) => Some("failed"),
                Err(_) if is_last => Some("failed"),
                Err(_) => None,
            };
            if let Some(outcome) = outcome {
                self.metrics.distance_job(outcome);
            }
            match &result {
                Ok(_) => tracing::info!("session measured"),
                Err(error) => {
                    Span::current().record("otel.status_code", "ERROR");
                    tracing::warn!(error.message = %error, "session not measured");
                }
            }
            result
        }
        .instrument(span.clone())
        .await
    }
}

impl Distance {
    async fn run(&self, job: &Job, is_last: bool) -> Result<Value, JobError> {
        if job.name != RecalculateDistance::NAME {
            return Err(JobError::GiveUp(format!("unknown job {:?} on {}", job.name, RecalculateDistance::QUEUE)));
        }
        let asked: RecalculateDistance = serde_json::from_str(&job.data)
            .map_err(|error| JobError::GiveUp(format!("the payload is not {{sessionId, organizationId}}: {error}")))?;
        let located = match asked.organization {
            Some(_) => Some(asked),
            None => self.locate(&asked).await.map_err(retry)?,
        };
        let Some(tenant) = located.as_ref().and_then(Tenant::of_job) else {
            return Err(JobError::GiveUp(format!("there is no session {}", asked.session)));
        };
        Span::current().record("organization_id", field::display(tenant.organization()));
        match self.measure(tenant, &asked).await {
            Ok(value) => Ok(value),
            Err(JobError::GiveUp(reason)) => {
                self.mark_failed(tenant, &asked).await;
                Err(JobError::GiveUp(reason))
            }
            Err(error) if is_last => {
                self.mark_failed(tenant, &asked).await;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn locate(&self, asked: &RecalculateDistance) -> Result<Option<RecalculateDistance>, DbError> {
        let mut tx = self.db.system().await?;
        let located = db::attendance::locate(&mut tx, asked.session).await?;
        tx.commit().await?;
        Ok(located)
    }

    async fn measure(&self, tenant: Tenant, asked: &RecalculateDistance) -> Result<Value, JobError> {
        let mut tx = self.db.tenant(tenant).await.map_err(retry)?;
        let now = self.clock.now();
        match measure(&mut tx, asked.session, From::Checkpoint, self.max_points, now).await.map_err(retry)? {
            Outcome::NoSuchSession => Err(JobError::GiveUp(format!("there is no session {}", asked.session))),
            Outcome::TooManyPoints => Err(JobError::GiveUp(format!(
                "session {} has more than {} points; raise MAX_POINTS_PER_SESSION to measure it",
                asked.session, self.max_points
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

    /// Best effort: when the database is away, the mark stays and the sweep comes back to it.
    async fn mark_failed(&self, tenant: Tenant, asked: &RecalculateDistance) {
        let marked = async {
            let mut tx = self.db.tenant(tenant).await?;
            db::attendance::mark_failed(&mut tx, asked.session, self.clock.now()).await?;
            tx.commit().await
        };
        if let Err(error) = marked.await {
            tracing::warn!(session.id = %asked.session, error.message = %error, "a failed measurement could not be noted");
        }
    }
}

fn retry(error: DbError) -> JobError {
    JobError::Retry(error.to_string())
}
