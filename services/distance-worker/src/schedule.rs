//! What runs on a clock, in one table.
//!
//! With several workers exactly one runs a turn: whoever moves the task's time on in the database. A worker that dies
//! in the middle loses that turn and no more; every task looks at what is there, so the next one makes up for it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{Months, TimeDelta};
use db::audit::Entry;
use db::intents::Due;
use db::{Db, DbError};
use domain::auth::Actor;
use domain::intent::{IntendedJob, next_try_after};
use domain::job::{Occasion, RecalculateDistance, Snapshot};
use domain::{Clock, OrganizationId, Tenant};
use queue::{NewJob, Producer, QueueError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::dead_letters::DeadLetters;
use crate::jobs::webhooks::chance;
use crate::metrics::Metrics;
use crate::sign_in::{self, Provider};

/// How old a mark must be before the sweep takes it for forgotten: the job that was asked for has had its chance.
const FORGOTTEN: TimeDelta = TimeDelta::seconds(5);

/// Sessions asked for in one sweep at most.
const SWEEP_MOST: i64 = 5000;

/// Jobs put on the queue in one go.
const SWEEP_BATCH: usize = 200;

/// Months of partitions that are always there ahead of time.
const MONTHS_AHEAD: i32 = 3;

/// Retry intents tried in one turn at most.
const INTENTS_MOST: i64 = 100;

/// How long retry intents that are over are kept.
const INTENTS_KEPT: TimeDelta = TimeDelta::hours(72);

/// How often the table is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When a turn that failed may be tried again, at the latest.
const AGAIN_AFTER: TimeDelta = TimeDelta::seconds(30);

/// What runs when.
const TABLE: [(Task, TimeDelta); 12] = [
    (Task::Deliveries, TimeDelta::seconds(5)),
    (Task::Circuits, TimeDelta::seconds(60)),
    (Task::WebhookDeadLetters, TimeDelta::hours(1)),
    (Task::Events, TimeDelta::hours(1)),
    (Task::Sweep, TimeDelta::seconds(5)),
    (Task::DeadLetters, TimeDelta::seconds(5)),
    (Task::Reconcile, TimeDelta::minutes(5)),
    (Task::Retention, TimeDelta::hours(1)),
    (Task::Partitions, TimeDelta::hours(6)),
    (Task::Intents, TimeDelta::seconds(30)),
    (Task::OldIntents, TimeDelta::minutes(15)),
    (Task::SignIn, TimeDelta::seconds(5)),
];

/// Something that runs on a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Asks for the measurement of sessions whose job was lost.
    Sweep,
    /// Copies jobs that failed for good to the queues operators look at.
    DeadLetters,
    /// Has every organization's figures compared with what they are made of. It is also what makes RECENT employees
    /// INACTIVE on dashboards that nothing else touches.
    Reconcile,
    /// Drops months of fixes that need not be kept.
    Retention,
    /// Asks for webhook attempts whose job was lost.
    Deliveries,
    /// Tells webhooks of events again that were left alone for a while.
    Circuits,
    /// Archives webhooks' dead letters that are old or too many.
    WebhookDeadLetters,
    /// Removes old events and deliveries.
    Events,
    /// Makes the partitions of the coming months.
    Partitions,
    /// Tries again to queue jobs of check-outs that could not be queued.
    Intents,
    /// Removes those that were queued or given up a while ago.
    OldIntents,
    /// Tells another identity provider who may sign in and who may not.
    SignIn,
}

impl Task {
    /// Its name in the database and in metrics; never reused for another task.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sweep => "sweep",
            Self::DeadLetters => "dead-letters",
            Self::Reconcile => "reconcile",
            Self::Retention => "retention",
            Self::Deliveries => "webhook-deliveries",
            Self::Circuits => "webhook-circuits",
            Self::WebhookDeadLetters => "webhook-dead-letters",
            Self::Events => "events",
            Self::Partitions => "partitions",
            Self::Intents => "retry-intents",
            Self::OldIntents => "old-intents",
            Self::SignIn => "sign-in",
        }
    }
}

/// A turn came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The database could not do it.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The queue could not do it.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The identity provider could not be told.
    #[error("the identity provider: {0}")]
    Provider(String),
}

/// What the tasks may reach.
#[derive(Clone)]
pub struct Schedule {
    /// The database.
    pub db: Db,
    /// The distance queue.
    pub producer: Producer,
    /// The queue of read models.
    pub snapshots: Producer,
    /// The queue of daily totals.
    pub totals: Producer,
    /// The dead letters of every kind of job.
    pub dead_letters: Vec<DeadLetters>,
    /// `GPS_RETENTION_MONTHS`: whole months of fixes that are kept; `None`: all of them.
    pub keep_months: Option<Months>,
    /// The queue of webhook deliveries.
    pub deliveries: Producer,
    /// `WEBHOOK_DLQ_MAX_SIZE`: dead letters an organization keeps.
    pub dead_letters_most: i64,
    /// `WEBHOOK_DLQ_RETENTION_DAYS`: for how long.
    pub dead_letters_kept: TimeDelta,
    /// `EVENT_RETENTION_DAYS`: how long events and deliveries that are over are kept.
    pub events_kept: TimeDelta,
    /// Another identity provider that is told who may sign in; `None`: there is none, or it cannot be told.
    pub provider: Option<Arc<Provider>>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// What the worker counts.
    pub metrics: Arc<Metrics>,
}

impl Schedule {
    /// Runs what is due, until told to stop; turns that run then may end. A failure is logged and tried again soon.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        // Whatever made measurements fail may have been mended while this process was away.
        if let Err(error) = self.sweep(true).await {
            tracing::warn!(error.message = %error, "the first sweep failed");
        }
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turns = JoinSet::new();
        let mut away = false;
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            match self.take_turns().await {
                Ok(taken) => {
                    away = false;
                    for task in taken {
                        let schedule = self.clone();
                        turns.spawn(async move { schedule.turn(task).await });
                    }
                }
                Err(error) => {
                    if !away {
                        tracing::warn!(error.message = %error, "the schedule cannot be read; trying again");
                    }
                    away = true;
                }
            }
            while turns.try_join_next().is_some() {}
        }
        turns.join_all().await;
    }

    /// Takes the turns that are due and that nobody else takes.
    pub async fn take_turns(&self) -> Result<Vec<Task>, DbError> {
        let now = self.clock.now();
        let mut tx = self.db.system().await?;
        let due = db::schedule::due_times(&mut tx).await?;
        let mut taken = Vec::new();
        for (task, every) in TABLE {
            let at = due.iter().find(|(name, _)| name == task.name()).map(|(_, at)| *at);
            // A clock that was set back must not stop the schedule for as long.
            let is_due = at.is_none_or(|at| at <= now || at > now + every + every);
            if is_due && db::schedule::take_turn(&mut tx, task.name(), at, now, now + every).await? {
                taken.push(task);
            }
        }
        tx.commit().await?;
        Ok(taken)
    }

    /// Runs one turn that was taken; gives it back when it comes to nothing.
    pub async fn turn(&self, task: Task) {
        let done = match task {
            Task::Sweep => self.sweep(false).await.map(|_| ()),
            Task::DeadLetters => self.collect().await,
            Task::Reconcile => self.reconcile().await,
            Task::Retention => self.retention().await,
            Task::Deliveries => self.deliveries().await,
            Task::Circuits => self.circuits().await,
            Task::WebhookDeadLetters => self.webhook_dead_letters().await,
            Task::Events => self.events().await,
            Task::Partitions => self.partitions().await,
            Task::Intents => self.intents().await,
            Task::OldIntents => self.old_intents().await,
            Task::SignIn => self.sign_in().await,
        };
        self.metrics.turn(task.name(), if done.is_ok() { "done" } else { "failed" });
        let Err(error) = done else { return };
        tracing::warn!(task = task.name(), error.message = %error, "a scheduled task failed and will be tried again");
        let again = async {
            let mut tx = self.db.system().await?;
            db::schedule::give_back(&mut tx, task.name(), self.clock.now() + AGAIN_AFTER).await?;
            tx.commit().await
        };
        if let Err(error) = again.await {
            tracing::debug!(task = task.name(), error.message = %error, "a turn could not be given back");
        }
    }

    /// Asks for the measurement of sessions that were marked a while ago; `with_failed` also of those that were given
    /// up. Answers how many.
    pub async fn sweep(&self, with_failed: bool) -> Result<usize, TurnError> {
        let mut tx = self.db.system().await?;
        let overdue = db::attendance::overdue(&mut tx, self.clock.now() - FORGOTTEN, with_failed, SWEEP_MOST).await?;
        tx.commit().await?;
        for jobs in overdue.chunks(SWEEP_BATCH) {
            let jobs = jobs.iter().map(|job: &RecalculateDistance| NewJob::of(job, None));
            self.producer.enqueue_many(jobs.collect::<Result<_, _>>()?).await?;
        }
        Ok(overdue.len())
    }

    async fn collect(&self) -> Result<(), TurnError> {
        for kind in &self.dead_letters {
            kind.collect().await?;
        }
        Ok(())
    }

    async fn reconcile(&self) -> Result<(), TurnError> {
        let mut tx = self.db.system().await?;
        let organizations = db::organizations::all(&mut tx).await?;
        tx.commit().await?;
        for organizations in organizations.chunks(SWEEP_BATCH) {
            let job = |organization: &OrganizationId| {
                let occasion = Occasion::Reconcile;
                NewJob::of(&Snapshot { occasion, organization: *organization, employee: None, expense: None }, None)
            };
            self.snapshots.enqueue_many(organizations.iter().map(job).collect::<Result<_, _>>()?).await?;
        }
        Ok(())
    }

    async fn retention(&self) -> Result<(), TurnError> {
        let Some(months) = self.keep_months else { return Ok(()) };
        let Some(horizon) = self.clock.now().date_naive().checked_sub_months(months) else { return Ok(()) };
        let mut tx = self.db.system().await?;
        let dropped = db::locations::drop_partitions_before(&mut tx, horizon).await?;
        tx.commit().await?;
        if dropped > 0 {
            tracing::info!(dropped, "months of fixes dropped");
        }
        Ok(())
    }

    /// Asks for attempts that were due a while ago and that nobody makes.
    async fn deliveries(&self) -> Result<(), TurnError> {
        let now = self.clock.now();
        let mut tx = self.db.system().await?;
        let overdue = db::webhooks::overdue(&mut tx, now - FORGOTTEN, now, SWEEP_MOST).await?;
        tx.commit().await?;
        for jobs in overdue.chunks(SWEEP_BATCH) {
            let jobs: Result<Vec<NewJob>, QueueError> = jobs
                .iter()
                .map(|job| {
                    NewJob::of(job, None).map(|new| NewJob { priority: if job.attempt > 1 { 2 } else { 1 }, ..new })
                })
                .collect();
            self.deliveries.enqueue_many(jobs?).await?;
        }
        Ok(())
    }

    /// Closes circuits whose time is over.
    async fn circuits(&self) -> Result<(), TurnError> {
        let now = self.clock.now();
        let mut tx = self.db.system().await?;
        let due = db::webhooks::circuits_due(&mut tx, now).await?;
        tx.commit().await?;
        for (organization, webhook) in due {
            let mut tx = self.db.tenant(Tenant::found_by_system(organization)).await?;
            if db::webhooks::close_circuit(&mut tx, webhook, now).await? {
                let entry = Entry::new("CIRCUIT_BREAKER_CLOSED", Actor::System).on("webhook", webhook);
                db::audit::record(&mut tx, &entry, now).await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// Archives dead letters that are old, and the oldest of those that are too many; each is noted in the audit log.
    async fn webhook_dead_letters(&self) -> Result<(), TurnError> {
        let now = self.clock.now();
        let horizon = now - self.dead_letters_kept;
        let mut tx = self.db.system().await?;
        let organizations = db::webhooks::overfull(&mut tx, horizon, self.dead_letters_most).await?;
        tx.commit().await?;
        for organization in organizations {
            let mut tx = self.db.tenant(Tenant::found_by_system(organization)).await?;
            for archived in db::webhooks::archive(&mut tx, horizon, self.dead_letters_most, now).await? {
                let entry = Entry::new("WEBHOOK_DLQ_ARCHIVED", Actor::System)
                    .on("webhook_delivery", archived.delivery_id)
                    .with("reason", archived.reason);
                db::audit::record(&mut tx, &entry, now).await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// Removes events and deliveries that are old and over, some at a time.
    async fn events(&self) -> Result<(), TurnError> {
        loop {
            let mut tx = self.db.system().await?;
            let gone = db::relay::expire(&mut tx, self.clock.now() - self.events_kept, SWEEP_MOST).await?;
            tx.commit().await?;
            if i64::try_from(gone).is_ok_and(|gone| gone < SWEEP_MOST) {
                return Ok(());
            }
        }
    }

    /// Tries to queue what could not be queued at a check-out. A session that was measured since is measured once more,
    /// to the same end.
    async fn intents(&self) -> Result<(), TurnError> {
        let now = self.clock.now();
        let mut tx = self.db.system().await?;
        let due = db::intents::due(&mut tx, now, INTENTS_MOST).await?;
        tx.commit().await?;
        // Outside of any transaction, and all at the same time: they share their calls.
        let mut tries = Vec::with_capacity(due.len());
        for intent in due {
            let schedule = self.clone();
            tries.push(tokio::spawn(async move {
                let tried = schedule.queue(&intent).await;
                (intent, tried)
            }));
        }
        let mut tried = Vec::with_capacity(tries.len());
        for one in tries {
            // A try that panicked has been logged, and is made again at the next turn.
            tried.extend(one.await);
        }
        let mut tx = self.db.system().await?;
        for (intent, outcome) in tried {
            match outcome {
                Ok(()) => db::intents::resolve(&mut tx, &intent, now).await?,
                Err(error) => {
                    let next = next_try_after(intent.failures.saturating_add(1), chance()).map(|delay| now + delay);
                    if next.is_none() {
                        tracing::warn!(error.message = error, "a retry intent was given up; the sweep goes on asking");
                    }
                    db::intents::failed(&mut tx, &intent, &error, next, now).await?;
                }
            }
        }
        Ok(tx.commit().await?)
    }

    /// Puts the job of an intent on its queue; else says why not.
    async fn queue(&self, intent: &Due) -> Result<(), String> {
        let trace = intent.trace.clone();
        let (queue, job) = match &intent.job {
            Some(IntendedJob::Distance(job)) => (&self.producer, NewJob::of(job, trace)),
            Some(IntendedJob::Totals(job)) => (&self.totals, NewJob::of(job, trace)),
            None => return Err("the payload is not one of a job of ours".to_owned()),
        };
        let job = job.map_err(|error| error.to_string())?;
        queue.enqueue(job).await.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Removes retry intents that are over.
    async fn old_intents(&self) -> Result<(), TurnError> {
        loop {
            let mut tx = self.db.system().await?;
            let gone = db::intents::expire(&mut tx, self.clock.now() - INTENTS_KEPT, SWEEP_MOST).await?;
            tx.commit().await?;
            if i64::try_from(gone).is_ok_and(|gone| gone < SWEEP_MOST) {
                return Ok(());
            }
        }
    }

    async fn sign_in(&self) -> Result<(), TurnError> {
        match &self.provider {
            Some(provider) => sign_in::tell_all(&self.db, provider, &self.clock).await,
            None => Ok(()),
        }
    }

    async fn partitions(&self) -> Result<(), TurnError> {
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
