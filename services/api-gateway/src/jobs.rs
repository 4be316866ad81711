//! Asking for measurements.

use std::sync::Arc;

use domain::SessionId;
use domain::Tenant;
use domain::job::{Payload, RecalculateDistance};
use queue::{NewJob, Producer, QueueError, Redis};
use tracing::Instrument;

use crate::metrics::Metrics;

/// Puts distance jobs on their queue, at most one waiting per session.
///
/// Asking may fail without harm: the session's mark in the database is the truth, and the worker's sweep asks again.
#[derive(Clone)]
pub struct DistanceJobs {
    producer: Producer,
    metrics: Arc<Metrics>,
}

impl DistanceJobs {
    /// Jobs on the queue of `redis`, which gets no deeper than `most`: what does not fit waits in the database.
    #[must_use]
    pub fn start(redis: Redis, most: u64, metrics: Arc<Metrics>) -> Self {
        Self { producer: Producer::bounded(redis, RecalculateDistance::QUEUE, most), metrics }
    }

    /// Asks for the measurement of a session, in the background: the caller's answer does not wait for Redis.
    pub fn ask(&self, tenant: Tenant, session: SessionId, request_id: &str) {
        let job = RecalculateDistance { session, organization: Some(tenant.organization()) };
        let span = tracing::info_span!(
            "publish",
            otel.name = format!("publish {}", RecalculateDistance::QUEUE),
            otel.kind = "producer",
            messaging.system = "redis",
            messaging.destination.name = RecalculateDistance::QUEUE,
        );
        let carrier = span.in_scope(|| telemetry::traces::carrier(request_id));
        let Self { producer, metrics } = self.clone();
        let publish = async move {
            let asked = async { producer.enqueue(NewJob::of(&job, carrier)?).await };
            match asked.await {
                Ok(_) => {}
                // No surprise in a flood; the metric tells of it.
                Err(QueueError::Overloaded { queue, .. }) => metrics.queue_overloaded(&queue),
                Err(error) => {
                    tracing::warn!(session.id = %session, error.message = %error, "a distance job could not be queued; the sweep will ask again");
                }
            }
        };
        tokio::spawn(publish.instrument(span));
    }
}
