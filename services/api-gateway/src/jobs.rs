//! Asking for measurements.

use std::sync::Arc;

use db::{Db, DbResult};
use domain::intent::{IntendedJob, next_try_after};
use domain::job::{Payload, RecalculateDistance};
use domain::{Clock, SessionId, Tenant};
use queue::{NewJob, Producer, QueueError, Redis};
use ring::rand::{SecureRandom, SystemRandom};
use tracing::{Instrument, Span};

use crate::metrics::Metrics;

/// Puts distance jobs on their queue, at most one waiting per session.
///
/// Asking may fail without harm: the session's mark in the database is the truth, and the worker's sweep asks again. What
/// could not be asked for at a check-out is written down besides, so that operators see it.
#[derive(Clone)]
pub struct DistanceJobs {
    producer: Producer,
    db: Db,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

/// What becomes of a job that could not be queued.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Otherwise {
    /// The mark is enough.
    Mark,
    /// It is written down as an intent.
    Intent,
}

impl DistanceJobs {
    /// Jobs on the queue of `redis`, which gets no deeper than `most`: what does not fit waits in the database.
    #[must_use]
    pub fn start(redis: Redis, most: u64, db: Db, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self { producer: Producer::bounded(redis, RecalculateDistance::QUEUE, most), db, clock, metrics }
    }

    /// Asks for the measurement of a session, in the background: the caller's answer does not wait for Redis.
    pub fn ask(&self, tenant: Tenant, session: SessionId, request_id: &str) {
        self.in_background(tenant, session, request_id, Otherwise::Mark);
    }

    /// The same for a session that was closed just now.
    pub fn ask_at_check_out(&self, tenant: Tenant, session: SessionId, request_id: &str) {
        self.in_background(tenant, session, request_id, Otherwise::Intent);
    }

    /// Asks while the caller waits.
    pub async fn ask_now(&self, tenant: Tenant, session: SessionId, request_id: &str) -> Result<(), QueueError> {
        let (span, carrier) = publishing(request_id);
        self.publish(tenant, session, carrier).instrument(span).await
    }

    fn in_background(&self, tenant: Tenant, session: SessionId, request_id: &str, otherwise: Otherwise) {
        let (span, carrier) = publishing(request_id);
        let jobs = self.clone();
        let publish = async move {
            let Err(error) = jobs.publish(tenant, session, carrier.clone()).await else { return };
            // No surprise in a flood; the metric tells of it.
            if !matches!(error, QueueError::Overloaded { .. }) {
                tracing::warn!(session.id = %session, error.message = %error, "a distance job could not be queued; the sweep will ask again");
            }
            if otherwise == Otherwise::Intent
                && let Err(error) = jobs.note(tenant, session, carrier.as_deref(), &error).await
            {
                tracing::warn!(session.id = %session, error.message = %error, "a retry intent could not be written down");
            }
        };
        tokio::spawn(publish.instrument(span));
    }

    async fn publish(&self, tenant: Tenant, session: SessionId, carrier: Option<String>) -> Result<(), QueueError> {
        let job = RecalculateDistance { session, organization: Some(tenant.organization()) };
        let asked = self.producer.enqueue(NewJob::of(&job, carrier)?).await;
        if let Err(QueueError::Overloaded { queue, .. }) = &asked {
            self.metrics.queue_overloaded(queue);
        }
        asked.map(|_| ())
    }

    /// Writes down what could not be queued.
    async fn note(
        &self,
        tenant: Tenant,
        session: SessionId,
        carrier: Option<&str>,
        error: &QueueError,
    ) -> DbResult<()> {
        let job = IntendedJob::measure(tenant.organization(), session);
        let now = self.clock.now();
        let Some(delay) = next_try_after(0, chance()) else { return Ok(()) };
        let mut tx = self.db.tenant(tenant).await?;
        db::intents::note(&mut tx, &job, carrier, &error.to_string(), now + delay, now).await?;
        tx.commit().await?;
        self.metrics.retry_intent_created();
        Ok(())
    }
}

/// The span in which a job is put on the queue, and what it hands on of its trace.
fn publishing(request_id: &str) -> (Span, Option<String>) {
    let span = tracing::info_span!(
        "publish",
        otel.name = format!("publish {}", RecalculateDistance::QUEUE),
        otel.kind = "producer",
        messaging.system = "redis",
        messaging.destination.name = RecalculateDistance::QUEUE,
    );
    let carrier = span.in_scope(|| telemetry::traces::carrier(request_id));
    (span, carrier)
}

/// From 0 to 1, at random.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness tries are merely not spread.
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}
