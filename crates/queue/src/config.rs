//! Where Redis is.

use secrecy::{ExposeSecret, SecretString};
use settings::Settings;

use crate::QueueError;

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://` or, encrypted, `rediss://`; may hold a password.
    pub url: SecretString,
}

impl RedisConfig {
    /// Redis at `url`.
    #[must_use]
    pub const fn new(url: SecretString) -> Self {
        Self { url }
    }

    /// Reads `REDIS_URL`.
    pub fn read(settings: &mut Settings) -> Self {
        let config = Self::new(settings.required_secret("REDIS_URL"));
        // A missing address has been reported already.
        if !config.url.expose_secret().is_empty()
            && let Err(why) = config.validate()
        {
            settings.problem("REDIS_URL", why);
        }
        config
    }

    /// Whether the address can be understood.
    pub fn validate(&self) -> Result<(), QueueError> {
        self.client().map(|_| ())
    }

    pub(crate) fn client(&self) -> Result<redis::Client, QueueError> {
        let url = self.url.expose_secret();
        if !(url.starts_with("redis://") || url.starts_with("rediss://")) {
            return Err(QueueError::Address("must start with redis:// or rediss://"));
        }
        redis::Client::open(url).map_err(|_| QueueError::Address("is not an address that Redis understands"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_redis_are_taken_and_none_is_repeated() {
        for good in ["redis://127.0.0.1:6379", "rediss://user:secret@redis.example:6380/1"] {
            RedisConfig::new(good.to_owned().into()).validate().unwrap();
        }
        for bad in ["", "http://x", "redis://:secret@host:notaport"] {
            let error = RedisConfig::new(bad.to_owned().into()).validate().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
