//! The public API as a phone and an administrator see it: just the calls these commands make.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::failure::{Context, Failure, Outcome};

/// A server of the API.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    base: Url,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer came: whether the server did what it was asked is unknown.
    #[error("no answer: {0}")]
    Unreachable(#[source] reqwest::Error),
    /// The server refused.
    #[error("{status}: {message}")]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// What it said.
        message: String,
        /// When to come again, if it told.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the contract promises.
    #[error("the answer to {path} is not understood: {problem}")]
    Unexpected {
        /// What was asked.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl ApiError {
    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Unexpected { .. } => false,
        }
    }

    /// Whether the server said no with this status.
    pub fn is(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }
}

/// One position as the wire has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Position {
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// Metres; the contract insists on a value.
    pub accuracy: f64,
    /// UTC, to the microsecond, with a capital Z.
    pub recorded_at: String,
    /// Place in the recording; only told when the points are sent in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_number: Option<u64>,
}

/// A session as the wire has it.
#[derive(Clone, Debug, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: Option<String>,
    /// The server's clock at check-in.
    pub checkin_at: DateTime<Utc>,
    /// The server's clock at check-out.
    pub checkout_at: Option<DateTime<Utc>>,
    /// Kilometres, once computed.
    pub total_distance_km: Option<f64>,
    /// How far the computation got.
    pub distance_recalculation_status: Option<String>,
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Deserialize)]
struct PageOf<T> {
    data: Vec<T>,
}

#[derive(Deserialize)]
struct Inserted {
    inserted: u64,
}

#[derive(Deserialize)]
struct Tokens {
    access_token: String,
}

#[derive(Deserialize)]
struct Me {
    #[serde(rename = "orgId")]
    organization: String,
}

impl Api {
    /// The server at `base`, an `http` or `https` address.
    pub fn new(base: &str) -> Outcome<Self> {
        let base = Url::parse(base).context(format!("{base} is not an address"))?;
        let mut client = Client::builder().timeout(Duration::from_secs(30)).connect_timeout(Duration::from_secs(5));
        if base.scheme() == "http" {
            // Without TLS there is nothing to verify, and a bare machine may have no certificates to load.
            client = client.tls_certs_only([]);
        }
        if matches!(base.host_str(), Some("127.0.0.1" | "localhost" | "[::1]")) {
            client = client.no_proxy();
        }
        Ok(Self { client: client.build().context("cannot make an HTTP client")?, base })
    }

    /// The address without a slash at its end.
    pub fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Where the server is.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Whether a GET of this path answers with success.
    pub async fn answers(&self, path: &str) -> bool {
        let answer = self.request(Method::GET, path).timeout(Duration::from_secs(5)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Exchanges e-mail and password for an access token.
    pub async fn sign_in(&self, email: &str, password: &str) -> Result<SignedIn, ApiError> {
        let body = json!({"email": email, "password": password});
        let tokens: Envelope<Tokens> =
            call(self.request(Method::POST, "/auth/login").json(&body), "/auth/login").await?;
        Ok(SignedIn { api: self.clone(), token: tokens.data.access_token })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.address()))
    }
}

/// Somebody's access to the API.
#[derive(Clone, Debug)]
pub struct SignedIn {
    api: Api,
    token: String,
}

impl SignedIn {
    /// The token, for a request written by hand.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The organization of the caller.
    pub async fn organization(&self) -> Result<String, ApiError> {
        let me: Envelope<Me> = self.get("/auth/me").await?;
        Ok(me.data.organization)
    }

    /// Creates an employee who can sign in.
    pub async fn create_employee(&self, name: &str, email: &str, password: &str) -> Result<(), ApiError> {
        let body = json!({"name": name, "email": email, "password": password});
        let _: Value = self.post("/admin/employees", &body).await?;
        Ok(())
    }

    /// Opens a session.
    pub async fn check_in(&self) -> Result<Session, ApiError> {
        let session: Envelope<Session> = self.post("/attendance/check-in", &json!({})).await?;
        Ok(session.data)
    }

    /// Closes the open session.
    pub async fn check_out(&self) -> Result<Session, ApiError> {
        let session: Envelope<Session> = self.post("/attendance/check-out", &json!({})).await?;
        Ok(session.data)
    }

    /// Sends up to 100 points and tells how many were new.
    pub async fn record(&self, batch: &Value) -> Result<u64, ApiError> {
        let answer: Inserted = self.post("/locations/batch", batch).await?;
        Ok(answer.inserted)
    }

    /// The caller's open session, if any.
    pub async fn open_session(&self) -> Result<Option<Session>, ApiError> {
        let page: PageOf<Session> = self.get("/attendance/my-sessions?status=active&limit=1").await?;
        Ok(page.data.into_iter().find(|session| session.checkout_at.is_none()))
    }

    /// One of the caller's latest sessions.
    pub async fn session(&self, id: &str) -> Result<Option<Session>, ApiError> {
        let page: PageOf<Session> = self.get("/attendance/my-sessions?limit=20").await?;
        Ok(page.data.into_iter().find(|session| session.id.as_deref() == Some(id)))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        call(self.api.request(Method::GET, path).bearer_auth(&self.token), path).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, ApiError> {
        call(self.api.request(Method::POST, path).bearer_auth(&self.token).json(body), path).await
    }
}

async fn call<T: DeserializeOwned>(request: RequestBuilder, path: &str) -> Result<T, ApiError> {
    let answer = request.send().await.map_err(ApiError::Unreachable)?;
    let status = answer.status();
    let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    let body = answer.bytes().await.map_err(ApiError::Unreachable)?;
    if !status.is_success() {
        let envelope: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let message = envelope["error"].as_str().map_or_else(|| text.chars().take(200).collect(), str::to_owned);
        return Err(ApiError::Refused { status, message, retry_after: retry_after.map(Duration::from_secs) });
    }
    serde_json::from_slice(&body)
        .map_err(|error| ApiError::Unexpected { path: path.to_owned(), problem: error.to_string() })
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::new(format!("the API says {error}"))
    }
}
