//! The worker: put together, run, drained.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use db::Db;
use domain::Clock;
use domain::job::RecalculateDistance;
use queue::{Producer, Redis, Runner, RunnerOptions};
use telemetry::metrics::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Config;
use crate::http::{self, Pages};
use crate::jobs::distance::Distance;
use crate::metrics::Metrics;
use crate::schedule::Schedule;

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
}

impl Worker {
    /// Puts everything together. Neither the database nor Redis has to be there; the port has to be free.
    pub async fn build(config: Config, registry: Registry, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let wrong = |error: &dyn std::fmt::Display| StartError::Settings(error.to_string());
        let db = Db::open(&config.database, &config.system_database).map_err(|error| wrong(&error))?;
        let redis = Redis::open(&config.redis).map_err(|error| wrong(&error))?;
        let listener =
            TcpListener::bind(("0.0.0.0", config.port)).await.map_err(|error| StartError::Port(config.port, error))?;
        let metrics = Arc::new(Metrics::new(registry, config.concurrency));
        Ok(Self { config, db, redis, clock, metrics, listener })
    }

    /// Works until `stop` says true, then finishes what it holds, gives back the rest, and returns.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let Self { config, db, redis, clock, metrics, listener } = self;
        let producer = Producer::start(redis.clone(), RecalculateDistance::QUEUE);
        let pages = Arc::new(Pages {
            db: db.clone(),
            redis: redis.clone(),
            metrics: Arc::clone(&metrics),
            scrape_token: config.metrics_scrape_token,
            draining: AtomicBool::new(false),
        });
        let server = tokio::spawn(http::serve(listener, Arc::clone(&pages)));
        let schedule = Schedule { db: db.clone(), producer, clock: Arc::clone(&clock) };
        let schedule = tokio::spawn(schedule.run(stop.clone()));
        let drain = tokio::spawn({
            let mut stop = stop.clone();
            async move {
                // The sender outlives us; if it does not, that is a stop, too.
                let _ = stop.wait_for(|stop| *stop).await;
                pages.draining.store(true, Ordering::Relaxed);
            }
        });
        let distance = Distance { db, clock, max_points: config.max_points, metrics: Arc::clone(&metrics) };
        let options = RunnerOptions {
            concurrency: config.concurrency,
            drain_timeout: config.shutdown_timeout,
            ..RunnerOptions::default()
        };
        Runner::new(redis, RecalculateDistance::QUEUE, options)
            .observed_by(metrics)
            .run(Arc::new(distance), stop)
            .await;
        let _ = schedule.await;
        let _ = drain.await;
        server.abort();
    }
}
