//! What the gateway counts.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use db::DbResult;
use domain::job::{Payload, UpdateMetrics};
use queue::QueueError;
use telemetry::metrics::{Counter, Family, Gauge, Histogram, HttpMetrics, Registry};

use crate::state::State;

type Labels<const N: usize> = [(&'static str, String); N];

/// Bounds of waiting for a connection in seconds; half a second alerts.
const POOL_WAIT_S: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.0];

/// Metrics of this process.
pub struct Metrics {
    registry: Registry,
    /// Requests.
    pub http: HttpMetrics,
    /// Fixes stored.
    pub locations_inserted: Counter,
    /// Fixes that were there already.
    pub locations_duplicate: Counter,
    locations_rejected: Family<Labels<1>, Counter>,
    rate_limit_hits: Family<Labels<1>, Counter>,
    bruteforce: Counter,
    /// Sign-ins that failed.
    pub login_failures: Counter,
    api_key_requests: Family<Labels<2>, Counter>,
    api_key_errors: Family<Labels<2>, Counter>,
    abuse: Family<Labels<1>, Counter>,
    /// Streams that are open.
    pub sse_connections: Gauge,
    /// Sockets that follow tables.
    pub realtime_connections: Gauge,
    streams_dropped: Counter,
    pool_connections: Family<Labels<2>, Gauge>,
    redis_up: Gauge,
    queue_depth: Family<Labels<1>, Gauge>,
    queue_overloads: Family<Labels<1>, Counter>,
    queue_oldest: Family<Labels<1>, Gauge>,
    queue_pending: Family<Labels<1>, Gauge>,
    analytics_depth: Gauge,
    dead_letters: Family<Labels<1>, Gauge>,
    intents_pending: Gauge,
    intents_dead: Gauge,
    intents_created: Counter,
    circuits_open: Gauge,
    snapshot_age: Family<Labels<1>, Gauge>,
    pool_wait: Histogram,
    outbox_pending: Gauge,
    outbox_oldest: Gauge,
    config_hash: Gauge,
}

impl Metrics {
    /// Registers everything in the process's registry.
    #[must_use]
    pub fn new(mut registry: Registry) -> Self {
        let http = HttpMetrics::register(&mut registry);
        macro_rules! register {
            ($name:literal, $help:literal) => {
                registry.add($name, $help)
            };
        }
        Self {
            http,
            locations_inserted: register!("locations_inserted", "Fixes stored"),
            locations_duplicate: register!("locations_duplicate", "Fixes that were stored already"),
            locations_rejected: register!("locations_rejected", "Fixes refused by a rule of the session"),
            rate_limit_hits: register!("security_rate_limit_hits", "Requests refused because a budget was used up"),
            bruteforce: register!("security_auth_bruteforce", "Sign-ins refused because a budget was used up"),
            login_failures: register!("login_failures", "Sign-ins with a wrong address or password"),
            api_key_requests: register!("api_key_requests", "Requests with an API key"),
            api_key_errors: register!("api_key_errors", "Requests with an API key that were answered with 400 or more"),
            sse_connections: register!("sse_connections", "Event streams that are open"),
            realtime_connections: register!("realtime_connections", "Sockets that follow tables"),
            streams_dropped: register!(
                "sse_dropped",
                "Event streams and sockets ended because their reader did not keep up"
            ),
            abuse: register!("security_abuse", "Requests that look like somebody trying doors"),
            pool_connections: register!("db_pool_connections", "Connections to PostgreSQL"),
            redis_up: register!("redis_up", "Whether Redis answered when last asked"),
            queue_depth: register!("queue_depth", "Jobs that wait, delayed ones included"),
            queue_overloads: register!("queue_overload_events", "Jobs refused because their queue was full"),
            queue_oldest: register!("queue_oldest_age_seconds", "Age of the oldest waiting job"),
            queue_pending: register!("queue_pending", "Jobs taken and not ended"),
            analytics_depth: register!("analytics_queue_depth", "Analytics jobs that wait, delayed ones included"),
            dead_letters: register!("dlq_size", "Jobs that were given up"),
            intents_pending: register!("retry_intents_pending", "Jobs of check-outs that could not be queued yet"),
            intents_dead: register!("retry_intents_dead", "Jobs of check-outs whose queueing was given up"),
            intents_created: register!("retry_intents_created", "Jobs of check-outs that could not be queued at once"),
            circuits_open: register!("circuit_open", "Webhooks that are left alone after failures"),
            snapshot_age: register!("snapshot_age_seconds", "Age of the read model that was set longest ago"),
            pool_wait: registry.histogram(
                "db_pool_wait_seconds",
                "Time a connection to PostgreSQL was waited for",
                &POOL_WAIT_S,
                &[],
            ),
            outbox_pending: register!(
                "outbox_pending",
                "Sessions marked for measurement and events written, not done yet"
            ),
            outbox_oldest: register!("outbox_oldest_age_seconds", "Age of the oldest of them"),
            config_hash: register!("config_hash", "The hash of the settings that decide behaviour, as a number"),
            registry,
        }
    }

    /// Shows which settings are in force, as a number that both colours can be compared by: 12 hex digits fit.
    pub fn configured(&self, hash: &str) {
        self.config_hash.set(i64::from_str_radix(hash, 16).unwrap_or(-1));
    }

    /// Counts fixes refused by a rule of their session.
    pub fn location_rejected(&self, reason: &str, fixes: u64) {
        self.locations_rejected.get_or_create(&[("reason", reason.to_owned())]).inc_by(fixes);
    }

    /// Notes how long a connection to PostgreSQL was waited for.
    pub fn pool_wait(&self, wait: Duration) {
        self.pool_wait.observe(wait.as_secs_f64());
    }

    /// Counts a job that was written down because it could not be queued.
    pub fn retry_intent_created(&self) {
        self.intents_created.inc();
    }

    /// Counts a job that a full queue did not take.
    pub fn queue_overloaded(&self, queue: &str) {
        self.queue_overloads.get_or_create(&[("queue", queue.to_owned())]).inc();
    }

    /// Counts a request refused because a budget was used up; `path` is the route's.
    pub fn rate_limited(&self, path: &str) {
        let route = path.replace('{', ":").replace('}', "");
        if ["/auth/", "/login", "/signin", "/sign-in", "/token"].iter().any(|part| route.contains(part)) {
            self.bruteforce.inc();
        }
        self.rate_limit_hits.get_or_create(&[("route", route)]).inc();
    }

    /// Counts a request with an API key; `path` is the route's.
    pub fn api_key_request(&self, path: &str, status: u16) {
        let labels = [("route", path.replace('{', ":").replace('}', "")), ("status_code", status.to_string())];
        self.api_key_requests.get_or_create(&labels).inc();
        if status >= 400 {
            self.api_key_errors.get_or_create(&labels).inc();
        }
    }

    /// Counts streams that were ended because their readers did not keep up.
    pub fn streams_dropped(&self, streams: usize) {
        self.streams_dropped.inc_by(streams as u64);
    }

    /// Counts a request that looks like somebody trying doors.
    pub fn abuse(&self, kind: &'static str) {
        self.abuse.get_or_create(&[("kind", kind.to_owned())]).inc();
    }

    /// Everything, as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        self.registry.encode()
    }
}

/// How often the database and Redis are asked for what a scrape reads from memory.
const EVERY: Duration = Duration::from_secs(10);

/// The dead letters of webhooks, which are no queue of Redis.
const WEBHOOK_LETTERS: &str = "webhook-delivery-dlq";

/// Keeps the gauges that need the database or Redis up to date, until the task is dropped.
pub async fn sample(state: Arc<State>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let metrics = &state.metrics;
        for (role, pool) in ["app", "system"].into_iter().zip(state.db.pool_use()) {
            for (word, count) in [("idle", pool.idle), ("used", pool.used)] {
                let labels = [("state", word.to_owned()), ("role", role.to_owned())];
                metrics.pool_connections.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        metrics.redis_up.set(i64::from(queues(&state).await.is_ok()));
        if let Err(error) = rows(&state).await {
            tracing::debug!(error.message = %error, "gauges of the database were not brought up to date");
        }
    }
}

fn set(family: &Family<Labels<1>, Gauge>, label: &'static str, word: &str, value: u64) {
    family.get_or_create(&[(label, word.to_owned())]).set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// What waits on queues, and what was given up there.
async fn queues(state: &State) -> Result<(), QueueError> {
    let metrics = &state.metrics;
    for (name, queue, letters) in state.queues.each() {
        let counts = queue.counts().await?;
        set(&metrics.queue_depth, "queue", name, counts.depth());
        set(&metrics.queue_pending, "queue", name, counts.active);
        set(&metrics.queue_oldest, "queue", name, queue.oldest_age_ms().await? / 1000);
        if name == UpdateMetrics::QUEUE {
            metrics.analytics_depth.set(i64::try_from(counts.depth()).unwrap_or(i64::MAX));
        }
        if let Some(letters) = letters {
            let letters = letters.counts().await?;
            set(&metrics.dead_letters, "queue", name, letters.waiting + letters.prioritized);
        }
    }
    // From now on measurements count as made in the time of this process.
    state.recalculations.total(state.queues.distance.done().await?);
    Ok(())
}

/// What is written down and not done yet, given up, or old.
async fn rows(state: &State) -> DbResult<()> {
    let metrics = &state.metrics;
    let age = |since: Option<chrono::DateTime<Utc>>| since.map_or(0, |since| (Utc::now() - since).num_seconds().max(0));
    let mut tx = state.db.system().await?;
    let (marks, marked) = db::attendance::waiting(&mut tx).await?;
    let (events, written) = db::relay::waiting(&mut tx).await?;
    let (pending, dead) = db::intents::count(&mut tx).await?;
    let (circuits, letters) = db::webhooks::troubles(&mut tx).await?;
    let dashboard = db::figures::oldest_dashboard(&mut tx).await?;
    tx.commit().await?;
    metrics.outbox_pending.set(marks + events);
    metrics.outbox_oldest.set(age([marked, written].into_iter().flatten().min()));
    metrics.intents_pending.set(pending);
    metrics.intents_dead.set(dead);
    metrics.circuits_open.set(circuits);
    set(&metrics.dead_letters, "queue", WEBHOOK_LETTERS, u64::try_from(letters).unwrap_or(0));
    set(&metrics.snapshot_age, "table", "org_dashboard_snapshot", u64::try_from(age(dashboard)).unwrap_or(0));
    Ok(())
}
