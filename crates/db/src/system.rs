//! A transaction of the system role.

use diesel_async::AsyncPgConnection;

use crate::DbResult;
use crate::pool::Connection;
use crate::tenant::{abandon, finish, open};

/// A transaction of the role that signs people in, sweeps, and makes partitions: it may look over all organizations,
/// but only at what those tasks need.
pub struct SystemTx {
    connection: Option<Connection>,
}

impl SystemTx {
    pub(crate) const fn new(connection: Connection) -> Self {
        Self { connection: Some(connection) }
    }

    pub(crate) fn connection(&mut self) -> &mut AsyncPgConnection {
        open(&mut self.connection)
    }

    /// Makes everything done so far last.
    pub async fn commit(mut self) -> DbResult<()> {
        finish(&mut self.connection).await
    }
}

impl Drop for SystemTx {
    fn drop(&mut self) {
        abandon(self.connection.take());
    }
}
