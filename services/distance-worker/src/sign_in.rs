//! Tells another identity provider who may sign in and who may not any more.
//!
//! A deactivation leaves a notice in its own transaction (`db::sign_in`); the schedule takes it here. The provider is
//! told what holds when it is told, at least once, for as long as that takes.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use db::{Db, sign_in};
use domain::user::BAN;
use domain::{Clock, Tenant, UserId};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::schedule::TurnError;

/// How long the provider may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longer answers are not read to their end.
const MAX_ANSWER: usize = 64 * 1024;

/// For how long nobody else tells what somebody is telling: longer than an answer may take.
const TAKEN_FOR: TimeDelta = TimeDelta::seconds(30);

/// When the provider is told again what it refused.
const REFUSED_FOR: TimeDelta = TimeDelta::minutes(5);

/// The provider: the admin API of a Supabase project.
pub struct Provider {
    client: Client,
    users: String,
}

/// What the provider said.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Yes.
    Done,
    /// It has no such user, who then cannot sign in either.
    Nobody,
    /// It will not, for this user or for this key.
    Refused(StatusCode),
    /// Nothing, or that it cannot at the moment.
    Away(String),
}

impl Provider {
    /// The project at `url`, and the key that may change its users.
    pub fn new(url: &str, key: &SecretString) -> Result<Self, String> {
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text)
                .map_err(|_| "SUPABASE_SERVICE_ROLE_KEY has characters that no header can hold".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        let key = key.expose_secret();
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("apikey"), secret(key)?),
            (AUTHORIZATION, secret(&format!("Bearer {key}"))?),
        ]);
        // The client brings no cryptography of its own. An error would say that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .timeout(PATIENCE)
            .default_headers(headers)
            // A redirect would carry the key somewhere else, and the environment names no proxy of ours.
            .redirect(Policy::none())
            .no_proxy();
        // Without TLS there is no need for certificates, which a bare machine does not have.
        let client = if url.starts_with("https://") { client } else { client.tls_certs_only([]) };
        let client = client.build().map_err(|error| format!("the client of the identity provider: {error}"))?;
        Ok(Self { client, users: format!("{}/auth/v1/admin/users", url.trim_end_matches('/')) })
    }

    /// Says whether a user may sign in. Saying it twice is saying it once.
    async fn tell(&self, user: UserId, kept_out: bool) -> Answer {
        let duration = if kept_out { format!("{}h", BAN.num_hours()) } else { "none".to_owned() };
        let request = self.client.put(format!("{}/{user}", self.users)).json(&json!({ "ban_duration": duration }));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Answer::Away(error.without_url().to_string()),
        };
        match answer.status() {
            status if status.is_success() => Answer::Done,
            // Something else than the provider says so, too, where the address is wrong.
            StatusCode::NOT_FOUND if is_about_a_user(answer).await => Answer::Nobody,
            status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => {
                Answer::Away(format!("status {status}"))
            }
            status if status.is_client_error() => Answer::Refused(status),
            status => Answer::Away(format!("status {status}")),
        }
    }
}

/// Whether a 404 is of the provider itself: it does not know the user. Older versions have no codes.
async fn is_about_a_user(mut answer: Response) -> bool {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return false;
        }
    }
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    said["error_code"] == "user_not_found" || said["code"] == "user_not_found" || said["msg"] == "User not found"
}

/// Tells the provider everything that is due. Fails when it is away: then all that is left waits for the next turn.
pub async fn tell_all(db: &Db, provider: &Provider, clock: &Arc<dyn Clock>) -> Result<(), TurnError> {
    loop {
        let now = clock.now();
        let mut tx = db.system().await?;
        let taken = sign_in::take(&mut tx, now, now + TAKEN_FOR).await?;
        tx.commit().await?;
        let Some(notice) = taken else { return Ok(()) };
        let mut tx = db.tenant(Tenant::found_by_system(notice.organization())).await?;
        let kept_out = sign_in::is_kept_out(&mut tx, notice.user()).await?;
        tx.commit().await?;
        let answer = provider.tell(notice.user(), kept_out).await;
        let (user_id, now) = (notice.user(), clock.now());
        let mut tx = db.system().await?;
        match &answer {
            Answer::Done => sign_in::told(&mut tx, &notice, now).await?,
            Answer::Nobody => {
                tracing::warn!(%user_id, kept_out, "the identity provider does not know a user");
                sign_in::told(&mut tx, &notice, now).await?;
            }
            Answer::Refused(status) => {
                let status = status.as_u16();
                tracing::error!(%user_id, kept_out, http.status = status, "the identity provider refuses to be told");
                sign_in::put_off(&mut tx, &notice, now + REFUSED_FOR).await?;
            }
            Answer::Away(_) => sign_in::put_off(&mut tx, &notice, now).await?,
        }
        tx.commit().await?;
        if let Answer::Away(why) = answer {
            return Err(TurnError::Provider(why));
        }
    }
}
