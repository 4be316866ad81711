//! The gateway as a client meets it: over HTTP, on real PostgreSQL and Redis.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod api_keys;
mod attendance;
mod audit;
mod bad_input;
mod contract;
mod described_limits;
mod description;
mod employees;
mod expenses;
mod expenses_export;
mod fences;
mod figures;
mod health;
mod http_base;
mod identity;
mod limits;
mod live;
mod locations;
mod monitoring;
mod operations;
mod outages;
mod people;
mod periods;
mod profile;
mod realtime;
mod receipts;
mod schema;
mod security;
mod sessions;
mod support;
mod users;
mod webhooks;
