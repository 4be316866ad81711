//! API keys: made, and found out whose they are.
//!
//! A key is compared by scrypt, which costs some tens of milliseconds and 16 MiB on purpose. So only keys whose prefix
//! exists are compared at all, no more at once than there are cores, and a key that was found right is remembered (by a
//! hash of its own) for a minute. Whether it may still be used is asked at every request.

use std::fmt::Write as _;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use db::Db;
use db::api_keys::Candidate;
use domain::api_key::KnownKey;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use scrypt::Params;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use crate::error::{ApiError, ApiResult};
use crate::http::expiring::Expiring;

/// Characters of a key by which its row is found.
const PREFIX_LEN: usize = 16;

/// Keys remembered.
const REMEMBERED: usize = 10_000;

/// For how long.
const REMEMBERED_FOR: TimeDelta = TimeDelta::seconds(60);

/// A new key and what is kept of it.
pub struct Minted {
    /// The key itself; shown once.
    pub key: SecretString,
    /// Hex of its scrypt hash.
    pub hash: String,
    /// Hex of the salt.
    pub salt: String,
    /// Its first 16 characters.
    pub prefix: String,
    /// As much of it as its maker is shown afterwards: the first 11 characters and the last 4.
    pub preview: String,
}

/// Makes keys and finds out whose they are.
pub struct ApiKeys {
    known: Expiring<[u8; 32], KnownKey>,
    cores: Arc<Semaphore>,
}

impl Default for ApiKeys {
    fn default() -> Self {
        Self::new()
    }
}

impl ApiKeys {
    /// As many comparisons at once as there are cores.
    #[must_use]
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, Into::into);
        Self { known: Expiring::new(REMEMBERED), cores: Arc::new(Semaphore::new(cores)) }
    }

    /// Makes a key: `ft_live_` and 24 random bytes in hex.
    pub async fn mint(&self) -> ApiResult<Minted> {
        let (mut secret, mut salt) = ([0; 24], [0; 16]);
        let random = SystemRandom::new();
        random
            .fill(&mut secret)
            .and_then(|()| random.fill(&mut salt))
            .map_err(|_| ApiError::Internal("the machine has no randomness to give".to_owned()))?;
        let key = format!("ft_live_{}", hex(&secret));
        let hash = self.hash(key.clone(), salt.to_vec()).await?;
        Ok(Minted {
            hash: hex(&hash),
            salt: hex(&salt),
            prefix: key[..PREFIX_LEN].to_owned(),
            preview: format!("{}...{}", &key[..11], &key[key.len() - 4..]),
            key: key.into(),
        })
    }

    /// Whose key this is; `None`: nobody's. Whether it may still be used is not answered here.
    pub async fn identify(&self, db: &Db, key: &str, now: DateTime<Utc>) -> ApiResult<Option<KnownKey>> {
        let key = SecretString::from(key.to_owned());
        let fingerprint = fingerprint(&key);
        if let Some(known) = self.known.get(&fingerprint, now) {
            return Ok(Some(known));
        }
        let mut tx = db.system().await?;
        let candidates = db::api_keys::candidates(&mut tx, &key.expose_secret()[..PREFIX_LEN]).await?;
        tx.commit().await?;
        for Candidate { id, organization, hash, salt } in candidates {
            let (Some(salt), Some(expected)) = (unhex(&salt), unhex(&hash)) else { continue };
            let computed = self.hash(key.expose_secret().to_owned(), salt).await?;
            if bool::from(computed.ct_eq(&expected)) {
                let known = KnownKey::shown(id, organization);
                self.known.put(fingerprint, known, now, now + REMEMBERED_FOR);
                return Ok(Some(known));
            }
        }
        Ok(None)
    }

    async fn hash(&self, key: String, salt: Vec<u8>) -> ApiResult<Vec<u8>> {
        let broken = |error: &dyn std::fmt::Display| ApiError::Internal(error.to_string());
        let permit = Arc::clone(&self.cores).acquire_owned().await.map_err(|error| broken(&error))?;
        let hashed = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut hash = vec![0; 32];
            let params = Params::new(14, 8, 1).map_err(|error| error.to_string())?;
            scrypt::scrypt(key.as_bytes(), &salt, &params, &mut hash).map_err(|error| error.to_string())?;
            Ok::<_, String>(hash)
        });
        hashed.await.map_err(|error| broken(&error))?.map_err(|error| broken(&error))
    }
}

fn fingerprint(key: &SecretString) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, key.expose_secret().as_bytes()).as_ref());
    fingerprint
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits?;
    digits.len().is_multiple_of(2).then(|| digits.chunks_exact(2).map(|pair| pair[0] * 16 + pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_key_has_the_form_the_contract_gives() {
        let minted = ApiKeys::new().mint().await.unwrap();
        let key = minted.key.expose_secret();
        assert_eq!((key.len(), &key[..8], &*minted.prefix), (56, "ft_live_", &key[..16]));
        assert!(key[8..].bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
        assert_eq!((minted.hash.len(), minted.salt.len()), (64, 32));
        assert_eq!(minted.preview, format!("{}...{}", &key[..11], &key[52..]));
    }

    #[tokio::test]
    async fn the_hash_is_scrypt_as_rfc_7914_has_it() {
        // scrypt("pleaseletmein", "SodiumChloride", N=16384, r=8, p=1), the first 32 bytes.
        let hash = ApiKeys::new().hash("pleaseletmein".into(), b"SodiumChloride".to_vec()).await.unwrap();
        assert_eq!(hex(&hash), "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2");
        assert_eq!(unhex("70ff").unwrap(), [0x70, 0xff]);
        assert!(unhex("7").is_none() && unhex("zz").is_none());
    }
}
