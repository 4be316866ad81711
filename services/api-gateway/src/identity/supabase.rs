//! A Supabase project as identity provider: its keys verify, and it checks passwords.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use domain::Clock;
use reqwest::header::HeaderValue;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::key_cache::{KeyCache, KeySource, Published, Unavailable};
use super::keys::{PublicKey, PublicKeys};
use super::{SignInError, Tokens};

/// How long the provider may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer answers are not read to their end.
const MAX_ANSWER: usize = 256 * 1024;
/// More keys than this are not kept.
const MAX_KEYS: usize = 5;

/// The client of the identity provider cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the client of the identity provider cannot be made: {0}")]
pub struct ClientError(String);

/// The provider.
pub(super) struct Supabase {
    pub(super) issuer: String,
    pub(super) keys: KeyCache<ProviderKeys>,
    token_url: String,
    anon_key: HeaderValue,
    client: Client,
}

impl Supabase {
    pub(super) fn new(url: &str, anon_key: &SecretString, clock: Arc<dyn Clock>) -> Result<Self, ClientError> {
        let issuer = format!("{}/auth/v1", url.trim_end_matches('/'));
        let mut anon_key = HeaderValue::from_str(anon_key.expose_secret())
            .map_err(|_| ClientError("SUPABASE_ANON_KEY has characters that no header can hold".to_owned()))?;
        anon_key.set_sensitive(true);
        let client = client(&issuer)?;
        let keys = ProviderKeys { client: client.clone(), url: format!("{issuer}/.well-known/jwks.json") };
        Ok(Self {
            token_url: format!("{issuer}/token?grant_type=password"),
            keys: KeyCache::new(keys, clock),
            issuer,
            anon_key,
            client,
        })
    }

    /// Hands a password on. Only the provider saying so makes it wrong; every other failure is the provider's.
    pub(super) async fn sign_in(&self, email: &str, password: &SecretString) -> Result<Tokens, SignInError> {
        let body = json!({ "email": email, "password": password.expose_secret() });
        let answer = self.client.post(&self.token_url).header("apikey", self.anon_key.clone()).json(&body).send().await;
        let answer = answer.map_err(|error| unavailable("signing in", &error.without_url()))?;
        let status = answer.status();
        let body = read(answer).await.map_err(|error| unavailable("signing in", &error))?;
        grant(status, &body)
    }
}

fn client(issuer: &str) -> Result<Client, ClientError> {
    // The HTTP client comes without cryptography of its own; an error means that somebody installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .timeout(PATIENCE)
        .connect_timeout(PATIENCE)
        // A redirect would carry the password somewhere else, and the environment names no proxy of ours.
        .redirect(Policy::none())
        .no_proxy()
        .user_agent("fieldtrack-api");
    // Without TLS there is no need for certificates, which a bare machine does not have.
    let builder = if issuer.starts_with("https://") { builder } else { builder.tls_certs_only([]) };
    builder.build().map_err(|error| ClientError(error.to_string()))
}

fn unavailable(doing: &'static str, error: &dyn std::error::Error) -> SignInError {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    tracing::warn!(error.message = %error, error.cause = cause, doing, "the identity provider did not answer");
    SignInError::Unavailable
}

/// Why an answer could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    #[error("the answer broke off")]
    Broken(#[source] reqwest::Error),
}

async fn read(mut answer: Response) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| ReadError::Broken(error.without_url()))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(ReadError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[derive(Deserialize)]
struct Grant {
    access_token: String,
    #[serde(default)]
    refresh_token: Option<String>,
    expires_in: i64,
    #[serde(default)]
    expires_at: Option<i64>,
}

/// What the provider says when it refuses; the names have changed over its versions.
#[derive(Deserialize, Default)]
struct Refusal {
    #[serde(default)]
    error_code: Option<String>,
    #[serde(default)]
    code: Option<serde_json::Value>,
    #[serde(default)]
    error: Option<String>,
}

/// What an answer to the password grant means.
fn grant(status: StatusCode, body: &[u8]) -> Result<Tokens, SignInError> {
    if status == StatusCode::OK {
        let granted: Grant = serde_json::from_slice(body).map_err(|_| {
            tracing::error!("the identity provider granted something that is no session");
            SignInError::Unavailable
        })?;
        return Ok(Tokens {
            access_token: granted.access_token.into(),
            refresh_token: granted.refresh_token.map(Into::into),
            expires_in: granted.expires_in,
            expires_at: granted.expires_at,
            account: None,
        });
    }
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let code = refusal
        .error_code
        .as_deref()
        .or_else(|| refusal.code.as_ref().and_then(serde_json::Value::as_str))
        .or(refusal.error.as_deref())
        .unwrap_or_default();
    let refused = matches!(
        status,
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::UNPROCESSABLE_ENTITY
    );
    match code {
        "user_banned" if refused => Err(SignInError::Banned),
        "invalid_credentials"
        | "invalid_grant"
        | "email_not_confirmed"
        | "email_address_invalid"
        | "validation_failed"
            if refused =>
        {
            Err(SignInError::InvalidCredentials)
        }
        _ => {
            tracing::warn!(http.status = status.as_u16(), "the identity provider refused to check a password");
            Err(SignInError::Unavailable)
        }
    }
}

/// The keys the provider publishes.
pub(super) struct ProviderKeys {
    client: Client,
    url: String,
}

impl KeySource for ProviderKeys {
    type Keys = ProviderKeySet;
    const FRESH: TimeDelta = TimeDelta::minutes(10);

    async fn load(&self, _: DateTime<Utc>) -> Result<ProviderKeySet, Unavailable> {
        let fetched = async {
            let answer = self.client.get(&self.url).send().await.map_err(|error| error.without_url().to_string())?;
            if answer.status() != StatusCode::OK {
                return Err(format!("status {}", answer.status().as_u16()));
            }
            let body = read(answer).await.map_err(|error| error.to_string())?;
            usable(&body).ok_or_else(|| "no key set".to_owned())
        };
        fetched.await.map(ProviderKeySet).map_err(|error| {
            tracing::warn!(error.message = error, "the keys of the identity provider could not be had");
            Unavailable
        })
    }
}

/// Keys of the provider.
pub(super) struct ProviderKeySet(PublicKeys);

impl Published for ProviderKeySet {
    fn public(&self) -> &PublicKeys {
        &self.0
    }
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    kid: String,
    x: String,
    y: String,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
}

/// The ES256 keys of a key set; keys of other kinds are none of ours.
fn usable(body: &[u8]) -> Option<PublicKeys> {
    let set: KeySet = serde_json::from_slice(body).ok()?;
    let keys = set.keys.into_iter().filter_map(|key| {
        let key: Jwk = serde_json::from_value(key).ok()?;
        let ours = key.kty == "EC"
            && key.crv == "P-256"
            && key.alg.as_deref().is_none_or(|alg| alg == "ES256")
            && key.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
        let coordinates = [key.x, key.y].map(|text| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok());
        match coordinates {
            [Some(x), Some(y)] if ours && x.len() == 32 && y.len() == 32 => {
                PublicKey::new(key.kid, &[&[4], x.as_slice(), y.as_slice()].concat())
            }
            _ => None,
        }
    });
    Some(keys.take(MAX_KEYS).collect())
}

#[cfg(test)]
mod tests {
    use domain::SystemClock;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::identity::keys::tests::keyring;

    #[test]
    fn only_keys_of_our_kind_are_kept() {
        let ours = keyring(Utc::now()).public().jwks()["keys"][0].clone();
        let changed = |name: &str, value: serde_json::Value| {
            let mut key = ours.clone();
            key[name] = value;
            key
        };
        let kid = ours["kid"].as_str().unwrap().to_owned();
        let has = |key: serde_json::Value| {
            usable(json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0" }, key] }).to_string().as_bytes())
                .unwrap()
                .find(&kid)
                .is_some()
        };
        assert!(has(ours.clone()));
        assert!(has(changed("use", serde_json::Value::Null)));
        for (name, value) in
            [("kty", "RSA"), ("crv", "P-384"), ("alg", "HS256"), ("use", "enc"), ("x", "AAAA"), ("y", "!"), ("kid", "")]
        {
            assert!(!has(changed(name, json!(value))), "{name}");
        }
        assert!(usable(b"{}").is_none());
        assert!(usable(b"<html>").is_none());
        let many: Vec<_> = (0..9).map(|i| changed("kid", json!(i.to_string()))).collect();
        let kept = usable(json!({ "keys": many }).to_string().as_bytes()).unwrap();
        assert_eq!((0..9).filter(|i| kept.find(&i.to_string()).is_some()).count(), MAX_KEYS);
    }

    #[test]
    fn only_the_provider_says_that_a_password_is_wrong() {
        let outcome = |status: u16, body: &str| grant(StatusCode::from_u16(status).unwrap(), body.as_bytes()).err();
        assert_eq!(outcome(200, r#"{"access_token":"a","refresh_token":"r","expires_in":3600}"#), None);
        let refused = Some(SignInError::InvalidCredentials);
        assert_eq!(outcome(400, r#"{"code":400,"error_code":"invalid_credentials","msg":"…"}"#), refused);
        assert_eq!(outcome(400, r#"{"code":"invalid_credentials","message":"…"}"#), refused);
        assert_eq!(outcome(400, r#"{"error":"invalid_grant","error_description":"…"}"#), refused);
        assert_eq!(outcome(400, r#"{"code":"user_banned"}"#), Some(SignInError::Banned));
        for (status, body) in [
            (200, "<html>"),
            (400, ""),
            (401, r#"{"message":"Invalid API key"}"#),
            (404, "{}"),
            (429, r#"{"code":"over_request_rate_limit"}"#),
            (500, r#"{"code":"invalid_credentials"}"#),
            (503, ""),
            (302, ""),
        ] {
            assert_eq!(outcome(status, body), Some(SignInError::Unavailable), "{status} {body}");
        }
    }

    /// Answers every request with `answer`, and gives back the requests.
    async fn provider(answer: &'static str) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = vec![0; 8192];
                let mut request = String::new();
                while !(request.contains("\r\n\r\n") && (request.starts_with("GET") || request.ends_with('}'))) {
                    let read = stream.read(&mut buffer).await.unwrap();
                    request.push_str(&String::from_utf8_lossy(&buffer[..read]));
                    if read == 0 {
                        break;
                    }
                }
                seen.send(request).unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, requests)
    }

    fn supabase(url: &str) -> Supabase {
        Supabase::new(url, &"anon".to_owned().into(), Arc::new(SystemClock)).unwrap()
    }

    #[tokio::test]
    async fn a_password_travels_with_the_public_key_of_the_project() {
        let (url, mut requests) = provider(
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 30\r\n\r\n{\"code\":\"invalid_credentials\"}",
        )
        .await;
        let refused = supabase(&url).sign_in("ana@example.com", &"wrong".to_owned().into()).await;
        assert_eq!(refused.err(), Some(SignInError::InvalidCredentials));
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with("POST /auth/v1/token?grant_type=password HTTP/1.1"), "{request}");
        assert!(request.contains("apikey: anon"), "{request}");
        assert!(request.contains(r#""password":"wrong""#), "{request}");
    }

    #[tokio::test]
    async fn a_provider_that_is_away_is_unavailable_and_so_are_its_keys() {
        let gone = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            format!("http://{}", listener.local_addr().unwrap())
        };
        let provider = supabase(&gone);
        let refused = provider.sign_in("ana@example.com", &"x".to_owned().into()).await;
        assert_eq!(refused.err(), Some(SignInError::Unavailable));
        assert!(provider.keys.find("any").await.is_err());
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        let (url, mut requests) = provider(
            "HTTP/1.1 307 Temporary Redirect\r\nconnection: close\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        let provider = supabase(&url);
        let refused = provider.sign_in("ana@example.com", &"x".to_owned().into()).await;
        assert_eq!(refused.err(), Some(SignInError::Unavailable));
        assert!(provider.keys.find("any").await.is_err());
        assert!(requests.recv().await.unwrap().starts_with("POST /auth/v1/token"));
        assert!(requests.recv().await.unwrap().starts_with("GET /auth/v1/.well-known/jwks.json"));
        assert!(requests.try_recv().is_err());
    }
}
