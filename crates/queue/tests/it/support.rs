//! A queue of a test's own, and a handler that does what a test says.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use queue::{Admin, Handler, Job, JobError, NewJob, Producer, Redis, RedisConfig, Runner, RunnerOptions};
use serde_json::{Value, json};
use testkit::redis::RedisServer;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

pub const QUEUE: &str = "tests";

pub struct TestQueue {
    pub server: RedisServer,
    pub redis: Redis,
    pub producer: Producer,
    pub admin: Admin,
}

impl TestQueue {
    pub async fn start() -> Self {
        Self::on(RedisServer::start().unwrap())
    }

    pub fn on(server: RedisServer) -> Self {
        let redis = Redis::open(&RedisConfig::new(server.url().into())).unwrap();
        Self { producer: Producer::start(redis.clone(), QUEUE), admin: Admin::new(redis.clone(), QUEUE), redis, server }
    }

    /// Speaks to Redis behind everybody's back.
    pub fn call(&self, words: &[&str]) -> String {
        self.server.call(words).unwrap().to_string()
    }

    pub fn key(name: &str) -> String {
        format!("bull:{QUEUE}:{name}")
    }

    /// Starts a worker.
    pub fn worker(&self, script: &Arc<Script>, options: RunnerOptions) -> Worker {
        let (stop, stopped) = watch::channel(false);
        let runner = Runner::new(self.redis.clone(), QUEUE, options);
        Worker { stop, task: tokio::spawn(runner.run(Arc::clone(script), stopped)) }
    }

    /// A job that carries a number.
    pub fn job(number: usize) -> NewJob {
        NewJob::new("work", json!({ "number": number }).to_string())
    }

    /// Checks that every job is in exactly one state, and that nothing is left in hand.
    pub async fn assert_settled(&self, completed: u64, failed: u64) {
        let counts = self.admin.counts().await.unwrap();
        let found =
            (counts.waiting, counts.prioritized, counts.delayed, counts.active, counts.completed, counts.failed);
        assert_eq!(found, (0, 0, 0, 0, completed, failed));
        eventually("no ticket is pending", async || {
            self.call(&["XPENDING", &Self::key("x:stream"), "workers"]).starts_with("0\n")
        })
        .await;
    }
}

pub struct Worker {
    pub stop: watch::Sender<bool>,
    pub task: JoinHandle<()>,
}

impl Worker {
    pub async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }

    /// As a crash: nothing is said to anybody.
    pub fn kill(self) {
        self.task.abort();
    }
}

type Doing = Box<dyn Fn(&Job, usize) -> Result<Value, JobError> + Send + Sync>;

/// Counts runs, and lets a test decide how they end and how long they take.
pub struct Script {
    pub runs: Mutex<HashMap<String, usize>>,
    pub order: Mutex<Vec<String>>,
    pub running: AtomicUsize,
    pub most_at_once: AtomicUsize,
    pub gate: Semaphore,
    gated: bool,
    lasting: Duration,
    doing: Doing,
}

impl Script {
    /// Every job succeeds at once.
    pub fn easy() -> Arc<Self> {
        Self::of(|_, _| Ok(json!("done")))
    }

    /// Jobs end as `doing` says; it gets how often that job has run before.
    pub fn of(doing: impl Fn(&Job, usize) -> Result<Value, JobError> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self::new(false, Duration::ZERO, Box::new(doing)))
    }

    /// Jobs wait for a permit of the gate.
    pub fn gated() -> Arc<Self> {
        Arc::new(Self::new(true, Duration::ZERO, Box::new(|_, _| Ok(json!("done")))))
    }

    /// Every job succeeds after that time.
    pub fn lasting(lasting: Duration) -> Arc<Self> {
        Arc::new(Self::new(false, lasting, Box::new(|_, _| Ok(json!("done")))))
    }

    fn new(gated: bool, lasting: Duration, doing: Doing) -> Self {
        Self {
            runs: Mutex::default(),
            order: Mutex::default(),
            running: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            gated,
            lasting,
            doing,
        }
    }

    pub fn runs_of(&self, id: &str) -> usize {
        self.runs.lock().unwrap().get(id).copied().unwrap_or(0)
    }

    pub fn total(&self) -> usize {
        self.runs.lock().unwrap().values().sum()
    }
}

impl Handler for Script {
    async fn handle(&self, job: Job) -> Result<Value, JobError> {
        {
            let before = {
                let mut runs = self.runs.lock().unwrap();
                let runs = runs.entry(job.id.clone()).or_default();
                *runs += 1;
                *runs - 1
            };
            self.order.lock().unwrap().push(job.id.clone());
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(running, Ordering::SeqCst);
            struct Leave<'a>(&'a AtomicUsize);
            impl Drop for Leave<'_> {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, Ordering::SeqCst);
                }
            }
            let _leave = Leave(&self.running);
            if self.gated {
                self.gate.acquire().await.unwrap().forget();
            } else if self.lasting.is_zero() {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(self.lasting).await;
            }
            (self.doing)(&job, before)
        }
    }
}

/// Waits until something is so.
#[track_caller]
pub fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so().await {
            assert!(Instant::now() < deadline, "{caller}: not within 30 s: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Options with short leases, for tests of what happens when they end.
pub fn hasty(concurrency: usize) -> RunnerOptions {
    RunnerOptions { concurrency, lease: Duration::from_millis(600), ..RunnerOptions::default() }
}
