//! Refresh tokens: each is good for one exchange, and its successor can be computed again.
//!
//! Browsers, server renderers and link prefetches refresh the same token at the same moment. For ten seconds all of
//! them are given the same successor, which follows from the token and a key of ours and need not be stored to be
//! repeated. After that a used token can only be a stolen copy, or the thief's victim: the whole sign-in ends.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use db::identity::{self, Account, Families, RefreshToken};
use db::{DbResult, SystemTx};
use domain::UserId;
use ring::digest::{SHA256, digest};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use secrets::{CryptoFailure, SecretsKey};

/// How long a used token still answers with its successor.
const REUSE: TimeDelta = TimeDelta::seconds(10);
/// How long a token waits to be used: thirty days without the application and one signs in again.
const UNUSED: TimeDelta = TimeDelta::days(30);
/// Longer texts are none of ours.
const MAX_LEN: usize = 128;
/// Exchanges that may follow each other within [`REUSE`].
const MOST_SUCCESSORS: usize = 32;

/// Why a refresh token is not exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// There is none like it, it has expired, or its owner can no longer sign in.
    #[error("Invalid Refresh Token: Refresh Token Not Found")]
    NotFound,
    /// It was exchanged before, and its sign-in has ended for that.
    #[error("Invalid Refresh Token: Already Used")]
    AlreadyUsed,
    /// Its owner is banned.
    #[error("User is banned")]
    Banned,
    /// It cannot be told at the moment.
    #[error("the identity provider is unavailable")]
    Unavailable,
}

/// Makes refresh tokens.
pub(super) struct RefreshTokens {
    keys: Vec<hmac::Key>,
}

impl fmt::Debug for RefreshTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshTokens([redacted])")
    }
}

/// What an exchange came to, for the caller to commit.
pub(super) enum Exchange {
    /// The successor, and whose it is.
    Renewed { token: SecretString, account: Account, family: Uuid },
    /// The token had been used long before; its family is revoked.
    Reused,
    /// Nothing changes.
    Refused(RefreshError),
}

impl RefreshTokens {
    pub(super) fn new(secrets: &SecretsKey) -> Self {
        let derived = secrets.derive("refresh");
        let keys = [Some(derived.current), derived.previous];
        Self { keys: keys.iter().flatten().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)).collect() }
    }

    /// A token for a new sign-in, stored.
    pub(super) async fn begin(
        &self,
        tx: &mut SystemTx,
        account: &Account,
        family: Uuid,
        now: DateTime<Utc>,
    ) -> Result<SecretString, BeginError> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| CryptoFailure)?;
        let token = encode(&bytes);
        identity::add_refresh_token(tx, account.organization, account.user, family, &hash(&token), now).await?;
        Ok(token)
    }

    /// Exchanges a token for its successor. The row of the token stays locked until the transaction ends, so of two
    /// replicas that do this at once the second sees what the first has done. `now` tells the time once the lock is had.
    pub(super) async fn exchange(
        &self,
        tx: &mut SystemTx,
        token: &SecretString,
        now: impl Fn() -> DateTime<Utc>,
    ) -> DbResult<Exchange> {
        if token.expose_secret().is_empty() || token.expose_secret().len() > MAX_LEN {
            return Ok(Exchange::Refused(RefreshError::NotFound));
        }
        let Some(parent) = identity::lock_refresh_token(tx, &hash(token)).await? else {
            return Ok(Exchange::Refused(RefreshError::NotFound));
        };
        let now = now();
        match standing(&parent, now) {
            Standing::Over(error) => return Ok(Exchange::Refused(error)),
            Standing::Stolen => {
                identity::revoke_families(tx, parent.user, Families::Only(parent.family), now).await?;
                return Ok(Exchange::Reused);
            }
            Standing::Good | Standing::JustUsed => {}
        }
        let account = match identity::by_user(tx, parent.user).await? {
            Some(account) if account.is_banned(now) => return Ok(Exchange::Refused(RefreshError::Banned)),
            Some(account) if account.organization == parent.organization && super::may_sign_in(&account) => account,
            _ => return Ok(Exchange::Refused(RefreshError::NotFound)),
        };
        let family = parent.family;
        let successor = if parent.used_at.is_none() {
            let successor = self.successor(token);
            let owner = (parent.organization, parent.user);
            identity::add_refresh_token(tx, owner.0, owner.1, family, &hash(&successor), now).await?;
            identity::use_refresh_token(tx, &parent, now).await?;
            Some(successor)
        } else {
            self.latest(tx, token).await?
        };
        Ok(match successor {
            Some(token) => Exchange::Renewed { token, account, family },
            None => Exchange::Refused(RefreshError::NotFound),
        })
    }

    /// The unused descendant of a token that was just used. Usually its successor; a busy client may have used that one
    /// too, and handing it out again would get the person signed out an hour later.
    async fn latest(&self, tx: &mut SystemTx, token: &SecretString) -> DbResult<Option<SecretString>> {
        let mut token = token.clone();
        for _ in 0..MOST_SUCCESSORS {
            let Some((successor, stored)) = self.stored_successor(tx, &token).await? else { return Ok(None) };
            if stored.revoked_at.is_some() {
                return Ok(None);
            }
            if stored.used_at.is_none() {
                return Ok(Some(successor));
            }
            token = successor;
        }
        Ok(None)
    }

    async fn stored_successor(
        &self,
        tx: &mut SystemTx,
        token: &SecretString,
    ) -> DbResult<Option<(SecretString, RefreshToken)>> {
        // The secrets key may have changed within these ten seconds.
        for key in &self.keys {
            let successor = successor(key, token);
            if let Some(stored) = identity::lock_refresh_token(tx, &hash(&successor)).await? {
                return Ok(Some((successor, stored)));
            }
        }
        Ok(None)
    }

    fn successor(&self, token: &SecretString) -> SecretString {
        successor(&self.keys[0], token)
    }
}

/// Why no token could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    #[error(transparent)]
    Db(#[from] db::DbError),
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

/// Ends sign-ins of a user; answers how many tokens lost their worth.
///
/// Repeated until nothing is left: a refresh that was under way when the first statement ran has then committed its
/// successor, and a later one waits for our locks.
pub(super) async fn revoke(tx: &mut SystemTx, user: UserId, which: Families, now: DateTime<Utc>) -> DbResult<usize> {
    let mut revoked = 0;
    loop {
        match identity::revoke_families(tx, user, which, now).await? {
            0 => return Ok(revoked),
            more => revoked += more,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Good,
    JustUsed,
    Stolen,
    Over(RefreshError),
}

fn standing(token: &RefreshToken, now: DateTime<Utc>) -> Standing {
    match (token.revoked_at, token.used_at) {
        (Some(_), Some(_)) => Standing::Over(RefreshError::AlreadyUsed),
        (Some(_), None) => Standing::Over(RefreshError::NotFound),
        (None, Some(used_at)) if now - used_at <= REUSE => Standing::JustUsed,
        (None, Some(_)) => Standing::Stolen,
        (None, None) if now - token.created_at > UNUSED => Standing::Over(RefreshError::NotFound),
        (None, None) => Standing::Good,
    }
}

fn successor(key: &hmac::Key, token: &SecretString) -> SecretString {
    encode(hmac::sign(key, token.expose_secret().as_bytes()).as_ref())
}

fn encode(bytes: &[u8]) -> SecretString {
    URL_SAFE_NO_PAD.encode(bytes).into()
}

fn hash(token: &SecretString) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.expose_secret().as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::keys::tests::secrets;

    fn secret(text: &str) -> SecretString {
        text.to_owned().into()
    }

    fn text(token: &SecretString) -> &str {
        token.expose_secret()
    }

    #[test]
    fn a_successor_follows_from_its_parent_and_our_key_alone() {
        let tokens = RefreshTokens::new(&secrets(1));
        let first = tokens.successor(&secret("parent"));
        assert_eq!(text(&first), text(&RefreshTokens::new(&secrets(1)).successor(&secret("parent"))));
        assert_ne!(text(&first), text(&tokens.successor(&secret("parenu"))));
        assert_ne!(text(&first), text(&RefreshTokens::new(&secrets(2)).successor(&secret("parent"))));
        assert_ne!(text(&first), text(&tokens.successor(&first)));
        assert_eq!(text(&first).len(), 43);
        assert!(!format!("{tokens:?} {first:?}").contains(text(&first)));
    }

    #[test]
    fn what_a_token_is_worth_depends_on_its_past() {
        let made = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let token = |used: Option<i64>, revoked: bool| RefreshToken {
            hash: [0; 32],
            organization: domain::OrganizationId::generate(),
            user: UserId::generate(),
            family: Uuid::nil(),
            created_at: made,
            used_at: used.map(|seconds| made + TimeDelta::seconds(seconds)),
            revoked_at: revoked.then_some(made),
        };
        let after = |token: RefreshToken, seconds| standing(&token, made + TimeDelta::seconds(seconds));
        assert_eq!(after(token(None, false), 30 * 86_400), Standing::Good);
        assert_eq!(after(token(None, false), 30 * 86_400 + 1), Standing::Over(RefreshError::NotFound));
        assert_eq!(after(token(Some(100), false), 110), Standing::JustUsed);
        assert_eq!(after(token(Some(100), false), 99), Standing::JustUsed, "the other replica's clock is ahead");
        assert_eq!(after(token(Some(100), false), 111), Standing::Stolen);
        assert_eq!(after(token(Some(100), true), 101), Standing::Over(RefreshError::AlreadyUsed));
        assert_eq!(after(token(None, true), 101), Standing::Over(RefreshError::NotFound));
    }
}
