//! A pool of connections per role.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::ConnectionError;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use domain::Tenant;
use futures_util::FutureExt;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{DatabaseConfig, InvalidDatabaseUrl};
use crate::error::DbError;
use crate::system::SystemTx;
use crate::tenant::TenantTx;
use crate::{DbResult, tls::SslMode};

pub(crate) type Connection = Object<AsyncPgConnection>;

/// The database, by both roles. Clones share the pools.
#[derive(Clone)]
pub struct Db {
    app: Pool<AsyncPgConnection>,
    system: Pool<AsyncPgConnection>,
    carrier: fn() -> Option<String>,
    waited: Option<Waited>,
}

/// Is told how long each connection was waited for.
type Waited = Arc<dyn Fn(Duration) + Send + Sync>;

/// How the connections of one role are used at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUse {
    /// Connections that wait for work.
    pub idle: usize,
    /// Connections that work.
    pub used: usize,
}

impl Db {
    /// Prepares both pools. Nothing is connected yet: a service starts, and says it is not ready, without its database.
    pub fn open(app: &DatabaseConfig, system: &DatabaseConfig) -> Result<Self, InvalidDatabaseUrl> {
        Ok(Self { app: pool(app)?, system: pool(system)?, carrier: || None, waited: None })
    }

    /// Has events remember what caused them: `carrier` says it at the moment an event is written, as JSON that whoever
    /// continues the trace understands.
    #[must_use]
    pub const fn traced_by(mut self, carrier: fn() -> Option<String>) -> Self {
        self.carrier = carrier;
        self
    }

    /// Has `waited` told how long each connection was waited for, those that never came included.
    #[must_use]
    pub fn timed_by(mut self, waited: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        self.waited = Some(Arc::new(waited));
        self
    }

    /// Opens a transaction that sees only `tenant`.
    ///
    /// Nothing is kept unless [`TenantTx::commit`] is called: dropping the transaction, also by dropping the future
    /// that holds it, rolls it back.
    pub async fn tenant(&self, tenant: Tenant) -> DbResult<TenantTx> {
        let begin = format!("BEGIN; SELECT set_config('app.organization_id', '{}', true)", tenant.organization());
        Ok(TenantTx::new(self.begin(&self.app, &begin).await?, tenant, self.carrier))
    }

    /// Opens a transaction of the system role, for work that has no organization yet or looks over all of them. Each
    /// function that takes one says why.
    pub async fn system(&self) -> DbResult<SystemTx> {
        Ok(SystemTx::new(self.begin(&self.system, "BEGIN").await?))
    }

    /// A connection of the application's role, for statements that set their tenant themselves.
    pub(crate) async fn app(&self) -> DbResult<Connection> {
        self.connection(&self.app).await
    }

    /// Whether the database answers, within `patience`.
    pub async fn ping(&self, patience: Duration) -> DbResult<()> {
        let asked = async {
            let mut connection = self.connection(&self.app).await?;
            connection.batch_execute("SELECT 1").await?;
            Ok(())
        };
        tokio::time::timeout(patience, asked)
            .await
            .unwrap_or_else(|_| Err(DbError::Unavailable("no answer".to_owned())))
    }

    /// How the pools are used: the application's, then the system's.
    #[must_use]
    pub fn pool_use(&self) -> [PoolUse; 2] {
        [&self.app, &self.system].map(|pool| {
            let status = pool.status();
            PoolUse { idle: status.available, used: status.size.saturating_sub(status.available) }
        })
    }

    /// Refuses roles that row-level security would not hold: superusers, roles with BYPASSRLS, owners of our tables.
    pub async fn check_roles(&self) -> DbResult<()> {
        for pool in [&self.app, &self.system] {
            let mut connection = pool.get().await?;
            let unsafe_role: bool = diesel::select(diesel::dsl::sql::<diesel::sql_types::Bool>(
                "(SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) \
                 OR EXISTS (SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace \
                            AND relkind IN ('r', 'p') AND pg_has_role(current_user, relowner, 'MEMBER'))",
            ))
            .get_result(&mut connection)
            .await?;
            if unsafe_role {
                return Err(DbError::Broken(
                    "the role of DATABASE_URL or SYSTEM_DATABASE_URL is a superuser, bypasses row-level security or owns tables"
                        .to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// A connection, as soon as one is free.
    async fn connection(&self, pool: &Pool<AsyncPgConnection>) -> DbResult<Connection> {
        let since = Instant::now();
        let connection = pool.get().await;
        if let Some(waited) = &self.waited {
            waited(since.elapsed());
        }
        Ok(connection?)
    }

    /// Connections are handed out unchecked, so one that died in the pool is noticed here, by the first statement:
    /// nothing has happened yet and a fresh one may be tried.
    async fn begin(&self, pool: &Pool<AsyncPgConnection>, statement: &str) -> DbResult<Connection> {
        let mut connection = self.connection(pool).await?;
        match connection.batch_execute(statement).await.map_err(DbError::from) {
            Ok(()) => Ok(connection),
            Err(DbError::Unavailable(_)) => {
                discard(connection);
                let mut connection = self.connection(pool).await?;
                connection.batch_execute(statement).await?;
                Ok(connection)
            }
            Err(error) => {
                discard(connection);
                Err(error)
            }
        }
    }
}

/// Takes a connection of uncertain state out of its pool and closes it.
pub(crate) fn discard(connection: Connection) {
    drop(Object::take(connection));
}

fn pool(config: &DatabaseConfig) -> Result<Pool<AsyncPgConnection>, InvalidDatabaseUrl> {
    let (driver, tls) = config.parse()?;
    let connector = MakeRustlsConnect::new(
        tls.client().map_err(|_| InvalidDatabaseUrl("names certificate authorities that cannot be used"))?,
    );
    let encrypted = tls.mode != SslMode::Disable;
    let mut manager = ManagerConfig::<AsyncPgConnection>::default();
    manager.recycling_method = RecyclingMethod::Fast;
    manager.custom_setup = Box::new(move |_| {
        let (driver, connector) = (driver.clone(), connector.clone());
        async move {
            fn failed(error: impl std::error::Error) -> ConnectionError {
                ConnectionError::BadConnection(error.to_string())
            }
            if encrypted {
                let (client, connection) = driver.connect(connector).await.map_err(failed)?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            } else {
                let (client, connection) = driver.connect(tokio_postgres::NoTls).await.map_err(failed)?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
        }
        .boxed()
    });
    // The address has been read into the driver's configuration above; the manager never sees it.
    let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new_with_config("", manager);
    Pool::builder(manager)
        .max_size(config.pool_size)
        .wait_timeout(Some(config.acquire_timeout))
        .create_timeout(Some(config.acquire_timeout))
        .recycle_timeout(Some(config.acquire_timeout))
        .runtime(deadpool::Runtime::Tokio1)
        .build()
        .map_err(|_| InvalidDatabaseUrl("cannot be pooled"))
}
