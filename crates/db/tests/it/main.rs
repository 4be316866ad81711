//! The database as it really behaves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod audit;
mod changes;
mod events;
mod fences;
mod journeys;
mod locations;
mod migrations;
mod relay;
mod support;
mod tenancy;
mod tls;
