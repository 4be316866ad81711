//! A transaction that sees one organization.

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use domain::Tenant;

use crate::DbResult;
use crate::pool::{Connection, discard};

/// A transaction of the application's role whose organization is set. Row-level security shows it that organization's
/// rows and no others; statements name the organization too, for the sake of the index.
pub struct TenantTx {
    /// `None` only once it is over.
    connection: Option<Connection>,
    tenant: Tenant,
    carrier: fn() -> Option<String>,
}

impl TenantTx {
    pub(crate) const fn new(connection: Connection, tenant: Tenant, carrier: fn() -> Option<String>) -> Self {
        Self { connection: Some(connection), tenant, carrier }
    }

    /// The organization it sees.
    #[must_use]
    pub const fn tenant(&self) -> Tenant {
        self.tenant
    }

    pub(crate) fn organization(&self) -> uuid::Uuid {
        self.tenant.organization().uuid()
    }

    /// The trace and the request in which it does what it does now.
    pub(crate) fn carrier(&self) -> Option<String> {
        (self.carrier)()
    }

    pub(crate) fn connection(&mut self) -> &mut AsyncPgConnection {
        open(&mut self.connection)
    }

    /// Makes everything done so far last.
    pub async fn commit(mut self) -> DbResult<()> {
        finish(&mut self.connection).await
    }
}

impl Drop for TenantTx {
    fn drop(&mut self) {
        abandon(self.connection.take());
    }
}

#[expect(clippy::expect_used, reason = "only `finish` and `drop` empty it, and both end the life of the transaction")]
pub(crate) fn open(connection: &mut Option<Connection>) -> &mut AsyncPgConnection {
    connection.as_mut().expect("the transaction is open")
}

pub(crate) async fn finish(slot: &mut Option<Connection>) -> DbResult<()> {
    let committed = open(slot).batch_execute("COMMIT").await;
    match (committed, slot.take()) {
        (Ok(()), _) => Ok(()),
        (Err(error), connection) => {
            connection.into_iter().for_each(discard);
            Err(error.into())
        }
    }
}

/// Rolls back behind whatever statement may still be under way, then gives the connection back to its pool.
pub(crate) fn abandon(connection: Option<Connection>) {
    let Some(mut connection) = connection else { return };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => {
            runtime.spawn(async move {
                if connection.batch_execute("ROLLBACK").await.is_err() {
                    discard(connection);
                }
            });
        }
        Err(_) => discard(connection),
    }
}
