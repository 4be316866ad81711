//! A file per kind of job.
//!
//! A kind says what its payload is and does it ([`Kind`]); everything that is the same for all of them is written here
//! once ([`Work`]): reading the payload, the trace it belongs to, the log line, the figures, and what happens when a
//! job is given up. A new kind is a payload in `domain::job`, a file here, and a line in `startup.rs`.

pub mod analytics;
pub mod distance;
pub mod snapshot;
pub mod webhooks;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use db::{Db, DbError};
use domain::job::Payload;
use domain::{Clock, SessionId, Tenant};
use queue::{Handler, Job, JobError};
use serde_json::Value;
use tracing::{Instrument, Span, field};

use crate::metrics::Metrics;

/// What every job may reach.
#[derive(Clone)]
pub struct Context {
    /// The database.
    pub db: Db,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// What the worker counts.
    pub metrics: Arc<Metrics>,
}

impl Context {
    /// The organization of a job about a session; looked up when its producer did not say. `None` when there is no such
    /// session.
    async fn tenant_of(&self, job: &impl Payload, session: SessionId) -> Result<Option<Tenant>, DbError> {
        if let Some(tenant) = Tenant::of_job(job) {
            return Ok(Some(tenant));
        }
        let mut tx = self.db.system().await?;
        let located = db::attendance::locate(&mut tx, session).await?;
        tx.commit().await?;
        Ok(located.as_ref().and_then(Tenant::of_job))
    }
}

/// One kind of work.
pub trait Kind: Send + Sync + 'static {
    /// What its jobs carry.
    type Payload: Payload;

    /// Does a job; answers what the job's record says afterwards. It may run more than once, also at the same time: its
    /// effects must be repeatable.
    fn run(&self, job: &Self::Payload) -> impl Future<Output = Result<Value, JobError>> + Send;

    /// A job was given up, by [`Self::run`] or after its last attempt. Best effort: whoever depends on it must also
    /// notice on its own.
    fn gave_up(&self, _job: &Self::Payload) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// A job took its worker down as often as it may and was given up without a word of [`Self::run`]. It may have been
    /// done since by another job.
    fn lost(&self, _job: &Self::Payload) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Does the jobs of one kind.
pub struct Work<K> {
    kind: K,
    metrics: Arc<Metrics>,
}

impl<K: Kind> Work<K> {
    /// Work of that kind.
    #[must_use]
    pub const fn of(kind: K, metrics: Arc<Metrics>) -> Self {
        Self { kind, metrics }
    }

    async fn run(&self, job: &Job, is_last: bool) -> Result<Value, JobError> {
        let payload = read::<K::Payload>(job)?;
        if let Some(organization) = payload.organization() {
            Span::current().record("organization_id", field::display(organization));
        }
        let result = self.kind.run(&payload).await;
        if matches!(&result, Err(JobError::GiveUp(_))) || (is_last && result.is_err()) {
            self.kind.gave_up(&payload).await;
        }
        result
    }
}

impl<K: Kind> Handler for Work<K> {
    async fn handle(&self, job: Job) -> Result<Value, JobError> {
        let queue = K::Payload::QUEUE;
        let span = tracing::info_span!(
            "job",
            otel.name = format!("process {queue}"),
            otel.kind = "consumer",
            otel.status_code = field::Empty,
            messaging.system = "redis",
            messaging.destination.name = queue,
            messaging.message.id = job.id,
            queue,
            job_id = job.id,
            attempt = job.attempts_started,
            request_id = field::Empty,
            organization_id = field::Empty,
        );
        let carrier = job.carrier.as_deref();
        if let Some(request_id) = carrier.and_then(|carrier| telemetry::traces::follow_carrier(&span, carrier)) {
            span.record("request_id", request_id.as_str());
        }
        let is_last = job.attempts_made + 1 >= job.max_attempts;
        async {
            let since = Instant::now();
            let result = self.run(&job, is_last).await;
            let ended = match &result {
                Ok(_) => Ended::Done,
                Err(JobError::GiveUp(_)) => Ended::GivenUp,
                Err(_) if is_last => Ended::GivenUp,
                Err(_) => Ended::Again,
            };
            self.metrics.job(queue, ended, since.elapsed());
            match &result {
                Ok(_) => tracing::info!("job done"),
                Err(error) => {
                    Span::current().record("otel.status_code", "ERROR");
                    tracing::warn!(error.message = %error, given_up = ended == Ended::GivenUp, "job not done");
                }
            }
            result
        }
        .instrument(span.clone())
        .await
    }
}

/// How a run ended, for the figures of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Well.
    Done,
    /// It will be tried again.
    Again,
    /// It failed for good.
    GivenUp,
}

/// A job's payload; a job of another name, or with another payload, is given up at once.
fn read<P: Payload>(job: &Job) -> Result<P, JobError> {
    if job.name != P::NAME {
        return Err(JobError::GiveUp(format!("unknown job {:?} on {}", job.name, P::QUEUE)));
    }
    serde_json::from_str(&job.data)
        .map_err(|error| JobError::GiveUp(format!("the payload is not {}: {error}", P::FIELDS)))
}

/// What is said of jobs that were given up without a word of their handler; whatever its kind is.
pub trait Mourner: Send + Sync + 'static {
    /// A job of this name and payload, as they came, was lost with its worker once too often.
    fn lost<'a>(&'a self, name: &'a str, data: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

impl<K: Kind> Mourner for Work<K> {
    fn lost<'a>(&'a self, name: &'a str, data: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            if name == K::Payload::NAME
                && let Ok(payload) = serde_json::from_str(data)
            {
                self.metrics.job_lost(K::Payload::QUEUE);
                self.kind.lost(&payload).await;
            }
        })
    }
}

/// The database could not do it now; another attempt may find it better.
pub(crate) fn retry(error: DbError) -> JobError {
    JobError::Retry(error.to_string())
}
