//! Everything open streams of this process are told, by one task.
//!
//! The process listens to Redis once, whatever its streams. Each message is written once and shared by all who get it;
//! each stream has a small buffer of its own, and one whose reader does not keep up is ended, so that it costs the
//! others nothing. When the connection to Redis was lost something may have been missed: all streams end, their clients
//! come back with the last id they saw, and the database has what came after it.
//!
//! Readers are of two kinds: streams of events, which get each message as it is, and sockets that follow tables, which
//! get the rows that [`super::changes`] reads for all of them at once.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::web::Bytes;
use chrono::{DateTime, Utc};
use domain::change::Table;
use domain::{Clock, Tenant};
use queue::Redis;
use queue::live::{Live, LiveListener, LivePublisher};
use queue::streams::StreamPlaces;
use serde::Deserialize;
use telemetry::metrics::Gauge;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::changes::Change;
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

/// Changes that may wait for their rows to be read.
pub const CHANGES: usize = 4096;

/// Streams and sockets an organization may have, over all replicas.
pub const MOST: usize = 20;

/// Sockets whose owner has not said who they are, of this process.
const STRANGERS: usize = 1000;

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
    reader: Reader,
}

/// Who reads a stream.
enum Reader {
    /// Somebody who gets every message as it is.
    Events(mpsc::Sender<Message>),
    /// A socket that follows tables.
    Changes {
        sender: mpsc::Sender<Arc<Change>>,
        /// Which ones, a bit each.
        follows: Arc<AtomicU8>,
        /// The right to the rows it is told of.
        tenant: Tenant,
    },
}

const fn bit(table: Table) -> u8 {
    1 << table as u8
}

/// The hub of a process.
pub struct Hub {
    streams: Mutex<HashMap<Uuid, Vec<Stream>>>,
    /// Places that are held, each with its organization: also by streams that were ended and whose client has not gone.
    held: Mutex<HashSet<(Uuid, Uuid)>>,
    /// The number of the last message that was passed on; what comes again is not.
    last: AtomicI64,
    closed: watch::Sender<bool>,
    strangers: AtomicUsize,
    /// Organizations that somebody watches, on whatever replica.
    watched: Mutex<HashSet<Uuid>>,
    positions: mpsc::Sender<Live>,
    /// What changed, for whoever reads the rows.
    changes: mpsc::Sender<Live>,
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
    /// A hub without streams; [`Self::run`] does its work. Positions are published by a task of their own; what changed
    /// goes to `changes`.
    #[must_use]
    pub fn start(redis: Redis, clock: Arc<dyn Clock>, metrics: Arc<Metrics>, changes: mpsc::Sender<Live>) -> Arc<Self> {
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
            held: Mutex::default(),
            last: AtomicI64::new(0),
            closed: watch::Sender::new(false),
            strangers: AtomicUsize::new(0),
            watched: Mutex::default(),
            positions,
            changes,
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
                        self.pass_on(live);
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
                self.keep_places(self.open_places()).await;
                self.ping();
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

    /// Opens a stream of events until `until` at the longest.
    pub async fn open(self: &Arc<Self>, organization: Uuid, until: DateTime<Utc>) -> Result<Subscription, NotOpened> {
        let place = self.take_place(organization, MOST, Kind::Events).await?;
        let (sender, messages) = mpsc::channel(BUFFER);
        self.enter(&place, until, Reader::Events(sender))?;
        Ok(Subscription { _place: place, messages, after: 0 })
    }

    /// Lets a socket follow tables until `until`, which may be put off; of `most` streams and sockets at the most.
    pub async fn follow(
        self: &Arc<Self>,
        tenant: Tenant,
        until: DateTime<Utc>,
        most: usize,
    ) -> Result<Following, NotOpened> {
        let place = self.take_place(tenant.organization().uuid(), most, Kind::Socket).await?;
        let (sender, changes) = mpsc::channel(BUFFER);
        let follows = Arc::new(AtomicU8::new(0));
        self.enter(&place, until, Reader::Changes { sender, follows: Arc::clone(&follows), tenant })?;
        Ok(Following { place, changes, follows })
    }

    async fn take_place(self: &Arc<Self>, organization: Uuid, most: usize, kind: Kind) -> Result<Place, NotOpened> {
        let id = Uuid::new_v4();
        // With Redis away a replica counts its own.
        let free = match self.places.take(organization, id, most).await {
            Ok(free) => free,
            Err(_) => lock(&self.held).iter().filter(|(whose, _)| *whose == organization).count() < most,
        };
        if free {
            lock(&self.held).insert((organization, id));
        }
        // From here on the place is given back whatever happens.
        let place = Place { hub: Arc::clone(self), organization, id, kind };
        self.gauge(kind).inc();
        if free { Ok(place) } else { Err(NotOpened::TooMany) }
    }

    fn enter(&self, place: &Place, until: DateTime<Utc>, reader: Reader) -> Result<(), NotOpened> {
        let mut streams = lock(&self.streams);
        // Asked under the lock: whoever closes the hub then ends what was let in before.
        if *self.closed.borrow() {
            return Err(NotOpened::Closing);
        }
        streams.entry(place.organization).or_default().push(Stream { id: place.id, until, reader });
        drop(streams);
        lock(&self.watched).insert(place.organization);
        Ok(())
    }

    /// Ends every stream and opens no more.
    pub fn close(&self) {
        self.closed.send_replace(true);
        self.end_all();
    }

    /// Tells when the hub closes.
    #[must_use]
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Counts a socket of which nobody knows whose it is; `None` when there are as many as there may be.
    #[must_use]
    pub fn stranger(self: &Arc<Self>) -> Option<Stranger> {
        let stranger = Stranger(Arc::clone(self));
        (self.strangers.fetch_add(1, Ordering::Relaxed) < STRANGERS).then_some(stranger)
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

    fn pass_on(&self, live: Live) {
        if live.number > 0 && self.last.fetch_max(live.number, Ordering::AcqRel) >= live.number {
            return;
        }
        let mut streams = lock(&self.streams);
        let Some(of_organization) = streams.get_mut(&live.organization) else { return };
        if live.about.is_some_and(|about| !is_time(&self.passed_on, about)) {
            return;
        }
        let Some(kind) = kind(&live.body) else { return };
        let changed = Table::changed_by(kind).map_or(0, |(table, _)| bit(table));
        let mut message = None;
        let mut followed = false;
        let before = of_organization.len();
        of_organization.retain(|stream| match &stream.reader {
            Reader::Events(sender) => {
                let message: &Message = message.get_or_insert_with(|| Message::new(live.number, kind, &live.body));
                match sender.try_send(message.clone()) {
                    Ok(()) => true,
                    // A position is worth nothing to a reader that is behind; anything else it would miss.
                    Err(mpsc::error::TrySendError::Full(_)) => live.about.is_some(),
                    Err(mpsc::error::TrySendError::Closed(_)) => false,
                }
            }
            Reader::Changes { follows, .. } => {
                followed |= follows.load(Ordering::Relaxed) & changed != 0;
                true
            }
        });
        let ended = before - of_organization.len();
        if of_organization.is_empty() {
            streams.remove(&live.organization);
        }
        drop(streams);
        self.metrics.streams_dropped(ended);
        if followed
            && let Err(mpsc::error::TrySendError::Full(lost)) = self.changes.try_send(live)
            && lost.about.is_none()
        {
            self.end_followers(lost.organization);
        }
    }

    /// The right to an organization's rows, of one of the sockets that follow its tables; `None` when none does.
    #[must_use]
    pub fn followers(&self, organization: Uuid) -> Option<Tenant> {
        lock(&self.streams).get(&organization)?.iter().find_map(|stream| match &stream.reader {
            Reader::Changes { tenant, .. } => Some(*tenant),
            Reader::Events(_) => None,
        })
    }

    /// Tells the sockets of an organization what has changed.
    pub fn tell(&self, organization: Uuid, changes: &[Arc<Change>]) {
        let mut ended = 0;
        self.retain(organization, |stream| {
            let Reader::Changes { sender, follows, .. } = &stream.reader else { return true };
            let follows = follows.load(Ordering::Relaxed);
            for change in changes.iter().filter(|change| follows & bit(change.table) != 0) {
                match sender.try_send(Arc::clone(change)) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) if change.is_passing => {}
                    Err(_) => {
                        ended += 1;
                        return false;
                    }
                }
            }
            true
        });
        self.metrics.streams_dropped(ended);
    }

    /// Ends the sockets of an organization: they have missed something, and their clients come back and look.
    pub fn end_followers(&self, organization: Uuid) {
        self.retain(organization, |stream| matches!(stream.reader, Reader::Events(_)));
    }

    fn retain(&self, organization: Uuid, stays: impl FnMut(&Stream) -> bool) {
        let mut streams = lock(&self.streams);
        if let Some(of_organization) = streams.get_mut(&organization) {
            of_organization.retain(stays);
            if of_organization.is_empty() {
                streams.remove(&organization);
            }
        }
    }

    /// Sends every reader of events a comment.
    fn ping(&self) {
        for stream in lock(&self.streams).values().flatten() {
            if let Reader::Events(sender) = &stream.reader {
                // A reader with a full buffer has something to read.
                let _ = sender.try_send(Message { number: 0, text: PING });
            }
        }
    }

    /// Who is there, each with their organization.
    fn open_places(&self) -> Vec<(Uuid, Uuid)> {
        lock(&self.held).iter().copied().collect()
    }

    /// Keeps the places of those who were there. Whoever left meanwhile may have been given theirs anew: it is taken back.
    async fn keep_places(&self, open: Vec<(Uuid, Uuid)>) {
        if let Err(error) = self.places.renew(&open).await {
            tracing::debug!(error.message = %error, "the places of streams could not be renewed");
        }
        let still: HashSet<(Uuid, Uuid)> = self.open_places().into_iter().collect();
        for (organization, id) in open.into_iter().filter(|place| !still.contains(place)) {
            // Else the place is free when its time is over.
            let _ = self.places.leave(organization, id).await;
        }
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

    fn gauge(&self, kind: Kind) -> &Gauge {
        match kind {
            Kind::Events => &self.metrics.sse_connections,
            Kind::Socket => &self.metrics.realtime_connections,
        }
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

/// What a message says it is; `None` when it does not.
fn kind(body: &str) -> Option<&str> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(rename = "type", borrow)]
        kind: &'a str,
    }
    serde_json::from_str::<Kind<'_>>(body).ok().map(|message| message.kind)
}

impl Message {
    /// As the wire has it.
    fn new(number: i64, kind: &str, body: &str) -> Self {
        // JSON has no line breaks outside of strings, and none unescaped within; ours is written without any.
        let text = if number > 0 {
            format!("id: {number}\nevent: {kind}\ndata: {body}\n\n")
        } else {
            format!("event: {kind}\ndata: {body}\n\n")
        };
        Self { number, text: text.into() }
    }
}

/// A message as the wire has it; `None` when it does not say what it is.
pub fn written(number: i64, body: &str) -> Option<Message> {
    Some(Message::new(number, kind(body)?, body))
}

/// What holds a place.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Events,
    Socket,
}

/// A place among the streams of an organization. Dropping it gives it back.
struct Place {
    hub: Arc<Hub>,
    organization: Uuid,
    id: Uuid,
    kind: Kind,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.gauge(self.kind).dec();
        let (hub, organization, id) = (Arc::clone(&self.hub), self.organization, self.id);
        hub.retain(organization, |stream| stream.id != id);
        lock(&hub.held).remove(&(organization, id));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Else the place is free when its time is over.
                let _ = hub.places.leave(organization, id).await;
            });
        }
    }
}

/// An open stream of events.
pub struct Subscription {
    _place: Place,
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

/// A socket that follows tables.
pub struct Following {
    place: Place,
    changes: mpsc::Receiver<Arc<Change>>,
    follows: Arc<AtomicU8>,
}

impl Following {
    /// Says which tables from now on.
    pub fn set(&self, tables: impl IntoIterator<Item = Table>) {
        self.follows.store(tables.into_iter().fold(0, |bits, table| bits | bit(table)), Ordering::Relaxed);
    }

    /// Puts the end off.
    pub fn prolong(&self, until: DateTime<Utc>) {
        let mut streams = lock(&self.place.hub.streams);
        let of_organization = streams.get_mut(&self.place.organization);
        if let Some(stream) = of_organization.and_then(|all| all.iter_mut().find(|one| one.id == self.place.id)) {
            stream.until = stream.until.max(until);
        }
    }

    /// The next change; `None` at the end.
    pub async fn next(&mut self) -> Option<Arc<Change>> {
        self.changes.recv().await
    }
}

/// A socket of which nobody knows yet whose it is. Dropping it makes room for another.
pub struct Stranger(Arc<Hub>);

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.strangers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::live::changes::Change;
    use chrono::TimeDelta;
    use domain::change::{Operation, Record};
    use domain::{ManualClock, SystemClock};
    use queue::RedisConfig;
    use telemetry::metrics::Registry;
    use testkit::redis::RedisServer;

    fn hub(redis: &RedisServer) -> (Arc<Hub>, mpsc::Receiver<Live>) {
        let redis = Redis::open(&RedisConfig::new(redis.url().into())).unwrap();
        let (changes, changed) = mpsc::channel(1);
        let clock = Arc::new(ManualClock::at(SystemClock.now()));
        (Hub::start(redis, clock, Arc::new(Metrics::new(Registry::new())), changes), changed)
    }

    fn live(number: i64, organization: Uuid, about: Option<Uuid>, kind: &str) -> Live {
        let body = format!(r#"{{"type":"{kind}","payload":{{}},"ts":""}}"#);
        Live { number, organization, about, body }
    }

    #[tokio::test]
    async fn a_socket_that_is_behind_ends_and_costs_the_others_nothing() {
        let redis = RedisServer::start().unwrap();
        let (hub, _changed) = hub(&redis);
        let tenant = testkit::database::tenant(Uuid::now_v7());
        let organization = tenant.organization().uuid();
        let until = SystemClock.now() + TimeDelta::hours(1);
        let (mut slow, mut quick) =
            (hub.follow(tenant, until, MOST).await.unwrap(), hub.follow(tenant, until, MOST).await.unwrap());
        let idle = hub.follow(tenant, until, MOST).await.unwrap();
        for following in [&slow, &quick] {
            following.set([Table::Expenses]);
        }
        let change = |passing| {
            let nothing = Record::parse("{}".to_owned()).unwrap();
            Arc::new(Change::new(Table::Expenses, Operation::Insert, nothing, String::new(), passing))
        };
        for _ in 0..BUFFER {
            hub.tell(organization, &[change(false)]);
            assert!(quick.next().await.is_some());
        }
        // A position is lost to it, anything else ends it.
        hub.tell(organization, &[change(true)]);
        assert!(quick.next().await.is_some());
        assert_eq!(lock(&hub.streams)[&organization].len(), 3);
        hub.tell(organization, &[change(false)]);
        assert!(quick.next().await.is_some());
        for _ in 0..BUFFER {
            assert!(slow.next().await.is_some());
        }
        assert!(slow.next().await.is_none());
        drop(idle);
        assert_eq!(lock(&hub.streams)[&organization].len(), 1);
    }

    #[tokio::test]
    async fn a_reader_that_is_behind_ends_and_the_others_hear_everything() {
        let redis = RedisServer::start().unwrap();
        let (hub, _changed) = hub(&redis);
        let (organization, employee) = (Uuid::now_v7(), Uuid::now_v7());
        let until = SystemClock.now() + TimeDelta::hours(1);
        let mut slow = hub.open(organization, until).await.unwrap();
        let mut quick = hub.open(organization, until).await.unwrap();
        let most = i64::try_from(BUFFER).unwrap();
        for number in 1..=most {
            hub.pass_on(live(number, organization, None, "session.checkin"));
            assert!(quick.next().await.is_some());
        }
        // A position is lost to it, anything else ends it.
        hub.pass_on(live(0, organization, Some(employee), "location.updated"));
        assert!(quick.next().await.is_some());
        assert_eq!(lock(&hub.streams)[&organization].len(), 2);
        hub.pass_on(live(most + 1, organization, None, "session.checkin"));
        assert!(quick.next().await.is_some());
        assert_eq!(lock(&hub.streams)[&organization].len(), 1);
        for _ in 0..BUFFER {
            assert!(slow.next().await.is_some());
        }
        assert!(slow.next().await.is_none());
        // Ended, and its client still there: it holds its place.
        assert_eq!(hub.open_places().len(), 2);
        drop(slow);
        assert_eq!(hub.open_places().len(), 1);
    }

    #[tokio::test]
    async fn somebodys_positions_are_told_once_a_second_and_everybody_elses_too() {
        let redis = RedisServer::start().unwrap();
        let (hub, _changed) = hub(&redis);
        let (organization, asha, ben) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let mut stream = hub.open(organization, SystemClock.now() + TimeDelta::hours(1)).await.unwrap();
        let begun = Instant::now();
        for _ in 0..20 {
            for employee in [asha, ben] {
                hub.pass_on(live(0, organization, Some(employee), "location.updated"));
            }
        }
        hub.pass_on(live(1, organization, None, "session.checkout"));
        let mut positions = 0;
        while !String::from_utf8_lossy(&stream.next().await.unwrap()).contains("session.checkout") {
            positions += 1;
        }
        assert!(positions == 2 || begun.elapsed() >= POSITION_EVERY, "{positions} of 40");
    }

    #[tokio::test]
    async fn the_places_of_an_organization_are_counted_over_all_replicas() {
        let redis = RedisServer::start().unwrap();
        let ((one, _changed), (other, _changed_too)) = (hub(&redis), hub(&redis));
        let organization = Uuid::now_v7();
        let until = SystemClock.now() + TimeDelta::hours(1);
        let mut open = Vec::new();
        for number in 0..MOST {
            let hub = if number % 2 == 0 { &one } else { &other };
            open.push(hub.open(organization, until).await.unwrap());
        }
        for hub in [&one, &other] {
            assert_eq!(hub.open(organization, until).await.err(), Some(NotOpened::TooMany));
            assert!(hub.open(Uuid::now_v7(), until).await.is_ok());
        }
        open.pop();
        // It is given back by a task.
        let deadline = Instant::now() + Duration::from_secs(10);
        while one.open(organization, until).await.is_err() {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn rows_are_read_only_of_tables_that_somebody_follows_and_once_for_all() {
        let redis = RedisServer::start().unwrap();
        let (hub, mut changed) = hub(&redis);
        let tenant = testkit::database::tenant(Uuid::now_v7());
        let organization = tenant.organization().uuid();
        let until = SystemClock.now() + TimeDelta::hours(1);
        let mut all = Vec::new();
        for _ in 0..3 {
            let following = hub.follow(tenant, until, MOST).await.unwrap();
            following.set([Table::Sessions]);
            all.push(following);
        }
        hub.pass_on(live(1, organization, None, "expense.created"));
        hub.pass_on(live(2, Uuid::now_v7(), None, "session.checkin"));
        assert!(changed.try_recv().is_err());
        hub.pass_on(live(3, organization, None, "session.checkin"));
        hub.pass_on(live(3, organization, None, "session.checkin"));
        assert_eq!(changed.try_recv().unwrap().number, 3);
        assert!(changed.try_recv().is_err());
        assert_eq!(hub.followers(organization), Some(tenant));
        // What cannot be read any more was missed, unless it is a position.
        all[0].set([Table::Sessions, Table::Locations]);
        hub.pass_on(live(4, organization, None, "session.checkout"));
        hub.pass_on(live(0, organization, Some(Uuid::now_v7()), "location.updated"));
        assert!(hub.followers(organization).is_some());
        hub.pass_on(live(5, organization, None, "session.checkout"));
        assert!(hub.followers(organization).is_none());
        assert!(all[1].next().await.is_none());
    }

    #[tokio::test]
    async fn a_place_that_was_given_back_while_places_were_renewed_stays_free() {
        let redis = RedisServer::start().unwrap();
        let (hub, _changed) = hub(&redis);
        let tenant = testkit::database::tenant(Uuid::now_v7());
        let until = SystemClock.now() + TimeDelta::hours(1);
        let left = hub.follow(tenant, until, 2).await.unwrap();
        let _stays = hub.follow(tenant, until, 2).await.unwrap();
        let open = hub.open_places();
        let places = format!("fieldtrack:streams:{}", tenant.organization());
        let taken = || redis.call(&["ZCARD", &places]).unwrap().to_string();
        assert_eq!(taken(), "2");
        drop(left);
        let deadline = Instant::now() + Duration::from_secs(30);
        while taken() != "1" {
            assert!(Instant::now() < deadline, "the place is not given back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        hub.keep_places(open).await;
        assert_eq!(taken(), "1");
    }

    #[tokio::test]
    async fn sockets_of_strangers_are_counted() {
        let redis = RedisServer::start().unwrap();
        let (hub, _changed) = hub(&redis);
        let mut strangers: Vec<Stranger> = std::iter::from_fn(|| hub.stranger()).collect();
        assert_eq!(strangers.len(), STRANGERS);
        strangers.pop();
        assert!(hub.stranger().is_some());
    }
}
