//! Jobs that failed for good, for whoever keeps a copy of them.
//!
//! The failed record is the truth and commits with the failure, in one script; a copy is made from it afterwards, by
//! whoever looks. Looking again after a crash finds the same job again, so a copy needs an id of its own.

use crate::base;
use crate::connection::Redis;
use crate::error::QueueError;
use crate::scripts::DEAD;

/// A job that failed for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// Its id in the queue.
    pub id: String,
    /// When it failed, in Unix milliseconds.
    pub failed_ms: u64,
    /// What kind of work.
    pub name: String,
    /// What it was to look at, as it came; not checked.
    pub data: String,
    /// Why it failed.
    pub reason: String,
}

impl Dead {
    /// An id for its copy: a failure is copied once, a later failure of the same job again.
    #[must_use]
    pub fn copy_id(&self) -> String {
        format!("{}-{}", self.id, self.failed_ms)
    }

    /// The job that a copy of this id was made of, and when that failed; `None` for an id that we did not give.
    #[must_use]
    pub fn of_copy(copy_id: &str) -> Option<(String, u64)> {
        let (id, failed_ms) = copy_id.rsplit_once('-')?;
        Some((id.to_owned(), failed_ms.parse().ok()?))
    }
}

/// The failed jobs of one queue.
#[derive(Clone)]
pub struct FailedJobs {
    redis: Redis,
    queue: String,
}

impl FailedJobs {
    /// Those of the queue of that name.
    #[must_use]
    pub fn of(redis: Redis, queue: &str) -> Self {
        Self { redis, queue: queue.to_owned() }
    }

    /// Up to `most` that [`Self::noted`] has not been told of; among the newest 5000, which is what a queue keeps.
    pub async fn not_noted(&self, most: usize) -> Result<Vec<Dead>, QueueError> {
        let mut call = DEAD.prepare_invoke();
        call.key(base(&self.queue)).arg("find").arg(most);
        let found: Vec<(String, u64, String, String, String)> = call.invoke_async(&mut self.redis.shared()).await?;
        let dead =
            found.into_iter().map(|(id, failed_ms, name, data, reason)| Dead { id, failed_ms, name, data, reason });
        Ok(dead.collect())
    }

    /// Notes that nothing further has to be done about these.
    pub async fn noted(&self, dead: &[Dead]) -> Result<(), QueueError> {
        let mut call = DEAD.prepare_invoke();
        call.key(base(&self.queue)).arg("note");
        for dead in dead {
            call.arg(&dead.id).arg(dead.failed_ms);
        }
        let _: Option<i64> = call.invoke_async(&mut self.redis.shared()).await?;
        Ok(())
    }
}
