//! The product as it ships.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod command_line;
mod kilometres;
mod support;
mod telemetry;
