//! The only crate that knows SQL.
//!
//! There are two ways to reach a row. [`TenantTx`] sees one organization and asks for a [`domain::Tenant`], the proof
//! of belonging to it; [`SystemTx`] is another role with narrow rights, for the few readers that come before any
//! organization is known. A query takes one of the two as its first argument, so leaving the tenant out does not
//! compile. PostgreSQL says the same again: neither role owns a table, and row-level security is forced.
//!
//! ```
//! # use db::{Db, DbResult};
//! # use domain::{OrganizationId, SessionId, Tenant};
//! async fn look(db: &Db, tenant: Tenant, organization: OrganizationId, session: SessionId) -> DbResult<()> {
//!     let mut tx = db.tenant(tenant).await?;
//!     db::attendance::find(&mut tx, session).await?;
//!     Ok(())
//! }
//! ```
//!
//! The same with an organization's id in place of the proof:
//!
//! ```compile_fail
//! # use db::{Db, DbResult};
//! # use domain::{OrganizationId, SessionId, Tenant};
//! async fn look(db: &Db, tenant: Tenant, organization: OrganizationId, session: SessionId) -> DbResult<()> {
//!     let mut tx = db.tenant(organization).await?;
//!     db::attendance::find(&mut tx, session).await?;
//!     Ok(())
//! }
//! ```
//!
//! Making up a proof:
//!
//! ```compile_fail
//! # use db::{Db, DbResult};
//! # use domain::{OrganizationId, SessionId, Tenant};
//! async fn look(db: &Db, tenant: Tenant, organization: OrganizationId, session: SessionId) -> DbResult<()> {
//!     let mut tx = db.tenant(Tenant(organization)).await?;
//!     db::attendance::find(&mut tx, session).await?;
//!     Ok(())
//! }
//! ```
//!
//! Without any tenant, by the system's door:
//!
//! ```compile_fail
//! # use db::{Db, DbResult};
//! # use domain::{OrganizationId, SessionId, Tenant};
//! async fn look(db: &Db, tenant: Tenant, organization: OrganizationId, session: SessionId) -> DbResult<()> {
//!     let mut tx = db.system().await?;
//!     db::attendance::find(&mut tx, session).await?;
//!     Ok(())
//! }
//! ```

mod advisory;
pub mod api_keys;
pub mod attendance;
pub mod audit;
pub mod changes;
mod config;
pub mod employees;
mod error;
pub mod events;
pub mod expenses;
pub mod figures;
pub mod identity;
pub mod intents;
mod json;
pub mod listen;
pub mod locations;
pub mod measurement;
mod migrate;
pub mod monitoring;
pub mod organizations;
mod pattern;
mod pool;
pub mod relay;
pub mod schedule;
mod schema;
pub mod sign_in;
mod system;
mod tenant;
mod tls;
pub mod users;
pub mod webhooks;

pub use config::{DatabaseConfig, InvalidDatabaseUrl};
pub use error::DbError;
pub use migrate::{MigrateError, Schema, built_in_head, migrate, revert_all, schema};
pub use pool::{Db, PoolUse};
pub use system::SystemTx;
pub use tenant::TenantTx;

/// What every function here answers.
pub type DbResult<T> = Result<T, DbError>;
