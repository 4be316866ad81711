//! Access tokens: what we sign, and what we believe.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use db::identity::Account;
use domain::auth::{Claims, ClaimsError, Identity};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header, encode};
use ring::digest::{SHA256, digest};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::keys::Signer;

/// How long an access token is good for, in seconds.
pub const ACCESS_TOKEN_S: i64 = 3600;

/// The one audience.
const AUDIENCE: &str = "authenticated";
/// By how much clocks may disagree.
const TOLERANCE: TimeDelta = TimeDelta::seconds(5);
/// Longer tokens are refused unread.
const MAX_TOKEN_LEN: usize = 8 * 1024;

/// A token that was found right, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Who it speaks for.
    pub identity: Identity,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// The sign-in it came from, when it names one.
    pub session_id: Option<Uuid>,
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CheckError {
    /// Forged, foreign, expired or damaged; which one is nobody's business.
    Invalid,
    /// Genuine, but it says too little or nonsense.
    Claims(ClaimsError),
}

/// A signed access token.
pub(super) struct AccessToken {
    pub(super) text: SecretString,
    pub(super) expires_at: i64,
}

#[derive(Serialize)]
struct IssuedClaims<'a> {
    iss: &'a str,
    sub: Uuid,
    aud: &'a str,
    exp: i64,
    iat: i64,
    email: &'a str,
    role: &'a str,
    org_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    employee_id: Option<Uuid>,
    session_id: Uuid,
}

/// Signs a token for an account; `None` when the key does not sign.
pub(super) fn issue(
    signer: &Signer,
    issuer: &str,
    account: &Account,
    session: Uuid,
    now: DateTime<Utc>,
) -> Option<AccessToken> {
    super::jws::install();
    let (iat, exp) = (now.timestamp(), now.timestamp() + ACCESS_TOKEN_S);
    let claims = IssuedClaims {
        iss: issuer,
        sub: account.user.uuid(),
        aud: AUDIENCE,
        exp,
        iat,
        email: &account.email,
        role: account.role.as_str(),
        org_id: account.organization.uuid(),
        employee_id: account.employee.map(domain::EmployeeId::uuid),
        session_id: session,
    };
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(signer.kid.clone());
    let text = encode(&header, &claims, &signer.key).ok()?;
    Some(AccessToken { text: text.into(), expires_at: exp })
}

#[derive(Deserialize)]
struct ReceivedClaims {
    iss: String,
    /// A string: a list, even of the right name alone, is some other issuer's idea.
    aud: String,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default, deserialize_with = "text")]
    sub: Option<String>,
    #[serde(default, deserialize_with = "text")]
    role: Option<String>,
    #[serde(default, deserialize_with = "text")]
    org_id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    employee_id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    email: Option<String>,
    #[serde(default, deserialize_with = "text")]
    session_id: Option<String>,
}

/// A claim of ours. One that is no text is kept as JSON would write it: it is present, and wrong.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}

/// Which key a token claims to be signed with; `None` when it cannot be one of ours whatever the key.
pub(super) fn key_id(token: &str) -> Option<String> {
    if token.len() > MAX_TOKEN_LEN {
        return None;
    }
    let header = decode_header(token).ok()?;
    // Critical extensions must be understood or the token refused (RFC 7515), and we understand none.
    if header.alg != Algorithm::ES256 || header.crit.is_some() || header.extras.inner().contains_key("b64") {
        return None;
    }
    header.kid.filter(|kid| !kid.is_empty())
}

/// Checks signature, audience, issuer and times of a token, then what it says.
pub(super) fn check(
    token: &str,
    key: &DecodingKey,
    issuer: &str,
    now: DateTime<Utc>,
) -> Result<VerifiedToken, CheckError> {
    super::jws::install();
    // The library sees to the signature; the rest is ours, since it reads the machine's clock and takes lists as
    // audience and issuer.
    let mut signature_only = Validation::new(Algorithm::ES256);
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_nbf = false;
    signature_only.validate_aud = false;
    let claims = decode::<ReceivedClaims>(token, key, &signature_only).map_err(|_| CheckError::Invalid)?.claims;
    if claims.aud != AUDIENCE || claims.iss != issuer {
        return Err(CheckError::Invalid);
    }
    let expires_at = moment(claims.exp)?;
    if expires_at + TOLERANCE <= now {
        return Err(CheckError::Invalid);
    }
    if let Some(not_before) = claims.nbf
        && moment(not_before)? > now + TOLERANCE
    {
        return Err(CheckError::Invalid);
    }
    let session_id = claims.session_id.as_deref().and_then(domain::id::parse_uuid);
    let identity = Claims {
        sub: claims.sub,
        role: claims.role,
        org_id: claims.org_id,
        employee_id: claims.employee_id,
        email: claims.email,
    }
    .into_identity()
    .map_err(CheckError::Claims)?;
    Ok(VerifiedToken { identity, expires_at, session_id })
}

/// The last second that can be written in a token: the end of the year 9999.
const LAST_SECOND: f64 = 253_402_300_799.0;

fn moment(seconds: f64) -> Result<DateTime<Utc>, CheckError> {
    if !(0.0..=LAST_SECOND).contains(&seconds) {
        return Err(CheckError::Invalid);
    }
    DateTime::from_timestamp(seconds as i64, 0).ok_or(CheckError::Invalid)
}

/// The SHA-256 of a token, by which it is remembered.
pub(super) type TokenHash = [u8; 32];

/// The hash of a token.
pub(super) fn hash(token: &str) -> TokenHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

const SHARDS: usize = 16;

/// Tokens that were found right, until they expire: the cost of a signature is paid once a token.
pub(super) struct TokenCache {
    shards: [Mutex<HashMap<TokenHash, Entry>>; SHARDS],
    most_a_shard: usize,
}

struct Entry {
    generation: u64,
    token: VerifiedToken,
}

impl Entry {
    fn is_good(&self, generation: u64, now: DateTime<Utc>) -> bool {
        self.generation == generation && self.token.expires_at + TOLERANCE > now
    }
}

impl TokenCache {
    /// Remembers about `most` tokens, at some 200 bytes each.
    pub(super) fn new(most: usize) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), most_a_shard: most.div_ceil(SHARDS) }
    }

    fn shard(&self, hash: &TokenHash) -> std::sync::MutexGuard<'_, HashMap<TokenHash, Entry>> {
        self.shards[usize::from(hash[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that was found right with keys of that generation, and still is.
    pub(super) fn get(&self, hash: &TokenHash, generation: u64, now: DateTime<Utc>) -> Option<VerifiedToken> {
        self.shard(hash).get(hash).filter(|entry| entry.is_good(generation, now)).map(|entry| entry.token.clone())
    }

    /// Remembers a token. A full shard first forgets what has expired, and everything if nothing has: only those who
    /// hold genuine tokens can fill it, and the cost is verifying again.
    pub(super) fn put(&self, hash: TokenHash, generation: u64, token: VerifiedToken, now: DateTime<Utc>) {
        let mut shard = self.shard(&hash);
        if shard.len() >= self.most_a_shard && !shard.contains_key(&hash) {
            shard.retain(|_, entry| entry.is_good(generation, now));
            if shard.len() >= self.most_a_shard {
                shard.clear();
            }
        }
        shard.insert(hash, Entry { generation, token });
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use domain::auth::Role;
    use ring::hmac;
    use serde_json::json;

    use super::*;
    use crate::identity::key_cache::Published;
    use crate::identity::keys::Keyring;
    use crate::identity::keys::tests::keyring;

    const ISSUER: &str = "http://localhost:3000/auth/v1";
    const USER: &str = "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11";
    const ORGANIZATION: &str = "9b2b7f7e-7c1d-4c58-8a35-2f4f2f4f9e02";

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    fn account(role: Role) -> Account {
        Account {
            user: domain::id::parse_uuid(USER).unwrap().into(),
            organization: domain::id::parse_uuid(ORGANIZATION).unwrap().into(),
            email: "ana@example.com".to_owned(),
            role,
            employee: (role == Role::Employee).then(domain::EmployeeId::generate),
            banned_until: None,
            created_at: now(),
            updated_at: now(),
            last_sign_in_at: None,
        }
    }

    fn claims() -> Value {
        json!({
            "iss": ISSUER, "aud": "authenticated", "exp": now().timestamp() + 3600, "iat": now().timestamp(),
            "sub": USER, "role": "ADMIN", "org_id": ORGANIZATION, "email": "ana@example.com",
        })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    fn without(name: &str) -> Value {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }

    fn part(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    /// Signs whatever it is given, with the key of `ring`.
    fn sign(ring: &Keyring, header: &Value, claims: &Value) -> String {
        sign_text(ring, header, &claims.to_string())
    }

    fn sign_text(ring: &Keyring, header: &Value, claims: &str) -> String {
        super::super::jws::install();
        let message = format!("{}.{}", part(header), URL_SAFE_NO_PAD.encode(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &ring.signer().unwrap().key, Algorithm::ES256).unwrap();
        format!("{message}.{signature}")
    }

    fn header(ring: &Keyring) -> Value {
        json!({ "alg": "ES256", "typ": "JWT", "kid": ring.signer().unwrap().kid })
    }

    /// What the gateway does with a token.
    fn verify_at(ring: &Keyring, token: &str, now: DateTime<Utc>) -> Result<VerifiedToken, CheckError> {
        let kid = key_id(token).ok_or(CheckError::Invalid)?;
        check(token, ring.public().find(&kid).ok_or(CheckError::Invalid)?, ISSUER, now)
    }

    fn verify(ring: &Keyring, token: &str) -> Result<VerifiedToken, CheckError> {
        verify_at(ring, token, now())
    }

    fn verify_claims(claims: &Value) -> Result<VerifiedToken, CheckError> {
        let ring = keyring(now());
        verify(&ring, &sign(&ring, &header(&ring), claims))
    }

    fn text_of(token: &AccessToken) -> String {
        use secrecy::ExposeSecret;
        token.text.expose_secret().to_owned()
    }

    #[test]
    fn what_we_issue_we_believe() {
        let ring = keyring(now());
        for role in [Role::Admin, Role::Employee] {
            let (account, session) = (account(role), Uuid::new_v4());
            let token = issue(ring.signer().unwrap(), ISSUER, &account, session, now()).unwrap();
            let verified = verify(&ring, &text_of(&token)).unwrap();
            assert_eq!(verified.identity.user, account.user);
            assert_eq!(verified.identity.organization(), account.organization);
            assert_eq!((verified.identity.role, verified.identity.employee), (role, account.employee));
            assert_eq!(verified.identity.email.as_deref(), Some("ana@example.com"));
            assert_eq!(verified.session_id, Some(session));
            assert_eq!((verified.expires_at - now()).num_seconds(), ACCESS_TOKEN_S);
            assert_eq!(token.expires_at, verified.expires_at.timestamp());
        }
    }

    #[test]
    fn it_ends_an_hour_later_give_or_take_five_seconds() {
        let ring = keyring(now());
        let token = issue(ring.signer().unwrap(), ISSUER, &account(Role::Admin), Uuid::new_v4(), now()).unwrap();
        let after = |seconds| verify_at(&ring, &text_of(&token), now() + TimeDelta::seconds(seconds)).is_ok();
        assert!(after(ACCESS_TOKEN_S + 4));
        assert!(!after(ACCESS_TOKEN_S + 5));
    }

    #[test]
    fn forged_headers_are_refused() {
        let ring = keyring(now());
        let kid = ring.signer().unwrap().kid.clone();
        for forged in [
            json!({ "alg": "none", "kid": kid }),
            json!({ "alg": "None", "kid": kid }),
            json!({ "alg": "HS256", "kid": kid }),
            json!({ "alg": "RS256", "kid": kid }),
            json!({ "alg": "ES384", "kid": kid }),
            json!({ "alg": ["ES256"], "kid": kid }),
            json!({ "kid": kid }),
            json!({ "alg": "ES256" }),
            json!({ "alg": "ES256", "kid": "" }),
            json!({ "alg": "ES256", "kid": null }),
            json!({ "alg": "ES256", "kid": "another" }),
            json!({ "alg": "ES256", "kid": kid, "crit": ["exp"] }),
            json!({ "alg": "ES256", "kid": kid, "b64": false }),
        ] {
            assert_eq!(verify(&ring, &sign(&ring, &forged, &claims())), Err(CheckError::Invalid), "{forged}");
        }
        assert!(verify(&ring, &sign(&ring, &json!({ "alg": "ES256", "kid": kid }), &claims())).is_ok());
    }

    #[test]
    fn a_token_without_signature_is_refused() {
        let ring = keyring(now());
        let none = format!("{}.{}.", part(&json!({ "alg": "none" })), part(&claims()));
        assert_eq!(verify(&ring, &none), Err(CheckError::Invalid));
        let stripped = format!("{}.{}.", part(&header(&ring)), part(&claims()));
        assert_eq!(verify(&ring, &stripped), Err(CheckError::Invalid));
        // A signature of zeros once passed in careless libraries.
        let zeros = format!("{stripped}{}", URL_SAFE_NO_PAD.encode([0; 64]));
        assert_eq!(verify(&ring, &zeros), Err(CheckError::Invalid));
    }

    #[test]
    fn the_public_key_is_no_shared_secret() {
        let ring = keyring(now());
        let kid = ring.signer().unwrap().kid.clone();
        let set = ring.public().jwks();
        let (x, y) = (set["keys"][0]["x"].as_str().unwrap(), set["keys"][0]["y"].as_str().unwrap());
        let mut point = vec![4];
        point.extend(URL_SAFE_NO_PAD.decode(x).unwrap());
        point.extend(URL_SAFE_NO_PAD.decode(y).unwrap());
        for alg in ["HS256", "ES256"] {
            let message = format!("{}.{}", part(&json!({ "alg": alg, "kid": kid })), part(&claims()));
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &point), message.as_bytes());
            let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
            assert_eq!(verify(&ring, &token), Err(CheckError::Invalid), "{alg}");
        }
    }

    #[test]
    fn somebody_elses_key_of_the_same_name_is_refused() {
        let (ours, theirs) = (keyring(now()), keyring(now()));
        assert_eq!(verify(&ours, &sign(&theirs, &header(&ours), &claims())), Err(CheckError::Invalid));
        // Nor is a key believed because the token brings it along.
        let mut header = header(&ours);
        header["jwk"] = theirs.public().jwks()["keys"][0].clone();
        header["jku"] = json!("https://example.com/jwks.json");
        assert_eq!(verify(&ours, &sign(&theirs, &header, &claims())), Err(CheckError::Invalid));
    }

    #[test]
    fn changing_a_single_character_is_refused() {
        let ring = keyring(now());
        let token = sign(&ring, &header(&ring), &claims());
        let parts: Vec<&str> = token.split('.').collect();
        let elevated = format!("{}.{}.{}", parts[0], part(&with("org_id", json!(USER))), parts[2]);
        assert_eq!(verify(&ring, &elevated), Err(CheckError::Invalid));
        for at in (0..token.len()).step_by(7) {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(verify(&ring, &String::from_utf8(changed).unwrap()).is_err(), "character {at}");
        }
    }

    #[test]
    fn other_audiences_issuers_and_times_are_refused() {
        let at = |seconds: i64| json!(now().timestamp() + seconds);
        for wrong in [
            with("aud", json!(["authenticated"])),
            with("aud", json!("anon")),
            with("aud", json!("")),
            without("aud"),
            with("iss", json!("http://localhost:3000/auth/v2")),
            with("iss", json!("http://localhost:3000/auth/v1/")),
            with("iss", json!([ISSUER])),
            without("iss"),
            with("exp", at(-5)),
            with("exp", json!("never")),
            with("exp", json!(-1)),
            with("exp", json!(1e300)),
            with("exp", Value::Null),
            without("exp"),
            with("nbf", at(6)),
            with("nbf", json!("soon")),
            json!([]),
            json!("text"),
        ] {
            assert_eq!(verify_claims(&wrong), Err(CheckError::Invalid), "{wrong}");
        }
        for right in [with("exp", at(-4)), with("nbf", at(5)), with("nbf", Value::Null), with("exp", json!(4e9))] {
            assert!(verify_claims(&right).is_ok(), "{right}");
        }
    }

    #[test]
    fn a_claim_given_twice_is_refused() {
        let ring = keyring(now());
        let twice = claims().to_string().replacen('{', r#"{"org_id":"00000000-0000-0000-0000-000000000000","#, 1);
        assert_eq!(verify(&ring, &sign_text(&ring, &header(&ring), &twice)), Err(CheckError::Invalid));
    }

    #[test]
    fn a_genuine_token_that_says_nonsense_is_told_so() {
        for (wrong, error) in [
            (without("sub"), ClaimsError::UserId),
            (with("sub", json!(7)), ClaimsError::UserId),
            (without("role"), ClaimsError::Missing),
            (with("org_id", Value::Null), ClaimsError::Missing),
            (with("role", json!("EMPLOYEE")), ClaimsError::MissingEmployee),
            (with("role", json!(["ADMIN"])), ClaimsError::Role),
            (with("org_id", json!(7)), ClaimsError::Organization),
            (with("employee_id", json!({})), ClaimsError::Employee),
            (with("email", json!(true)), ClaimsError::Email),
        ] {
            assert_eq!(verify_claims(&wrong), Err(CheckError::Claims(error)), "{wrong}");
        }
        // What users may edit themselves counts for nothing.
        let mut edited = without("role");
        edited["user_metadata"] = json!({ "role": "ADMIN" });
        edited["app_metadata"] = json!({ "role": "ADMIN" });
        assert_eq!(verify_claims(&edited), Err(CheckError::Claims(ClaimsError::Missing)));
    }

    #[test]
    fn odd_and_oversized_texts_are_refused() {
        let ring = keyring(now());
        for odd in ["", ".", "..", "...", "a.b.c", "a.b", "a.b.c.d", "\u{0}", "ключ.ключ.ключ"] {
            assert_eq!(verify(&ring, odd), Err(CheckError::Invalid), "{odd}");
        }
        let padded = sign(&ring, &header(&ring), &with("note", json!("x".repeat(MAX_TOKEN_LEN))));
        assert_eq!(verify(&ring, &padded), Err(CheckError::Invalid));
    }

    #[test]
    fn verified_tokens_are_remembered_until_they_expire() {
        let ring = keyring(now());
        let token = sign(&ring, &header(&ring), &claims());
        let verified = verify(&ring, &token).unwrap();
        let cache = TokenCache::new(16);
        let hash = hash(&token);
        assert_eq!(cache.get(&hash, 0, now()), None);
        cache.put(hash, 0, verified.clone(), now());
        assert_eq!(cache.get(&hash, 0, now()), Some(verified.clone()));
        assert_eq!(cache.get(&hash, 1, now()), None, "a key was withdrawn since");
        assert!(cache.get(&hash, 0, now() + TimeDelta::seconds(3604)).is_some());
        assert_eq!(cache.get(&hash, 0, now() + TimeDelta::seconds(3605)), None);
        for seed in 0..=255_u8 {
            for low in 0..10 {
                let mut other = [seed; 32];
                other[31] = low;
                cache.put(other, 0, verified.clone(), now());
            }
        }
        let held: usize = cache.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(held <= 16, "{held}");
    }
}
