//! What the worker counts.

use std::time::Duration;

use domain::job::RecalculateDistance;
use queue::{Finished, Observer};
use telemetry::metrics::{Counter, Family, Gauge, Histogram, Registry};

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Bounds of job times in seconds: a short walk takes a millisecond, a day of fixes a few dozen.
const TOOK_S: [f64; 8] = [0.001, 0.005, 0.02, 0.05, 0.2, 1.0, 5.0, 30.0];

/// Bounds of waiting times in seconds; the objective is a minute.
const WAITED_S: [f64; 8] = [0.01, 0.05, 0.2, 1.0, 5.0, 15.0, 60.0, 300.0];

const QUEUE: Labels<1> = [("queue", RecalculateDistance::QUEUE)];

/// Metrics of this process.
pub struct Metrics {
    registry: Registry,
    distance_jobs: Family<Labels<1>, Counter>,
    jobs: Family<Labels<2>, Counter>,
    took: Histogram,
    waited: Histogram,
    reclaimed: Family<Labels<1>, Counter>,
    busy: Family<Labels<1>, Gauge>,
    capacity: Family<Labels<1>, Gauge>,
}

impl Metrics {
    /// Registers everything in the process's registry.
    #[must_use]
    pub fn new(mut registry: Registry, concurrency: usize) -> Self {
        let metrics = Self {
            distance_jobs: registry.add("distance_jobs", "Distance jobs that ended"),
            jobs: registry.add("jobs", "Runs of jobs by how they ended"),
            took: registry.histogram("job_duration_seconds", "Time a job ran", &TOOK_S, &QUEUE),
            waited: registry.histogram("job_wait_seconds", "Time from a job's request to its start", &WAITED_S, &QUEUE),
            reclaimed: registry.add("queue_reclaimed", "Jobs taken over from workers that went away"),
            busy: registry.add("worker_busy", "Jobs that run now"),
            capacity: registry.add("worker_capacity", "Jobs that may run at once"),
            registry,
        };
        metrics.capacity.get_or_create(&QUEUE).set(i64::try_from(concurrency).unwrap_or(i64::MAX));
        metrics.busy.get_or_create(&QUEUE).set(0);
        metrics
    }

    /// Counts a distance job that ended for good.
    pub fn distance_job(&self, status: &'static str) {
        self.distance_jobs.get_or_create(&[("status", status)]).inc();
    }

    /// Everything, as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        self.registry.encode()
    }
}

impl Observer for Metrics {
    fn started(&self, waited: Duration) {
        self.waited.observe(waited.as_secs_f64());
        self.busy.get_or_create(&QUEUE).inc();
    }

    fn finished(&self, outcome: Finished, took: Duration) {
        self.busy.get_or_create(&QUEUE).dec();
        self.took.observe(took.as_secs_f64());
        self.jobs.get_or_create(&[QUEUE[0], ("outcome", outcome.as_str())]).inc();
    }

    fn reclaimed(&self, jobs: u64) {
        self.reclaimed.get_or_create(&QUEUE).inc_by(jobs);
    }
}
