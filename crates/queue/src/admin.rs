//! Looking at a queue, and holding it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::connection::Redis;
use crate::error::QueueError;
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
        let list: String =
            redis::cmd("CLIENT").arg("LIST").arg("TYPE").arg("normal").query_async(&mut self.redis.shared()).await?;
        let name = format!("name={}", worker_name(&self.queue));
        Ok(list.lines().filter(|line| line.split(' ').any(|word| word == name)).count() as u64)
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

/// The name by which BullMQ's tools know the connection of a worker.
pub(crate) fn worker_name(queue: &str) -> String {
    format!("{PREFIX}:{}", STANDARD.encode(queue))
}
