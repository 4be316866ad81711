//! The worker: put together, run, drained.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use db::Db;
use domain::Clock;
use domain::job::{DeliverWebhook, Payload, RecalculateDistance, Snapshot, UpdateMetrics};
use queue::live::LivePublisher;
use queue::{Producer, Redis, Runner, RunnerOptions};
use telemetry::metrics::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Config, ProviderConfig};
use crate::dead_letters::DeadLetters;
use crate::http::{self, Pages};
use crate::jobs::analytics::Analytics;
use crate::jobs::distance::Distance;
use crate::jobs::snapshot::{self, Snapshots};
use crate::jobs::webhooks::{Deliver, DeliverOptions};
use crate::jobs::{Context, Kind, Work};
use crate::metrics::Metrics;
use crate::relay::Relay;
use crate::schedule::Schedule;
use crate::sign_in::Provider;

/// The process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that looked right turned out wrong.
    #[error("{0}")]
    Settings(String),
    /// The port cannot be served.
    #[error("port {0} cannot be used: {1}")]
    Port(u16, std::io::Error),
}

/// A worker that is put together and not yet running.
pub struct Worker {
    config: Config,
    db: Db,
    redis: Redis,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    listener: TcpListener,
    provider: Option<Arc<Provider>>,
}

impl Worker {
    /// Puts everything together. Neither the database nor Redis has to be there; the port has to be free.
    pub async fn build(config: Config, registry: Registry, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let wrong = |error: &dyn std::fmt::Display| StartError::Settings(error.to_string());
        let metrics = Arc::new(Metrics::new(registry));
        let waited = Arc::clone(&metrics);
        let db = Db::open(&config.database, &config.system_database)
            .map_err(|error| wrong(&error))?
            .timed_by(move |wait| waited.pool_wait(wait));
        let redis = Redis::open(&config.redis).map_err(|error| wrong(&error))?;
        let listener =
            TcpListener::bind(("0.0.0.0", config.port)).await.map_err(|error| StartError::Port(config.port, error))?;
        let provider = match &config.provider {
            Some(ProviderConfig { url, key: Some(key) }) => {
                Some(Arc::new(Provider::new(url, key).map_err(|error| wrong(&error))?))
            }
            Some(ProviderConfig { key: None, .. }) => {
                tracing::warn!(
                    "SUPABASE_SERVICE_ROLE_KEY is not set: the identity provider is not told who was deactivated, and they \
                     can go on signing in there, though not working here"
                );
                None
            }
            None => None,
        };
        Ok(Self { config, db, redis, clock, metrics, listener, provider })
    }

    /// Works until `stop` says true, then finishes what it holds, gives back the rest, and returns.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let Self { config, db, redis, clock, metrics, listener, provider } = self;
        let pages = Arc::new(Pages {
            db: db.clone(),
            redis: redis.clone(),
            metrics: Arc::clone(&metrics),
            scrape_token: config.metrics_scrape_token,
            release: config.telemetry.release,
            draining: AtomicBool::new(false),
        });
        let server = tokio::spawn(http::serve(listener, Arc::clone(&pages)));
        let drain = tokio::spawn({
            let mut stop = stop.clone();
            async move {
                // The sender outlives us; if it does not, that is a stop, too.
                let _ = stop.wait_for(|stop| *stop).await;
                pages.draining.store(true, Ordering::Relaxed);
            }
        });
        let cx = Context { db: db.clone(), clock: Arc::clone(&clock), metrics: Arc::clone(&metrics) };
        let webhook_cx = cx.clone();
        let mut crew = Crew {
            redis: redis.clone(),
            metrics: Arc::clone(&metrics),
            drain_timeout: config.shutdown_timeout,
            stop: stop.clone(),
            runners: JoinSet::new(),
            dead_letters: Vec::new(),
        };
        // One line a kind of job: the kind, and how many of its jobs may run at once.
        crew.hire(Distance { cx: cx.clone(), max_points: config.max_points }, config.concurrency);
        crew.hire(Analytics { cx: cx.clone() }, config.analytics_concurrency);
        crew.hire(Snapshots { cx }, snapshot::CONCURRENCY);

        let deliveries = Producer::start(redis.clone(), DeliverWebhook::QUEUE);
        let options = DeliverOptions {
            secrets: config.secrets,
            max_bytes: config.webhook_max_bytes,
            allowed: config.webhook_networks,
            concurrency: config.webhook_concurrency,
        };
        match Deliver::new(webhook_cx, options, deliveries.clone()) {
            Ok(deliver) => crew.hire(deliver, config.webhook_concurrency),
            // Every other kind of work goes on.
            Err(error) => tracing::error!(error.message = %error, "webhooks cannot be called"),
        }
        let snapshots = Producer::start(redis.clone(), Snapshot::QUEUE);
        let totals = Producer::start(redis.clone(), UpdateMetrics::QUEUE);
        let relay = Relay {
            db: db.clone(),
            bell: config.system_database,
            live: LivePublisher::new(redis.clone()),
            deliveries: deliveries.clone(),
            snapshots: snapshots.clone(),
            totals: totals.clone(),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        };
        let relay = tokio::spawn(relay.run(stop.clone()));

        let schedule = Schedule {
            db,
            producer: Producer::start(redis, RecalculateDistance::QUEUE),
            snapshots,
            totals,
            dead_letters: crew.dead_letters,
            keep_months: config.keep_months,
            deliveries,
            dead_letters_most: config.dead_letters_most,
            dead_letters_kept: TimeDelta::days(config.dead_letters_days),
            events_kept: TimeDelta::days(config.event_days),
            provider,
            clock,
            metrics,
        };
        let schedule = tokio::spawn(schedule.run(stop));
        crew.runners.join_all().await;
        let _ = schedule.await;
        let _ = relay.await;
        let _ = drain.await;
        server.abort();
    }
}

/// Everybody who takes jobs in this process. All stop at once, and each drains on its own.
struct Crew {
    redis: Redis,
    metrics: Arc<Metrics>,
    drain_timeout: Duration,
    stop: watch::Receiver<bool>,
    runners: JoinSet<()>,
    dead_letters: Vec<DeadLetters>,
}

impl Crew {
    /// Starts taking jobs of a kind, `concurrency` at once.
    fn hire<K: Kind>(&mut self, kind: K, concurrency: usize) {
        let queue = K::Payload::QUEUE;
        let work = Arc::new(Work::of(kind, Arc::clone(&self.metrics)));
        self.dead_letters.push(DeadLetters::of::<K::Payload>(&self.redis, Arc::<Work<K>>::clone(&work)));
        let options = RunnerOptions { concurrency, drain_timeout: self.drain_timeout, ..RunnerOptions::default() };
        let runner = Runner::new(self.redis.clone(), queue, options)
            .observed_by(Arc::new(self.metrics.of_queue(queue, concurrency)));
        self.runners.spawn(runner.run(work, self.stop.clone()));
    }
}
