//! How an idle worker waits.
//!
//! It sends two commands at once, on a connection of its own: an XREADGROUP that blocks until there is a ticket, and the
//! script [`CALLED`], which Redis runs the moment the first one is over. So jobs are taken before the worker knows that it
//! was called, and come with the ticket: a round trip less than to be called, to ask and to be answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::StreamReadReply;
use redis::{RedisError, RedisResult};

use crate::admin::worker_name;
use crate::connection::Redis;
use crate::error::QueueError;
use crate::runner::StepAnswer;
use crate::scripts::CALLED;
use crate::{base, millis};

/// How long a worker waits before it looks whether it still wants to.
pub(crate) const BLOCK: Duration = Duration::from_secs(1);

/// How long to wait before Redis is tried again: after a connection broke, and when none can be made.
const AWAY: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];

/// Waits that have to fail in a row to be worth a line in the log.
const TELL_AFTER: u32 = 8;

/// What came of waiting.
#[derive(Debug, Default)]
pub(crate) struct Call {
    /// Tickets that were delivered.
    pub tickets: Vec<String>,
    /// What was taken by the last of them; nothing when the script could not be run.
    pub answer: Option<StepAnswer>,
    /// Nobody knows what came of it.
    pub failed: bool,
}

/// A worker's place to wait at.
pub(crate) struct Idle {
    redis: Redis,
    queue: String,
    consumer: String,
    lease: Duration,
    connection: Option<MultiplexedConnection>,
    /// What Redis calls the connection.
    client: Arc<AtomicI64>,
    /// Waits that failed, in a row.
    failures: u32,
}

/// Ends somebody's wait.
pub(crate) struct Interrupt {
    redis: Redis,
    client: Arc<AtomicI64>,
}

impl Interrupt {
    /// Ends the wait now, if it can: else it lasts no longer than [`BLOCK`].
    pub(crate) async fn now(&self) {
        let client = self.client.load(Ordering::Relaxed);
        let _: RedisResult<i64> =
            redis::cmd("CLIENT").arg("UNBLOCK").arg(client).query_async(&mut self.redis.shared()).await;
    }
}

impl Idle {
    pub(crate) fn new(redis: Redis, queue: String, consumer: String, lease: Duration) -> Self {
        Self { redis, queue, consumer, lease, connection: None, client: Arc::default(), failures: 0 }
    }

    /// What ends its waits early.
    pub(crate) fn interrupt(&self) -> Interrupt {
        Interrupt { redis: self.redis.clone(), client: Arc::clone(&self.client) }
    }

    /// Whether there was a connection when it was last used.
    pub(crate) const fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Waits to be called, for [`BLOCK`] at most, or until it is worth trying Redis again. Up to `free` jobs are taken by a
    /// ticket newer than `newest`, the newest this worker has had. With none free, this only connects.
    ///
    /// Whoever drops this does not know what has been taken: it has to be awaited to its end.
    pub(crate) async fn wait(mut self, free: usize, newest: Option<String>) -> (Self, Call) {
        let called = match self.connected().await {
            Ok(_) if free == 0 => Ok(Call::default()),
            Ok(mut connection) => self.called(&mut connection, free, newest).await,
            Err(error) => Err(error),
        };
        match called {
            Ok(call) => {
                self.failures = 0;
                (self, call)
            }
            Err(error) => {
                self.connection = None;
                self.failures += 1;
                // Redis away for a moment is told by whoever takes jobs.
                if self.failures == TELL_AFTER {
                    tracing::warn!(queue = self.queue, error.message = %error, "cannot wait for jobs; looking every second");
                }
                tokio::time::sleep(if self.failures == 1 { AWAY[0] } else { AWAY[1] }).await;
                (self, Call { failed: true, ..Call::default() })
            }
        }
    }

    async fn connected(&mut self) -> Result<MultiplexedConnection, QueueError> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let mut connection = self.redis.blocking(BLOCK, Some(&worker_name(&self.queue))).await?;
        CALLED.load_async(&mut connection).await?;
        // Where that is not allowed, a wait cannot be interrupted.
        let client = redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await.unwrap_or(0);
        self.client.store(client, Ordering::Relaxed);
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    async fn called(
        &self,
        connection: &mut MultiplexedConnection,
        free: usize,
        newest: Option<String>,
    ) -> Result<Call, QueueError> {
        let stream = format!("{}x:stream", base(&self.queue));
        let mut script = CALLED.prepare_invoke();
        script
            .key(base(&self.queue))
            .arg(&self.consumer)
            .arg(millis(self.lease))
            .arg(free)
            .arg(newest.as_deref().unwrap_or("0-0"));
        // One ticket is enough for any number of jobs.
        let (read, taken): (RedisResult<Option<StreamReadReply>>, RedisResult<StepAnswer>) = redis::pipe()
            .ignore_errors()
            .cmd("XREADGROUP")
            .arg(&["GROUP", "workers", &self.consumer, "COUNT", "1", "BLOCK"])
            .arg(millis(BLOCK))
            .arg(&["STREAMS", &stream, ">"])
            .invoke_script(&script)
            .query_async(connection)
            .await?;
        let reply = match read {
            Ok(reply) => reply,
            // The queue was emptied, or Redis came back without it.
            Err(error) if error.code() == Some("NOGROUP") => {
                make_group(connection, &stream).await?;
                return Ok(Call::default());
            }
            Err(error) => return Err(error.into()),
        };
        let tickets: Vec<String> =
            reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).map(|entry| entry.id).collect();
        let answer = match taken {
            Ok(answer) => Some(answer),
            // Somebody emptied the cache of scripts. The tickets are used the long way.
            Err(error) => {
                tracing::debug!(queue = self.queue, error.message = %error, "jobs could not be taken at once");
                CALLED.load_async(connection).await?;
                None
            }
        };
        Ok(Call { tickets, answer, failed: false })
    }
}

async fn make_group(connection: &mut MultiplexedConnection, stream: &str) -> Result<(), RedisError> {
    let made: Result<(), RedisError> =
        redis::cmd("XGROUP").arg(&["CREATE", stream, "workers", "0", "MKSTREAM"]).query_async(connection).await;
    match made {
        // Another worker may have been faster.
        Err(error) if error.code() != Some("BUSYGROUP") => Err(error),
        _ => Ok(()),
    }
}
