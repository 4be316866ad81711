//! Open streams, counted over all replicas: each holds a place that it keeps renewing, so the places of a replica that
//! dies become free by themselves.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;

use redis::Script;
use uuid::Uuid;

use crate::connection::Redis;
use crate::error::QueueError;
use crate::now_ms;

/// How long a place is held without being renewed.
pub const HELD_FOR: Duration = Duration::from_secs(45);

/// Organizations that somebody watches; the score is until when.
const WATCHED: &str = "fieldtrack:watched";

/// Takes a place, unless all are taken. KEYS: the organization's places, the watched organizations; ARGV: now, until,
/// the place, how many there are, the organization.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
         if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
         redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3])
         redis.call('PEXPIREAT', KEYS[1], ARGV[2])
         redis.call('ZADD', KEYS[2], ARGV[2], ARGV[5])
         return 1",
    )
});

fn places(organization: Uuid) -> String {
    format!("fieldtrack:streams:{organization}")
}

/// The places of open streams.
#[derive(Clone)]
pub struct StreamPlaces(Redis);

impl StreamPlaces {
    /// Counted by this connection.
    #[must_use]
    pub const fn new(redis: Redis) -> Self {
        Self(redis)
    }

    fn until() -> u64 {
        now_ms() + u64::try_from(HELD_FOR.as_millis()).unwrap_or_default()
    }

    /// Takes a place for a stream of the organization; `false`: `most` are taken.
    pub async fn take(&self, organization: Uuid, stream: Uuid, most: usize) -> Result<bool, QueueError> {
        let taken: u8 = TAKE
            .key(places(organization))
            .key(WATCHED)
            .arg(now_ms())
            .arg(Self::until())
            .arg(stream.to_string())
            .arg(most)
            .arg(organization.to_string())
            .invoke_async(&mut self.0.shared())
            .await?;
        Ok(taken == 1)
    }

    /// Keeps the places of these streams, each given with its organization.
    pub async fn renew(&self, streams: &[(Uuid, Uuid)]) -> Result<(), QueueError> {
        let until = Self::until();
        for some in streams.chunks(500) {
            let mut pipe = redis::pipe();
            for (organization, stream) in some {
                let key = places(*organization);
                pipe.zadd(&key, stream.to_string(), until).ignore();
                pipe.cmd("PEXPIREAT").arg(&key).arg(until).ignore();
                pipe.zadd(WATCHED, organization.to_string(), until).ignore();
            }
            let _: () = pipe.query_async(&mut self.0.shared()).await?;
        }
        Ok(())
    }

    /// Gives a place back.
    pub async fn leave(&self, organization: Uuid, stream: Uuid) -> Result<(), QueueError> {
        let mut connection = self.0.shared();
        let _: i64 =
            redis::cmd("ZREM").arg(places(organization)).arg(stream.to_string()).query_async(&mut connection).await?;
        Ok(())
    }

    /// The organizations that somebody watches, on whatever replica.
    pub async fn watched(&self) -> Result<HashSet<Uuid>, QueueError> {
        let now = now_ms();
        let (found,): (Vec<String>,) = redis::pipe()
            .cmd("ZREMRANGEBYSCORE")
            .arg(WATCHED)
            .arg("-inf")
            .arg(now)
            .ignore()
            .cmd("ZRANGE")
            .arg(WATCHED)
            .arg(0)
            .arg(-1)
            .query_async(&mut self.0.shared())
            .await?;
        Ok(found.iter().filter_map(|id| id.parse().ok()).collect())
    }
}
