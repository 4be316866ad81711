//! Asking for work.

use std::time::Duration;

use domain::job::Payload;
use gather::{Gather, Pace};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::connection::Redis;
use crate::error::QueueError;
use crate::scripts::ENQUEUE;
use crate::{base, now_ms};

/// A script never holds Redis for long; whatever arrives while two are under way shares the next.
const PACE: Pace = Pace { most: 200, in_flight: 2, worthwhile: 1 };

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
    fn options(&self) -> String {
        let mut options = Map::new();
        options.insert("attempts".to_owned(), self.attempts.into());
        let backoff = json!({ "type": "exponential", "delay": millis(self.backoff) });
        options.insert("backoff".to_owned(), backoff);
        if !self.delay.is_zero() {
            options.insert("delay".to_owned(), millis(self.delay).into());
        }
        if self.priority > 0 {
            options.insert("priority".to_owned(), self.priority.into());
        }
        if let Some(Deduplication { id, keep_last_if_active }) = &self.deduplication {
            options.insert("de".to_owned(), json!({ "id": id, "keepLastIfActive": keep_last_if_active }));
        }
        if let Some(carrier) = &self.carrier {
            options.insert("tm".to_owned(), carrier.as_str().into());
        }
        Value::Object(options).to_string()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
    gather: Gather<NewJob, Result<Enqueued, QueueError>>,
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
        let queue = queue.to_owned();
        let gather = Gather::start(PACE, move |jobs: Vec<NewJob>| {
            let (redis, queue) = (redis.clone(), queue.clone());
            async move {
                let count = jobs.len();
                match add(&redis, &queue, most, &jobs).await {
                    Ok(answers) => answers,
                    Err(error) => vec![Err(error); count],
                }
            }
        });
        Self { gather }
    }

    /// Asks for a job. Jobs asked for at the same time travel together.
    pub async fn enqueue(&self, job: NewJob) -> Result<Enqueued, QueueError> {
        self.gather.call(job).await?
    }

    /// Asks for many; answers in the same order, or with the first thing that went wrong.
    pub async fn enqueue_many(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>, QueueError> {
        futures_util::future::join_all(jobs.into_iter().map(|job| self.enqueue(job))).await.into_iter().collect()
    }
}

async fn add(
    redis: &Redis,
    queue: &str,
    most: u64,
    jobs: &[NewJob],
) -> Result<Vec<Result<Enqueued, QueueError>>, QueueError> {
    let mut call = ENQUEUE.prepare_invoke();
    call.key(base(queue)).arg(now_ms()).arg(most).arg(SHARE).arg(jobs.len());
    // What neighbours have in common is told once: each argument costs Redis a quarter of a microsecond.
    for group in jobs.chunk_by(|one, next| shared(one) == shared(next)) {
        let (name, delay, priority, keep_last, particular) = shared(&group[0]);
        call.arg(group.len()).arg(name).arg(millis(delay)).arg(priority);
        call.arg(i32::from(keep_last)).arg(i32::from(particular));
        for job in group {
            call.arg(&job.data).arg(job.options());
            if particular {
                call.arg(job.id.as_deref().unwrap_or_default())
                    .arg(job.deduplication.as_ref().map_or("", |deduplication| deduplication.id.as_str()))
                    .arg(job.organization.map(|organization| organization.to_string()).unwrap_or_default());
            }
        }
    }
    let answers: Vec<(String, String)> = call.invoke_async(&mut redis.shared()).await?;
    Ok(answers
        .into_iter()
        .map(|(outcome, id)| match outcome.as_str() {
            "added" => Ok(Enqueued::Added(id)),
            "deduplicated" => Ok(Enqueued::Deduplicated(id)),
            "duplicate" => Ok(Enqueued::Duplicate(id)),
            "overloaded" => Err(QueueError::Overloaded { queue: queue.to_owned(), depth: most }),
            other => Err(QueueError::Broken(format!("enqueue answered {other:?}"))),
        })
        .collect())
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
    use super::*;

    #[test]
    fn options_are_written_as_bullmq_reads_them() {
        let mut job = NewJob::new("recalculate", "{}".to_owned());
        job.deduplicate("s-1".to_owned());
        job.carrier = Some(r#"{"traceparent":"00"}"#.to_owned());
        job.delay = Duration::from_millis(1500);
        let options: Value = serde_json::from_str(&job.options()).unwrap();
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
