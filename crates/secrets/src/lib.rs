//! The key of all secrets: it seals what the database keeps, and other keys are derived from it.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};
use settings::Settings;

/// First byte of everything sealed: how the rest is laid out. Then follow the id of the key, the nonce, and the
/// ciphertext with its tag.
const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 4;
const NONCE_LEN: usize = 12;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;

/// Why a text is no secrets key. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecretsKey {
    /// The key itself.
    #[error("must be 32 random bytes in base64 (openssl rand -base64 32)")]
    Current,
    /// The one before it.
    #[error("cannot be used with this SECRETS_KEY_PREVIOUS, which must be 32 random bytes in base64")]
    Previous,
}

/// Why something sealed cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It was sealed with a key that is neither the current nor the previous one.
    #[error("sealed with another secrets key")]
    OtherKey,
    /// It was changed, cut, or sealed for another purpose.
    #[error("the sealed bytes are damaged or were sealed for another purpose")]
    Damaged,
}

/// The machine has no randomness to give, or a length is beyond the cipher: nothing a caller could mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library failed")]
pub struct CryptoFailure;

/// Seals and opens with `SECRETS_KEY`; still opens what `SECRETS_KEY_PREVIOUS` sealed. Clones share the keys.
#[derive(Clone)]
pub struct SecretsKey(Arc<Keys>);

struct Keys {
    current: Master,
    previous: Option<Master>,
}

struct Master {
    prk: Prk,
    id: [u8; KEY_ID_LEN],
    cipher: LessSafeKey,
}

/// A derived key, and the one derived from the previous secrets key while that is known.
pub struct Derived {
    /// What to use from now on.
    pub current: [u8; 32],
    /// What was used before the last change of key.
    pub previous: Option<[u8; 32]>,
}

impl SecretsKey {
    /// Reads `SECRETS_KEY`, and `SECRETS_KEY_PREVIOUS` while its secrets are still about.
    pub fn read(settings: &mut Settings) -> Self {
        let key = settings.required_secret("SECRETS_KEY");
        let previous = settings.secret("SECRETS_KEY_PREVIOUS");
        Self::new(&key, previous.as_ref()).unwrap_or_else(|why| {
            if !key.expose_secret().is_empty() {
                settings.problem("SECRETS_KEY", why);
            }
            Self::unusable()
        })
    }

    /// Reads the base64 of 32 bytes, and that of the key before it.
    pub fn new(current: &SecretString, previous: Option<&SecretString>) -> Result<Self, InvalidSecretsKey> {
        let current = master(current).ok_or(InvalidSecretsKey::Current)?;
        let previous = match previous {
            Some(text) => Some(master(text).ok_or(InvalidSecretsKey::Previous)?),
            None => None,
        };
        Ok(Self(Arc::new(Keys { current, previous })))
    }

    /// Stands where a key could not be read, until the process says so and ends: what it seals, nobody opens again.
    pub fn unusable() -> Self {
        let mut bytes = [0; 32];
        // Without randomness the key is zeros, which `new` refuses; it is thrown away in any case.
        let _ = SystemRandom::new().fill(&mut bytes);
        Self(Arc::new(Keys { current: Master::new(&bytes), previous: None }))
    }

    /// Seals `plain` for `purpose`: opening it for another one fails, so that a value copied to another column or row
    /// is not believed.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>, CryptoFailure> {
        let master = &self.0.current;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| CryptoFailure)?;
        let mut cipher = plain.to_vec();
        master
            .cipher
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated(&master.id, purpose)),
                &mut cipher,
            )
            .map_err(|_| CryptoFailure)?;
        let mut sealed = Vec::with_capacity(HEADER_LEN + cipher.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&master.id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&cipher);
        Ok(sealed)
    }

    /// Opens what was sealed for `purpose` with the current or the previous key.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let Some((header, cipher)) = sealed.split_at_checked(HEADER_LEN) else { return Err(OpenError::Damaged) };
        if header.first() != Some(&VERSION) {
            return Err(OpenError::Damaged);
        }
        let (id, nonce) = header[1..].split_at(KEY_ID_LEN);
        let masters = [Some(&self.0.current), self.0.previous.as_ref()];
        let master = masters.into_iter().flatten().find(|master| master.id == id).ok_or(OpenError::OtherKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Damaged)?;
        let mut opened = cipher.to_vec();
        let plain_len = master
            .cipher
            .open_in_place(nonce, Aad::from(associated(&master.id, purpose)), &mut opened)
            .map_err(|_| OpenError::Damaged)?
            .len();
        opened.truncate(plain_len);
        Ok(opened)
    }

    /// Whether the current key sealed it; what the previous one sealed should be sealed anew.
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        sealed.get(1..=KEY_ID_LEN) == Some(&self.0.current.id)
    }

    /// A key for one use, independent of every other one.
    pub fn derive(&self, label: &str) -> Derived {
        let derive = |master: &Master| expand(&master.prk, &["derived key", label]);
        Derived { current: derive(&self.0.current), previous: self.0.previous.as_ref().map(derive) }
    }
}

impl fmt::Debug for SecretsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretsKey([redacted])")
    }
}

impl fmt::Debug for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Derived([redacted])")
    }
}

impl Master {
    fn new(bytes: &[u8; 32]) -> Self {
        let prk = Salt::new(HKDF_SHA256, b"fieldtrack secrets key").extract(bytes);
        let id = expand(&prk, &["key id"]);
        Self { id: [id[0], id[1], id[2], id[3]], cipher: cipher(&prk), prk }
    }
}

fn master(text: &SecretString) -> Option<Master> {
    let text = text.expose_secret().trim();
    let bytes: [u8; 32] = STANDARD.decode(text).ok()?.try_into().ok()?;
    // A key of one repeated byte is a placeholder that was never replaced.
    (bytes.iter().any(|byte| *byte != bytes[0])).then(|| Master::new(&bytes))
}

fn associated(key_id: &[u8; KEY_ID_LEN], purpose: &str) -> Vec<u8> {
    [&[VERSION][..], key_id, purpose.as_bytes()].concat()
}

struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

#[expect(clippy::expect_used, reason = "HKDF-SHA-256 gives up to 8160 bytes and 32 are asked for")]
fn expand(prk: &Prk, info: &[&str]) -> [u8; 32] {
    let info: Vec<&[u8]> = info.iter().flat_map(|part| [part.as_bytes(), &[0]]).collect();
    let mut out = [0; 32];
    prk.expand(&info, Bytes32).and_then(|key| key.fill(&mut out)).expect("32 bytes are within the limit of HKDF");
    out
}

#[expect(clippy::expect_used, reason = "an AES-256 key is 32 bytes, and HKDF gives exactly 32")]
fn cipher(prk: &Prk) -> LessSafeKey {
    let key = expand(prk, &["seal"]);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("the key has the length of the cipher"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seed: u8) -> SecretString {
        let bytes: Vec<u8> = (0..32).map(|i| i ^ seed).collect();
        STANDARD.encode(bytes).into()
    }

    fn key(seed: u8) -> SecretsKey {
        SecretsKey::new(&text(seed), None).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_again() {
        let key = key(1);
        let sealed = key.seal("a purpose", b"a secret").unwrap();
        assert_eq!(key.open("a purpose", &sealed).unwrap(), b"a secret");
        assert!(!sealed.windows(8).any(|window| window == b"a secret"));
        assert_ne!(sealed, key.seal("a purpose", b"a secret").unwrap(), "nonces repeat");
        assert_eq!(key.open("p", &key.seal("p", b"").unwrap()).unwrap(), b"");
    }

    #[test]
    fn no_bit_of_it_can_be_changed() {
        let key = key(1);
        let sealed = key.seal("a purpose", b"a secret").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open("a purpose", &changed).is_err(), "byte {at}");
            assert!(key.open("a purpose", &sealed[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(key.open("another purpose", &sealed), Err(OpenError::Damaged));
    }

    #[test]
    fn the_previous_key_opens_and_does_not_seal() {
        let old = key(1);
        let sealed = old.seal("p", b"x").unwrap();
        let rotated = SecretsKey::new(&text(2), Some(&text(1))).unwrap();
        assert_eq!(rotated.open("p", &sealed).unwrap(), b"x");
        assert!(!rotated.is_current(&sealed));
        let resealed = rotated.seal("p", b"x").unwrap();
        assert!(rotated.is_current(&resealed));
        assert_eq!(old.open("p", &resealed), Err(OpenError::OtherKey));
        assert_eq!(key(2).open("p", &resealed).unwrap(), b"x");
        assert_eq!(rotated.derive("l").current, key(2).derive("l").current);
        assert_eq!(rotated.derive("l").previous, Some(old.derive("l").current));
    }

    #[test]
    fn derived_keys_differ_by_label_and_by_key() {
        assert_eq!(key(1).derive("a").current, key(1).derive("a").current);
        assert_ne!(key(1).derive("a").current, key(1).derive("b").current);
        assert_ne!(key(1).derive("a").current, key(2).derive("a").current);
    }

    #[test]
    fn only_32_bytes_of_base64_are_a_key() {
        let zeros = STANDARD.encode([0; 32]);
        let short = STANDARD.encode([7; 31]);
        for bad in ["", "secret", "!!!!", zeros.as_str(), short.as_str()] {
            assert_eq!(SecretsKey::new(&bad.to_owned().into(), None).unwrap_err(), InvalidSecretsKey::Current, "{bad}");
        }
        assert_eq!(SecretsKey::new(&text(1), Some(&"x".to_owned().into())).unwrap_err(), InvalidSecretsKey::Previous);
    }

    #[test]
    fn nothing_is_printed() {
        assert_eq!(format!("{:?}", key(1)), "SecretsKey([redacted])");
    }
}
