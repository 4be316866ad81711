//! The worker on a real database and a real Redis.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod answers;
mod bad_jobs;
mod dead_letters;
mod figures;
mod intents;
mod pages;
mod schedule;
mod sign_in;
mod ssrf;
mod support;
mod webhooks;
