//! What the gateway counts.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use queue::Admin;
use telemetry::metrics::{Counter, Family, Gauge, HttpMetrics, Registry};

use crate::state::State;

type Labels<const N: usize> = [(&'static str, String); N];

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
    streams_dropped: Counter,
    pool_connections: Family<Labels<2>, Gauge>,
    redis_up: Gauge,
    queue_depth: Family<Labels<1>, Gauge>,
    queue_overloads: Family<Labels<1>, Counter>,
    queue_oldest: Family<Labels<1>, Gauge>,
    queue_pending: Family<Labels<1>, Gauge>,
    dead_letters: Family<Labels<1>, Gauge>,
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
            streams_dropped: register!("sse_dropped", "Event streams ended because their reader did not keep up"),
            abuse: register!("security_abuse", "Requests that look like somebody trying doors"),
            pool_connections: register!("db_pool_connections", "Connections to PostgreSQL"),
            redis_up: register!("redis_up", "Whether Redis answered when last asked"),
            queue_depth: register!("queue_depth", "Jobs that wait, delayed ones included"),
            queue_overloads: register!("queue_overload_events", "Jobs refused because their queue was full"),
            queue_oldest: register!("queue_oldest_age_seconds", "Age of the oldest waiting job"),
            queue_pending: register!("queue_pending", "Jobs taken and not ended"),
            dead_letters: register!("dlq_size", "Jobs that were given up"),
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

/// Keeps the gauges that need the database or Redis up to date, until the task is dropped.
pub async fn sample(state: Arc<State>, queue: Admin, name: &'static str) {
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
        let label = [("queue", name.to_owned())];
        let set = |family: &Family<Labels<1>, Gauge>, value: u64| {
            family.get_or_create(&label).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        match queue.counts().await {
            Ok(counts) => {
                metrics.redis_up.set(1);
                set(&metrics.queue_depth, counts.waiting + counts.prioritized + counts.delayed);
                set(&metrics.queue_pending, counts.active);
                set(&metrics.dead_letters, counts.failed);
                if let Ok(age_ms) = queue.oldest_age_ms().await {
                    set(&metrics.queue_oldest, age_ms / 1000);
                }
            }
            Err(_) => {
                metrics.redis_up.set(0);
            }
        }
        if let Ok((waiting, since)) = outbox(&state).await {
            metrics.outbox_pending.set(waiting);
            let age = since.map_or(0, |since| (Utc::now() - since).num_seconds().max(0));
            metrics.outbox_oldest.set(age);
        }
    }
}

/// What is written down and not done yet: sessions to measure, and events to hand on.
async fn outbox(state: &State) -> db::DbResult<(i64, Option<chrono::DateTime<Utc>>)> {
    let mut tx = state.db.system().await?;
    let (marks, marked) = db::attendance::waiting(&mut tx).await?;
    let (events, written) = db::relay::waiting(&mut tx).await?;
    tx.commit().await?;
    Ok((marks + events, [marked, written].into_iter().flatten().min()))
}
