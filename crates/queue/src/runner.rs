//! Taking jobs, doing them, and staying in charge of them meanwhile.
//!
//! A runner has as many slots as jobs it may run at once and never takes more. One call to Redis ends what was
//! finished and takes what is next ([`STEP`]); results that come in during a call share the next one, so a busy worker
//! pays a fraction of a round trip a job. An idle one waits to be called ([`Idle`]); a connection of its own listens to
//! BullMQ's doorbell.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{Fuse, FusedFuture};
use redis::RedisError;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::connection::Redis;
use crate::error::QueueError;
use crate::idle::{BLOCK, Call, Idle};
use crate::scripts::{BEAT, LEAVE, STEP, TICK};
use crate::{base, millis, now_ms};

/// How often a worker that was told to stop ends its own wait, until it has heard of it.
const INTERRUPT_EVERY: Duration = Duration::from_millis(50);

/// As the newest ticket: there may be one that nobody here knows of, so none is taken for new until the next one is seen.
const UNKNOWN: &str = "18446744073709551615-18446744073709551615";

/// How often the queue is kept in order when nothing rings.
const TICK_EVERY: Duration = Duration::from_secs(1);

/// How often jobs that nobody holds are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(15);

/// How long to wait before Redis is tried again.
const AWAY: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];

/// A job as its handler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id in the queue.
    pub id: String,
    /// What kind of work.
    pub name: String,
    /// What to look at, as JSON; not checked.
    pub data: String,
    /// Runs so far, this one included.
    pub attempts_started: u32,
    /// Runs that ended so far.
    pub attempts_made: u32,
    /// Runs it may have.
    pub max_attempts: u32,
    /// When it was asked for, in Unix milliseconds.
    pub asked_ms: u64,
    /// The trace and the request it comes from.
    pub carrier: Option<String>,
}

/// A run that did not succeed decides what happens next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Try again after the job's own delay, as often as it may.
    #[error("{0}")]
    Retry(String),
    /// Try again after this delay, as often as it may.
    #[error("{0}")]
    RetryAfter(String, Duration),
    /// Trying again would not help.
    #[error("{0}")]
    GiveUp(String),
}

/// Does the jobs of one queue.
pub trait Handler: Send + Sync + 'static {
    /// Does a job. It may run more than once, also at the same time, when a lease is lost: effects must be repeatable.
    ///
    /// Its steps up to the first wait run where the runner itself does; like any async function, it must not block.
    fn handle(&self, job: Job) -> impl Future<Output = Result<Value, JobError>> + Send;
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// Well.
    Completed,
    /// It will be tried again.
    Retried,
    /// It was given up.
    Failed,
    /// It was given back unfinished, or another worker has it.
    Released,
}

impl Finished {
    /// As metrics name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Retried => "retried",
            Self::Failed => "failed",
            Self::Released => "released",
        }
    }
}

/// Hears what a runner does.
pub trait Observer: Send + Sync + 'static {
    /// A job was taken; it had waited so long.
    fn started(&self, _waited: Duration) {}
    /// A run ended.
    fn finished(&self, _outcome: Finished, _took: Duration) {}
    /// Jobs were taken back from workers that went away.
    fn reclaimed(&self, _jobs: u64) {}
}

/// An observer that hears nothing.
struct Deaf;

impl Observer for Deaf {}

/// How a runner works.
#[derive(Debug, Clone)]
pub struct RunnerOptions {
    /// Jobs at once.
    pub concurrency: usize,
    /// How long a job stays this worker's without a sign of life; signs come three times as often.
    pub lease: Duration,
    /// How often a job may be lost with its worker before it is given up.
    pub max_stalled: u32,
    /// Completed jobs kept.
    pub keep_completed: i64,
    /// Failed jobs kept.
    pub keep_failed: i64,
    /// How long jobs in hand may take to finish once the runner was told to stop.
    pub drain_timeout: Duration,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        Self {
            concurrency: 1,
            lease: Duration::from_secs(30),
            max_stalled: 1,
            keep_completed: 1000,
            keep_failed: 5000,
            drain_timeout: Duration::from_secs(25),
        }
    }
}

/// Runs the jobs of one queue.
pub struct Runner {
    redis: Redis,
    queue: String,
    options: RunnerOptions,
    observer: Arc<dyn Observer>,
}

/// The part of a lease for which a worker takes further jobs by one ticket: the ticket's age is missing from theirs.
const TICKET_SERVES: u32 = 6;

/// What a run came to, on its way back to the queue.
struct Ended {
    lease: Lease,
    outcome: Outcome,
}

/// What the queue wants to know again when a job ends, so that it need not look it up.
#[derive(Debug, Clone, Default)]
struct Lease {
    id: String,
    ticket: String,
    /// Tells runs apart that this process had of the same job by the same ticket.
    run: u64,
    /// Runs that have ended, this one included.
    attempts: u32,
    /// The job's options when they say what is to be kept, else nothing.
    retention: String,
    deduplication: String,
    organization: String,
}

impl Ended {
    /// What results of one call may have in common: outcome, ticket, attempts, and whether there is more to say than
    /// id and value.
    fn shared(&self) -> (&'static str, &str, u32, bool) {
        let Lease { ticket, attempts, retention, deduplication, organization, .. } = &self.lease;
        let particular = !(retention.is_empty() && deduplication.is_empty() && organization.is_empty());
        (self.outcome.name(), ticket, *attempts, particular)
    }
}

enum Outcome {
    Completed(String),
    Failed { reason: String, trace: String, attempts: u32 },
    Retry { reason: String, trace: String, delay: Duration },
    Released,
}

impl Outcome {
    /// As the script names it.
    const fn name(&self) -> &'static str {
        match self {
            Self::Completed(_) => "completed",
            Self::Failed { .. } => "failed",
            Self::Retry { .. } => "retry",
            Self::Released => "released",
        }
    }

    /// The result, or the reason why there is none.
    fn value(&self) -> &str {
        match self {
            Self::Completed(value) => value,
            Self::Failed { reason, .. } | Self::Retry { reason, .. } => reason,
            Self::Released => "",
        }
    }
}

/// A job in hand.
struct Running {
    lease: Lease,
    task: AbortHandle,
    since: Instant,
}

/// A job as the script tells it.
struct Taken {
    id: String,
    name: String,
    data: String,
    opts: String,
    asked_ms: u64,
    deduplication: String,
    organization: String,
    /// Runs that began before.
    starts: u32,
    /// Runs that ended before.
    made: u32,
    /// Why it is not to be run.
    doomed: Option<String>,
}

impl Taken {
    /// Reads the fields in the script's order; the last ones may be missing. Clients of BullMQ write some of them, so
    /// what is not a number counts as none.
    fn read(id: String, fields: Vec<Option<String>>) -> Self {
        fn number<T: Default + std::str::FromStr>(text: Option<String>) -> T {
            text.and_then(|text| text.parse().ok()).unwrap_or_default()
        }
        let mut fields = fields.into_iter();
        let mut next = || fields.next().flatten();
        Self {
            id,
            name: next().unwrap_or_default(),
            data: next().unwrap_or_default(),
            opts: next().unwrap_or_default(),
            asked_ms: number(next()),
            deduplication: next().unwrap_or_default(),
            organization: next().unwrap_or_default(),
            starts: number(next()),
            made: number(next()),
            doomed: next(),
        }
    }

    /// By what the next run of it is told apart.
    fn lease(&self, hand: &mut Hand) -> Lease {
        hand.runs += 1;
        Lease {
            id: self.id.clone(),
            ticket: hand.serving.as_ref().map(|(ticket, _)| ticket.clone()).unwrap_or_default(),
            run: hand.runs,
            attempts: self.made + 1,
            retention: if self.opts.contains("removeOn") { self.opts.clone() } else { String::new() },
            deduplication: self.deduplication.clone(),
            organization: self.organization.clone(),
        }
    }
}

impl Runner {
    /// A runner for the queue of that name.
    #[must_use]
    pub fn new(redis: Redis, queue: &str, options: RunnerOptions) -> Self {
        Self { redis, queue: queue.to_owned(), options, observer: Arc::new(Deaf) }
    }

    /// Tells `observer` what happens.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<impl Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Works until `stop` says true. Then nothing further is taken; what runs may finish within the drain time-out and
    /// the rest is given back, so that another worker has it at once.
    ///
    /// Redis may go and come back, with its data or without.
    pub async fn run(self, handler: Arc<impl Handler>, mut stop: watch::Receiver<bool>) {
        // It stands in every job it runs, so it is short; 48 random bits tell processes apart.
        let consumer = format!("worker-{:012x}", Uuid::new_v4().as_u128() >> 80);
        let (ring, mut rung) = mpsc::unbounded_channel();
        let doorbell = tokio::spawn(listen(self.redis.clone(), self.queue.clone(), ring));
        let (ended_in, mut ended) = mpsc::unbounded_channel::<Ended>();

        // Waits to be called whenever there is nothing else to do. What is taken meanwhile is not known here, so nothing
        // else is taken then, and it is heard to its end.
        let place = Idle::new(self.redis.clone(), self.queue.clone(), consumer.clone(), self.options.lease);
        let interrupt = place.interrupt();
        let mut place = Some(place);
        let mut waiting = pin!(Fuse::terminated());

        let mut hand = Hand::default();
        let mut away = Away::default();
        let mut more = true;
        // Redis is left alone until then; and with a rate limit, nothing is taken until then.
        let mut not_before = Instant::now();
        let mut take_after = Instant::now();
        let mut ticks = tokio::time::interval(TICK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let between = self.options.lease / 3;
        let mut beats = tokio::time::interval_at((Instant::now() + between).into(), between);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due = None::<Instant>;
        let mut deadline = None::<Instant>;
        let mut gone = false;

        loop {
            if (gone || *stop.borrow()) && deadline.is_none() {
                deadline = Some(Instant::now() + self.options.drain_timeout);
                doorbell.abort();
            }
            let draining = deadline.is_some();
            if draining && !waiting.is_terminated() {
                interrupt.now().await;
            }
            if draining && hand.running.is_empty() && hand.results.is_empty() && waiting.is_terminated() {
                break;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.give_back(&mut hand);
            }

            let free = if draining || !waiting.is_terminated() || Instant::now() < take_after {
                0
            } else {
                self.options.concurrency.saturating_sub(hand.running.len())
            };
            let rested = Instant::now() >= not_before;
            let has_work = !hand.results.is_empty() || !hand.tickets.is_empty() || (free > 0 && more);
            if rested && has_work {
                match self.step(&consumer, free, &mut hand).await {
                    Ok((taken, pause, may_be_more)) => {
                        away.over();
                        take_after = Instant::now() + pause;
                        // A step that could not take says nothing about what waits.
                        more = may_be_more || pause > Duration::ZERO || (more && free == 0);
                        for job in taken {
                            self.start(job, &handler, &mut hand, &ended_in);
                        }
                    }
                    Err(error) => {
                        if draining && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                            // Nobody is there to take them; they come back when their lease ends.
                            break;
                        }
                        hand.newest = Some(UNKNOWN.to_owned());
                        not_before = Instant::now() + away.tell(&self.queue, &error);
                    }
                }
                while let Ok(result) = ended.try_recv() {
                    self.put_down(result, &mut hand);
                }
                continue;
            }

            // The connection is there from the start: by it, tools tell that there is a worker.
            let wanted = |place: &mut Idle| !draining && !has_work && (free > 0 || !place.is_connected());
            if let Some(place) = place.take_if(wanted) {
                waiting.set(place.wait(free, hand.newest.clone()).fuse());
            }
            let rate = Some(take_after).filter(|at| more && !draining && Instant::now() < *at);
            let again = (draining && !waiting.is_terminated()).then(|| Instant::now() + INTERRUPT_EVERY);
            // Only what can be acted upon when it comes.
            let wake = if has_work { Some(not_before) } else { rate };
            let due_then = due.filter(|_| rested && !draining);
            let last = deadline.filter(|deadline| Instant::now() < *deadline);
            let wake = [wake, due_then, last, again].into_iter().flatten().min();
            let asleep = pin!(async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            });
            let mut tick = false;
            tokio::select! {
                Some(result) = ended.recv() => {
                    self.put_down(result, &mut hand);
                    while let Ok(result) = ended.try_recv() {
                        self.put_down(result, &mut hand);
                    }
                }
                (idle, call) = &mut waiting => {
                    place = Some(idle);
                    let (taken, pause, may_be_more) = hand.called(call);
                    take_after = Instant::now() + pause;
                    more |= may_be_more || pause > Duration::ZERO;
                    if draining {
                        // Each goes back to the head of the line, so the last one first.
                        taken.into_iter().rev().for_each(|job| hand.refuse(job));
                    } else {
                        for job in taken {
                            self.start(job, &handler, &mut hand, &ended_in);
                        }
                    }
                }
                Some(()) = rung.recv(), if !draining => {
                    while rung.try_recv().is_ok() {}
                    tick = true;
                }
                _ = ticks.tick() => tick = true,
                _ = beats.tick() => self.beat(&consumer, &mut hand).await,
                () = asleep => tick = due.is_some_and(|due| Instant::now() >= due),
                // Whoever could say stop is gone: that is a stop, too.
                nobody = async { stop.wait_for(|stop| *stop).await.is_err() }, if !draining => gone = nobody,
            }
            if tick && !draining && Instant::now() >= not_before {
                match self.tick(&consumer).await {
                    Ok((next_due, waiting)) => {
                        away.over();
                        due = next_due;
                        more |= waiting;
                    }
                    Err(error) => {
                        not_before = Instant::now() + away.tell(&self.queue, &error);
                        due = None;
                    }
                }
            }
        }
        doorbell.abort();
        self.leave(&consumer).await;
    }

    /// Ends what was finished, takes up to `free` jobs. On an error the results stay in hand.
    async fn step(
        &self,
        consumer: &str,
        free: usize,
        hand: &mut Hand,
    ) -> Result<(Vec<Taken>, Duration, bool), QueueError> {
        let batch = hand.results.len().min(MOST_RESULTS);
        let mut leased = hand.leased.clone();
        for Ended { lease, .. } in &hand.results[..batch] {
            leased.end(&lease.ticket);
        }
        // After an error it is not certain what the ticket leases; it serves no more.
        let serving = hand.serving.take().filter(|(_, since)| since.elapsed() < self.options.lease / TICKET_SERVES);
        let (serving, since) = serving.unwrap_or_else(|| (String::new(), Instant::now()));
        let over = leased.take_idle(&serving);
        let mut call = STEP.prepare_invoke();
        call.key(base(&self.queue))
            .arg(now_ms())
            .arg(consumer)
            .arg(millis(self.options.lease))
            .arg(free)
            .arg(self.options.keep_completed)
            .arg(self.options.keep_failed)
            .arg(&serving)
            .arg(u8::from(leased.runs_by(&serving)))
            .arg(hand.tickets.len())
            .arg(over.len())
            .arg(&hand.tickets)
            .arg(&over);
        // What neighbours have in common is told once: each argument costs Redis a quarter of a microsecond.
        for group in hand.results[..batch].chunk_by(|one, next| one.shared() == next.shared()) {
            let (outcome, ticket, attempts, particular) = group[0].shared();
            call.arg(outcome).arg(ticket).arg(attempts).arg(group.len()).arg(u8::from(particular));
            for Ended { lease, outcome } in group {
                call.arg(&lease.id).arg(outcome.value());
                if particular {
                    call.arg(&lease.retention).arg(&lease.deduplication).arg(&lease.organization);
                }
                let (trace, delay, allowed) = match outcome {
                    Outcome::Completed(_) => continue,
                    Outcome::Failed { trace, attempts, .. } => (trace.as_str(), Duration::ZERO, *attempts),
                    Outcome::Retry { trace, delay, .. } => (trace.as_str(), *delay, 0),
                    Outcome::Released => ("", Duration::ZERO, 0),
                };
                call.arg(trace).arg(millis(delay)).arg(allowed);
            }
        }
        let (lost, ticket, ids, jobs, pause_ms, may_be_more): StepAnswer =
            call.invoke_async(&mut self.redis.shared()).await?;
        let taken = taken(ids, jobs);
        if !lost.is_empty() {
            tracing::warn!(
                queue = self.queue,
                jobs = lost.len(),
                "results came after their lease had ended and were dropped"
            );
        }
        hand.tickets.clear();
        hand.results.drain(..batch);
        for _ in &taken {
            leased.start(&ticket);
        }
        hand.leased = leased;
        if !ticket.is_empty() && ticket != serving {
            hand.newest = Some(ticket.clone());
        }
        if !taken.is_empty() || hand.leased.runs_by(&ticket) {
            let since = if ticket == serving { since } else { Instant::now() };
            hand.serving = Some((ticket, since));
        } else {
            hand.leased.take_idle("");
        }
        Ok((taken, Duration::from_millis(pause_ms), may_be_more > 0))
    }

    /// Starts a job that was taken.
    fn start(&self, taken: Taken, handler: &Arc<impl Handler>, hand: &mut Hand, ended: &mpsc::UnboundedSender<Ended>) {
        let lease = taken.lease(hand);
        let Taken { id, name, data, opts, asked_ms, starts, made, doomed, .. } = taken;
        let options = Options::read(&opts);
        let job = Job {
            id,
            name,
            data,
            attempts_started: starts + 1,
            attempts_made: made,
            max_attempts: options.attempts,
            asked_ms,
            carrier: options.carrier.clone(),
        };
        self.observer.started(Duration::from_millis(now_ms().saturating_sub(job.asked_ms + options.delay_ms)));
        let handler = Arc::clone(handler);
        let mut run = Box::pin(async move {
            let result = match doomed {
                None => AssertUnwindSafe(handler.handle(job)).catch_unwind().await.unwrap_or_else(|panic| {
                    Err(JobError::Retry(format!("the handler panicked: {}", panic_text(&*panic))))
                }),
                Some(reason) => Err(JobError::GiveUp(reason)),
            };
            options.judge(result, made)
        });
        let since = Instant::now();
        // A job that has nothing to wait for is done on the spot, without a task of its own.
        if let Some(outcome) = run.as_mut().now_or_never() {
            self.note(&outcome, since);
            hand.results.push(Ended { lease, outcome });
            return;
        }
        let (ended, job_lease) = (ended.clone(), lease.clone());
        let task = tokio::spawn(async move {
            let outcome = run.await;
            // The runner outlives its jobs; if it does not, the lease will end.
            let _ = ended.send(Ended { lease: job_lease, outcome });
        });
        hand.running.insert(lease.id.clone(), Running { lease, task: task.abort_handle(), since });
    }

    /// Tells how a run ended.
    fn note(&self, outcome: &Outcome, since: Instant) {
        let finished = match outcome {
            Outcome::Completed(_) => Finished::Completed,
            Outcome::Retry { .. } => Finished::Retried,
            Outcome::Failed { .. } => Finished::Failed,
            Outcome::Released => Finished::Released,
        };
        self.observer.finished(finished, since.elapsed());
    }

    /// A run ended: its slot is free, its result waits for the next call.
    fn put_down(&self, ended: Ended, hand: &mut Hand) {
        // A job whose lease was lost may be here again; its old result says nothing.
        if hand.running.get(&ended.lease.id).is_none_or(|running| running.lease.run != ended.lease.run) {
            return;
        }
        if let Some(running) = hand.running.remove(&ended.lease.id) {
            self.note(&ended.outcome, running.since);
        }
        hand.results.push(ended);
    }

    /// The time to finish is over: what still runs is stopped and given back.
    fn give_back(&self, hand: &mut Hand) {
        for (_, running) in hand.running.drain() {
            running.task.abort();
            self.note(&Outcome::Released, running.since);
            hand.results.push(Ended { lease: running.lease, outcome: Outcome::Released });
        }
    }

    /// Keeps the queue in order; answers when the next delayed job is due, and whether jobs wait.
    async fn tick(&self, consumer: &str) -> Result<(Option<Instant>, bool), QueueError> {
        let now = now_ms();
        let (next, reclaimed, waiting): (i64, u64, u64) = TICK
            .prepare_invoke()
            .key(base(&self.queue))
            .arg(now)
            .arg(consumer)
            .arg(millis(self.options.lease))
            .arg(self.options.max_stalled)
            .arg(millis(SWEEP_EVERY))
            .invoke_async(&mut self.redis.shared())
            .await?;
        if reclaimed > 0 {
            tracing::warn!(queue = self.queue, jobs = reclaimed, "jobs were taken back from a worker that went away");
            self.observer.reclaimed(reclaimed);
        }
        let due = u64::try_from(next).ok().map(|next| Instant::now() + Duration::from_millis(next.saturating_sub(now)));
        Ok((due.filter(|due| *due < Instant::now() + TICK_EVERY), waiting > 0))
    }

    /// Says that jobs still run; stops those that somebody else has taken over.
    async fn beat(&self, consumer: &str, hand: &mut Hand) {
        if hand.running.is_empty() {
            return;
        }
        let mut call = BEAT.prepare_invoke();
        call.key(base(&self.queue)).arg(consumer).arg(millis(self.options.lease));
        for (id, running) in &hand.running {
            call.arg(id).arg(&running.lease.ticket);
        }
        let lost: Result<Vec<String>, RedisError> = call.invoke_async(&mut self.redis.shared()).await;
        // When Redis is away the leases run on; the next beat may still be in time.
        for id in lost.unwrap_or_default() {
            if let Some(running) = hand.running.remove(&id) {
                tracing::warn!(queue = self.queue, job_id = id, "another worker has taken a job over");
                running.task.abort();
                hand.leased.end(&running.lease.ticket);
                self.note(&Outcome::Released, running.since);
            }
        }
    }

    /// Gives back tickets that were never used, and takes the consumer's name away unless jobs of it still count as
    /// running.
    async fn leave(&self, consumer: &str) {
        // Whoever ticks or sweeps next does it, if this does not succeed.
        let _: Result<Ignored, RedisError> =
            LEAVE.prepare_invoke().key(base(&self.queue)).arg(consumer).invoke_async(&mut self.redis.shared()).await;
    }
}

/// What a step answers: ids whose lease was lost, ticket of the jobs taken, their ids, their fields, how long to wait in
/// milliseconds, whether there may be more.
pub(crate) type StepAnswer = (Vec<String>, String, Vec<String>, Vec<Vec<Option<String>>>, u64, u64);

/// An answer nobody looks at.
type Ignored = Option<i64>;

/// Results a script ends at most, so that it never holds Redis for long.
const MOST_RESULTS: usize = 200;

/// What a runner holds.
#[derive(Default)]
struct Hand {
    running: HashMap<String, Running>,
    results: Vec<Ended>,
    /// Tickets that were read and lease nothing yet.
    tickets: Vec<String>,
    /// The ticket by which further jobs are taken, and since when it is here.
    serving: Option<(String, Instant)>,
    leased: Leased,
    /// The newest ticket that was ever here.
    newest: Option<String>,
    /// Runs so far.
    runs: u64,
}

impl Hand {
    /// Takes in what came of waiting: jobs, how long to wait before more can be taken, whether there may be more.
    fn called(&mut self, call: Call) -> (Vec<Taken>, Duration, bool) {
        let Call { tickets, answer, failed } = call;
        if failed {
            self.newest = Some(UNKNOWN.to_owned());
        }
        let (_, ticket, ids, jobs, pause_ms, may_be_more) = answer.unwrap_or_default();
        if let Some(newest) = tickets.last().or(Some(&ticket)).filter(|newest| !newest.is_empty()) {
            self.newest = Some(newest.clone());
        }
        if ticket.is_empty() {
            // The script did not run, or could not tell that they are new.
            self.tickets.extend(tickets);
        }
        for _ in &ids {
            self.leased.start(&ticket);
        }
        if !ids.is_empty() {
            self.serving = Some((ticket, Instant::now()));
        }
        (taken(ids, jobs), Duration::from_millis(pause_ms), may_be_more > 0)
    }

    /// Gives back a job that was not started.
    fn refuse(&mut self, job: Taken) {
        let lease = job.lease(self);
        self.results.push(Ended { lease, outcome: Outcome::Released });
    }
}

/// Puts ids and fields together.
fn taken(ids: Vec<String>, jobs: Vec<Vec<Option<String>>>) -> Vec<Taken> {
    ids.into_iter().zip(jobs).map(|(id, fields)| Taken::read(id, fields)).collect()
}

/// How many jobs run, or wait to be ended, by each ticket; seldom more than two tickets.
#[derive(Clone, Default)]
struct Leased(Vec<(String, usize)>);

impl Leased {
    fn start(&mut self, ticket: &str) {
        match self.0.iter_mut().find(|(held, _)| held == ticket) {
            Some((_, jobs)) => *jobs += 1,
            None => self.0.push((ticket.to_owned(), 1)),
        }
    }

    fn end(&mut self, ticket: &str) {
        if let Some((_, jobs)) = self.0.iter_mut().find(|(held, _)| held == ticket) {
            *jobs = jobs.saturating_sub(1);
        }
    }

    fn runs_by(&self, ticket: &str) -> bool {
        self.0.iter().any(|(held, jobs)| held == ticket && *jobs > 0)
    }

    /// Gives away the tickets no job runs by any more, but for the one that serves.
    fn take_idle(&mut self, serving: &str) -> Vec<String> {
        let (idle, rest) =
            std::mem::take(&mut self.0).into_iter().partition(|(held, jobs)| *jobs == 0 && held != serving);
        self.0 = rest;
        let idle: Vec<(String, usize)> = idle;
        idle.into_iter().map(|(ticket, _)| ticket).collect()
    }
}

/// Keeps quiet about an outage that was told already, and tries ever less often.
#[derive(Default)]
struct Away {
    times: usize,
}

impl Away {
    fn tell(&mut self, queue: &str, error: &QueueError) -> Duration {
        if self.times == 0 {
            tracing::warn!(queue, error.message = %error, "the queue cannot be reached; trying again");
        }
        self.times += 1;
        AWAY[(self.times - 1).min(AWAY.len() - 1)]
    }

    fn over(&mut self) {
        if self.times > 0 {
            tracing::info!(tries = self.times, "the queue is back");
            self.times = 0;
        }
    }
}

/// What a job's options say about trying again.
struct Options {
    attempts: u32,
    backoff: Backoff,
    delay_ms: u64,
    carrier: Option<String>,
}

/// The options that matter, whatever their types.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    attempts: Value,
    backoff: Value,
    delay: Value,
    tm: Value,
}

struct Backoff {
    exponential: bool,
    delay_ms: u64,
    /// 0 to 1: how much of the delay is left to chance.
    jitter: f64,
}

impl Options {
    /// Reads what is there and passes over the rest: whoever fed the job may write other things, too.
    fn read(opts: &str) -> Self {
        let Written { attempts, backoff, delay, tm } = serde_json::from_str(opts).unwrap_or_default();
        Self {
            attempts: attempts.as_u64().and_then(|attempts| attempts.try_into().ok()).unwrap_or(1).max(1),
            backoff: Backoff {
                exponential: backoff["type"] == "exponential",
                delay_ms: backoff.as_u64().or_else(|| backoff["delay"].as_u64()).unwrap_or(0),
                jitter: backoff["jitter"].as_f64().unwrap_or(0.0).clamp(0.0, 1.0),
            },
            delay_ms: delay.as_u64().unwrap_or(0),
            carrier: match tm {
                Value::String(carrier) => Some(carrier),
                _ => None,
            },
        }
    }

    fn judge(&self, result: Result<Value, JobError>, made: u32) -> Outcome {
        let (reason, delay) = match result {
            Ok(value) => return Outcome::Completed(value.to_string()),
            Err(JobError::GiveUp(reason)) => return self.failed(reason),
            Err(JobError::Retry(reason)) => (reason, self.backoff.after(made + 1)),
            Err(JobError::RetryAfter(reason, delay)) => (reason, delay),
        };
        if made + 1 >= self.attempts {
            return self.failed(reason);
        }
        let trace = trace(&reason);
        Outcome::Retry { reason, trace, delay }
    }

    fn failed(&self, reason: String) -> Outcome {
        let trace = trace(&reason);
        Outcome::Failed { reason, trace, attempts: self.attempts }
    }
}

/// Tools show a list of stack traces; ours are the reasons.
fn trace(reason: &str) -> String {
    Value::from(vec![reason]).to_string()
}

impl Backoff {
    /// The delay after the `attempt`-th run, from 1 on: fixed d, or exponential d · 2^(attempt−1), less a random part.
    fn after(&self, attempt: u32) -> Duration {
        let factor = if self.exponential { 1_u64.checked_shl(attempt - 1).unwrap_or(u64::MAX) } else { 1 };
        // A day is longer than anybody waits for a retry; and it keeps due times within a double.
        let delay_ms = self.delay_ms.saturating_mul(factor).min(24 * 3600 * 1000);
        if self.jitter == 0.0 {
            return Duration::from_millis(delay_ms);
        }
        #[expect(clippy::cast_precision_loss, reason = "64 random bits make a fraction")]
        let chance = Uuid::new_v4().as_u64_pair().0 as f64 / u64::MAX as f64;
        Duration::from_millis(delay_ms).mul_f64(1.0 - self.jitter * chance)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given")
}

/// Waits for BullMQ's doorbell, on a connection of its own.
async fn listen(redis: Redis, queue: String, ring: mpsc::UnboundedSender<()>) {
    let marker = format!("{}marker", base(&queue));
    loop {
        let Ok(mut connection) = redis.blocking(BLOCK, None).await else {
            tokio::time::sleep(AWAY[3]).await;
            continue;
        };
        loop {
            let heard: Result<Option<(String, String, f64)>, RedisError> =
                redis::cmd("BZPOPMIN").arg(&marker).arg(BLOCK.as_secs()).query_async(&mut connection).await;
            match heard {
                Ok(None) => {}
                Ok(Some(_)) if ring.send(()).is_ok() => {}
                Ok(Some(_)) => return,
                Err(_) => break,
            }
        }
        tokio::time::sleep(AWAY[1]).await;
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("queue", &self.queue).field("options", &self.options).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(opts: &str) -> Vec<u64> {
        let options = Options::read(opts);
        (1..=4).map(|attempt| millis(options.backoff.after(attempt))).collect()
    }

    #[test]
    fn delays_are_bullmqs() {
        assert_eq!(delays("{}"), [0, 0, 0, 0]);
        assert_eq!(delays(r#"{"backoff":500}"#), [500, 500, 500, 500]);
        assert_eq!(delays(r#"{"backoff":{"type":"fixed","delay":7}}"#), [7, 7, 7, 7]);
        assert_eq!(delays(r#"{"backoff":{"type":"exponential","delay":1000}}"#), [1000, 2000, 4000, 8000]);
        for delay in delays(r#"{"backoff":{"type":"fixed","delay":1000,"jitter":0.5}}"#) {
            assert!((500..=1000).contains(&delay), "{delay}");
        }
        assert_eq!(
            Options::read(r#"{"backoff":{"type":"exponential","delay":1000}}"#).backoff.after(4000),
            Duration::from_secs(86_400)
        );
    }

    #[test]
    fn a_job_is_tried_as_often_as_it_may_be_and_not_after_it_was_given_up() {
        let options = Options::read(r#"{"attempts":3}"#);
        let retry = || Err(JobError::Retry("away".into()));
        assert!(matches!(options.judge(retry(), 0), Outcome::Retry { .. }));
        assert!(matches!(options.judge(retry(), 1), Outcome::Retry { .. }));
        assert!(matches!(options.judge(retry(), 2), Outcome::Failed { .. }));
        assert!(matches!(options.judge(Err(JobError::GiveUp("no".into())), 0), Outcome::Failed { .. }));
        assert!(matches!(Options::read("nonsense").judge(retry(), 0), Outcome::Failed { .. }));
    }
}
