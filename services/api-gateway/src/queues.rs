//! The product's queues, looked at from here: what waits, what was given up, and whether anybody works.

use std::sync::{Mutex, PoisonError};

use domain::job::{
    DISTANCE_LETTERS, DeliverWebhook, METRICS_LETTERS, Payload, RecalculateDistance, SNAPSHOT_LETTERS, Snapshot,
    UpdateMetrics,
};
use queue::{Admin, Done, QueueError, Redis};

/// The queue of each kind of job.
const KINDS: [&str; 4] = [RecalculateDistance::QUEUE, UpdateMetrics::QUEUE, Snapshot::QUEUE, DeliverWebhook::QUEUE];

/// Kinds of jobs that somebody should be there for.
pub const EXPECTED: u64 = KINDS.len() as u64;

/// Measurements whose times are remembered.
const REMEMBERED: usize = 100;

/// Every queue there is.
pub struct Queues {
    redis: Redis,
    /// Measurements.
    pub distance: Admin,
    /// Measurements that were given up.
    pub distance_letters: Admin,
    /// Daily totals.
    pub analytics: Admin,
    /// Daily totals that were given up.
    pub analytics_letters: Admin,
    /// Read models.
    pub snapshots: Admin,
    /// Read models that were given up.
    pub snapshot_letters: Admin,
    /// Attempts at webhooks. Those that were given up are in the database.
    pub deliveries: Admin,
}

impl Queues {
    /// The queues of that Redis.
    #[must_use]
    pub fn of(redis: &Redis) -> Self {
        let queue = |name| Admin::new(redis.clone(), name);
        Self {
            distance: queue(RecalculateDistance::QUEUE),
            distance_letters: queue(DISTANCE_LETTERS),
            analytics: queue(UpdateMetrics::QUEUE),
            analytics_letters: queue(METRICS_LETTERS),
            snapshots: queue(Snapshot::QUEUE),
            snapshot_letters: queue(SNAPSHOT_LETTERS),
            deliveries: queue(DeliverWebhook::QUEUE),
            redis: redis.clone(),
        }
    }

    /// Each queue by its name, with the one its dead letters are on.
    #[must_use]
    pub const fn each(&self) -> [(&'static str, &Admin, Option<&Admin>); 4] {
        [
            (RecalculateDistance::QUEUE, &self.distance, Some(&self.distance_letters)),
            (UpdateMetrics::QUEUE, &self.analytics, Some(&self.analytics_letters)),
            (Snapshot::QUEUE, &self.snapshots, Some(&self.snapshot_letters)),
            (DeliverWebhook::QUEUE, &self.deliveries, None),
        ]
    }

    /// Whether Redis answers, within 2 s.
    pub async fn ping(&self) -> Result<(), QueueError> {
        self.redis.ping().await
    }

    /// Kinds of jobs that some worker is there for.
    pub async fn kinds_served(&self) -> Result<u64, QueueError> {
        let workers = self.redis.workers(&KINDS).await?;
        Ok(workers.into_iter().filter(|workers| *workers > 0).count() as u64)
    }

    /// When a job of any kind was done last, in Unix milliseconds.
    pub async fn last_done_ms(&self) -> Result<Option<u64>, QueueError> {
        let mut last = None;
        for (_, queue, _) in self.each() {
            last = last.max(queue.last_done(1).await?.first().map(|done| done.at_ms));
        }
        Ok(last)
    }
}

/// Measurements since this process started: its own, and those of workers as far as Redis counts them.
#[derive(Debug, Default)]
pub struct Recalculations(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Made here, while somebody waited.
    own: u64,
    /// The last of them, oldest first.
    last: Vec<Done>,
    /// What the workers' counter said first.
    counted_before: Option<u64>,
}

impl Recalculations {
    /// Notes one that was made here.
    pub fn made(&self, done: Done) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.own += 1;
        if known.last.len() == REMEMBERED {
            known.last.remove(0);
        }
        known.last.push(done);
    }

    /// How many there were, when the workers' counter says `counted`. What it says first counts as before our time.
    pub fn total(&self, counted: u64) -> u64 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.counted_before.get_or_insert(counted);
        if counted < *before {
            // Redis was lost, and counts from the beginning.
            *before = 0;
        }
        let theirs = counted - *before;
        known.own + theirs
    }

    /// How long the last hundred took on average, in whole milliseconds: of those made here and those of workers. 0 when
    /// there was none.
    pub async fn average_ms(&self, queue: &Admin) -> Result<u64, QueueError> {
        let mut last = queue.last_done(REMEMBERED).await?;
        last.extend(self.0.lock().unwrap_or_else(PoisonError::into_inner).last.iter().copied());
        last.sort_unstable_by_key(|done| std::cmp::Reverse(done.at_ms));
        last.truncate(REMEMBERED);
        let count = last.len() as u64;
        let sum: u64 = last.iter().map(|done| done.took_ms).sum();
        Ok((sum + count / 2).checked_div(count).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_counted_from_the_start_of_the_process_also_when_redis_forgets() {
        let known = Recalculations::default();
        assert_eq!(known.total(40), 0);
        known.made(Done { at_ms: 1, took_ms: 5 });
        assert_eq!(known.total(43), 4);
        assert_eq!(known.total(2), 3);
        assert_eq!(known.total(5), 6);
    }
}
