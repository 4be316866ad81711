//! Asking for measurements.

use domain::SessionId;
use domain::Tenant;
use domain::job::{Payload, RecalculateDistance};
use queue::{NewJob, Producer};
use tracing::Instrument;

/// Puts distance jobs on their queue, at most one waiting per session.
///
/// Asking may fail without harm: the session's mark in the database is the truth, and the worker's sweep asks again.
#[derive(Clone)]
pub struct DistanceJobs {
    producer: Producer,
}

impl DistanceJobs {
    /// Jobs through `producer`, which must be the distance queue's.
    #[must_use]
    pub const fn new(producer: Producer) -> Self {
        Self { producer }
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
        let producer = self.producer.clone();
        let publish = async move {
            let asked = async { producer.enqueue(NewJob::of(&job, carrier)?).await };
            if let Err(error) = asked.await {
                tracing::warn!(session.id = %session, error.message = %error, "a distance job could not be queued; the sweep will ask again");
            }
        };
        tokio::spawn(publish.instrument(span));
    }
}
