//! `deliver-webhook` on `webhook-delivery`: one attempt to tell an address of an event.
//!
//! The delivery's row says whether an attempt is due, and takes it down; so a job may be lost, doubled or late. An
//! attempt is claimed, made, and recorded: a worker that dies in between loses its claim, and the attempt is made again
//! under the same id. What a receiver does costs nothing but its own turn: five seconds in all, a few attempts at one
//! address at a time, a few kilobytes read.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use db::webhooks::{Answer, AtOnce, Attempt, Claim, Effect};
use db::{DbError, audit};
use domain::Tenant;
use domain::auth::Actor;
use domain::event::EventType;
use domain::job::DeliverWebhook;
use domain::network::Network;
use domain::webhook::{TEST_EVENT, Target, is_reachable, sealed_for};
use queue::{JobError, NewJob, Producer};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Response, StatusCode, redirect};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use secrets::SecretsKey;
use serde_json::{Value, json};

use super::{Context, Kind, retry};

/// How long an attempt may take in all, from the look-up of the name to the last byte.
const PATIENCE: Duration = Duration::from_secs(5);

/// For how long an attempt is claimed: longer than it can take, or it would be made twice.
const CLAIMED_FOR: TimeDelta = TimeDelta::seconds(30);

/// Attempts at one address at the same time.
const AT_ONCE: i64 = 2;

/// When an attempt is asked for again for which there was no room.
const BUSY_AGAIN: Duration = Duration::from_millis(500);

/// How much of an answer is kept, in characters.
const KEPT_CHARACTERS: usize = 4096;

/// How much of an answer is read, in bytes: enough for as many characters of any kind.
const READ_BYTES: usize = 4 * KEPT_CHARACTERS;

/// The longest that `Retry-After` is obeyed.
const LONGEST_WISH: TimeDelta = TimeDelta::hours(24);

/// Priority of further attempts; first ones go before.
const FURTHER_ATTEMPT: u32 = 2;

/// Makes attempts.
pub struct Deliver {
    cx: Context,
    secrets: SecretsKey,
    max_bytes: usize,
    at_once: AtOnce,
    allowed: Arc<[Network]>,
    encrypted: Client,
    plain: Client,
    again: Producer,
}

/// How attempts are made.
pub struct DeliverOptions {
    /// Opens webhooks' secrets.
    pub secrets: SecretsKey,
    /// `WEBHOOK_MAX_PAYLOAD_BYTES`: larger bodies are not sent.
    pub max_bytes: usize,
    /// `WEBHOOK_ALLOWED_NETWORKS`: private networks that may be reached.
    pub allowed: Vec<Network>,
    /// `WEBHOOK_WORKER_CONCURRENCY`: of these, one organization gets somewhat more than half.
    pub concurrency: usize,
}

impl Deliver {
    /// Prepares to make attempts; further ones are asked for through `again`.
    pub fn new(cx: Context, options: DeliverOptions, again: Producer) -> Result<Self, reqwest::Error> {
        let allowed: Arc<[Network]> = options.allowed.into();
        let client = |plain| client(Vetted { plain, allowed: Arc::clone(&allowed), look_up: Arc::new(look_up) });
        // The client brings no cryptography of its own. An error would say that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            encrypted: client(false)?,
            plain: client(true)?,
            cx,
            secrets: options.secrets,
            max_bytes: options.max_bytes,
            at_once: AtOnce {
                webhook: AT_ONCE,
                organization: i64::try_from(options.concurrency.div_ceil(2)).unwrap_or(AT_ONCE),
            },
            allowed,
            again,
        })
    }
}

/// A client that goes nowhere but to addresses that were judged.
fn client(vetted: Vetted) -> reqwest::Result<Client> {
    Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .timeout(PATIENCE)
        .dns_resolver(Arc::new(vetted))
        // A connection that is kept open would be to an address that nobody judges any more.
        .pool_max_idle_per_host(0)
        .build()
}

impl Kind for Deliver {
    type Payload = DeliverWebhook;

    async fn run(&self, job: &DeliverWebhook) -> Result<Value, JobError> {
        let Some(tenant) = Tenant::of_job(job) else {
            return Err(JobError::GiveUp("the job does not say whose webhook it is for".to_owned()));
        };
        // The schedule asks again for whatever the database could not do now.
        let give_up = |error: DbError| JobError::GiveUp(error.to_string());
        let mut tx = self.cx.db.tenant(tenant).await.map_err(give_up)?;
        let now = self.cx.clock.now();
        let claim = db::webhooks::claim(&mut tx, job, self.at_once, CLAIMED_FOR, now + BUSY_AGAIN, now)
            .await
            .map_err(give_up)?;
        tx.commit().await.map_err(give_up)?;
        let attempt = match claim {
            Claim::Ours(attempt) => attempt,
            Claim::Nothing => return Ok(json!({ "made": false })),
            Claim::Busy => {
                self.ask_again(job, BUSY_AGAIN, None).await;
                return Ok(json!({ "made": false, "busy": true }));
            }
        };
        let sent = self.send(job, &attempt).await;
        let now = self.cx.clock.now();
        let next = sent.next(job.attempt, &attempt, now);
        let answer = Answer {
            status: sent.status.map(|status| i32::from(status.as_u16())),
            body: sent.body.or_else(|| sent.error.clone()),
            error: sent.error,
            next,
            gone: sent.status == Some(StatusCode::GONE),
        };
        let kind = EventType::parse(&attempt.event_type)
            .map_or(if attempt.event_type == TEST_EVENT { TEST_EVENT } else { "other" }, EventType::as_str);
        let effect = self.record(tenant, job, &answer, now).await.map_err(|error| {
            // The attempt was made, and nobody knows: it is made again.
            self.cx.metrics.webhook_delivery(kind, "error");
            retry(error)
        })?;
        match (&answer.error, answer.next) {
            (None, _) => self.cx.metrics.webhook_delivery(kind, "success"),
            (Some(_), None) => self.cx.metrics.webhook_delivery(kind, "failed"),
            (Some(_), Some(at)) => {
                self.cx.metrics.webhook_retry(kind);
                let delay = (at - now).to_std().unwrap_or_default();
                self.ask_again(&DeliverWebhook { attempt: job.attempt + 1, ..*job }, delay, attempt.trace.clone())
                    .await;
            }
        }
        Ok(json!({
            "made": effect != Effect::TooLate,
            "status": answer.status,
            "error": answer.error,
            "next": answer.next.map(domain::clock::Replied),
        }))
    }
}

impl Deliver {
    async fn record(
        &self,
        tenant: Tenant,
        job: &DeliverWebhook,
        answer: &Answer,
        now: DateTime<Utc>,
    ) -> Result<Effect, DbError> {
        let mut tx = self.cx.db.tenant(tenant).await?;
        let effect = db::webhooks::record(&mut tx, job, answer, now).await?;
        let entry = match effect {
            Effect::CircuitOpened => Some("CIRCUIT_BREAKER_OPENED"),
            Effect::Disabled => Some("WEBHOOK_DISABLED"),
            Effect::None | Effect::TooLate => None,
        };
        if let Some(event) = entry {
            let entry = audit::Entry::new(event, Actor::System)
                .on("webhook", job.webhook)
                .with("delivery_id", job.delivery.to_string())
                .with("response_status", answer.status);
            audit::record(&mut tx, &entry, now).await?;
        }
        tx.commit().await?;
        if let Some(event) = entry {
            tracing::warn!(webhook.id = %job.webhook, event, "a webhook is told of nothing for now");
        }
        Ok(effect)
    }

    /// Puts an attempt on the queue for later. The schedule asks for it when this fails.
    async fn ask_again(&self, job: &DeliverWebhook, delay: Duration, trace: Option<String>) {
        let asked = match NewJob::of(job, trace) {
            Ok(new) => {
                // Not collapsed into the job that runs now, which is the same work.
                let new = NewJob { delay, priority: FURTHER_ATTEMPT, deduplication: None, ..new };
                self.again.enqueue(new).await.map(|_| ())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = asked {
            tracing::debug!(error.message = %error, "a further attempt could not be queued; the schedule will ask");
        }
    }

    /// Makes the attempt.
    async fn send(&self, job: &DeliverWebhook, attempt: &Attempt) -> Sent {
        let Some(body) = attempt.payload.clone() else { return Sent::hopeless("Event payload not found".to_owned()) };
        if body.len() > self.max_bytes {
            return Sent::hopeless(format!("Payload size {} bytes exceeds cap {} bytes", body.len(), self.max_bytes));
        }
        let target = match Target::parse(&attempt.url, &self.allowed) {
            Ok(target) => target,
            Err(error) => return Sent::failed(error.to_string()),
        };
        let secret = match self.secrets.open(&sealed_for(job.webhook), &attempt.sealed_secret) {
            Ok(secret) => secret,
            Err(error) => return Sent::failed(format!("The secret cannot be opened: {error}")),
        };
        let timestamp = self.cx.clock.now().timestamp().to_string();
        let id = job.delivery.to_string();
        let signatures = Signatures::of(&secret, &id, &timestamp, &body);
        let client = if target.plain { &self.plain } else { &self.encrypted };
        let request = client
            .post(target.url)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, "FieldTrack-Webhooks/1.0")
            .header("X-FieldTrack-Event", &attempt.event_type)
            .header("X-FieldTrack-Delivery-Id", &id)
            .header("X-FieldTrack-Signature", &signatures.contract)
            .header("X-Webhook-Signature", &signatures.contract)
            .header("X-FieldTrack-Timestamp", &timestamp)
            .header("X-Webhook-Timestamp", &timestamp)
            .header("webhook-id", &id)
            .header("webhook-timestamp", &timestamp)
            .header("webhook-signature", &signatures.standard)
            .body(body);
        match request.send().await {
            Ok(response) => Sent::answered(response, self.cx.clock.now()).await,
            Err(error) => Sent::failed(reason(&error)),
        }
    }
}

/// Both ways of signing a request.
struct Signatures {
    /// `sha256=` and hex of HMAC-SHA256 over `<timestamp>.<body>`, by the secret as it was typed.
    contract: String,
    /// `v1,` and base64 of HMAC-SHA256 over `<id>.<timestamp>.<body>`; a secret that begins with `whsec_` is base64.
    standard: String,
}

impl Signatures {
    fn of(secret: &[u8], id: &str, timestamp: &str, body: &str) -> Self {
        let sign = |secret: &[u8], parts: &[&str]| {
            let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
            for (place, part) in parts.iter().enumerate() {
                if place > 0 {
                    context.update(b".");
                }
                context.update(part.as_bytes());
            }
            context.sign()
        };
        let hex: String = sign(secret, &[timestamp, body]).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let decoded = secret.strip_prefix(b"whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
        let standard = sign(decoded.as_deref().unwrap_or(secret), &[id, timestamp, body]);
        Self { contract: format!("sha256={hex}"), standard: format!("v1,{}", STANDARD.encode(standard)) }
    }
}

/// What an attempt came to.
struct Sent {
    status: Option<StatusCode>,
    body: Option<String>,
    error: Option<String>,
    /// When the receiver wants to be asked again at the earliest.
    not_before: Option<DateTime<Utc>>,
    /// Trying again would send the same.
    hopeless: bool,
}

impl Sent {
    fn failed(error: String) -> Self {
        Self { status: None, body: None, error: Some(error), not_before: None, hopeless: false }
    }

    fn hopeless(error: String) -> Self {
        Self { hopeless: true, ..Self::failed(error) }
    }

    /// The status decides; the rest of the answer may be late, cut off or a lie about its length.
    async fn answered(mut response: Response, now: DateTime<Utc>) -> Self {
        let status = response.status();
        let wish = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut read = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = READ_BYTES - read.len();
            read.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if read.len() >= READ_BYTES {
                break;
            }
        }
        // PostgreSQL holds no NUL.
        let body = String::from_utf8_lossy(&read).replace('\0', "\u{fffd}").chars().take(KEPT_CHARACTERS).collect();
        let error = (!status.is_success()).then(|| format!("HTTP {}", status.as_u16()));
        let not_before = wish.and_then(|wish| wished(&wish, now));
        Self { status: Some(status), body: Some(body), error, not_before, hopeless: status == StatusCode::GONE }
    }

    /// When the next attempt is due.
    fn next(&self, attempt: i32, planned: &Attempt, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if self.error.is_none() || self.hopeless {
            return None;
        }
        let at = now + planned.retry_schedule.after(attempt, chance())?;
        Some(self.not_before.map_or(at, |wish| wish.max(at)))
    }
}

/// `Retry-After`: seconds, or a date; not longer than a day.
fn wished(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let at = match text.trim().parse::<i64>() {
        Ok(seconds) => now.checked_add_signed(TimeDelta::try_seconds(seconds.max(0))?)?,
        Err(_) => DateTime::parse_from_rfc2822(text.trim()).ok()?.to_utc(),
    };
    Some(at.min(now + LONGEST_WISH))
}

/// From 0 to 1, at random.
pub(crate) fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness attempts are merely not spread.
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

/// Why nothing was received, without the address: it may hold what is nobody's business.
fn reason(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    if error.is_timeout() {
        "No answer within 5 s".to_owned()
    } else if deepest.to_string() == NotReachable.to_string() {
        NotReachable.to_string()
    } else if error.is_connect() {
        format!("Connection failed: {deepest}")
    } else {
        format!("Request failed: {deepest}")
    }
}

/// A name leads to an address that requests may not be sent to.
#[derive(Debug, thiserror::Error)]
#[error("Loopback, private, and link-local addresses are not permitted")]
struct NotReachable;

/// What a name leads to, as far as it can be found out.
type Found = Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>>;

/// Asks the machine's resolver.
fn look_up(name: &str) -> Found {
    let name = name.to_owned();
    Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
}

/// Looks names up and judges every address; the connection is then made to one of these very addresses.
struct Vetted {
    plain: bool,
    allowed: Arc<[Network]>,
    look_up: Arc<dyn Fn(&str) -> Found + Send + Sync>,
}

impl Resolve for Vetted {
    fn resolve(&self, name: Name) -> Resolving {
        let (plain, allowed, found) = (self.plain, Arc::clone(&self.allowed), (self.look_up)(name.as_str()));
        Box::pin(async move {
            let found = found.await?;
            if !found.iter().all(|address| is_reachable(address.ip(), plain, &allowed)) {
                return Err(NotReachable.into());
            }
            Ok::<Addrs, Box<dyn std::error::Error + Send + Sync>>(Box::new(found.into_iter()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_signed_as_the_contract_and_as_standard_webhooks_say() {
        // The second is the example of the Standard Webhooks specification's reference libraries.
        let body = r#"{"test": 2432232314}"#;
        let (id, timestamp) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
        let signatures = Signatures::of(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", id, timestamp, body);
        assert_eq!(signatures.standard, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        // printf '1614265330.{"test": 2432232314}' | openssl dgst -sha256 -hmac a-secret-of-16-or-more
        let signatures = Signatures::of(b"a-secret-of-16-or-more", id, timestamp, body);
        assert_eq!(signatures.contract, CONTRACT);
    }

    const CONTRACT: &str = "sha256=84f39fa271fb28ddedcd2c50ea052afa225a852a09ed7b3b55249dd287e3cc16";

    #[test]
    fn receivers_may_ask_for_patience_within_reason() {
        let now = DateTime::from_timestamp(1_773_129_600, 0).unwrap();
        assert_eq!(wished("120", now), Some(now + TimeDelta::seconds(120)));
        assert_eq!(wished("-5", now), Some(now));
        assert_eq!(wished("99999999999", now), Some(now + LONGEST_WISH));
        assert_eq!(wished("Tue, 10 Mar 2026 08:10:00 GMT", now), Some(now + TimeDelta::minutes(10)));
        assert_eq!(wished("soon", now), None);
    }
}

#[cfg(test)]
mod ssrf {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_name_that_leads_home_is_not_followed() {
        let vetted = Vetted { plain: false, allowed: Arc::from([]), look_up: Arc::new(look_up) };
        let error = vetted.resolve("localhost".parse().unwrap()).await.err().unwrap();
        assert_eq!(error.to_string(), NotReachable.to_string());
        let allowed = Network::list("127.0.0.0/8,::1").unwrap().into();
        let vetted = Vetted { plain: true, allowed, look_up: Arc::new(look_up) };
        assert!(vetted.resolve("localhost".parse().unwrap()).await.is_ok());
    }

    /// Answers 204 to whoever comes; counts them.
    fn receiver(listener: TcpListener) -> Arc<AtomicUsize> {
        let came = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&came);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut head = [0; 2048];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
            }
        });
        came
    }

    #[tokio::test]
    async fn a_name_that_changes_its_answer_leads_nobody_astray() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Two addresses with the same port: one that may be reached, and one that may not.
        let open = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = open.local_addr().unwrap().port();
        let home = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let (open, home) = (receiver(open), receiver(home));
        let answers: Arc<Mutex<Vec<Vec<&str>>>> = Arc::new(Mutex::new(vec![
            vec!["127.0.0.2"],
            vec!["127.0.0.1"],
            vec!["127.0.0.2", "127.0.0.1"],
            vec!["::ffff:127.0.0.1"],
            vec!["127.0.0.2"],
        ]));
        let asked = Arc::clone(&answers);
        let vetted = Vetted {
            plain: true,
            allowed: Network::list("127.0.0.2").unwrap().into(),
            look_up: Arc::new(move |_| {
                let answer = asked.lock().unwrap().remove(0);
                let answer = answer.into_iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect();
                Box::pin(std::future::ready(Ok(answer)))
            }),
        };
        let client = client(vetted).unwrap();
        let send = async || client.get(format!("http://rebinding.example:{port}/")).send().await;
        let left = || answers.lock().unwrap().len();
        // The address that was judged is the one that is connected to: nobody asks a second time, when the answer would
        // be another.
        assert_eq!(send().await.unwrap().status(), StatusCode::NO_CONTENT);
        assert_eq!((left(), open.load(Ordering::SeqCst)), (4, 1));
        // The next attempt asks anew, and every address of the answer has to pass.
        for remaining in [3, 2, 1] {
            let error = send().await.unwrap_err();
            assert_eq!(reason(&error), NotReachable.to_string());
            assert_eq!(left(), remaining);
        }
        assert_eq!(send().await.unwrap().status(), StatusCode::NO_CONTENT);
        assert_eq!((open.load(Ordering::SeqCst), home.load(Ordering::SeqCst)), (2, 0));
    }
}
