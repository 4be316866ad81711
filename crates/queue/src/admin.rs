//! Looking at a queue, and holding it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::connection::Redis;
use crate::error::QueueError;
use crate::scripts::DISCARD;
use crate::{PREFIX, base, now_ms};

/// How many jobs are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Waiting in the order of arrival.
    pub waiting: u64,
    /// Waiting by priority.
    pub prioritized: u64,
    /// Waiting for their time.
    pub delayed: u64,
    /// Running.
    pub active: u64,
    /// Done and kept.
    pub completed: u64,
    /// Given up and kept.
    pub failed: u64,
    /// Whether jobs are held back.
    pub paused: bool,
}

impl Counts {
    /// Jobs that are still to be begun, delayed ones included.
    #[must_use]
    pub const fn depth(&self) -> u64 {
        self.waiting + self.prioritized + self.delayed
    }
}

/// A job that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// How long its last run took, in milliseconds.
    pub took_ms: u64,
}

/// A job that waits, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its id.
    pub id: String,
    /// What it is to look at, as JSON; not checked.
    pub data: String,
}

/// Jobs whose contents are asked for in one go.
const READ_AT_ONCE: usize = 500;

/// Jobs removed by one call.
const DISCARDED_AT_ONCE: usize = 200;

/// Looks at one queue, and holds it.
#[derive(Clone)]
pub struct Admin {
    redis: Redis,
    queue: String,
}

impl Admin {
    /// The queue of that name.
    #[must_use]
    pub fn new(redis: Redis, queue: &str) -> Self {
        Self { redis, queue: queue.to_owned() }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", base(&self.queue))
    }

    /// Whether Redis answers, within 2 s.
    pub async fn ping(&self) -> Result<(), QueueError> {
        self.redis.ping().await
    }

    /// How many jobs are in which state.
    pub async fn counts(&self) -> Result<Counts, QueueError> {
        let (waiting, prioritized, delayed, active, completed, failed, paused) = redis::pipe()
            .llen(self.key("wait"))
            .zcard(self.key("prioritized"))
            .zcard(self.key("delayed"))
            .llen(self.key("active"))
            .zcard(self.key("completed"))
            .zcard(self.key("failed"))
            .hexists(self.key("meta"), "paused")
            .query_async(&mut self.redis.shared())
            .await?;
        Ok(Counts { waiting, prioritized, delayed, active, completed, failed, paused })
    }

    /// How long the job that is next has waited, in milliseconds; 0 when none waits.
    pub async fn oldest_age_ms(&self) -> Result<u64, QueueError> {
        let mut connection = self.redis.shared();
        let next: Option<String> =
            redis::cmd("LINDEX").arg(self.key("wait")).arg(-1).query_async(&mut connection).await?;
        let next = match next {
            Some(next) => Some(next),
            None => {
                let first: Vec<String> = redis::cmd("ZRANGE")
                    .arg(self.key("prioritized"))
                    .arg(0)
                    .arg(0)
                    .query_async(&mut connection)
                    .await?;
                first.into_iter().next()
            }
        };
        let Some(next) = next else { return Ok(0) };
        let since: Option<u64> =
            redis::cmd("HGET").arg(self.key(&next)).arg("timestamp").query_async(&mut connection).await?;
        Ok(since.map_or(0, |since| now_ms().saturating_sub(since)))
    }

    /// Worker processes that listen to the queue now.
    pub async fn workers(&self) -> Result<u64, QueueError> {
        Ok(self.redis.workers(&[&self.queue]).await?.into_iter().sum())
    }

    /// How many jobs were done since Redis knows the queue, those that are not kept included.
    pub async fn done(&self) -> Result<u64, QueueError> {
        let key = self.key("metrics:completed");
        let done: Option<u64> = redis::cmd("HGET").arg(key).arg("count").query_async(&mut self.redis.shared()).await?;
        Ok(done.unwrap_or(0))
    }

    /// The jobs that were done last and are kept, newest first, at most `most`.
    pub async fn last_done(&self, most: usize) -> Result<Vec<Done>, QueueError> {
        if most == 0 {
            return Ok(Vec::new());
        }
        let mut connection = self.redis.shared();
        let ended: Vec<(String, u64)> = redis::cmd("ZREVRANGE")
            .arg(self.key("completed"))
            .arg(0)
            .arg(most - 1)
            .arg("WITHSCORES")
            .query_async(&mut connection)
            .await?;
        if ended.is_empty() {
            return Ok(Vec::new());
        }
        let mut ask = redis::pipe();
        for (id, _) in &ended {
            ask.hget(self.key(id), "processedOn");
        }
        let begun: Vec<Option<u64>> = ask.query_async(&mut connection).await?;
        // A record may be forgotten between the two questions.
        let done = ended
            .into_iter()
            .zip(begun)
            .filter_map(|((_, at_ms), begun)| begun.map(|begun| Done { at_ms, took_ms: at_ms.saturating_sub(begun) }));
        Ok(done.collect())
    }

    /// Every job that waits in the order of arrival, the oldest first.
    pub async fn waiting(&self) -> Result<Vec<Waiting>, QueueError> {
        let mut connection = self.redis.shared();
        let mut ids: Vec<String> =
            redis::cmd("LRANGE").arg(self.key("wait")).arg(0).arg(-1).query_async(&mut connection).await?;
        ids.reverse();
        let mut jobs = Vec::with_capacity(ids.len());
        for ids in ids.chunks(READ_AT_ONCE) {
            let mut ask = redis::pipe();
            for id in ids {
                ask.hget(self.key(id), "data");
            }
            let data: Vec<Option<String>> = ask.query_async(&mut connection).await?;
            let known = ids.iter().zip(data).filter_map(|(id, data)| data.map(|data| Waiting { id: id.clone(), data }));
            jobs.extend(known);
        }
        Ok(jobs)
    }

    /// Removes jobs that wait; answers how many were still there.
    pub async fn discard_waiting(&self, ids: &[String]) -> Result<u64, QueueError> {
        let jobs: Vec<(&str, Option<u64>)> = ids.iter().map(|id| (id.as_str(), None)).collect();
        self.discard(&jobs).await
    }

    /// Removes jobs that failed for good at those moments (Unix milliseconds) and that nobody repeated since; answers how
    /// many were still there.
    pub async fn discard_failed(&self, jobs: &[(String, u64)]) -> Result<u64, QueueError> {
        let jobs: Vec<(&str, Option<u64>)> = jobs.iter().map(|(id, at)| (id.as_str(), Some(*at))).collect();
        self.discard(&jobs).await
    }

    async fn discard(&self, jobs: &[(&str, Option<u64>)]) -> Result<u64, QueueError> {
        let mut gone = 0;
        for jobs in jobs.chunks(DISCARDED_AT_ONCE) {
            let mut call = DISCARD.prepare_invoke();
            call.key(base(&self.queue));
            for (id, failed_ms) in jobs {
                call.arg(*id).arg(failed_ms.map(|at| at.to_string()).unwrap_or_default());
            }
            gone += call.invoke_async::<u64>(&mut self.redis.shared()).await?;
        }
        Ok(gone)
    }

    /// Lets no further job start; those that run end.
    pub async fn pause(&self) -> Result<(), QueueError> {
        let (meta, marker) = (self.key("meta"), self.key("marker"));
        let _: () =
            redis::pipe().atomic().hset(meta, "paused", 1).del(marker).query_async(&mut self.redis.shared()).await?;
        Ok(())
    }

    /// Lets jobs start again.
    pub async fn resume(&self) -> Result<(), QueueError> {
        let (meta, marker) = (self.key("meta"), self.key("marker"));
        let _: () = redis::pipe()
            .atomic()
            .hdel(meta, "paused")
            .zadd(marker, "0", 0)
            .query_async(&mut self.redis.shared())
            .await?;
        Ok(())
    }
}

impl Redis {
    /// Worker processes that listen to each of these queues now.
    pub async fn workers(&self, queues: &[&str]) -> Result<Vec<u64>, QueueError> {
        let list: String =
            redis::cmd("CLIENT").arg("LIST").arg("TYPE").arg("normal").query_async(&mut self.shared()).await?;
        let names: Vec<&str> =
            list.lines().filter_map(|line| line.split(' ').find_map(|word| word.strip_prefix("name="))).collect();
        let listening = |queue: &&str| {
            let wanted = worker_name(queue);
            names.iter().filter(|name| **name == wanted).count() as u64
        };
        Ok(queues.iter().map(listening).collect())
    }
}

/// The name by which BullMQ's tools know the connection of a worker.
pub(crate) fn worker_name(queue: &str) -> String {
    format!("{PREFIX}:{}", STANDARD.encode(queue))
}
