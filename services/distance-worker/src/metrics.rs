//! What the worker counts.

use std::sync::Arc;
use std::time::Duration;

use domain::job::{Payload, RecalculateDistance, UpdateMetrics};
use queue::{Finished, Observer};
use telemetry::metrics::{Counter, Family, Gauge, Histogram, Histograms, Registry};

use crate::jobs::Ended;

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Bounds of job times in seconds: a short walk takes a millisecond, a day of fixes a few dozen.
const TOOK_S: [f64; 8] = [0.001, 0.005, 0.02, 0.05, 0.2, 1.0, 5.0, 30.0];

/// Bounds of waiting times in seconds; the objective is a minute.
const WAITED_S: [f64; 8] = [0.01, 0.05, 0.2, 1.0, 5.0, 15.0, 60.0, 300.0];

/// Bounds of the times of analytics jobs in seconds, as the contract has them.
const ANALYTICS_TOOK_S: [f64; 7] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0];

/// Bounds of waiting for a connection in seconds; half a second alerts.
const POOL_WAIT_S: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.0];

/// Metrics of this process.
pub struct Metrics {
    registry: Registry,
    distance_jobs: Family<Labels<1>, Counter>,
    analytics_jobs: Family<Labels<1>, Counter>,
    analytics_took: Histogram,
    analytics_failures: Counter,
    analytics_retries: Counter,
    jobs: Family<Labels<2>, Counter>,
    took: Histograms<Labels<1>>,
    waited: Histograms<Labels<1>>,
    reclaimed: Family<Labels<1>, Counter>,
    lost: Family<Labels<1>, Counter>,
    busy: Family<Labels<1>, Gauge>,
    capacity: Family<Labels<1>, Gauge>,
    turns: Family<Labels<2>, Counter>,
    events_relayed: Counter,
    webhook_deliveries: Family<Labels<2>, Counter>,
    webhook_failures: Family<Labels<1>, Counter>,
    webhook_retries: Family<Labels<1>, Counter>,
    intents_created: Counter,
    pool_wait: Histogram,
}

impl Metrics {
    /// Registers everything in the process's registry.
    #[must_use]
    pub fn new(mut registry: Registry) -> Self {
        Self {
            distance_jobs: registry.add("distance_jobs", "Distance jobs that ended"),
            analytics_jobs: registry.add("analytics_jobs", "Analytics jobs that ended"),
            analytics_took: registry.histogram(
                "analytics_job_duration_seconds",
                "Time an analytics job ran",
                &ANALYTICS_TOOK_S,
                &[],
            ),
            analytics_failures: registry.add("analytics_job_failures", "Analytics jobs that failed for good"),
            analytics_retries: registry.add("analytics_job_retries", "Runs of analytics jobs that will be tried again"),
            jobs: registry.add("jobs", "Runs of jobs by how they ended"),
            took: registry.histograms("job_duration_seconds", "Time a job ran", &TOOK_S),
            waited: registry.histograms("job_wait_seconds", "Time from a job's request to its start", &WAITED_S),
            reclaimed: registry.add("queue_reclaimed", "Jobs taken over from workers that went away"),
            lost: registry.add("queue_lost", "Jobs given up because they were lost with their worker too often"),
            busy: registry.add("worker_busy", "Jobs that run now"),
            capacity: registry.add("worker_capacity", "Jobs that may run at once"),
            turns: registry.add("schedule_turns", "Turns of scheduled tasks taken by this worker, by how they ended"),
            webhook_deliveries: registry.add("webhook_deliveries", "Deliveries that ended"),
            webhook_failures: registry.add("webhook_failures", "Deliveries that failed for good"),
            webhook_retries: registry.add("webhook_retries", "Further attempts that were planned"),
            intents_created: registry
                .add("retry_intents_created", "Jobs of check-outs that could not be queued at once"),
            pool_wait: registry.histogram(
                "db_pool_wait_seconds",
                "Time a connection to PostgreSQL was waited for",
                &POOL_WAIT_S,
                &[],
            ),
            events_relayed: registry.add("events_relayed", "Events handed on to webhooks and streams"),
            registry,
        }
    }

    /// Counts a run in the figures that its kind has of its own.
    pub fn job(&self, queue: &'static str, ended: Ended, took: Duration) {
        match (queue, ended) {
            (RecalculateDistance::QUEUE, Ended::Done) => self.distance_ended("success"),
            (RecalculateDistance::QUEUE, Ended::GivenUp) => self.distance_ended("failed"),
            (UpdateMetrics::QUEUE, _) => {
                self.analytics_took.observe(took.as_secs_f64());
                match ended {
                    Ended::Done => self.analytics_ended("completed"),
                    Ended::Again => {
                        self.analytics_retries.inc();
                    }
                    Ended::GivenUp => {
                        self.analytics_failures.inc();
                        self.analytics_ended("failed");
                    }
                }
            }
            _ => {}
        }
    }

    fn distance_ended(&self, status: &'static str) {
        self.distance_jobs.get_or_create(&[("status", status)]).inc();
    }

    fn analytics_ended(&self, status: &'static str) {
        self.analytics_jobs.get_or_create(&[("status", status)]).inc();
    }

    /// Counts a job that was given up because it took its workers down.
    pub fn job_lost(&self, queue: &'static str) {
        self.lost.get_or_create(&[("queue", queue)]).inc();
    }

    /// Counts a delivery that ended: `success` or `failed`.
    pub fn webhook_delivery(&self, event_type: &'static str, status: &'static str) {
        self.webhook_deliveries.get_or_create(&[("event_type", event_type), ("status", status)]).inc();
        if status == "failed" {
            self.webhook_failures.get_or_create(&[("event_type", event_type)]).inc();
        }
    }

    /// Counts a further attempt that was planned.
    pub fn webhook_retry(&self, event_type: &'static str) {
        self.webhook_retries.get_or_create(&[("event_type", event_type)]).inc();
    }

    /// Counts a job that was written down because it could not be queued.
    pub fn retry_intent_created(&self) {
        self.intents_created.inc();
    }

    /// Notes how long a connection to PostgreSQL was waited for.
    pub fn pool_wait(&self, wait: Duration) {
        self.pool_wait.observe(wait.as_secs_f64());
    }

    /// Counts events that were handed on.
    pub fn events_relayed(&self, events: usize) {
        self.events_relayed.inc_by(events as u64);
    }

    /// Counts a turn of a scheduled task.
    pub fn turn(&self, task: &'static str, outcome: &'static str) {
        self.turns.get_or_create(&[("task", task), ("outcome", outcome)]).inc();
    }

    /// Who counts what the runner of a queue does; it may run so many jobs at once.
    #[must_use]
    pub fn of_queue(self: &Arc<Self>, queue: &'static str, concurrency: usize) -> QueueMetrics {
        self.capacity.get_or_create(&[("queue", queue)]).set(i64::try_from(concurrency).unwrap_or(i64::MAX));
        self.busy.get_or_create(&[("queue", queue)]).set(0);
        QueueMetrics { all: Arc::clone(self), queue }
    }

    /// Everything, as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        self.registry.encode()
    }
}

/// Metrics of one queue's runner.
pub struct QueueMetrics {
    all: Arc<Metrics>,
    queue: &'static str,
}

impl Observer for QueueMetrics {
    fn started(&self, waited: Duration) {
        let label = [("queue", self.queue)];
        self.all.waited.get_or_create(&label).observe(waited.as_secs_f64());
        self.all.busy.get_or_create(&label).inc();
    }

    fn finished(&self, outcome: Finished, took: Duration) {
        let label = [("queue", self.queue)];
        self.all.busy.get_or_create(&label).dec();
        self.all.took.get_or_create(&label).observe(took.as_secs_f64());
        self.all.jobs.get_or_create(&[label[0], ("outcome", outcome.as_str())]).inc();
    }

    fn reclaimed(&self, jobs: u64) {
        self.all.reclaimed.get_or_create(&[("queue", self.queue)]).inc_by(jobs);
    }
}
