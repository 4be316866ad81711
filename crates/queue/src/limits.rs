//! Budgets, counted in Redis and so shared by all replicas.
//!
//! Requests that arrive at the same time are charged by one script call. One call touches the budgets of many callers,
//! so it needs a Redis that holds all keys: a single node, or a cluster of its own for the queue.

use std::collections::HashMap;
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

    /// Takes what one may have at a time, for so long. `Some`: somebody has it, for so long yet. [`Self::clear`] gives it
    /// back before its time.
    pub async fn take(&self, key: &str, lasting: Duration) -> Result<Option<Duration>, QueueError> {
        let key = full_key(key);
        let (taken, left_ms): (Option<String>, i64) = redis::pipe()
            .atomic()
            .cmd("SET")
            .arg(&key)
            .arg(1)
            .arg("NX")
            .arg("PX")
            .arg(u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX))
            .pttl(&key)
            .query_async(&mut self.redis.shared())
            .await?;
        let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
        Ok(if taken.is_some() { None } else { Some(left) })
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

/// Charges of one call, as the script reads them: every budget once, and who is charged to which.
#[derive(Default)]
struct Call {
    keys: Vec<String>,
    places: HashMap<String, u16>,
    budgets: Vec<u8>,
    charges: Vec<u8>,
}

const BEGINS_REQUEST: u16 = 0x8000;
const LOOKS: u16 = 0x4000;
/// Bytes of an answer: allowed, remaining, ms left.
const ANSWER: usize = 9;

impl Call {
    fn of(requests: &[Request]) -> Self {
        let mut call = Self::default();
        for Request { charges, peek } in requests {
            for (number, charge) in charges.iter().enumerate() {
                let mut which = call.place_of(charge);
                which |= if number == 0 { BEGINS_REQUEST } else { 0 };
                which |= if *peek { LOOKS } else { 0 };
                call.charges.extend_from_slice(&which.to_le_bytes());
            }
        }
        call
    }

    /// Where a budget stands, from 1. A call carries at most [`PACE`]`.most` requests of a few charges each.
    fn place_of(&mut self, charge: &Charge) -> u16 {
        if let Some(place) = self.places.get(&charge.key) {
            return *place;
        }
        self.keys.push(full_key(&charge.key));
        let window_ms = charge.window_s.saturating_mul(1000);
        self.budgets.extend_from_slice(&charge.budget.to_le_bytes());
        self.budgets.extend_from_slice(&window_ms.to_le_bytes());
        self.budgets.push(u8::from(charge.kind == Kind::Sliding));
        let place = u16::try_from(self.keys.len()).unwrap_or(u16::MAX);
        self.places.insert(charge.key.clone(), place);
        place
    }
}

async fn charge(redis: &Redis, requests: &[Request]) -> Result<Vec<Vec<Verdict>>, QueueError> {
    let Call { keys, budgets, charges, .. } = Call::of(requests);
    let mut call = LIMITS.prepare_invoke();
    for key in keys {
        call.key(key);
    }
    let answers: Vec<u8> = call.arg(now_ms()).arg(budgets).arg(&charges).invoke_async(&mut redis.shared()).await?;
    if answers.len() != charges.len() / 2 * ANSWER {
        return Err(QueueError::Broken("the budgets did not answer every charge".to_owned()));
    }
    let mut answers = answers.chunks_exact(ANSWER);
    Ok(requests
        .iter()
        .map(|request| {
            request.charges.iter().zip(answers.by_ref()).map(|(charge, answer)| verdict(charge, answer)).collect()
        })
        .collect())
}

fn verdict(charge: &Charge, answer: &[u8]) -> Verdict {
    let number =
        |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    Verdict {
        allowed: answer.first() == Some(&1),
        limit: charge.budget,
        remaining: number(1),
        reset_s: number(5).div_ceil(1000),
    }
}
