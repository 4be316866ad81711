//! The only crate that knows Redis: the job queue, and budgets shared by all replicas.
//!
//! The queue keeps the records that BullMQ keeps, so its tools can look at it, feed it and repair it; transport is a
//! Redis stream with a consumer group. A stream entry is a *ticket*, the right to run one job; which job, BullMQ's own
//! keys say. Every change of state is one script (`lua/`), so a job is in exactly one state at any moment.
//!
//! Redis may be lost at any moment. What is due is written in the database; whoever put a job here asks again.

mod admin;
mod config;
mod connection;
mod dead;
mod error;
mod idle;
pub mod limits;
pub mod live;
mod producer;
mod runner;
mod scripts;
pub mod streams;

pub use admin::{Admin, Counts, Done, Waiting};
pub use config::RedisConfig;
pub use connection::Redis;
pub use dead::{Dead, FailedJobs};
pub use error::QueueError;
pub use producer::{Deduplication, Enqueued, NewJob, Producer};
pub use runner::{Finished, Handler, Job, JobError, Observer, Runner, RunnerOptions};

/// Prefix of every key, as BullMQ has it by default.
pub(crate) const PREFIX: &str = "bull";

/// The base of a queue's keys.
pub(crate) fn base(queue: &str) -> String {
    format!("{PREFIX}:{queue}:")
}

/// The present, in Unix milliseconds. Scripts get their time from the caller, so that they can be repeated.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time in whole milliseconds, as commands take it.
pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
