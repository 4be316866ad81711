//! Tells another identity provider who may sign in and who may not any more.
//!
//! A deactivation leaves a notice in its own transaction (`db::sign_in`); the schedule takes it here. The provider is
//! told what holds when it is told, at least once, for as long as that takes. What holds is read again when it has
//! answered: somebody who was held up may have told it of something older, after somebody else told it of this.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use db::Db;
use db::sign_in::{self, Notice};
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

/// How often in a row the provider is told of one user, when each time something else holds after it answered.
const MOST_TELLINGS: usize = 4;

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

/// What came of a notice.
enum Outcome {
    /// What the provider was told last held when it had answered.
    Told,
    /// There was no time left to tell it, or to tell it what holds by now.
    Late,
    /// The provider will not.
    Refused(StatusCode),
    /// The provider is away, and may have heard it or not.
    Away(String),
}

/// Tells the provider everything that is due. Fails when it is away: then all that is left waits for the next turn; and
/// in the end when it refused something, which somebody has to look into.
pub async fn tell_all(db: &Db, provider: &Provider, clock: &Arc<dyn Clock>) -> Result<(), TurnError> {
    let mut refused = None;
    loop {
        let now = clock.now();
        let mut tx = db.system().await?;
        let taken = sign_in::take(&mut tx, now, now + TAKEN_FOR).await?;
        tx.commit().await?;
        let Some(notice) = taken else { break };
        match tell_what_holds(db, provider, clock, &notice).await? {
            Outcome::Told => {
                let mut tx = db.system().await?;
                sign_in::told(&mut tx, &notice, clock.now()).await?;
                tx.commit().await?;
            }
            Outcome::Late => leave(db, &notice, TimeDelta::zero(), clock).await?,
            Outcome::Refused(status) => {
                leave(db, &notice, REFUSED_FOR, clock).await?;
                refused = Some(status);
            }
            Outcome::Away(why) => {
                leave(db, &notice, TimeDelta::zero(), clock).await?;
                return Err(TurnError::Provider(why));
            }
        }
    }
    match refused {
        Some(status) => Err(TurnError::Provider(format!("refuses to be told, with status {status}"))),
        None => Ok(()),
    }
}

/// Tells the provider whether a user may sign in until that is what holds, too: whoever stalled on the way to it may
/// have read something older and come last, and nobody else would tell it again.
async fn tell_what_holds(
    db: &Db,
    provider: &Provider,
    clock: &Arc<dyn Clock>,
    notice: &Notice,
) -> Result<Outcome, TurnError> {
    let user_id = notice.user();
    let mut kept_out = is_kept_out(db, notice).await?;
    for _ in 0..MOST_TELLINGS {
        // Nothing is sent that might arrive when the notice is somebody else's.
        if clock.now() + PATIENCE > notice.taken_until() {
            return Ok(Outcome::Late);
        }
        match provider.tell(user_id, kept_out).await {
            Answer::Done => {}
            Answer::Nobody => {
                tracing::warn!(%user_id, kept_out, "the identity provider does not know a user");
                return Ok(Outcome::Told);
            }
            Answer::Refused(refusal) => {
                let status = refusal.as_u16();
                tracing::error!(%user_id, kept_out, http.status = status, "the identity provider refuses to be told");
                return Ok(Outcome::Refused(refusal));
            }
            Answer::Away(why) => return Ok(Outcome::Away(why)),
        }
        let holds = is_kept_out(db, notice).await?;
        if holds == kept_out {
            return Ok(Outcome::Told);
        }
        kept_out = holds;
    }
    Ok(Outcome::Late)
}

/// What holds at this moment.
async fn is_kept_out(db: &Db, notice: &Notice) -> Result<bool, TurnError> {
    let mut tx = db.tenant(Tenant::found_by_system(notice.organization())).await?;
    let kept_out = sign_in::is_kept_out(&mut tx, notice.user()).await?;
    tx.commit().await?;
    Ok(kept_out)
}

/// Leaves a notice to be told after a while.
async fn leave(db: &Db, notice: &Notice, after: TimeDelta, clock: &Arc<dyn Clock>) -> Result<(), TurnError> {
    let now = clock.now();
    let mut tx = db.system().await?;
    let was_ours = sign_in::put_off(&mut tx, notice, now + after).await?;
    tx.commit().await?;
    if !was_ours {
        // Somebody else told it meanwhile, and the provider may have heard ours after theirs.
        let mut tx = db.tenant(Tenant::found_by_system(notice.organization())).await?;
        sign_in::note(&mut tx, notice.user(), now).await?;
        tx.commit().await?;
    }
    Ok(())
}
