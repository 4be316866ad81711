//! Hands events on: to webhooks as jobs, to open streams through Redis.
//!
//! Every worker stands ready and one does it. It is woken when an event commits, and looks twice a second in any case.
//! A delivery's row commits with the event's mark; its job is put on the queue afterwards, and the schedule asks for jobs
//! that were lost. When Redis is away webhooks go on, and streams are told later what they missed.

use std::sync::Arc;
use std::time::Duration;

use db::listen::EventBell;
use db::relay::Handed;
use db::{DatabaseConfig, Db, DbError};
use domain::event::EventType;
use domain::intent::{IntendedJob, next_try_after};
use domain::job::{Following, following};
use domain::{Clock, OrganizationId, Tenant};
use queue::live::{Live, LivePublisher};
use queue::{NewJob, Producer};
use tokio::sync::watch;
use uuid::Uuid;

use crate::jobs::webhooks::chance;
use crate::metrics::Metrics;

/// How often events are looked for when nothing rings.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long to wait before the bell is connected again.
const BELL_AGAIN: Duration = Duration::from_secs(5);

/// Events handed on in one transaction.
const AT_ONCE: i64 = 200;

/// Priority of the first attempt of a delivery; retries have a lower one.
pub const FIRST_ATTEMPT: u32 = 1;

/// The relay of this process.
pub struct Relay {
    /// The database.
    pub db: Db,
    /// Where the bell rings.
    pub bell: DatabaseConfig,
    /// Tells open streams.
    pub live: LivePublisher,
    /// The queue of webhook deliveries.
    pub deliveries: Producer,
    /// The queue of read models.
    pub snapshots: Producer,
    /// The queue of daily totals.
    pub totals: Producer,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// What the worker counts.
    pub metrics: Arc<Metrics>,
}

impl Relay {
    /// Hands on what is there and what comes, until told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let me = Uuid::new_v4();
        let mut bell = self.connect_bell();
        let mut ringing: Option<EventBell> = None;
        let mut troubled = false;
        loop {
            let more = match self.turn(me).await {
                Ok(more) => {
                    troubled = false;
                    more
                }
                Err(error) => {
                    if !troubled {
                        tracing::warn!(error.message = %error, "events cannot be handed on; trying again");
                    }
                    troubled = true;
                    false
                }
            };
            if *stop.borrow() {
                break;
            }
            if more {
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                connected = &mut bell, if ringing.is_none() => ringing = connected.ok().flatten(),
                rang = rings(&mut ringing), if ringing.is_some() => if rang.is_none() {
                    ringing = None;
                },
                _ = stop.wait_for(|stop| *stop) => {}
            }
            if ringing.is_none() && bell.is_finished() {
                bell = self.connect_bell();
            }
        }
        bell.abort();
        if let Err(error) = self.release(me).await {
            tracing::debug!(error.message = %error, "the relay could not be given back; it is free in a few seconds");
        }
    }

    /// Connects the bell in the background, however long that takes.
    fn connect_bell(&self) -> tokio::task::JoinHandle<Option<EventBell>> {
        let config = self.bell.clone();
        tokio::spawn(async move {
            match EventBell::listen(&config).await {
                Ok(bell) => Some(bell),
                Err(error) => {
                    tracing::debug!(error.message = %error, "the bell of events is not connected");
                    tokio::time::sleep(BELL_AGAIN).await;
                    None
                }
            }
        })
    }

    /// One turn; answers whether there may be more at once.
    async fn turn(&self, me: Uuid) -> Result<bool, DbError> {
        let mut tx = self.db.system().await?;
        let turn = db::relay::turn(&mut tx, me, AT_ONCE, self.clock.now()).await?;
        tx.commit().await?;
        let Some(turn) = turn else { return Ok(false) };
        self.metrics.events_relayed(turn.events.len());
        self.ask_for(turn.deliveries).await;
        self.follow(&turn.events).await;
        self.tell().await?;
        Ok(i64::try_from(turn.events.len()).is_ok_and(|events| events >= AT_ONCE))
    }

    /// Puts deliveries on their queue. What fails here the schedule asks for.
    async fn ask_for(&self, deliveries: Vec<(domain::job::DeliverWebhook, Option<String>)>) {
        if deliveries.is_empty() {
            return;
        }
        let jobs: Result<Vec<NewJob>, _> = deliveries
            .into_iter()
            .map(|(delivery, trace)| NewJob::of(&delivery, trace).map(|job| NewJob { priority: FIRST_ATTEMPT, ..job }))
            .collect();
        let asked = match jobs {
            Ok(jobs) => self.deliveries.enqueue_many(jobs).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = asked {
            tracing::warn!(error.message = %error, "deliveries could not be queued; the schedule will ask again");
        }
    }

    /// Asks for the jobs that bring read models up to date. What fails here reconciliation makes up for.
    async fn follow(&self, events: &[Handed]) {
        let (mut snapshots, mut totals, mut intents) = (Vec::new(), Vec::new(), Vec::new());
        for event in events {
            let Some(kind) = EventType::parse(&event.event_type) else { continue };
            for job in following(kind, event.organization, &event.envelope) {
                match job {
                    Following::Snapshot(job) => snapshots.extend(NewJob::of(&job, event.trace.clone())),
                    Following::UpdateMetrics(job) => {
                        totals.extend(NewJob::of(&job, event.trace.clone()));
                        intents.push((event.organization, IntendedJob::Totals(job), event.trace.clone()));
                    }
                }
            }
        }
        if let Err(error) = self.snapshots.enqueue_many(snapshots).await {
            tracing::debug!(error.message = %error, "jobs that follow events could not be queued");
        }
        if let Err(error) = self.totals.enqueue_many(totals).await {
            tracing::warn!(error.message = %error, "daily totals could not be asked for; trying again later");
            if let Err(failure) = self.note(intents, &error.to_string()).await {
                tracing::warn!(error.message = %failure, "retry intents could not be written down");
            }
        }
    }

    /// Writes down which daily totals could not be asked for; some of them may have been.
    async fn note(
        &self,
        intents: Vec<(OrganizationId, IntendedJob, Option<String>)>,
        error: &str,
    ) -> Result<(), DbError> {
        let now = self.clock.now();
        for (organization, job, trace) in intents {
            let Some(delay) = next_try_after(0, chance()) else { continue };
            let mut tx = self.db.tenant(Tenant::found_by_system(organization)).await?;
            db::intents::note(&mut tx, &job, trace.as_deref(), error, now + delay, now).await?;
            tx.commit().await?;
            self.metrics.retry_intent_created();
        }
        Ok(())
    }

    /// Tells open streams what they were not told yet.
    async fn tell(&self) -> Result<(), DbError> {
        loop {
            let mut tx = self.db.system().await?;
            let told = db::relay::untold(&mut tx, AT_ONCE).await?;
            tx.commit().await?;
            let Some(last) = told.last().map(|told| told.number) else { return Ok(()) };
            let messages: Vec<Live> = told
                .into_iter()
                .map(|told| Live {
                    number: told.number,
                    organization: told.organization.uuid(),
                    about: None,
                    body: told.live,
                })
                .collect();
            if let Err(error) = self.live.publish(&messages).await {
                tracing::debug!(error.message = %error, "open streams cannot be told now");
                return Ok(());
            }
            let mut tx = self.db.system().await?;
            db::relay::told(&mut tx, last).await?;
            tx.commit().await?;
        }
    }

    async fn release(&self, me: Uuid) -> Result<(), DbError> {
        let mut tx = self.db.system().await?;
        db::relay::release(&mut tx, me).await?;
        tx.commit().await
    }
}

async fn rings(bell: &mut Option<EventBell>) -> Option<()> {
    match bell {
        Some(bell) => bell.rings().await,
        None => std::future::pending().await,
    }
}
