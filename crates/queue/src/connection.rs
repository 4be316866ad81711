//! Connections: one that everybody shares, and a few of their own for those who block.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client};

use crate::config::RedisConfig;
use crate::error::QueueError;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(1);

/// How long a script may take to answer. Scripts hold Redis for a few milliseconds at most.
const ANSWER: Duration = Duration::from_secs(2);

/// Redis, by one connection that carries everybody's commands side by side and is made anew when it breaks. Clones
/// share it.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    shared: ConnectionManager,
}

impl Redis {
    /// Prepares a connection. Nothing is connected yet: a service starts without Redis.
    pub fn open(config: &RedisConfig) -> Result<Self, QueueError> {
        // The client brings no cryptography of its own. An error would say that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = config.client()?;
        let manager = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER))
            // Whoever needs Redis decides for itself whether to try again, and when.
            .set_number_of_retries(0)
            .set_max_delay(Duration::from_millis(250));
        let shared = ConnectionManager::new_lazy_with_config(client.clone(), manager)?;
        Ok(Self { client, shared })
    }

    /// Whether Redis answers, within 2 s.
    pub async fn ping(&self) -> Result<(), QueueError> {
        let mut connection = self.shared();
        let asked = async move { redis::cmd("PING").query_async::<String>(&mut connection).await };
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(answer) => Ok(answer.map(|_| ())?),
            Err(_) => Err(QueueError::Unavailable("no answer".to_owned())),
        }
    }

    /// Where connections of one's own come from.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// The connection that everybody shares.
    pub(crate) fn shared(&self) -> ConnectionManager {
        self.shared.clone()
    }

    /// A connection of its own for commands that block for so long.
    pub(crate) async fn blocking(
        &self,
        block: Duration,
        name: Option<&str>,
    ) -> Result<MultiplexedConnection, QueueError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(block + ANSWER));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        if let Some(name) = name {
            let _: () = redis::cmd("CLIENT").arg("SETNAME").arg(name).query_async(&mut connection).await?;
        }
        Ok(connection)
    }
}
