//! The product as it ships.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod abuse;
mod clients;
mod command_line;
mod kilometres;
mod replicas;
mod support;
mod telemetry;
