//! The worker: measures sessions, and keeps an eye on those that were forgotten.
//!
//! Jobs come from Redis and may be lost, doubled or late; the mark in the database says what is really due, and
//! measuring twice gives the same kilometres. [`jobs`] has a file per kind, [`schedule`] is the table of what runs on
//! a clock, [`startup`] ties it together.

pub mod config;
pub mod dead_letters;
pub mod http;
pub mod jobs;
pub mod metrics;
pub mod relay;
pub mod schedule;
pub mod sign_in;
pub mod startup;
