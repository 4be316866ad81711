//! Bringing the schema up, and down again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::migration::MigrationSource;
use diesel::pg::Pg;
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

/// What a step may wait for a lock: longer, and the requests that queue up behind it would time out.
const LOCK_TIMEOUT: &str = "3s";

/// What one statement of a step may take.
const STATEMENT_TIMEOUT: &str = "15min";

/// How often a step that could not get its locks is tried again.
const RETRIES: u32 = 5;

/// Runs every step that has not run yet, as the owner's role, each in its own transaction; answers their names.
///
/// A step waits 3 s for a lock at most and is then tried again, 5 times: traffic goes on meanwhile. Must be called
/// outside an async runtime, or from a thread that may block: the harness blocks in place.
pub fn migrate(url: &SecretString) -> Result<Vec<String>, MigrateError> {
    with_harness(url, |harness| {
        let mut done = Vec::new();
        let mut tries = 0;
        loop {
            // One by one, so that what is done stays known when a later step has to be tried again.
            if !harness.has_pending_migration(MIGRATIONS)? {
                return Ok(done);
            }
            let step = harness.run_next_migration(MIGRATIONS).map(|step| step.to_string());
            match step {
                Ok(step) => {
                    done.push(step);
                    tries = 0;
                }
                Err(error) if tries < RETRIES && error.to_string().contains("lock timeout") => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(200) * 2_u32.pow(tries));
                }
                Err(error) => return Err(error),
            }
        }
    })
}

/// Takes back every step, newest first. For tests: it deletes everything.
pub fn revert_all(url: &SecretString) -> Result<Vec<String>, MigrateError> {
    with_harness(url, |harness| {
        harness.revert_all_migrations(MIGRATIONS).map(|done| done.iter().map(ToString::to_string).collect())
    })
}

/// How a database and this program fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The newest step the database has run.
    pub applied: Option<String>,
    /// The oldest [`built_in_head`] of a program that can still work on it.
    pub floor: Option<String>,
    /// The database's clock.
    pub now: DateTime<Utc>,
}

/// The newest step that is built into this program: 14 digits that sort by age.
pub fn built_in_head() -> Result<String, MigrateError> {
    let steps =
        MigrationSource::<Pg>::migrations(&MIGRATIONS).map_err(|error| MigrateError::Step(error.to_string()))?;
    Ok(steps.iter().map(|step| step.name().version().to_string()).max().unwrap_or_default())
}

/// Asks the database, as the owner's role, what was done to it. Changes nothing.
///
/// Must be called outside an async runtime.
pub fn schema(url: &SecretString) -> Result<Schema, MigrateError> {
    let (driver, tls) = DatabaseConfig::new(url.clone()).parse()?;
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
        // It ends with the client, and whatever goes wrong, the client says so, too.
        tokio::spawn(connection);
        let row = client
            .query_one(
                "SELECT clock_timestamp(), to_regclass('__diesel_schema_migrations') IS NOT NULL, \
                 to_regprocedure('app.schema_floor()') IS NOT NULL",
                &[],
            )
            .await
            .map_err(|error| unavailable(&error))?;
        let (has_steps, has_floor): (bool, bool) = (row.get(1), row.get(2));
        let ask = async |there: bool, question: &str| match there {
            true => client.query_one(question, &[]).await.map(|row| row.get(0)).map_err(|error| unavailable(&error)),
            false => Ok(None),
        };
        Ok(Schema {
            applied: ask(has_steps, "SELECT max(version)::text FROM __diesel_schema_migrations").await?,
            floor: ask(has_floor, "SELECT app.schema_floor()").await?,
            now: row.get(0),
        })
    })
}

type Harness = AsyncMigrationHarness<AsyncPgConnection>;
type Steps = diesel::migration::Result<Vec<String>>;

fn with_harness(url: &SecretString, work: impl FnOnce(&mut Harness) -> Steps) -> Result<Vec<String>, MigrateError> {
    let config = DatabaseConfig::new(url.clone());
    let (mut driver, tls) = config.parse()?;
    // Another process that migrates may take its time.
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
            .batch_execute(&format!(
                "SELECT pg_advisory_lock({LOCK}); \
                 SET lock_timeout = '{LOCK_TIMEOUT}'; SET statement_timeout = '{STATEMENT_TIMEOUT}'"
            ))
            .await
            .map_err(|error| unavailable(&error))?;
        tokio::task::block_in_place(|| work(&mut AsyncMigrationHarness::new(connection)))
            .map_err(|error| MigrateError::Step(error.to_string()))
        // The lock ends with the connection.
    })
}
