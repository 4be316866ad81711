//! Keys that somebody else holds, kept close at hand.
//!
//! Tokens must be verified while whoever holds the keys is away, and no stranger may make us ask for them at every
//! request by inventing key ids. So keys are renewed in the background once they are old, an unknown id makes us ask
//! at once but seldom, and old keys are better than none.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, TimeDelta, Utc};
use domain::Clock;
use jsonwebtoken::DecodingKey;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::keys::PublicKeys;

/// How often an unknown key id may make us ask.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(5);
/// The same while no key is known at all.
const ASK_AT_FIRST: TimeDelta = TimeDelta::seconds(1);

/// The keys cannot be had; the cause has been logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unavailable;

/// Where keys come from.
pub(super) trait KeySource: Send + Sync + 'static {
    /// What it gives.
    type Keys: Published;
    /// How long that is not asked for again.
    const FRESH: TimeDelta;

    /// Asks for all keys; ends by itself within a few seconds.
    fn load(&self, now: DateTime<Utc>) -> impl Future<Output = Result<Self::Keys, Unavailable>> + Send;
}

/// Keys of which some are public.
pub(super) trait Published: Send + Sync + 'static {
    /// Those that verify.
    fn public(&self) -> &PublicKeys;
}

/// The keys of a source.
pub(super) struct KeyCache<S: KeySource>(Arc<Inner<S>>);

struct Inner<S: KeySource> {
    source: S,
    clock: Arc<dyn Clock>,
    known: RwLock<Option<Known<S::Keys>>>,
    /// Held by whoever is asking.
    last: Arc<Mutex<Option<Attempt>>>,
    generation: AtomicU64,
}

struct Known<K> {
    keys: Arc<K>,
    since: DateTime<Utc>,
}

impl<K> Clone for Known<K> {
    fn clone(&self) -> Self {
        Self { keys: Arc::clone(&self.keys), since: self.since }
    }
}

struct Attempt {
    at: DateTime<Utc>,
    succeeded: bool,
}

impl<S: KeySource> KeyCache<S> {
    pub(super) fn new(source: S, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            source,
            clock,
            known: RwLock::new(None),
            last: Arc::default(),
            generation: AtomicU64::new(0),
        }))
    }

    pub(super) fn source(&self) -> &S {
        &self.0.source
    }

    /// Changes whenever a key was withdrawn: what was verified before is then verified again.
    pub(super) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// The key of that id; `None` when there is none.
    pub(super) async fn find(&self, kid: &str) -> Result<Option<DecodingKey>, Unavailable> {
        let known = self.0.known();
        if let Some(known) = &known
            && let Some(key) = known.keys.public().find(kid)
        {
            if self.0.is_old(known) {
                self.renew_behind();
            }
            return Ok(Some(key.clone()));
        }
        let pause = if known.is_some() { ASK_AGAIN } else { ASK_AT_FIRST };
        let keys = self.0.ask(pause).await?;
        Ok(keys.public().find(kid).cloned())
    }

    /// The keys as they are now, or as they last were when they cannot be asked for.
    pub(super) async fn current(&self) -> Result<Arc<S::Keys>, Unavailable> {
        match self.0.known() {
            Some(known) if !self.0.is_old(&known) => Ok(known.keys),
            Some(known) => Ok(self.0.ask(ASK_AGAIN).await.unwrap_or(known.keys)),
            None => self.0.ask(ASK_AT_FIRST).await,
        }
    }

    /// Asks now, however lately that was done.
    pub(super) async fn ask_now(&self) -> Result<(), Unavailable> {
        self.0.ask(TimeDelta::zero()).await.map(|_| ())
    }

    /// Asks whenever the keys are due to become old, and more often while there is no answer. Never ends.
    pub(super) async fn keep_fresh(&self) {
        loop {
            let pause = if self.ask_now().await.is_ok() { S::FRESH } else { ASK_AGAIN };
            // Woken a little early, so that no request finds the keys old.
            tokio::time::sleep(pause.to_std().unwrap_or_default().mul_f32(0.9)).await;
        }
    }

    fn renew_behind(&self) {
        let Ok(turn) = Arc::clone(&self.0.last).try_lock_owned() else { return };
        if self.0.is_recent(turn.as_ref(), ASK_AGAIN) {
            return;
        }
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move { inner.load(turn).await });
    }
}

impl<S: KeySource> Inner<S> {
    fn known(&self) -> Option<Known<S::Keys>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_old(&self, known: &Known<S::Keys>) -> bool {
        let now = self.clock.now();
        now < known.since || now - known.since >= S::FRESH
    }

    fn is_recent(&self, last: Option<&Attempt>, pause: TimeDelta) -> bool {
        let now = self.clock.now();
        last.is_some_and(|last| now >= last.at && now - last.at < pause)
    }

    /// Asks, unless somebody did within `pause`: then their answer is the answer.
    async fn ask(&self, pause: TimeDelta) -> Result<Arc<S::Keys>, Unavailable> {
        let turn = Arc::clone(&self.last).lock_owned().await;
        if let Some(last) = turn.as_ref()
            && self.is_recent(Some(last), pause)
        {
            return match self.known() {
                Some(known) if last.succeeded => Ok(known.keys),
                _ => Err(Unavailable),
            };
        }
        self.load(turn).await
    }

    async fn load(&self, mut turn: OwnedMutexGuard<Option<Attempt>>) -> Result<Arc<S::Keys>, Unavailable> {
        let loaded = self.source.load(self.clock.now()).await;
        // The time after the answer: a source that hangs would else be asked by one caller after the other.
        let now = self.clock.now();
        *turn = Some(Attempt { at: now, succeeded: loaded.is_ok() });
        let keys = Arc::new(loaded?);
        let before = self
            .known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(Known { keys: Arc::clone(&keys), since: now });
        if before.is_some_and(|before| !keys.public().contains_all(before.keys.public())) {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;
    use std::sync::atomic::AtomicUsize;

    use domain::ManualClock;

    use super::*;
    use crate::identity::keys::tests::{public_key, some_keys};

    struct Scripted {
        asked: Arc<AtomicUsize>,
        answer: Arc<StdMutex<Option<Vec<&'static str>>>>,
    }

    impl Published for PublicKeys {
        fn public(&self) -> &PublicKeys {
            self
        }
    }

    impl KeySource for Scripted {
        type Keys = PublicKeys;
        const FRESH: TimeDelta = TimeDelta::seconds(60);

        async fn load(&self, _: DateTime<Utc>) -> Result<PublicKeys, Unavailable> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let names = self.answer.lock().unwrap().clone().ok_or(Unavailable)?;
            Ok(some_keys(names.into_iter().map(public_key)))
        }
    }

    struct Stage {
        cache: KeyCache<Scripted>,
        clock: Arc<ManualClock>,
        asked: Arc<AtomicUsize>,
        answer: Arc<StdMutex<Option<Vec<&'static str>>>>,
    }

    impl Stage {
        fn new(answer: Option<Vec<&'static str>>) -> Self {
            let clock = Arc::new(ManualClock::at(DateTime::from_timestamp(1_700_000_000, 0).unwrap()));
            let (asked, answer) = (Arc::default(), Arc::new(StdMutex::new(answer)));
            let source = Scripted { asked: Arc::clone(&asked), answer: Arc::clone(&answer) };
            Self { cache: KeyCache::new(source, clock.clone()), clock, asked, answer }
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        fn answer(&self, answer: Option<Vec<&'static str>>) {
            *self.answer.lock().unwrap() = answer;
        }

        async fn has(&self, kid: &str) -> Result<bool, Unavailable> {
            Ok(self.cache.find(kid).await?.is_some())
        }
    }

    #[tokio::test]
    async fn invented_ids_make_us_ask_once_in_five_seconds() {
        let stage = Stage::new(Some(vec!["a"]));
        assert_eq!(stage.has("a").await, Ok(true));
        for _ in 0..100 {
            assert_eq!(stage.has("invented").await, Ok(false));
        }
        assert_eq!(stage.asked(), 1);
        stage.answer(Some(vec!["b", "a"]));
        stage.clock.advance(TimeDelta::seconds(5));
        assert_eq!((stage.has("b").await, stage.asked()), (Ok(true), 2));
    }

    #[tokio::test]
    async fn known_keys_outlive_their_source() {
        let stage = Stage::new(Some(vec!["a"]));
        assert_eq!(stage.has("a").await, Ok(true));
        stage.answer(None);
        stage.clock.advance(TimeDelta::hours(10));
        assert_eq!(stage.has("a").await, Ok(true));
        tokio::task::yield_now().await;
        assert_eq!(stage.asked(), 2, "old keys are renewed in the background");
        assert!(stage.cache.current().await.is_ok());
        assert_eq!(stage.has("new").await, Err(Unavailable), "who knows whether it exists");
    }

    #[tokio::test]
    async fn a_source_that_was_away_at_first_is_asked_again() {
        let stage = Stage::new(None);
        assert_eq!(stage.has("a").await, Err(Unavailable));
        assert_eq!(stage.has("a").await, Err(Unavailable));
        assert_eq!(stage.asked(), 1);
        stage.answer(Some(vec!["a"]));
        stage.clock.advance(TimeDelta::seconds(1));
        assert_eq!(stage.has("a").await, Ok(true));
    }

    #[tokio::test]
    async fn a_withdrawn_key_starts_a_new_generation() {
        let stage = Stage::new(Some(vec!["a"]));
        stage.cache.ask_now().await.unwrap();
        let first = stage.cache.generation();
        stage.answer(Some(vec!["a", "b"]));
        stage.cache.ask_now().await.unwrap();
        assert_eq!(stage.cache.generation(), first);
        stage.answer(Some(vec!["b"]));
        stage.cache.ask_now().await.unwrap();
        assert_ne!(stage.cache.generation(), first);
    }
}
