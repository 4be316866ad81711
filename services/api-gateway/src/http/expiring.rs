//! A small cache whose entries end by themselves.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};

/// Answers kept until a time of their own. Bounded: when it is full, expired entries go, and if none has expired, all
/// do; the cost is asking again.
#[derive(Debug)]
pub struct Expiring<K, V> {
    entries: Mutex<HashMap<K, (DateTime<Utc>, V)>>,
    most: usize,
}

impl<K: Eq + Hash, V: Clone> Expiring<K, V> {
    /// An empty cache of at most `most` entries.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { entries: Mutex::new(HashMap::new()), most }
    }

    /// What is known at `now`.
    pub fn get(&self, key: &K, now: DateTime<Utc>) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).filter(|(until, _)| *until > now).map(|(_, value)| value.clone())
    }

    /// Forgets what is known.
    pub fn remove(&self, key: &K) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Remembers `value` until `until`.
    pub fn put(&self, key: K, value: V, now: DateTime<Utc>, until: DateTime<Utc>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.most && !entries.contains_key(&key) {
            entries.retain(|_, (until, _)| *until > now);
            if entries.len() >= self.most {
                entries.clear();
            }
        }
        entries.insert(key, (until, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn entries_end_by_themselves_and_never_outgrow_the_bound() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let cache = Expiring::new(2);
        cache.put(1, 'a', now, now + TimeDelta::seconds(30));
        assert_eq!(cache.get(&1, now), Some('a'));
        assert_eq!(cache.get(&1, now + TimeDelta::seconds(30)), None);
        for key in 2..100 {
            cache.put(key, 'b', now, now + TimeDelta::seconds(30));
            assert!(cache.entries.lock().unwrap().len() <= 2);
        }
        assert_eq!(cache.get(&99, now), Some('b'));
        cache.remove(&99);
        assert_eq!(cache.get(&99, now), None);
    }
}
