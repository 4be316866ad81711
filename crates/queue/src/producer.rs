//! Asking for work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::job::Payload;
use gather::{Gather, Pace};
use serde::Serialize;
use uuid::Uuid;

use crate::connection::Redis;
use crate::error::QueueError;
use crate::scripts::ENQUEUE;
use crate::{base, millis, now_ms};

/// Jobs in a script call at most, so that it never holds Redis for long.
const MOST: usize = 200;

/// Whatever arrives while two calls are under way shares the next.
const PACE: Pace = Pace { most: MOST, in_flight: 2, worthwhile: 1 };

/// Attempts of our own jobs.
const ATTEMPTS: u32 = 5;

/// Jobs of one organization that wait in the order of arrival, like everybody's. Further ones stand behind the first
/// jobs of all others, so a flood of one delays the others by about so many jobs.
const SHARE: u32 = 16;

/// First delay between attempts; it doubles each time.
const BACKOFF: Duration = Duration::from_secs(1);

/// Two jobs that would do the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deduplication {
    /// What they would do.
    pub id: String,
    /// While one runs, whether the last of those that come is kept and runs afterwards; else it is dropped.
    pub keep_last_if_active: bool,
}

/// A job to be.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// What kind of work.
    pub name: String,
    /// What to look at, as JSON.
    pub data: String,
    /// An id of its own; a job of that id that exists in any state, finished included, wins. Generated when absent.
    pub id: Option<String>,
    /// What it must not do twice.
    pub deduplication: Option<Deduplication>,
    /// How often it may be tried.
    pub attempts: u32,
    /// First delay between attempts; it doubles each time.
    pub backoff: Duration,
    /// How long it waits before it may run.
    pub delay: Duration,
    /// 0: in the order of arrival; from 1 on, after those, the lowest number first.
    pub priority: u32,
    /// The trace and the request it comes from, as JSON.
    pub carrier: Option<String>,
    /// For whom: organizations get fair shares. Jobs of nobody wait in the order of arrival.
    pub organization: Option<Uuid>,
}

impl NewJob {
    /// A job with the defaults of our own: 5 attempts, 1 s doubling between them, at once.
    #[must_use]
    pub fn new(name: &str, data: String) -> Self {
        Self {
            name: name.to_owned(),
            data,
            id: None,
            deduplication: None,
            attempts: ATTEMPTS,
            backoff: BACKOFF,
            delay: Duration::ZERO,
            priority: 0,
            carrier: None,
            organization: None,
        }
    }

    /// A job of that payload, as its kind travels: to be put on the queue of that kind. `carrier` holds the trace and the
    /// request it comes from.
    pub fn of<P: Payload>(payload: &P, carrier: Option<String>) -> Result<Self, QueueError> {
        let data = serde_json::to_string(payload).map_err(|error| QueueError::Broken(error.to_string()))?;
        let mut job = Self { attempts: P::ATTEMPTS, backoff: P::BACKOFF, delay: P::DELAY, ..Self::new(P::NAME, data) };
        if let Some(id) = payload.deduplication() {
            job.deduplicate(id);
        }
        job.organization = payload.organization().map(domain::OrganizationId::uuid);
        job.carrier = carrier;
        Ok(job)
    }

    /// Makes it collapse into a waiting job of the same `id`; while one runs, the last that comes runs afterwards.
    pub fn deduplicate(&mut self, id: String) {
        self.deduplication = Some(Deduplication { id, keep_last_if_active: true });
    }

    /// Its options as BullMQ writes them, short names included.
    fn options(&self) -> Result<String, QueueError> {
        let options = Options {
            attempts: self.attempts,
            backoff: Exponential { r#type: "exponential", delay: millis(self.backoff) },
            delay: (!self.delay.is_zero()).then(|| millis(self.delay)),
            priority: (self.priority > 0).then_some(self.priority),
            de: self.deduplication.as_ref().map(|Deduplication { id, keep_last_if_active }| Claim {
                id,
                keep_last_if_active: *keep_last_if_active,
            }),
            tm: self.carrier.as_deref(),
        };
        serde_json::to_string(&options).map_err(|error| QueueError::Broken(error.to_string()))
    }
}

/// Options of a job as BullMQ reads them.
#[derive(Serialize)]
struct Options<'a> {
    attempts: u32,
    backoff: Exponential,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    de: Option<Claim<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tm: Option<&'a str>,
}

#[derive(Serialize)]
struct Exponential {
    r#type: &'static str,
    /// In milliseconds.
    delay: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Claim<'a> {
    id: &'a str,
    keep_last_if_active: bool,
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enqueued {
    /// It waits, by this id.
    Added(String),
    /// The job of this id does, or will do, the same.
    Deduplicated(String),
    /// There is a job of this id already.
    Duplicate(String),
}

/// Puts jobs on one queue. Clones share their script calls.
#[derive(Clone)]
pub struct Producer {
    door: Arc<Door>,
    gather: Gather<NewJob, Result<Enqueued, QueueError>>,
}

/// Where jobs go in.
struct Door {
    redis: Redis,
    queue: String,
    /// Jobs that may wait; 0: any number.
    most: u64,
    /// Whether a job is on its way that came alone.
    passing: AtomicBool,
}

/// A job that goes in alone.
struct Passing<'a>(&'a AtomicBool);

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Producer {
    /// Starts on the current runtime. The queue may become as deep as it has to.
    #[must_use]
    pub fn start(redis: Redis, queue: &str) -> Self {
        Self::bounded(redis, queue, 0)
    }

    /// Starts on the current runtime; jobs beyond `most` waiting and delayed ones are refused. 0: any number.
    #[must_use]
    pub fn bounded(redis: Redis, queue: &str, most: u64) -> Self {
        let door = Arc::new(Door { redis, queue: queue.to_owned(), most, passing: AtomicBool::new(false) });
        let gather = Gather::start(PACE, {
            let door = Arc::clone(&door);
            move |jobs: Vec<NewJob>| {
                let door = Arc::clone(&door);
                async move { door.add(&jobs).await.unwrap_or_else(|error| vec![Err(error); jobs.len()]) }
            }
        });
        Self { door, gather }
    }

    /// Asks for a job. One that comes alone goes at once, in the caller's own task, for waking another would take as long
    /// as the way to Redis; jobs asked for meanwhile travel together.
    ///
    /// If the returned future is dropped, the job may have been added or not.
    pub async fn enqueue(&self, job: NewJob) -> Result<Enqueued, QueueError> {
        if self.door.passing.swap(true, Ordering::Relaxed) {
            return self.gather.call(job).await?;
        }
        let _passing = Passing(&self.door.passing);
        let answer = self.door.add(&[job]).await?.pop();
        answer.unwrap_or_else(|| Err(QueueError::Broken("a job got no answer".to_owned())))
    }

    /// Asks for many; answers in the same order, or with the first thing that went wrong. Some may have been added then.
    pub async fn enqueue_many(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>, QueueError> {
        let mut answers = Vec::with_capacity(jobs.len());
        for some in jobs.chunks(MOST) {
            for answer in self.door.add(some).await? {
                answers.push(answer?);
            }
        }
        Ok(answers)
    }
}

impl Door {
    /// One script call.
    async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Result<Enqueued, QueueError>>, QueueError> {
        let mut call = ENQUEUE.prepare_invoke();
        call.key(base(&self.queue)).arg(now_ms()).arg(self.most).arg(SHARE).arg(jobs.len());
        // What neighbours have in common is told once: each argument costs Redis a quarter of a microsecond.
        for group in jobs.chunk_by(|one, next| shared(one) == shared(next)) {
            let (name, delay, priority, keep_last, particular) = shared(&group[0]);
            call.arg(group.len()).arg(name).arg(millis(delay)).arg(priority);
            call.arg(i32::from(keep_last)).arg(i32::from(particular));
            for job in group {
                call.arg(&job.data).arg(job.options()?);
                if particular {
                    call.arg(job.id.as_deref().unwrap_or_default())
                        .arg(job.deduplication.as_ref().map_or("", |deduplication| deduplication.id.as_str()))
                        .arg(job.organization.map(|organization| organization.to_string()).unwrap_or_default());
                }
            }
        }
        let answers: Vec<(String, String)> = call.invoke_async(&mut self.redis.shared()).await?;
        Ok(answers
            .into_iter()
            .map(|(outcome, id)| match outcome.as_str() {
                "added" => Ok(Enqueued::Added(id)),
                "deduplicated" => Ok(Enqueued::Deduplicated(id)),
                "duplicate" => Ok(Enqueued::Duplicate(id)),
                "overloaded" => Err(QueueError::Overloaded { queue: self.queue.clone(), depth: self.most }),
                other => Err(QueueError::Broken(format!("enqueue answered {other:?}"))),
            })
            .collect())
    }
}

/// What jobs of one call may have in common: name, delay, priority, whether the last one asked for is kept, and whether
/// there is more to say than data and options.
fn shared(job: &NewJob) -> (&str, Duration, u32, bool, bool) {
    let keep_last = job.deduplication.as_ref().is_some_and(|deduplication| deduplication.keep_last_if_active);
    let particular = job.id.is_some() || job.deduplication.is_some() || job.organization.is_some();
    (&job.name, job.delay, job.priority, keep_last, particular)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn options_are_written_as_bullmq_reads_them() {
        let mut job = NewJob::new("recalculate", "{}".to_owned());
        job.deduplicate("s-1".to_owned());
        job.carrier = Some(r#"{"traceparent":"00"}"#.to_owned());
        job.delay = Duration::from_millis(1500);
        let options: Value = serde_json::from_str(&job.options().unwrap()).unwrap();
        assert_eq!(
            options,
            json!({
                "attempts": 5,
                "backoff": { "type": "exponential", "delay": 1000 },
                "delay": 1500,
                "de": { "id": "s-1", "keepLastIfActive": true },
                "tm": "{\"traceparent\":\"00\"}",
            })
        );
    }
}
