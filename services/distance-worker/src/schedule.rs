//! What runs on a clock, in one table. Every task is harmless when several workers run it at once.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use db::{Db, DbError};
use domain::Clock;
use domain::job::RecalculateDistance;
use queue::{NewJob, Producer};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// How old a mark must be before the sweep takes it for forgotten: the job that was asked for has had its chance.
const FORGOTTEN: TimeDelta = TimeDelta::seconds(5);

/// Sessions asked for in one sweep at most.
const SWEEP_MOST: i64 = 5000;

/// Jobs put on the queue in one go.
const SWEEP_BATCH: usize = 200;

/// Months of partitions that are always there ahead of time.
const MONTHS_AHEAD: i32 = 3;

/// The clock's hands: what they reach, and how often.
const TABLE: [(Task, Duration); 2] =
    [(Task::Sweep, Duration::from_secs(5)), (Task::Partitions, Duration::from_secs(6 * 3600))];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// Asks for the measurement of sessions whose job was lost.
    Sweep,
    /// Makes the partitions of the coming months.
    Partitions,
}

/// What the tasks may reach.
#[derive(Clone)]
pub struct Schedule {
    /// The database.
    pub db: Db,
    /// The distance queue.
    pub producer: Producer,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

impl Schedule {
    /// Runs every task at once and then at its own pace, until told to stop. A failure is logged and tried again at
    /// the next turn.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let tasks = TABLE.map(|(task, every)| {
            let (schedule, mut stop) = (self.clone(), stop.clone());
            tokio::spawn(async move {
                let mut turns = tokio::time::interval(every);
                turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut first = true;
                loop {
                    tokio::select! {
                        _ = turns.tick() => {}
                        _ = stop.wait_for(|stop| *stop) => return,
                    }
                    if let Err(error) = schedule.turn(task, first).await {
                        tracing::warn!(task = ?task, error.message = %error, "a scheduled task failed and will be tried again");
                    } else {
                        first = false;
                    }
                }
            })
        });
        for task in tasks {
            let _ = task.await;
        }
    }

    async fn turn(&self, task: Task, first: bool) -> Result<(), DbError> {
        match task {
            Task::Sweep => self.sweep(first).await.map(|_| ()),
            Task::Partitions => self.partitions().await,
        }
    }

    /// Asks for the measurement of sessions that were marked a while ago, and at the first turn of a process also of
    /// those that were given up: whatever was wrong may have been mended. Answers how many.
    pub async fn sweep(&self, with_failed: bool) -> Result<usize, DbError> {
        let mut tx = self.db.system().await?;
        let overdue = db::attendance::overdue(&mut tx, self.clock.now() - FORGOTTEN, with_failed, SWEEP_MOST).await?;
        tx.commit().await?;
        for jobs in overdue.chunks(SWEEP_BATCH) {
            let jobs = jobs.iter().filter_map(distance_job).collect();
            if let Err(error) = self.producer.enqueue_many(jobs).await {
                tracing::debug!(error.message = %error, "the sweep could not reach the queue");
                break;
            }
        }
        Ok(overdue.len())
    }

    async fn partitions(&self) -> Result<(), DbError> {
        let mut tx = self.db.system().await?;
        let today = self.clock.now().date_naive();
        let made = db::locations::ensure_partitions_ahead(&mut tx, today, MONTHS_AHEAD).await?;
        tx.commit().await?;
        if made > 0 {
            tracing::info!(made, "partitions made");
        }
        Ok(())
    }
}

fn distance_job(job: &RecalculateDistance) -> Option<NewJob> {
    let mut new = NewJob::new(RecalculateDistance::NAME, serde_json::to_string(job).ok()?);
    new.deduplicate(job.session.to_string());
    new.organization = job.organization.map(domain::OrganizationId::uuid);
    Some(new)
}
