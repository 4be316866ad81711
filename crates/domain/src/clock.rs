//! Nothing else reads the time, so a test can move it and never has to sleep.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

/// Where the time comes from.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The present moment, in UTC, cut to the microseconds that the database keeps.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        to_micros(Utc::now())
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub struct ManualClock(Mutex<DateTime<Utc>>);

impl ManualClock {
    /// Starts at `now`.
    #[must_use]
    pub fn at(now: DateTime<Utc>) -> Self {
        Self(Mutex::new(to_micros(now)))
    }

    /// Moves the clock; a negative `by` moves it back.
    pub fn advance(&self, by: TimeDelta) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts a time to microseconds: what is answered at once is then what is read back later.
#[must_use]
pub fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

/// A time as stored columns look on the wire: `2026-03-10T08:00:00.123456+00:00`, up to six fraction digits, trailing
/// zeros cut, no fraction when it is zero.
#[derive(Debug, Clone, Copy, ToSchema)]
pub struct Stored(pub DateTime<Utc>);

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_rfc3339_opts(SecondsFormat::Micros, true);
        f.write_str(text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.'))?;
        f.write_str("+00:00")
    }
}

impl Serialize for Stored {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// For `#[serde(serialize_with = …)]`: a time as [`Stored`].
pub fn stored<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    Stored(*time).serialize(serializer)
}

/// For `#[serde(serialize_with = …)]`: a time as [`Stored`], or `null`.
pub fn stored_or_null<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(Stored).serialize(serializer)
}

/// A time made by the server at reply time: `2026-03-10T08:00:00.123Z`.
#[derive(Debug, Clone, Copy, ToSchema)]
pub struct Replied(pub DateTime<Utc>);

impl fmt::Display for Replied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Replied {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_times_cut_trailing_zeros() {
        let at =
            |micros: i64| Stored(DateTime::from_timestamp_micros(1_773_129_600_000_000 + micros).unwrap()).to_string();
        assert_eq!(at(0), "2026-03-10T08:00:00+00:00");
        assert_eq!(at(500_000), "2026-03-10T08:00:00.5+00:00");
        assert_eq!(at(123_456), "2026-03-10T08:00:00.123456+00:00");
        assert_eq!(at(10), "2026-03-10T08:00:00.00001+00:00");
    }

    #[test]
    fn times_of_a_reply_have_milliseconds() {
        assert_eq!(
            Replied(DateTime::from_timestamp_micros(1_773_129_600_007_999).unwrap()).to_string(),
            "2026-03-10T08:00:00.007Z"
        );
    }
}
