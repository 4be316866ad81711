//! Budgets, counted in Redis and so shared by all replicas.
//!
//! Requests that arrive at the same time are charged by one script call. One call touches the budgets of many callers,
//! so it needs a Redis that holds all keys: a single node, or a cluster of its own for the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gather::{Gather, Pace};

use crate::connection::Redis;
use crate::error::QueueError;
use crate::now_ms;
use crate::scripts::LIMITS;

/// A call costs as much as ten requests do, so a further one has to carry many.
const PACE: Pace = Pace { most: 256, in_flight: 2, worthwhile: 8 };

/// How long Redis is taken for away after it did not answer: not every request shall wait to find out.
const AWAY: Duration = Duration::from_secs(1);

/// How requests are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In windows that begin with the first request.
    Fixed,
    /// Over the last window, whenever that is: two fixed windows, the older weighted by how much of it still counts.
    Sliding,
}

/// A request's claim on a budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// Whose budget.
    pub key: String,
    /// Requests a window.
    pub budget: u32,
    /// The window, in seconds.
    pub window_s: u32,
    /// How it is counted.
    pub kind: Kind,
}

/// What a budget says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the request may pass.
    pub allowed: bool,
    /// Requests a window.
    pub limit: u32,
    /// Requests left in this one.
    pub remaining: u32,
    /// Seconds until the window ends, rounded up.
    pub reset_s: u32,
}

#[derive(Debug)]
struct Request {
    charges: Vec<Charge>,
    peek: bool,
}

/// Charges requests. Clones share their script calls.
#[derive(Clone)]
pub struct Limits {
    redis: Redis,
    gather: Gather<Request, Result<Vec<Verdict>, QueueError>>,
    /// Milliseconds after `begun` until which Redis is taken for away.
    away_until: Arc<AtomicU64>,
    begun: Instant,
}

impl Limits {
    /// Starts on the current runtime.
    #[must_use]
    pub fn start(redis: Redis) -> Self {
        let asked = redis.clone();
        let gather = Gather::start(PACE, move |requests: Vec<Request>| {
            let redis = asked.clone();
            async move {
                let count = requests.len();
                match charge(&redis, &requests).await {
                    Ok(verdicts) => verdicts.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error); count],
                }
            }
        });
        Self { redis, gather, away_until: Arc::default(), begun: Instant::now() }
    }

    /// Charges one request to its budgets, in order: once one refuses, the rest are not charged. Answers a verdict
    /// each, within `patience`.
    pub async fn check(&self, charges: Vec<Charge>, patience: Duration) -> Result<Vec<Verdict>, QueueError> {
        self.ask(Request { charges, peek: false }, patience).await
    }

    /// What a fixed budget would say, without charging it.
    pub async fn peek(&self, charge: &Charge, patience: Duration) -> Result<Verdict, QueueError> {
        let verdicts = self.ask(Request { charges: vec![charge.clone()], peek: true }, patience).await?;
        verdicts.first().copied().ok_or_else(|| QueueError::Broken("a budget got no verdict".to_owned()))
    }

    /// Forgets what a fixed budget was charged.
    pub async fn clear(&self, key: &str, patience: Duration) -> Result<(), QueueError> {
        let mut connection = self.redis.shared();
        let key = full_key(key);
        let asked = async move { redis::cmd("DEL").arg(key).query_async::<i64>(&mut connection).await };
        match tokio::time::timeout(patience, asked).await {
            Ok(answer) => Ok(answer.map(|_| ())?),
            Err(_) => Err(QueueError::Unavailable("no answer".to_owned())),
        }
    }

    async fn ask(&self, request: Request, patience: Duration) -> Result<Vec<Verdict>, QueueError> {
        let since_begun = || u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if since_begun() < self.away_until.load(Ordering::Relaxed) {
            return Err(QueueError::Unavailable("it did not answer a moment ago".to_owned()));
        }
        let answer = match tokio::time::timeout(patience, self.gather.call(request)).await {
            Ok(answer) => answer.map_err(QueueError::from).flatten(),
            Err(_) => Err(QueueError::Unavailable("no answer".to_owned())),
        };
        if let Err(QueueError::Unavailable(_)) = &answer {
            let until = since_begun() + u64::try_from(AWAY.as_millis()).unwrap_or_default();
            self.away_until.store(until, Ordering::Relaxed);
        }
        answer
    }
}

fn full_key(key: &str) -> String {
    format!("rl:{key}")
}

async fn charge(redis: &Redis, requests: &[Request]) -> Result<Vec<Vec<Verdict>>, QueueError> {
    let mut call = LIMITS.prepare_invoke();
    call.arg(now_ms());
    for Request { charges, peek } in requests {
        call.arg(charges.len());
        for charge in charges {
            let kind = match charge.kind {
                _ if *peek => "peek",
                Kind::Fixed => "fixed",
                Kind::Sliding => "sliding",
            };
            call.key(full_key(&charge.key)).arg(charge.budget).arg(u64::from(charge.window_s) * 1000).arg(kind);
        }
    }
    let answers: Vec<(u8, u32, u64)> = call.invoke_async(&mut redis.shared()).await?;
    let mut answers = answers.into_iter();
    Ok(requests
        .iter()
        .map(|request| {
            request
                .charges
                .iter()
                .zip(answers.by_ref())
                .map(|(charge, (allowed, remaining, left_ms))| Verdict {
                    allowed: allowed == 1,
                    limit: charge.budget,
                    remaining,
                    reset_s: u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX),
                })
                .collect()
        })
        .collect())
}
