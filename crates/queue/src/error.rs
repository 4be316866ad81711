//! What can go wrong with Redis.

use redis::ErrorKind;

/// Redis did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// It cannot be reached, or did not answer in time.
    #[error("Redis is unavailable: {0}")]
    Unavailable(String),
    /// The queue holds as many jobs as it may; nothing was added.
    #[error("the queue {queue} holds {depth} jobs or more")]
    Overloaded {
        /// Which queue.
        queue: String,
        /// How many it may hold.
        depth: u64,
    },
    /// It refused, or answered something else than it should.
    #[error("Redis refused: {0}")]
    Broken(String),
    /// The address cannot be used; it is not repeated, since it may hold a password.
    #[error("{0}")]
    Address(&'static str),
}

impl From<redis::RedisError> for QueueError {
    fn from(error: redis::RedisError) -> Self {
        // An error's text holds the command's answer and never the address.
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || error.is_connection_refusal() {
            return Self::Unavailable(error.to_string());
        }
        match error.kind() {
            ErrorKind::Server(
                redis::ServerErrorKind::BusyLoading
                | redis::ServerErrorKind::TryAgain
                | redis::ServerErrorKind::ClusterDown
                | redis::ServerErrorKind::MasterDown
                | redis::ServerErrorKind::ReadOnly,
            ) => Self::Unavailable(error.to_string()),
            _ => Self::Broken(error.to_string()),
        }
    }
}

impl From<gather::Unanswered> for QueueError {
    fn from(error: gather::Unanswered) -> Self {
        Self::Unavailable(error.to_string())
    }
}
