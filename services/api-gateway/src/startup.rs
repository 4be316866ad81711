//! The application: put together, bound, served, drained.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::middleware::{Compress, from_fn};
use actix_web::{App, HttpServer, web};
use db::Db;
use domain::Clock;
use domain::job::{DeliverWebhook, Payload};
use queue::limits::Limits;
use queue::live::Live;
use queue::{Producer, Redis};
use telemetry::metrics::Registry;
use tokio::sync::mpsc;

use crate::config::{Config, IdentityConfig};
use crate::features;
use crate::features::health::Readiness;
use crate::features::live::{CHANGES, Hub, changes};
use crate::features::locations::Recorder;
use crate::http::endpoint::{Routes, no_such_route};
use crate::http::expiring::Expiring;
use crate::http::observe::{observe, present_request};
use crate::identity::api_keys::ApiKeys;
use crate::identity::{Authenticator, passwords};
use crate::jobs::DistanceJobs;
use crate::metrics::{Metrics, sample};
use crate::queues::{Queues, Recalculations};
use crate::receipts::Receipts;
use crate::state::State;

/// People whose standing is remembered.
const PEOPLE_REMEMBERED: usize = 100_000;

/// Idle connections of clients and proxies are kept for so long: longer than any proxy in front keeps them, or a
/// connection would close under a request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// The process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that looked right turned out wrong.
    #[error("{0}")]
    Settings(String),
    /// The port cannot be served.
    #[error("the server cannot be started: {0}")]
    Serve(#[from] io::Error),
}

/// A gateway that is bound and not yet served.
pub struct Application {
    server: actix_web::dev::Server,
    address: SocketAddr,
    state: Arc<State>,
    redis: Redis,
    /// What changed, for the task that reads the rows.
    changed: mpsc::Receiver<Live>,
}

impl Application {
    /// Puts everything together on `listener`. Neither the database nor Redis has to be there.
    ///
    /// Must be called on the tokio runtime that will outlive the server.
    pub fn build(
        config: Config,
        registry: Registry,
        clock: Arc<dyn Clock>,
        listener: TcpListener,
    ) -> Result<Self, StartError> {
        let wrong = |error: &dyn std::fmt::Display| StartError::Settings(error.to_string());
        let metrics = Arc::new(Metrics::new(registry));
        metrics.configured(&config.config_hash);
        let waited = Arc::clone(&metrics);
        let db = Db::open(&config.database, &config.system_database)
            .map_err(|error| wrong(&error))?
            .traced_by(present_request)
            .timed_by(move |wait| waited.pool_wait(wait));
        let redis = Redis::open(&config.redis).map_err(|error| wrong(&error))?;
        let passwords = passwords::Passwords::new();
        let identity = match &config.identity {
            IdentityConfig::BuiltIn { secrets } => Authenticator::builtin(
                db.clone(),
                secrets.clone(),
                format!("{}/auth/v1", config.api_base_url),
                passwords.clone(),
                Arc::clone(&clock),
            ),
            IdentityConfig::Supabase { url, anon_key } => {
                Authenticator::supabase(url, anon_key.clone(), Arc::clone(&clock)).map_err(|error| wrong(&error))?
            }
        };
        let (changes, changed) = mpsc::channel(CHANGES);
        let live = Hub::start(redis.clone(), Arc::clone(&clock), Arc::clone(&metrics), changes);
        let address = listener.local_addr()?;
        let shutdown_timeout = config.shutdown_timeout;
        let state = Arc::new(State {
            recorder: Recorder::start(db.clone(), Arc::clone(&clock), config.locations_per_commit),
            jobs: DistanceJobs::start(
                redis.clone(),
                config.max_queue_depth,
                db.clone(),
                Arc::clone(&clock),
                Arc::clone(&metrics),
            ),
            limits: Limits::start(redis.clone()),
            receipts: Receipts::open(&config.receipts, &config.api_base_url).map_err(|error| wrong(&error))?,
            standing: Expiring::new(PEOPLE_REMEMBERED),
            api_keys: ApiKeys::new(),
            readiness: Readiness::default(),
            metrics,
            live,
            deliveries: Producer::start(redis.clone(), DeliverWebhook::QUEUE),
            queues: Queues::of(&redis),
            recalculations: Recalculations::default(),
            started: Instant::now(),
            draining: AtomicBool::new(false),
            config,
            db,
            clock,
            identity,
            passwords,
        });
        let shared = web::Data::from(Arc::clone(&state));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .wrap(Compress::default())
                .wrap(from_fn(observe))
                .configure(|server| features::routes(&mut Routes::of(server)))
                .default_service(web::to(no_such_route))
        })
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(shutdown_timeout.as_secs())
        .disable_signals()
        .listen(listener)?
        .run();
        Ok(Self { server, address, state, redis, changed })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drains and stops it, from another task.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { handle: self.server.handle(), state: Arc::clone(&self.state) }
    }

    /// Serves until it is stopped.
    pub async fn serve(self) -> io::Result<()> {
        let identity = tokio::spawn({
            let state = Arc::clone(&self.state);
            async move { state.identity.keep_fresh().await }
        });
        let hub = tokio::spawn({
            let (live, redis) = (Arc::clone(&self.state.live), self.redis);
            async move { live.run(redis).await }
        });
        let rows = tokio::spawn(changes::run(Arc::clone(&self.state.live), self.state.db.clone(), self.changed));
        let sampler = tokio::spawn(sample(self.state));
        let ended = self.server.await;
        identity.abort();
        sampler.abort();
        hub.abort();
        rows.abort();
        ended
    }
}

/// Stops a running application.
pub struct Stopper {
    handle: ServerHandle,
    state: Arc<State>,
}

impl Stopper {
    /// Lets it finish: `/ready` says no, new connections are refused, running requests end.
    pub async fn drain(&self) {
        self.state.draining.store(true, Ordering::Relaxed);
        // A stream would hold its connection for as long as anybody watches.
        self.state.live.close();
        self.handle.stop(true).await;
    }
}
