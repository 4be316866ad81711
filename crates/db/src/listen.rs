//! Being woken by the database.

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::DatabaseConfig;
use crate::tls::SslMode;
use crate::{DbError, DbResult};

/// A connection of its own that hears when events are written (`NOTIFY webhook_events`). Behind a pooler that gives
/// every transaction another connection nothing is heard, so whoever listens also looks from time to time.
pub struct EventBell {
    heard: mpsc::Receiver<()>,
    _client: tokio_postgres::Client,
}

impl EventBell {
    /// Connects and listens.
    pub async fn listen(config: &DatabaseConfig) -> DbResult<Self> {
        let (driver, tls) = config.parse().map_err(|error| DbError::Broken(error.to_string()))?;
        if tls.mode == SslMode::Disable {
            Self::connect(&driver, NoTls).await
        } else {
            let client = tls.client().map_err(|error| DbError::Broken(error.to_string()))?;
            Self::connect(&driver, MakeRustlsConnect::new(client)).await
        }
    }

    async fn connect<T>(driver: &tokio_postgres::Config, tls: T) -> DbResult<Self>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let unavailable = |error: tokio_postgres::Error| DbError::Unavailable(error.to_string());
        let (client, mut connection) = driver.connect(tls).await.map_err(unavailable)?;
        // One place: a bell that rings while somebody is on the way need not ring again.
        let (ring, heard) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(Ok(message)) = messages.next().await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    // Full means that it rings already.
                    let _ = ring.try_send(());
                }
            }
        });
        client.batch_execute("LISTEN webhook_events").await.map_err(unavailable)?;
        Ok(Self { heard, _client: client })
    }

    /// Waits for the next ring; `None` when the connection is gone.
    pub async fn rings(&mut self) -> Option<()> {
        self.heard.recv().await
    }
}
