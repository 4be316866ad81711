//! The queue on a real Redis.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod limits;
mod queue;
mod support;
mod tls;
