//! Passwords: hashed with Argon2id, away from the threads that serve requests.
//!
//! A hash takes some tens of milliseconds of one core and 19 MiB. No more run at once than there are cores; the others
//! wait in line, not for long, and are then told that the service is busy. A flood of sign-ins thus slows sign-ins
//! and nothing else.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::{self, PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params, PasswordHash};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Fewest characters of a new password, counted as the wire counts them (UTF-16 code units).
pub const MIN_CHARACTERS: usize = 10;
/// Most characters of a new password, counted likewise.
pub const MAX_CHARACTERS: usize = 1024;

/// Bytes that so many characters can have at most. Longer ones are nobody's and are not hashed.
const MAX_BYTES: usize = 3 * MAX_CHARACTERS;

/// How long a caller waits in line.
const PATIENCE: Duration = Duration::from_secs(3);

/// Made with the present parameters from a password nobody knows. Verifying against it takes as long as against a real
/// one, so the time of a refusal does not tell whether an address has an account.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5J3Mgc2FsdCAwMQ$QlbgZhFRDuNWkoqm0Mz3xSjG7H1uKq0d0m5u5f0yW2Y";

/// Why a password is not good enough to be somebody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// It is too short.
    #[error("must have at least {MIN_CHARACTERS} characters")]
    TooShort,
    /// It is too long.
    #[error("must have at most {MAX_CHARACTERS} characters")]
    TooLong,
}

/// Too many passwords are being checked, or one could not be; trying again later may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("passwords cannot be checked at the moment")]
pub struct Busy;

/// Hashes and verifies passwords. Clones share the line.
#[derive(Debug, Clone)]
pub struct Passwords {
    cores: Arc<Semaphore>,
    patience: Duration,
}

impl Passwords {
    /// As many at once as there are cores.
    pub fn new() -> Self {
        Self::with(std::thread::available_parallelism().map_or(2, Into::into), PATIENCE)
    }

    fn with(at_once: usize, patience: Duration) -> Self {
        Self { cores: Arc::new(Semaphore::new(at_once)), patience }
    }

    /// Whether a password may become somebody's.
    pub fn accept(password: &SecretString) -> Result<(), WeakPassword> {
        match password.expose_secret().encode_utf16().take(MAX_CHARACTERS + 1).count() {
            ..MIN_CHARACTERS => Err(WeakPassword::TooShort),
            MIN_CHARACTERS..=MAX_CHARACTERS => Ok(()),
            _ => Err(WeakPassword::TooLong),
        }
    }

    /// The PHC string of a password.
    pub async fn hash(&self, password: SecretString) -> Result<String, Busy> {
        self.run(move || Ok(argon2().hash_password(password.expose_secret().as_bytes())?.to_string())).await
    }

    /// Whether `password` is the one that was hashed. Without a hash the answer is no, and takes as long.
    pub async fn verify(&self, password: &SecretString, hash: Option<&str>) -> Result<bool, Busy> {
        if password.expose_secret().len() > MAX_BYTES {
            // Nobody has such a password, whoever they are.
            return Ok(false);
        }
        let password = password.clone();
        let known = hash.is_some();
        let hash = hash.unwrap_or(NOBODY).to_owned();
        self.run(move || {
            let hash = PasswordHash::new(&hash)?;
            match argon2().verify_password(password.expose_secret().as_bytes(), &hash) {
                Ok(()) => Ok(known),
                Err(password_hash::Error::PasswordInvalid) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Whether a hash was made with other parameters than the present ones.
    pub fn needs_rehash(hash: &str) -> bool {
        let Ok(hash) = PasswordHash::new(hash) else { return true };
        let wanted = Params::default();
        hash.algorithm != argon2::ARGON2ID_IDENT
            || hash.version != Some(argon2::Version::default().into())
            || Params::try_from(&hash).map_or(true, |params| {
                (params.m_cost(), params.t_cost(), params.p_cost())
                    != (wanted.m_cost(), wanted.t_cost(), wanted.p_cost())
            })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, password_hash::Error> + Send + 'static,
    ) -> Result<T, Busy> {
        let permit = self.wait().await?;
        let done = tokio::task::spawn_blocking(move || {
            // Held by the work and not by the caller: one who hangs up does not let the next one in early.
            let _permit = permit;
            work()
        })
        .await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                tracing::error!(error.message = %error, "a password could not be hashed or verified");
                Err(Busy)
            }
            Err(error) => {
                tracing::error!(error.message = %error, "the thread of a password hash ended early");
                Err(Busy)
            }
        }
    }

    async fn wait(&self) -> Result<OwnedSemaphorePermit, Busy> {
        match tokio::time::timeout(self.patience, Arc::clone(&self.cores).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Busy),
        }
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

/// Argon2id, version 19, 19 MiB, two passes, one lane: what OWASP asks for, and the library's default.
fn argon2() -> Argon2<'static> {
    Argon2::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        text.to_owned().into()
    }

    #[tokio::test]
    async fn a_password_is_recognised_and_another_is_not() {
        let passwords = Passwords::new();
        let hash = passwords.hash(secret("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(passwords.verify(&secret("correct horse"), Some(&hash)).await, Ok(true));
        assert_eq!(passwords.verify(&secret("correct horsf"), Some(&hash)).await, Ok(false));
        assert_eq!(passwords.verify(&secret("correct horse"), None).await, Ok(false));
        assert_eq!(passwords.verify(&secret(&"x".repeat(MAX_BYTES + 1)), Some(&hash)).await, Ok(false));
        assert_ne!(hash, passwords.hash(secret("correct horse")).await.unwrap(), "salts repeat");
    }

    #[tokio::test]
    async fn a_hash_that_is_none_is_our_mistake_and_no_refusal() {
        assert_eq!(Passwords::new().verify(&secret("x"), Some("plain text")).await, Err(Busy));
    }

    #[test]
    fn nobody_costs_what_somebody_costs() {
        assert!(!Passwords::needs_rehash(NOBODY));
    }

    #[test]
    fn cheaper_hashes_are_made_anew() {
        for old in [
            "$argon2id$v=19$m=4096,t=3,p=1$bm9ib2R5J3Mgc2FsdCAwMQ$QlbgZhFRDuNWkoqm0Mz3xSjG7H1uKq0d0m5u5f0yW2Y",
            "$argon2i$v=19$m=19456,t=2,p=1$bm9ib2R5J3Mgc2FsdCAwMQ$QlbgZhFRDuNWkoqm0Mz3xSjG7H1uKq0d0m5u5f0yW2Y",
            "nonsense",
        ] {
            assert!(Passwords::needs_rehash(old), "{old}");
        }
    }

    #[test]
    fn new_passwords_have_ten_characters_at_least() {
        assert_eq!(Passwords::accept(&secret("123456789")), Err(WeakPassword::TooShort));
        assert_eq!(Passwords::accept(&secret("1234567890")), Ok(()));
        assert_eq!(Passwords::accept(&secret("пароль-ось")), Ok(()));
        assert_eq!(Passwords::accept(&secret(&"x".repeat(1025))), Err(WeakPassword::TooLong));
    }

    #[tokio::test]
    async fn whoever_waits_too_long_is_told_so() {
        let passwords = Passwords::with(1, Duration::ZERO);
        let _held = Arc::clone(&passwords.cores).acquire_owned().await.unwrap();
        assert_eq!(passwords.hash(secret("correct horse")).await, Err(Busy));
    }
}
