//! A worker of a test's own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use db::Db;
use distance_worker::config::Config;
use distance_worker::metrics::Metrics;
use distance_worker::schedule::Schedule;
use distance_worker::startup::Worker;
use domain::{Clock, EmployeeId, ManualClock, SessionId, SystemClock, Tenant};
use queue::{Enqueued, NewJob, Producer, Redis, RedisConfig};
use settings::Settings;
use testkit::database::{TestDatabase, tenant};
use testkit::redis::{RedisServer, free_port};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// 32 bytes, base64.
pub const SECRETS_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// Where no Redis is: taking turns needs the database alone.
pub const NO_REDIS: &str = "redis://127.0.0.1:1";

/// The schedule of a worker whose Redis is at `url`.
pub fn schedule(database: &TestDatabase, url: &str, clock: &Arc<ManualClock>) -> Schedule {
    let redis = Redis::open(&RedisConfig::new(url.to_owned().into())).unwrap();
    let queue = |name| Producer::start(redis.clone(), name);
    Schedule {
        db: database.open(),
        producer: queue("distance-engine"),
        snapshots: queue("snapshot-engine"),
        totals: queue("analytics"),
        deliveries: queue("webhook-delivery"),
        dead_letters_most: 10_000,
        dead_letters_kept: TimeDelta::days(30),
        events_kept: TimeDelta::days(90),
        provider: None,
        dead_letters: Vec::new(),
        keep_months: None,
        clock: clock.clone(),
        metrics: Arc::new(Metrics::new(telemetry::metrics::Registry::new())),
    }
}

pub struct TestWorker {
    pub database: TestDatabase,
    pub db: Db,
    pub redis: RedisServer,
    pub producer: Producer,
    pub port: u16,
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl TestWorker {
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let database = TestDatabase::create().await;
        let redis = RedisServer::start().unwrap();
        let port = free_port().unwrap();
        let mut variables: Vec<(String, String)> = [
            ("APP_ENV", "test"),
            ("DATABASE_URL", &*database.app_url()),
            ("SYSTEM_DATABASE_URL", &database.system_url()),
            ("REDIS_URL", &redis.url()),
            ("WORKER_PORT", &port.to_string()),
            ("SECRETS_KEY", SECRETS_KEY),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        variables.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let config = Config::read(Settings::from_variables(variables)).unwrap();
        let registry = telemetry::metrics::Registry::new();
        let worker = Worker::build(config, registry, Arc::new(SystemClock)).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(worker.run(stopped));
        let client = Redis::open(&RedisConfig::new(redis.url().into())).unwrap();
        let producer = Producer::start(client, "distance-engine");
        Self { db: database.open(), database, redis, producer, port, stop, running }
    }

    pub async fn stop(self) {
        self.stop.send(true).unwrap();
        self.running.await.unwrap();
    }

    /// An organization with somebody at work for an hour.
    pub async fn session(&self) -> (Tenant, SessionId) {
        let organization = Uuid::now_v7();
        let mut tx = self.db.system().await.unwrap();
        let slug = format!("o{}", organization.simple());
        db::organizations::create(&mut tx, organization.into(), "Field Services", &slug).await.unwrap();
        tx.commit().await.unwrap();
        let (tenant, employee, session) = (tenant(organization), EmployeeId::generate(), SessionId::generate());
        let checkin_at = SystemClock.now() - TimeDelta::hours(1);
        let mut tx = self.db.tenant(tenant).await.unwrap();
        let new = db::employees::NewEmployee {
            id: employee,
            user: None,
            name: "Asha".into(),
            employee_code: None,
            phone: None,
        };
        db::employees::create(&mut tx, new, checkin_at).await.unwrap();
        db::attendance::open(&mut tx, session, employee, checkin_at).await.unwrap();
        tx.commit().await.unwrap();
        (tenant, session)
    }

    /// Checks the session's employee out.
    pub async fn close(&self, tenant: Tenant, session: SessionId) {
        let mut tx = self.db.tenant(tenant).await.unwrap();
        let employee = db::attendance::find(&mut tx, session).await.unwrap().unwrap().employee;
        db::attendance::close(&mut tx, employee, SystemClock.now()).await.unwrap().unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn enqueue(&self, name: &str, data: &str) -> String {
        added(self.producer.enqueue(NewJob::new(name, data.to_owned())).await.unwrap())
    }

    /// Puts a job that may be tried once on any queue.
    pub async fn enqueue_on(&self, queue: &str, name: &str, data: &str) -> String {
        let client = Redis::open(&RedisConfig::new(self.redis.url().into())).unwrap();
        let job = NewJob { attempts: 1, ..NewJob::new(name, data.to_owned()) };
        added(Producer::start(client, queue).enqueue(job).await.unwrap())
    }

    pub fn field(&self, job: &str, field: &str) -> String {
        self.field_on("distance-engine", job, field)
    }

    pub fn field_on(&self, queue: &str, job: &str, field: &str) -> String {
        self.redis.call(&["HGET", &format!("bull:{queue}:{job}"), field]).unwrap().to_string()
    }

    /// Waits until a job has ended; answers the field that says how.
    pub async fn ended(&self, job: &str, field: &str) -> String {
        self.ended_on("distance-engine", job, field).await
    }

    /// The same on any queue.
    pub async fn ended_on(&self, queue: &str, job: &str, field: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.field_on(queue, job, "finishedOn").is_empty() {
            assert!(Instant::now() < deadline, "job {job} on {queue} has not ended within 30 s");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.field_on(queue, job, field)
    }
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn added(enqueued: Enqueued) -> String {
    match enqueued {
        Enqueued::Added(id) => id,
        other => panic!("{other:?}"),
    }
}
