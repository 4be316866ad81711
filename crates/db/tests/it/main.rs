//! The database as it really behaves.

mod fences;
mod locations;
mod migrations;
mod support;
mod tenancy;
