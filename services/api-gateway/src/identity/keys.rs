//! The keys that sign access tokens: made here, sealed in the database, shared by every replica.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use db::identity::SigningKey;
use db::{Db, DbError};
use jsonwebtoken::{DecodingKey, EncodingKey};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::key_cache::{KeySource, Published, Unavailable};
use secrets::{CryptoFailure, SecretsKey};

/// How long a retired key stays published: longer than the tokens it signed live.
const PUBLISHED_AFTER_RETIREMENT: TimeDelta = TimeDelta::hours(2);
/// How long a retired key may still sign where its successor cannot be used: its tokens must end while it is still
/// published.
const SIGNS_AFTER_RETIREMENT: TimeDelta = TimeDelta::minutes(55);
/// How old a key must be before it signs, if there is another: by then every replica has learnt of it.
const SETTLES_AFTER: TimeDelta = TimeDelta::minutes(2);

/// A point on P-256, uncompressed: 0x04, x, y.
const POINT_LEN: usize = 65;

/// A key that verifies.
#[derive(Clone)]
pub(super) struct PublicKey {
    kid: String,
    point: [u8; POINT_LEN],
    verifies: DecodingKey,
}

impl PublicKey {
    /// From a point; `None` when it has not the shape of one.
    pub(super) fn new(kid: String, point: &[u8]) -> Option<Self> {
        let point: [u8; POINT_LEN] = point.try_into().ok()?;
        (point[0] == 4 && !kid.is_empty()).then(|| Self { kid, point, verifies: DecodingKey::from_ec_der(&point) })
    }

    /// Its coordinates as JSON Web Keys write them.
    fn coordinates(&self) -> [String; 2] {
        let (x, y) = self.point[1..].split_at(32);
        [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate))
    }
}

/// The keys that verify, newest first.
#[derive(Clone, Default)]
pub(super) struct PublicKeys(Vec<PublicKey>);

impl PublicKeys {
    pub(super) fn find(&self, kid: &str) -> Option<&DecodingKey> {
        self.0.iter().find(|key| key.kid == kid).map(|key| &key.verifies)
    }

    /// Whether each of `others` is among these, and is the same key.
    pub(super) fn contains_all(&self, others: &Self) -> bool {
        others.0.iter().all(|other| self.0.iter().any(|key| key.kid == other.kid && key.point == other.point))
    }

    /// As a JSON Web Key Set (RFC 7517).
    pub(super) fn jwks(&self) -> Value {
        let keys: Vec<Value> = self
            .0
            .iter()
            .map(|key| {
                let [x, y] = key.coordinates();
                json!({
                    "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "key_ops": ["verify"], "ext": true,
                    "kid": key.kid, "x": x, "y": y,
                })
            })
            .collect();
        json!({ "keys": keys })
    }
}

impl FromIterator<PublicKey> for PublicKeys {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

/// A key that signs.
pub(super) struct Signer {
    /// Its id, for the header of the tokens.
    pub(super) kid: String,
    /// Its private part.
    pub(super) key: EncodingKey,
}

/// Every key of ours.
pub(super) struct Keyring {
    public: PublicKeys,
    signer: Option<Signer>,
}

impl Keyring {
    /// Opens stored keys, given newest first.
    fn open(stored: &[SigningKey], secrets: &SecretsKey, now: DateTime<Utc>) -> Self {
        let recent = |key: &&SigningKey, period: TimeDelta| key.retired_at.is_none_or(|at| at + period > now);
        let public = stored
            .iter()
            .filter(|key| recent(key, PUBLISHED_AFTER_RETIREMENT))
            .filter_map(|key| PublicKey::new(key.kid.clone(), &key.public_key))
            .collect();
        let mut usable: Vec<(DateTime<Utc>, Signer)> = stored
            .iter()
            .filter(|key| recent(key, SIGNS_AFTER_RETIREMENT))
            .filter_map(|key| {
                let private = secrets.open(&purpose(&key.kid), &key.sealed_private_key).ok()?;
                Some((key.created_at, Signer { kid: key.kid.clone(), key: EncodingKey::from_ec_der(&private) }))
            })
            .collect();
        // Right after a rotation the replicas that have not heard of the new key would refuse its tokens.
        let settled = usable.iter().position(|(created_at, _)| *created_at + SETTLES_AFTER <= now);
        let chosen = settled.or_else(|| usable.len().checked_sub(1));
        Self { public, signer: chosen.map(|at| usable.swap_remove(at).1) }
    }

    /// The key that signs now.
    pub(super) const fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }
}

impl Published for Keyring {
    fn public(&self) -> &PublicKeys {
        &self.public
    }
}

/// The keys in the database.
pub(super) struct StoredKeys {
    db: Db,
    secrets: SecretsKey,
}

/// Why keys could not be read or made.
#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

impl StoredKeys {
    pub(super) const fn new(db: Db, secrets: SecretsKey) -> Self {
        Self { db, secrets }
    }

    /// Makes a new key. It signs once every replica knows it; those before it stay published.
    pub(super) async fn rotate(&self, now: DateTime<Utc>) -> Result<(), Unavailable> {
        self.add(now, |_| true).await.map_err(log)?;
        Ok(())
    }

    async fn read(&self, now: DateTime<Utc>) -> Result<Vec<SigningKey>, StoreError> {
        // The system role: nobody belongs to an organization before their token is verified.
        let mut tx = self.db.system().await?;
        let stored = db::identity::signing_keys(&mut tx).await?;
        drop(tx);
        if self.lacks_key(&stored) { self.add(now, |stored| self.lacks_key(stored)).await } else { Ok(stored) }
    }

    /// Whether a key must be made: there is none, or the newest was sealed with the secrets key that is going away.
    ///
    /// A key sealed with an unknown secrets key is left alone: two replicas with different settings would else replace
    /// each other's keys for ever.
    fn lacks_key(&self, stored: &[SigningKey]) -> bool {
        stored.iter().find(|key| key.retired_at.is_none()).is_none_or(|key| {
            !self.secrets.is_current(&key.sealed_private_key)
                && self.secrets.open(&purpose(&key.kid), &key.sealed_private_key).is_ok()
        })
    }

    /// Makes a key if that is still wanted once no other process can make one.
    async fn add(
        &self,
        now: DateTime<Utc>,
        wanted: impl Fn(&[SigningKey]) -> bool + Send,
    ) -> Result<Vec<SigningKey>, StoreError> {
        let mut tx = self.db.system().await?;
        db::identity::lock_signing_keys(&mut tx).await?;
        let mut stored = db::identity::signing_keys(&mut tx).await?;
        if wanted(&stored) {
            // Later than the last one even if the clock of the machine that made it was ahead of ours.
            let after = stored.first().map(|key| key.created_at + TimeDelta::microseconds(1));
            let key = generate(&self.secrets, after.map_or(now, |after| after.max(now)))?;
            db::identity::add_signing_key(&mut tx, &key).await?;
            tracing::info!(key.id = %key.kid, "a signing key was made");
            stored = db::identity::signing_keys(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(stored)
    }
}

impl KeySource for StoredKeys {
    type Keys = Keyring;
    const FRESH: TimeDelta = TimeDelta::minutes(1);

    async fn load(&self, now: DateTime<Utc>) -> Result<Keyring, Unavailable> {
        let stored = self.read(now).await.map_err(log)?;
        let keyring = Keyring::open(&stored, &self.secrets, now);
        if keyring.signer.is_none() {
            tracing::error!(
                "no signing key opens with SECRETS_KEY, so nobody can sign in: restore the key, or set SECRETS_KEY_PREVIOUS to it"
            );
        }
        Ok(keyring)
    }
}

fn log(error: StoreError) -> Unavailable {
    match &error {
        StoreError::Db(DbError::Unavailable(_)) => {
            tracing::warn!(error.message = %error, "signing keys could not be read");
        }
        StoreError::Db(_) | StoreError::Crypto(_) => {
            tracing::error!(error.message = %error, "signing keys could not be read");
        }
    }
    Unavailable
}

/// What a private key is sealed for: its own row.
fn purpose(kid: &str) -> String {
    format!("signing key {kid}")
}

fn generate(secrets: &SecretsKey, now: DateTime<Utc>) -> Result<SigningKey, CryptoFailure> {
    let random = SystemRandom::new();
    let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(|_| CryptoFailure)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref(), &random)
        .map_err(|_| CryptoFailure)?;
    let point = pair.public_key().as_ref().to_vec();
    let kid = thumbprint(&point);
    Ok(SigningKey {
        sealed_private_key: secrets.seal(&purpose(&kid), private.as_ref())?,
        public_key: point,
        kid,
        created_at: now,
        retired_at: None,
    })
}

/// The key's id, which follows from the key (RFC 7638).
fn thumbprint(point: &[u8]) -> String {
    let (x, y) = point.get(1..).unwrap_or_default().split_at(32.min(point.len().saturating_sub(1)));
    let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    pub(in crate::identity) fn public_key(kid: &'static str) -> PublicKey {
        let mut point = [7; POINT_LEN];
        point[0] = 4;
        PublicKey::new(kid.to_owned(), &point).unwrap()
    }

    pub(in crate::identity) fn some_keys(keys: impl Iterator<Item = PublicKey>) -> PublicKeys {
        keys.collect()
    }

    pub(in crate::identity) fn secrets(seed: u8) -> SecretsKey {
        let bytes: Vec<u8> = (0..32).map(|i| i ^ seed).collect();
        SecretsKey::new(&STANDARD.encode(bytes).into(), None).unwrap()
    }

    /// A fresh keyring of one key, as a first start leaves it.
    pub(in crate::identity) fn keyring(now: DateTime<Utc>) -> Keyring {
        Keyring::open(&[generate(&secrets(1), now).unwrap()], &secrets(1), now)
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    #[test]
    fn a_first_key_signs_at_once() {
        let key = generate(&secrets(1), now()).unwrap();
        let ring = Keyring::open(std::slice::from_ref(&key), &secrets(1), now());
        assert_eq!(ring.signer().unwrap().kid, key.kid);
        assert!(ring.public().find(&key.kid).is_some());
    }

    #[test]
    fn a_rotated_key_signs_once_it_is_known_and_the_old_one_stays_published_for_two_hours() {
        let mut old = generate(&secrets(1), now()).unwrap();
        let rotated_at = now() + TimeDelta::days(1);
        let new = generate(&secrets(1), rotated_at).unwrap();
        old.retired_at = Some(rotated_at);
        let stored = [new.clone(), old.clone()];
        let after = |minutes| Keyring::open(&stored, &secrets(1), rotated_at + TimeDelta::minutes(minutes));
        assert_eq!(after(1).signer().unwrap().kid, old.kid);
        assert_eq!(after(2).signer().unwrap().kid, new.kid);
        assert!(after(119).public().find(&old.kid).is_some());
        assert!(after(120).public().find(&old.kid).is_none());
        assert!(after(120).public().find(&new.kid).is_some());
    }

    #[test]
    fn a_key_that_does_not_open_verifies_and_does_not_sign() {
        let key = generate(&secrets(1), now()).unwrap();
        let ring = Keyring::open(std::slice::from_ref(&key), &secrets(2), now());
        assert!(ring.signer().is_none());
        assert!(ring.public().find(&key.kid).is_some());
    }

    #[test]
    fn a_sealed_key_belongs_to_its_row() {
        let (mut one, other) = (generate(&secrets(1), now()).unwrap(), generate(&secrets(1), now()).unwrap());
        one.sealed_private_key = other.sealed_private_key;
        assert!(Keyring::open(&[one], &secrets(1), now()).signer().is_none());
    }

    #[test]
    fn the_key_set_has_what_verifiers_look_for_and_nothing_private() {
        let ring = keyring(now());
        let set = ring.public().jwks();
        let key = &set["keys"][0];
        for (name, value) in [("kty", "EC"), ("crv", "P-256"), ("alg", "ES256"), ("use", "sig")] {
            assert_eq!(key[name], value, "{name}");
        }
        assert_eq!(key["kid"], ring.signer().unwrap().kid.as_str());
        for coordinate in ["x", "y"] {
            assert_eq!(URL_SAFE_NO_PAD.decode(key[coordinate].as_str().unwrap()).unwrap().len(), 32);
        }
        assert!(key.get("d").is_none());
    }
}
