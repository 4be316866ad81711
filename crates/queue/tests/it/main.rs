//! The queue on a real Redis.

mod limits;
mod queue;
mod support;
