//! The only crate that knows SQL.
//!
//! There are two ways to reach a row. [`TenantTx`] sees one organization and asks for a [`domain::Tenant`], the proof
//! of belonging to it; [`SystemTx`] is another role with narrow rights, for the few readers that come before any
//! organization is known. A query takes one of the two as its first argument, so leaving the tenant out does not
//! compile. PostgreSQL says the same again: neither role owns a table, and row-level security is forced.

pub mod attendance;
mod config;
pub mod employees;
mod error;
pub mod identity;
pub mod locations;
pub mod measurement;
mod migrate;
pub mod organizations;
mod pool;
mod schema;
mod system;
mod tenant;
mod tls;

pub use config::{DatabaseConfig, InvalidDatabaseUrl};
pub use error::DbError;
pub use migrate::{MigrateError, migrate, revert_all};
pub use pool::{Db, PoolUse};
pub use system::SystemTx;
pub use tenant::TenantTx;

/// What every function here answers.
pub type DbResult<T> = Result<T, DbError>;
