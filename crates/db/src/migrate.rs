//! Bringing the schema up, and down again.

use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use secrecy::SecretString;

use crate::config::DatabaseConfig;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations");

/// Held while migrating, so that two processes that start together follow each other.
const LOCK: i64 = 0x4669_656c_6454;

/// Migrating did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The address cannot be understood.
    #[error("MIGRATION_DATABASE_URL {0}")]
    Url(#[from] crate::InvalidDatabaseUrl),
    /// The database cannot be reached.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// A step failed; it was rolled back, those before it stay.
    #[error("a migration failed: {0}")]
    Step(String),
}

/// Runs every step that has not run yet, as the owner's role; answers their names.
///
/// Must be called outside an async runtime, or from a thread that may block: the harness blocks in place.
pub fn migrate(url: &SecretString) -> Result<Vec<String>, MigrateError> {
    with_harness(url, |harness| {
        harness.run_pending_migrations(MIGRATIONS).map(|done| done.iter().map(ToString::to_string).collect())
    })
}

/// Takes back every step, newest first. For tests: it deletes everything.
pub fn revert_all(url: &SecretString) -> Result<Vec<String>, MigrateError> {
    with_harness(url, |harness| {
        harness.revert_all_migrations(MIGRATIONS).map(|done| done.iter().map(ToString::to_string).collect())
    })
}

type Harness = AsyncMigrationHarness<AsyncPgConnection>;
type Steps = diesel::migration::Result<Vec<String>>;

fn with_harness(url: &SecretString, work: impl FnOnce(&mut Harness) -> Steps) -> Result<Vec<String>, MigrateError> {
    let config = DatabaseConfig::new(url.clone());
    let (mut driver, tls) = config.parse()?;
    // A step may take as long as it needs.
    driver.options("-c statement_timeout=0 -c timezone=UTC");
    let unavailable = |error: &dyn std::fmt::Display| MigrateError::Unavailable(error.to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| unavailable(&error))?;
    runtime.block_on(async {
        let connector =
            tokio_postgres_rustls::MakeRustlsConnect::new(tls.client().map_err(|error| unavailable(&error))?);
        let (client, connection) = driver.connect(connector).await.map_err(|error| unavailable(&error))?;
        let mut connection = AsyncPgConnection::try_from_client_and_connection(client, connection)
            .await
            .map_err(|error| unavailable(&error))?;
        connection
            .batch_execute(&format!("SELECT pg_advisory_lock({LOCK})"))
            .await
            .map_err(|error| unavailable(&error))?;
        tokio::task::block_in_place(|| work(&mut AsyncMigrationHarness::new(connection)))
            .map_err(|error| MigrateError::Step(error.to_string()))
        // The lock ends with the connection.
    })
}
