//! Everything open streams of this process are told, by one task.
//!
//! The process listens to Redis once, whatever its streams. Each message is written once and shared by all who get it;
//! each stream has a small buffer of its own, and one whose reader does not keep up is ended, so that it costs the
//! others nothing. When the connection to Redis was lost something may have been missed: all streams end, their clients
//! come back with the last id they saw, and the database has what came after it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::web::Bytes;
use chrono::{DateTime, Utc};
use domain::Clock;
use queue::Redis;
use queue::live::{Live, LiveListener, LivePublisher};
use queue::streams::StreamPlaces;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::metrics::Metrics;

/// Messages a reader may be behind.
const BUFFER: usize = 64;

/// How often the hub looks after its streams.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A comment every so often keeps proxies from taking a stream for dead, in turns of the above.
const PING_EVERY: u64 = 15;

/// How often it is asked which organizations somebody watches, in turns of the above.
const WATCHED_EVERY: u64 = 2;

/// Positions of one employee, at most one in so long.
const POSITION_EVERY: Duration = Duration::from_secs(1);

/// Positions that may wait to be published; further ones are lost, as newer ones follow.
const POSITIONS: usize = 4096;

/// Streams an organization may have, over all replicas.
pub const MOST: usize = 20;

const PING: Bytes = Bytes::from_static(b": ping\n\n");

/// A message as streams get it.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its number; 0 for what has none.
    pub number: i64,
    /// What is written.
    pub text: Bytes,
}

/// A stream, as the hub knows it.
struct Stream {
    id: Uuid,
    until: DateTime<Utc>,
    sender: mpsc::Sender<Message>,
}

/// The hub of a process.
pub struct Hub {
    streams: Mutex<HashMap<Uuid, Vec<Stream>>>,
    open: AtomicU64,
    /// The number of the last message that was passed on; what comes again is not.
    last: AtomicI64,
    closed: AtomicBool,
    /// Organizations that somebody watches, on whatever replica.
    watched: Mutex<HashSet<Uuid>>,
    positions: mpsc::Sender<Live>,
    /// When a position of an employee was last published here.
    published: Mutex<HashMap<Uuid, Instant>>,
    /// When a position of an employee was last passed on here.
    passed_on: Mutex<HashMap<Uuid, Instant>>,
    places: StreamPlaces,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a stream is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotOpened {
    /// The organization has as many as it may.
    TooMany,
    /// The process is on its way out.
    Closing,
}

impl Hub {
    /// A hub without streams; [`Self::run`] does its work. Positions are published by a task of their own.
    #[must_use]
    pub fn start(redis: Redis, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Arc<Self> {
        let (positions, mut waiting) = mpsc::channel::<Live>(POSITIONS);
        let publisher = LivePublisher::new(redis.clone());
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while waiting.recv_many(&mut batch, 256).await > 0 {
                // Whoever watches sees the next one.
                let _ = publisher.publish(&batch).await;
                batch.clear();
            }
        });
        Arc::new(Self {
            streams: Mutex::default(),
            open: AtomicU64::new(0),
            last: AtomicI64::new(0),
            closed: AtomicBool::new(false),
            watched: Mutex::default(),
            positions,
            published: Mutex::default(),
            passed_on: Mutex::default(),
            places: StreamPlaces::new(redis),
            clock,
            metrics,
        })
    }

    /// Passes messages on and looks after the streams, for as long as it is polled.
    pub async fn run(&self, redis: Redis) {
        tokio::join!(self.listen(redis), self.look_after());
    }

    async fn listen(&self, redis: Redis) {
        let mut wait = Duration::ZERO;
        loop {
            tokio::time::sleep(wait).await;
            match LiveListener::listen(&redis).await {
                Ok(mut listener) => {
                    // Whatever was told meanwhile, streams that were open have not heard it.
                    self.end_all();
                    // And if the database was set back meanwhile, so were its numbers.
                    self.last.store(0, Ordering::Release);
                    wait = Duration::from_millis(100);
                    while let Some(live) = listener.hear().await {
                        self.pass_on(&live);
                    }
                    tracing::warn!("the connection by which streams are told was lost");
                }
                Err(error) => {
                    tracing::debug!(error.message = %error, "streams cannot be told; trying again");
                    wait = (wait * 2).clamp(Duration::from_millis(250), Duration::from_secs(2));
                }
            }
        }
    }

    async fn look_after(&self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = 0_u64;
        loop {
            looks.tick().await;
            turn += 1;
            self.end_expired(self.clock.now());
            if turn.is_multiple_of(PING_EVERY) {
                let open = self.ping();
                if let Err(error) = self.places.renew(&open).await {
                    tracing::debug!(error.message = %error, "the places of streams could not be renewed");
                }
                lock(&self.published).retain(|_, at| at.elapsed() < POSITION_EVERY);
                lock(&self.passed_on).retain(|_, at| at.elapsed() < POSITION_EVERY);
            }
            if turn.is_multiple_of(WATCHED_EVERY)
                && let Ok(watched) = self.places.watched().await
            {
                *lock(&self.watched) = watched;
            }
        }
    }

    /// Opens a stream until `until` at the longest.
    pub async fn open(self: &Arc<Self>, organization: Uuid, until: DateTime<Utc>) -> Result<Subscription, NotOpened> {
        let id = Uuid::new_v4();
        // With Redis away a replica counts its own.
        let free = match self.places.take(organization, id, MOST).await {
            Ok(free) => free,
            Err(_) => lock(&self.streams).get(&organization).is_none_or(|streams| streams.len() < MOST),
        };
        // From here on the place is given back whatever happens.
        let (sender, messages) = mpsc::channel(BUFFER);
        self.count(1);
        let subscription = Subscription { hub: Arc::clone(self), organization, id, messages, after: 0 };
        if !free {
            return Err(NotOpened::TooMany);
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(NotOpened::Closing);
        }
        lock(&self.streams).entry(organization).or_default().push(Stream { id, until, sender });
        lock(&self.watched).insert(organization);
        Ok(subscription)
    }

    /// Ends every stream and opens no more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.end_all();
    }

    /// Publishes where somebody is, if anybody watches and the last time was long enough ago. Never waits.
    pub fn moved(&self, organization: Uuid, employee: Uuid, body: impl FnOnce() -> Option<String>) {
        if !lock(&self.watched).contains(&organization) {
            return;
        }
        if !is_time(&self.published, employee) {
            return;
        }
        if let Some(body) = body() {
            // Full: newer positions follow.
            let _ = self.positions.try_send(Live { number: 0, organization, about: Some(employee), body });
        }
    }

    fn pass_on(&self, live: &Live) {
        if live.number > 0 && self.last.fetch_max(live.number, Ordering::AcqRel) >= live.number {
            return;
        }
        let mut streams = lock(&self.streams);
        let Some(of_organization) = streams.get_mut(&live.organization) else { return };
        if live.about.is_some_and(|about| !is_time(&self.passed_on, about)) {
            return;
        }
        let Some(message) = written(live.number, &live.body) else { return };
        let before = of_organization.len();
        of_organization.retain(|stream| match stream.sender.try_send(message.clone()) {
            Ok(()) => true,
            // A position is worth nothing to a reader that is behind; anything else it would miss.
            Err(mpsc::error::TrySendError::Full(_)) => live.about.is_some(),
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        let ended = before - of_organization.len();
        if of_organization.is_empty() {
            streams.remove(&live.organization);
        }
        drop(streams);
        self.metrics.streams_dropped(ended);
    }

    /// Sends everybody a comment; answers who is there, each with their organization.
    fn ping(&self) -> Vec<(Uuid, Uuid)> {
        let streams = lock(&self.streams);
        let mut open = Vec::new();
        for (organization, streams) in streams.iter() {
            for stream in streams {
                // A reader with a full buffer has something to read.
                let _ = stream.sender.try_send(Message { number: 0, text: PING });
                open.push((*organization, stream.id));
            }
        }
        open
    }

    fn end_expired(&self, now: DateTime<Utc>) {
        lock(&self.streams).retain(|_, streams| {
            streams.retain(|stream| stream.until > now);
            !streams.is_empty()
        });
    }

    fn end_all(&self) {
        lock(&self.streams).clear();
    }

    fn leave(&self, organization: Uuid, id: Uuid) {
        let mut streams = lock(&self.streams);
        if let Some(of_organization) = streams.get_mut(&organization) {
            of_organization.retain(|stream| stream.id != id);
            if of_organization.is_empty() {
                streams.remove(&organization);
            }
        }
    }

    fn count(&self, by: i64) {
        let open = if by > 0 {
            self.open.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            self.open.fetch_sub(1, Ordering::Relaxed) - 1
        };
        self.metrics.sse_connections.set(i64::try_from(open).unwrap_or(i64::MAX));
    }
}

/// Whether the last time was long enough ago; if so, it is now.
fn is_time(times: &Mutex<HashMap<Uuid, Instant>>, of: Uuid) -> bool {
    let mut times = lock(times);
    let now = Instant::now();
    if times.get(&of).is_some_and(|last| now - *last < POSITION_EVERY) {
        return false;
    }
    times.insert(of, now);
    true
}

/// A message as the wire has it; `None` when it does not say what it is.
pub fn written(number: i64, body: &str) -> Option<Message> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(rename = "type", borrow)]
        kind: &'a str,
    }
    let Kind { kind } = serde_json::from_str(body).ok()?;
    // JSON has no line breaks outside of strings, and none unescaped within; ours is written without any.
    let text = if number > 0 {
        format!("id: {number}\nevent: {kind}\ndata: {body}\n\n")
    } else {
        format!("event: {kind}\ndata: {body}\n\n")
    };
    Some(Message { number, text: text.into() })
}

/// An open stream. Dropping it gives its place back.
pub struct Subscription {
    hub: Arc<Hub>,
    organization: Uuid,
    id: Uuid,
    messages: mpsc::Receiver<Message>,
    /// Messages up to this number were sent already.
    after: i64,
}

impl Subscription {
    /// Passes over messages up to this number.
    pub const fn begin_after(&mut self, number: i64) {
        self.after = number;
    }

    /// The next message; `None` at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let message = self.messages.recv().await?;
            if message.number == 0 || message.number > self.after {
                return Some(message.text);
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.count(-1);
        self.hub.leave(self.organization, self.id);
        let (hub, organization, id) = (Arc::clone(&self.hub), self.organization, self.id);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Else the place is free when its time is over.
                let _ = hub.places.leave(organization, id).await;
            });
        }
    }
}
