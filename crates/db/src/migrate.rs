//! Bringing the schema up, and down again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::RunQueryDsl;
use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::sql_types::{Array, Bool, Text};
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
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
    /// A step failed; those before it stay. It was rolled back, unless it runs without a transaction: what such a step
    /// leaves behind is removed when it is tried again.
    #[error("a migration failed: {0}")]
    Step(String),
}

/// What a step may wait for a lock: longer, and the requests that queue up behind it would time out.
const LOCK_TIMEOUT: &str = "3s";

/// What one statement of a step may take.
const STATEMENT_TIMEOUT: &str = "15min";

/// How often a step that could not get its locks is tried again.
const RETRIES: u32 = 5;

/// How long whoever finds another process migrating waits before it looks again.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// What drops the indexes that were left half made. One that is being made is nobody's leftover, one of a partitioned
/// table is not valid before each of its parts is, and what belongs to somebody else cannot be dropped by us.
const LEFTOVERS: &str = "ARRAY(SELECT format('DROP INDEX CONCURRENTLY IF EXISTS %I.%I', n.nspname, c.relname) \
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE NOT i.indisvalid AND c.relkind = 'i' AND NOT c.relispartition \
        AND n.nspname IN ('public', 'app') AND pg_has_role(c.relowner, 'USAGE') \
        AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid))";

/// Runs every step that has not run yet, as the owner's role, each in its own transaction unless it says otherwise;
/// answers their names.
///
/// A step waits 3 s for a lock at most and is then tried again, 5 times: traffic goes on meanwhile. One without a
/// transaction waits until its statement took too long. Must be called outside an async runtime, or from a thread that
/// may block: the harness blocks in place.
pub fn migrate(url: &SecretString) -> Result<Vec<String>, MigrateError> {
    with_harness(url, |harness| up(harness, MIGRATIONS))
}

fn up(harness: &mut Harness, source: impl MigrationSource<Pg>) -> Steps {
    let mut done = Vec::new();
    for step in harness.pending_migrations(source)? {
        let mut tries = 0;
        // One by one, so that what is done stays done when a later step has to be tried again.
        let name = loop {
            match run(harness, step.as_ref()) {
                Err(error) if tries < RETRIES && error.to_string().contains("lock timeout") => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(200) * 2_u32.pow(tries));
                }
                ran => break ran?,
            }
        };
        done.push(name);
    }
    Ok(done)
}

/// Runs one step and answers its name.
fn run(harness: &mut Harness, step: &dyn Migration<Pg>) -> diesel::migration::Result<String> {
    if step.metadata().run_in_transaction() {
        return Ok(harness.run_migration(step)?.to_string());
    }
    // What is done `CONCURRENTLY` waits for every transaction that was there before, which nobody queues up behind; to
    // give up leaves an index that is not valid, and whose name is taken.
    harness.batch_execute("SET lock_timeout = 0")?;
    let ran = drop_leftovers(harness).and_then(|()| harness.run_migration(step));
    let set_back = harness.batch_execute(&format!("SET lock_timeout = '{LOCK_TIMEOUT}'"));
    // When the connection broke, why it did is in the first of the two.
    let name = ran?.to_string();
    set_back?;
    Ok(name)
}

fn drop_leftovers(harness: &mut Harness) -> diesel::migration::Result<()> {
    let statements: Vec<String> = diesel::select(sql::<Array<Text>>(LEFTOVERS)).get_result(harness)?;
    for statement in statements {
        // Each by itself: several in one go would be a transaction.
        harness.batch_execute(&statement)?;
    }
    Ok(())
}

/// Waits until no other process migrates.
///
/// It asks again and again: a statement that waits keeps a snapshot, and the other process's `CONCURRENTLY` would wait
/// for that one to end.
fn lock(harness: &mut Harness) -> diesel::QueryResult<()> {
    let attempt = format!("pg_try_advisory_lock({LOCK})");
    while !diesel::select(sql::<Bool>(&attempt)).get_result::<bool>(harness)? {
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(())
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

type Harness = AsyncConnectionWrapper<AsyncPgConnection>;
type Steps = diesel::migration::Result<Vec<String>>;

fn with_harness(url: &SecretString, work: impl FnOnce(&mut Harness) -> Steps) -> Result<Vec<String>, MigrateError> {
    let config = DatabaseConfig::new(url.clone());
    let (mut driver, tls) = config.parse()?;
    driver.options(format!("-c statement_timeout={STATEMENT_TIMEOUT} -c lock_timeout={LOCK_TIMEOUT} -c timezone=UTC"));
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
        let connection = AsyncPgConnection::try_from_client_and_connection(client, connection)
            .await
            .map_err(|error| unavailable(&error))?;
        tokio::task::block_in_place(|| {
            let mut harness = Harness::from(connection);
            lock(&mut harness).map_err(|error| unavailable(&error))?;
            work(&mut harness).map_err(|error| MigrateError::Step(error.to_string()))
        })
        // The lock ends with the connection.
    })
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use diesel_migrations::FileBasedMigrations;
    use testkit::database::TestDatabase;

    use super::*;

    #[tokio::test]
    async fn an_index_that_was_left_half_made_is_made_again_however_long_others_take() {
        let folder = env::temp_dir().join(format!("migrations-{}", uuid::Uuid::now_v7()));
        let step = folder.join("2027-01-01-000001_once");
        fs::create_dir_all(&step).unwrap();
        fs::write(step.join("metadata.toml"), "run_in_transaction = false\n").unwrap();
        fs::write(step.join("up.sql"), "CREATE UNIQUE INDEX CONCURRENTLY once ON numbers (number);\n").unwrap();
        fs::write(step.join("down.sql"), "DROP INDEX CONCURRENTLY once;\n").unwrap();
        let source = FileBasedMigrations::from_path(&folder).unwrap();

        let database = TestDatabase::empty().await;
        let url: SecretString = database.owner_url().into();
        let (mut writing, other) = (database.superuser().await, database.superuser().await);
        other
            .batch_execute(
                "SET ROLE fieldtrack_owner; CREATE TABLE numbers (number integer); \
                 INSERT INTO numbers VALUES (1), (1); RESET ROLE",
            )
            .await
            .unwrap();

        // It waits for a transaction that takes longer than a lock is waited for, and meets two rows that are the same.
        let writer = writing.transaction().await.unwrap();
        writer.batch_execute("LOCK TABLE numbers IN ROW EXCLUSIVE MODE").await.unwrap();
        let (address, steps) = (url.clone(), source.clone());
        let first = tokio::task::spawn_blocking(move || with_harness(&address, |harness| up(harness, steps)));
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(!first.is_finished(), "it gave up");
        writer.rollback().await.unwrap();
        let refused = first.await.unwrap().unwrap_err().to_string();
        assert!(refused.contains("could not create unique index"), "{refused}");
        let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'once'::regclass";
        assert!(!other.query_one(valid, &[]).await.unwrap().get::<_, bool>(0), "it is left behind");

        // The next process finds the rows in order.
        other.batch_execute("DELETE FROM numbers").await.unwrap();
        let second = tokio::task::spawn_blocking(move || {
            with_harness(&url, |harness| {
                let done = up(harness, source)?;
                let kept =
                    diesel::select(sql::<Text>("current_setting('lock_timeout')")).get_result::<String>(harness)?;
                assert_eq!(kept, LOCK_TIMEOUT, "steps after it do not wait");
                Ok(done)
            })
        });
        assert_eq!(second.await.unwrap().unwrap().len(), 1);
        assert!(other.query_one(valid, &[]).await.unwrap().get::<_, bool>(0));
        fs::remove_dir_all(folder).unwrap();
    }
}
