//! What open streams are told: published once, heard by every replica that listens. Nothing is kept here; whoever was
//! away asks the database.

use std::time::Duration;

use futures_util::StreamExt;
use uuid::Uuid;

use crate::connection::Redis;
use crate::error::QueueError;

/// The channel of all organizations: a process listens once, whatever its streams.
const CHANNEL: &str = "fieldtrack:live";

/// How often a silent connection is asked whether it is still there.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How long it may take to say so.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Its place in the order of everything told; 0 for what has none and is never told again.
    pub number: i64,
    /// Whose streams.
    pub organization: Uuid,
    /// What it is about, where only the newest counts: an employee's position.
    pub about: Option<Uuid>,
    /// What is told, as JSON: `{type, payload, ts}`.
    pub body: String,
}

impl Live {
    fn to_wire(&self) -> String {
        let about = self.about.map(|about| about.to_string()).unwrap_or_default();
        format!("{} {} {about} {}", self.number, self.organization, self.body)
    }

    fn from_wire(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        let (number, organization, about, body) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            number: number.parse().ok()?,
            organization: organization.parse().ok()?,
            about: if about.is_empty() { None } else { Some(about.parse().ok()?) },
            body: body.to_owned(),
        })
    }
}

/// Tells every replica.
#[derive(Clone)]
pub struct LivePublisher(Redis);

impl LivePublisher {
    /// By this connection.
    #[must_use]
    pub const fn new(redis: Redis) -> Self {
        Self(redis)
    }

    /// Tells these, in this order, in one round trip.
    pub async fn publish(&self, messages: &[Live]) -> Result<(), QueueError> {
        let mut pipe = redis::pipe();
        for message in messages {
            pipe.publish(CHANNEL, message.to_wire()).ignore();
        }
        Ok(pipe.query_async(&mut self.0.shared()).await?)
    }
}

/// Hears what is told, on a connection of its own.
pub struct LiveListener {
    sink: redis::aio::PubSubSink,
    messages: redis::aio::PubSubStream,
}

impl LiveListener {
    /// Connects and listens: what is published from now on is heard.
    pub async fn listen(redis: &Redis) -> Result<Self, QueueError> {
        let connecting = async {
            let mut pubsub = redis.client().get_async_pubsub().await?;
            pubsub.subscribe(CHANNEL).await?;
            Ok::<_, QueueError>(pubsub.split())
        };
        match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(connected) => connected.map(|(sink, messages)| Self { sink, messages }),
            Err(_) => Err(QueueError::Unavailable("no answer".to_owned())),
        }
    }

    /// Waits for the next message; `None` when the connection is gone. What is not understood, another release sent.
    pub async fn hear(&mut self) -> Option<Live> {
        loop {
            match tokio::time::timeout(ASK_EVERY, self.messages.next()).await {
                Ok(Some(message)) => {
                    let text: Option<String> = message.get_payload().ok();
                    if let Some(live) = text.as_deref().and_then(Live::from_wire) {
                        return Some(live);
                    }
                }
                Ok(None) => return None,
                Err(_) => match tokio::time::timeout(PATIENCE, self.sink.ping::<redis::Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return None,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back() {
        for about in [None, Some(Uuid::now_v7())] {
            let live = Live { number: 7, organization: Uuid::now_v7(), about, body: r#"{"a": "b c"}"#.to_owned() };
            assert_eq!(Live::from_wire(&live.to_wire()), Some(live));
        }
        for nonsense in ["", "x", "1 2 3 4", "1"] {
            assert_eq!(Live::from_wire(nonsense), None, "{nonsense}");
        }
    }
}
