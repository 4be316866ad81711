//! Events on their way to webhooks: each once, signed, and whatever receivers do.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::Utc;
use db::webhooks::{Answer, Effect, NewWebhook, create};
use domain::event::Event;
use domain::job::DeliverWebhook;
use domain::page::PageRequest;
use domain::webhook::{Delivery, RetrySchedule, sealed_for};
use domain::{Clock, SessionId, SystemClock, Tenant, WebhookId};
use queue::live::LiveListener;
use queue::{Redis, RedisConfig};
use ring::hmac;
use secrets::SecretsKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{SECRETS_KEY, TestWorker};

const SECRET: &str = "a-secret-of-16-or-more";
pub const LOOPBACK: &[(&str, &str)] = &[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")];

/// What a receiver got.
#[derive(Debug, Clone)]
pub struct Got {
    pub path: String,
    head: String,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:"))).unwrap();
        line.split_once(": ").unwrap().1
    }
}

/// A receiver that behaves as the path asks it to.
pub struct Receiver {
    pub address: String,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let got = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&got);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&heard)));
            }
        });
        Self { address, got }
    }

    pub fn got(&self, path: &str) -> Vec<Got> {
        self.got.lock().unwrap().iter().filter(|got| got.path == path).cloned().collect()
    }
}

async fn answer(mut stream: TcpStream, heard: Arc<Mutex<Vec<Got>>>) {
    let mut read = Vec::new();
    let (head, mut body) = loop {
        let mut some = [0; 4096];
        let count = stream.read(&mut some).await.unwrap_or(0);
        if count == 0 {
            return;
        }
        read.extend_from_slice(&some[..count]);
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            break (head.to_owned(), body.to_owned());
        }
    };
    let length: usize = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(|length| length.parse().unwrap()))
        .unwrap();
    while body.len() < length {
        let mut some = [0; 4096];
        let count = stream.read(&mut some).await.unwrap();
        body.push_str(&String::from_utf8_lossy(&some[..count]));
    }
    let path = head.split(' ').nth(1).unwrap().to_owned();
    heard.lock().unwrap().push(Got { path: path.clone(), head, body });
    let plain = |status: &str, more: &str| {
        format!("HTTP/1.1 {status}\r\n{more}content-length: 4\r\nconnection: close\r\n\r\ntext")
    };
    let reply = match path.as_str() {
        "/fails" => plain("500 Oops", ""),
        "/gone" => plain("410 Gone", ""),
        "/moved" => plain("302 Found", "location: /elsewhere\r\n"),
        path if path.starts_with("/to/") => {
            plain("307 Temporary Redirect", &format!("location: http://{}/astray\r\n", &path["/to/".len()..]))
        }
        "/busy" => plain("503 Busy", "retry-after: 7200\r\n"),
        "/hangs" => return tokio::time::sleep(Duration::from_secs(60)).await,
        "/drips" => {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
            let mut sent = stream.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                sent = stream.write_all(b"x").await;
            }
            return;
        }
        "/lies" => "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\nshort".to_owned(),
        "/floods" => format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", "ä\0".repeat(100_000)),
        _ => plain("204 No Content", "").replace("content-length: 4\r\n", "").replace("text", ""),
    };
    let _ = stream.write_all(reply.as_bytes()).await;
    if path == "/lies" {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

pub async fn webhook(worker: &TestWorker, tenant: Tenant, url: &str, events: &[&str]) -> WebhookId {
    let id = WebhookId::generate();
    let secrets = SecretsKey::new(&SECRETS_KEY.to_owned().into(), None).unwrap();
    let sealed_secret = secrets.seal(&sealed_for(id), SECRET.as_bytes()).unwrap();
    let events: Vec<String> = events.iter().map(|event| (*event).to_owned()).collect();
    let new =
        NewWebhook { id, url, sealed_secret: &sealed_secret, events: &events, retry_schedule: RetrySchedule::Standard };
    let mut tx = worker.db.tenant(tenant).await.unwrap();
    create(&mut tx, &new, SystemClock.now()).await.unwrap();
    tx.commit().await.unwrap();
    id
}

pub async fn check_in(worker: &TestWorker, tenant: Tenant, session: SessionId) {
    let mut tx = worker.db.tenant(tenant).await.unwrap();
    let session = db::attendance::find(&mut tx, session).await.unwrap().unwrap();
    db::events::record(&mut tx, &Event::CheckedIn(session), SystemClock.now()).await.unwrap();
    tx.commit().await.unwrap();
}

async fn deliveries(worker: &TestWorker, tenant: Tenant) -> Vec<Delivery> {
    let mut tx = worker.db.tenant(tenant).await.unwrap();
    let page = PageRequest { page: 1, limit: 100 };
    db::webhooks::deliveries(&mut tx, None, None, page).await.unwrap().0
}

/// Waits until as many attempts were recorded; answers the deliveries.
pub async fn attempted(worker: &TestWorker, tenant: Tenant, attempts: usize) -> Vec<Delivery> {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let deliveries = deliveries(worker, tenant).await;
        if deliveries.iter().filter(|delivery| delivery.attempt_count > 0).count() >= attempts {
            return deliveries;
        }
        assert!(Instant::now() < deadline, "{deliveries:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_webhook_gets_every_event_it_wants_once_and_signed_both_ways() {
    let worker = TestWorker::start(LOOPBACK).await;
    let receiver = Receiver::start().await;
    let (tenant, session) = worker.session().await;
    let (other, other_session) = worker.session().await;
    let both =
        webhook(&worker, tenant, &format!("{}/both", receiver.address), &["employee.checked_in", "session.checkin"])
            .await;
    webhook(&worker, tenant, &format!("{}/newer", receiver.address), &["session.checkin"]).await;
    webhook(&worker, other, &format!("{}/other", receiver.address), &["session.checkout"]).await;
    let redis = Redis::open(&RedisConfig::new(worker.redis.url().into())).unwrap();
    let mut listener = LiveListener::listen(&redis).await.unwrap();

    check_in(&worker, tenant, session).await;
    check_in(&worker, other, other_session).await;
    let delivered = attempted(&worker, tenant, 3).await;
    assert!(delivered.iter().all(|delivery| delivery.status == "success" && delivery.response_status == Some(204)));
    assert_eq!([receiver.got("/both").len(), receiver.got("/newer").len(), receiver.got("/other").len()], [2, 1, 0]);
    let types: BTreeSet<String> =
        receiver.got("/both").iter().map(|got| got.header("x-fieldtrack-event").to_owned()).collect();
    assert_eq!(types, ["employee.checked_in", "session.checkin"].map(str::to_owned).into());

    let got = &receiver.got("/newer")[0];
    let envelope: serde_json::Value = serde_json::from_str(&got.body).unwrap();
    assert_eq!((&envelope["type"], &envelope["version"]), (&"session.checkin".into(), &1.into()));
    assert_eq!(envelope["organization_id"], tenant.organization().to_string());
    assert_eq!(envelope["data"]["session_id"], session.to_string());
    let id = got.header("x-fieldtrack-delivery-id").to_owned();
    assert!(delivered.iter().any(|delivery| delivery.id.to_string() == id && delivery.webhook != both));
    assert_eq!(got.header("webhook-id"), id);
    assert_eq!(got.header("user-agent"), "FieldTrack-Webhooks/1.0");
    assert_eq!(got.header("content-type"), "application/json");
    let timestamp = got.header("x-fieldtrack-timestamp").to_owned();
    assert!((Utc::now().timestamp() - timestamp.parse::<i64>().unwrap()).abs() < 60);
    assert_eq!([got.header("x-webhook-timestamp"), got.header("webhook-timestamp")], [&*timestamp, &*timestamp]);
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, format!("{timestamp}.{}", got.body).as_bytes());
    let hex: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(got.header("x-fieldtrack-signature"), format!("sha256={hex}"));
    assert_eq!(got.header("x-webhook-signature"), format!("sha256={hex}"));
    assert!(got.header("webhook-signature").starts_with("v1,"));

    // Streams are told once an event, in the order of their numbers.
    let (first, second) = (listener.hear().await.unwrap(), listener.hear().await.unwrap());
    assert!(0 < first.number && first.number < second.number);
    let told: BTreeSet<_> = [first.organization, second.organization].into();
    assert_eq!(told, [tenant.organization().uuid(), other.organization().uuid()].into());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_receivers_do_costs_nothing_but_their_own_turn() {
    let worker = TestWorker::start(LOOPBACK).await;
    let receiver = Receiver::start().await;
    let (tenant, session) = worker.session().await;
    let paths = ["/fails", "/gone", "/moved", "/busy", "/hangs", "/lies", "/floods", "/fine"];
    let mut webhooks = Vec::new();
    for path in paths {
        webhooks.push(webhook(&worker, tenant, &format!("{}{path}", receiver.address), &["session.checkin"]).await);
    }
    // A port that nobody listens to.
    webhooks.push(webhook(&worker, tenant, "http://127.0.0.1:1/", &["session.checkin"]).await);
    let before = Utc::now();
    check_in(&worker, tenant, session).await;
    let delivered = attempted(&worker, tenant, webhooks.len()).await;
    let of = |place: usize| delivered.iter().find(|delivery| delivery.webhook == webhooks[place]).unwrap();
    let waits = |place: usize| (of(place).next_retry_at.unwrap() - before).num_seconds();
    for (place, status, error) in [(0, Some(500), None), (2, Some(302), None), (4, None, Some("No answer within 5 s"))]
    {
        assert_eq!((of(place).status.as_str(), of(place).response_status), ("pending", status), "{place}");
        assert!((60..100).contains(&waits(place)), "{place}: {}", waits(place));
        if let Some(error) = error {
            assert_eq!(of(place).response_body.as_deref(), Some(error));
        }
    }
    assert!(of(8).response_body.as_deref().unwrap().starts_with("Connection failed"), "{:?}", of(8));
    assert!((7190..7300).contains(&waits(3)), "{}", waits(3));
    assert!(receiver.got("/elsewhere").is_empty(), "redirects are not followed");
    // Whoever says 410 is never called again.
    assert_eq!((of(1).status.as_str(), of(1).next_retry_at), ("failed", None));
    let mut tx = worker.db.tenant(tenant).await.unwrap();
    let all = db::webhooks::list(&mut tx).await.unwrap();
    let active = |id: WebhookId| all.iter().find(|webhook| webhook.id == id).unwrap().is_active;
    assert!(!active(webhooks[1]) && active(webhooks[0]));
    let (letters, count) = db::webhooks::dead_letters(&mut tx, None, None, 10, 0).await.unwrap();
    assert_eq!((count, letters[0].delivery.webhook), (1, webhooks[1]));
    assert!(letters[0].payload.as_ref().unwrap().contains("session.checkin"));
    let entries = db::audit::list(&mut tx, None, Some("WEBHOOK_DISABLED"), 10).await.unwrap();
    assert_eq!(entries.len(), 1);
    drop(tx);
    for place in [5, 6, 7] {
        assert_eq!(of(place).status, "success", "{}", paths[place]);
    }
    assert_eq!(of(6).response_body.as_ref().unwrap().chars().count(), 4096);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_at_home_are_never_called() {
    let worker = TestWorker::start(&[]).await;
    let receiver = Receiver::start().await;
    let (tenant, session) = worker.session().await;
    // As if the rule at registration had been passed by: the address is judged at every attempt.
    let port = receiver.address.rsplit_once(':').unwrap().1;
    for url in [format!("https://127.0.0.1:{port}/x"), format!("https://localhost:{port}/x")] {
        webhook(&worker, tenant, &url, &["session.checkin"]).await;
    }
    check_in(&worker, tenant, session).await;
    for delivery in attempted(&worker, tenant, 2).await {
        let refused = "Loopback, private, and link-local addresses are not permitted";
        assert_eq!((delivery.status.as_str(), delivery.response_body.as_deref()), ("pending", Some(refused)));
    }
    assert!(receiver.got("/x").is_empty());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_failures_in_a_row_open_the_circuit_and_an_administrator_is_not_overruled() {
    let worker = TestWorker::start(LOOPBACK).await;
    let receiver = Receiver::start().await;
    let (tenant, session) = worker.session().await;
    let id = webhook(&worker, tenant, &format!("{}/fails", receiver.address), &["session.checkin"]).await;
    for failures in 1..=5 {
        check_in(&worker, tenant, session).await;
        attempted(&worker, tenant, failures).await;
    }
    let is_active = async || is_active(&worker, tenant).await;
    assert!(!is_active().await);
    let mut tx = worker.db.tenant(tenant).await.unwrap();
    assert_eq!(db::audit::list(&mut tx, None, Some("CIRCUIT_BREAKER_OPENED"), 10).await.unwrap().len(), 1);
    let in_time = SystemClock.now() + domain::webhook::CIRCUIT_OPEN;
    assert!(!db::webhooks::close_circuit(&mut tx, id, SystemClock.now()).await.unwrap());
    assert!(db::webhooks::close_circuit(&mut tx, id, in_time).await.unwrap());
    let disabled = db::webhooks::Change { is_active: Some(false), ..Default::default() };
    db::webhooks::update(&mut tx, id, &disabled, SystemClock.now()).await.unwrap().unwrap();
    assert!(!db::webhooks::close_circuit(&mut tx, id, in_time + domain::webhook::CIRCUIT_OPEN).await.unwrap());
    tx.commit().await.unwrap();
    assert!(!is_active().await);
    worker.stop().await;
}

async fn is_active(worker: &TestWorker, tenant: Tenant) -> bool {
    let mut tx = worker.db.tenant(tenant).await.unwrap();
    db::webhooks::list(&mut tx).await.unwrap()[0].is_active
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_never_again_while_its_circuit_is_open_is_not_called_when_it_closes() {
    let worker = TestWorker::start(LOOPBACK).await;
    let receiver = Receiver::start().await;
    let (tenant, session) = worker.session().await;
    let webhook = webhook(&worker, tenant, &format!("{}/fails", receiver.address), &["session.checkin"]).await;
    for failures in 1..=5 {
        check_in(&worker, tenant, session).await;
        attempted(&worker, tenant, failures).await;
    }
    let delivery = deliveries(&worker, tenant).await.remove(0);
    let organization = Some(tenant.organization());
    let job = DeliverWebhook { delivery: delivery.id, webhook, event: delivery.event, attempt: 2, organization };
    let gone = Answer { status: Some(410), body: None, error: Some("410".to_owned()), next: None, gone: true };
    let mut tx = worker.db.tenant(tenant).await.unwrap();
    assert_eq!(db::webhooks::record(&mut tx, &job, &gone, SystemClock.now()).await.unwrap(), Effect::Disabled);
    let in_time = SystemClock.now() + domain::webhook::CIRCUIT_OPEN;
    assert!(!db::webhooks::close_circuit(&mut tx, webhook, in_time).await.unwrap());
    tx.commit().await.unwrap();
    assert!(!is_active(&worker, tenant).await);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_hang_cost_another_organization_nothing_and_make_no_jobs_of_their_own() {
    let worker = TestWorker::start(LOOPBACK).await;
    let receiver = Receiver::start().await;
    let (tenant, session) = worker.session().await;
    for _ in 0..8 {
        webhook(&worker, tenant, &format!("{}/hangs", receiver.address), &["session.checkin"]).await;
    }
    for _ in 0..3 {
        check_in(&worker, tenant, session).await;
    }
    // Three at a time of the worker's five slots, 5 s each: until then the schedule has looked for forgotten ones, too.
    attempted(&worker, tenant, 4).await;
    let (other, other_session) = worker.session().await;
    webhook(&worker, other, &format!("{}/fine", receiver.address), &["session.checkin"]).await;
    check_in(&worker, other, other_session).await;
    let superuser = worker.database.superuser().await;
    while deliveries(&worker, other).await.iter().all(|delivery| delivery.attempt_count == 0) {
        let under_way = "SELECT count(*) FROM webhook_deliveries WHERE organization_id = $1 AND claimed_until > now()
            AND status = 'pending'";
        let hanging: i64 = superuser.query_one(under_way, &[&tenant.organization().uuid()]).await.unwrap().get(0);
        assert!(hanging <= 3, "{hanging} attempts of one organization at once");
        // All 24 that hang would take 40 s.
        assert!(deliveries(&worker, tenant).await.iter().any(|delivery| delivery.attempt_count == 0));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Each of the 24 deliveries has one job at the most.
    let count = |command: &[&str]| worker.redis.call(command).unwrap().to_string().trim().parse::<u64>().unwrap();
    let key = |name: &str| format!("bull:webhook-delivery:{name}");
    let waiting =
        count(&["LLEN", &key("wait")]) + count(&["ZCARD", &key("prioritized")]) + count(&["ZCARD", &key("delayed")]);
    assert!(waiting <= 24, "{waiting} jobs for 24 deliveries");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_drips_is_heard_no_longer_than_one_that_hangs() {
    let worker = TestWorker::start(LOOPBACK).await;
    let receiver = Receiver::start().await;
    let (tenant, session) = worker.session().await;
    webhook(&worker, tenant, &format!("{}/drips", receiver.address), &["session.checkin"]).await;
    check_in(&worker, tenant, session).await;
    // It would drip for 100 s; nobody waits so long here.
    attempted(&worker, tenant, 1).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn further_attempts_keep_their_id_use_the_secret_of_their_time_and_end_as_a_dead_letter() {
    let worker = TestWorker::start(LOOPBACK).await;
    let receiver = Receiver::start().await;
    let (tenant, session) = worker.session().await;
    let webhook = webhook(&worker, tenant, &format!("{}/fails", receiver.address), &["session.checkin"]).await;
    check_in(&worker, tenant, session).await;
    // A failure is none for good while there are attempts left.
    let first = attempted(&worker, tenant, 1).await.remove(0);
    assert_ne!(first.status, "failed");
    let mut tx = worker.db.tenant(tenant).await.unwrap();
    assert_eq!(db::webhooks::dead_letters(&mut tx, None, None, 10, 0).await.unwrap().1, 0);
    drop(tx);
    // The secret is changed while the delivery waits for its next attempt, and so the waiting is over.
    let rotated = "another-secret-of-16-or-more";
    let secrets = SecretsKey::new(&SECRETS_KEY.to_owned().into(), None).unwrap();
    let sealed = secrets.seal(&sealed_for(webhook), rotated.as_bytes()).unwrap();
    let mut tx = worker.db.tenant(tenant).await.unwrap();
    let change = db::webhooks::Change { sealed_secret: Some(&sealed), ..Default::default() };
    db::webhooks::update(&mut tx, webhook, &change, SystemClock.now()).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    let superuser = worker.database.superuser().await;
    let due = "UPDATE webhook_deliveries SET next_retry_at = now() - interval '1 minute', attempt_count = 4";
    superuser.execute(due, &[]).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(40);
    let last = loop {
        let delivery = deliveries(&worker, tenant).await.remove(0);
        if delivery.attempt_count == 5 {
            break delivery;
        }
        assert!(Instant::now() < deadline, "{delivery:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((last.status.as_str(), last.next_retry_at), ("failed", None), "the fifth was the last");
    let got = receiver.got("/fails");
    assert_eq!(got.len(), 2);
    let id = last.id.to_string();
    for attempt in &got {
        assert_eq!(attempt.header("x-fieldtrack-delivery-id"), id);
    }
    for (attempt, secret) in got.iter().zip([SECRET, rotated]) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signed = format!("{}.{}", attempt.header("x-fieldtrack-timestamp"), attempt.body);
        let hex: String =
            hmac::sign(&key, signed.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(attempt.header("x-fieldtrack-signature"), format!("sha256={hex}"));
    }
    let mut tx = worker.db.tenant(tenant).await.unwrap();
    let (letters, count) = db::webhooks::dead_letters(&mut tx, None, None, 10, 0).await.unwrap();
    assert_eq!((count, letters[0].delivery.id), (1, last.id));
    drop(tx);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_redis_loses_everything() {
    let worker = TestWorker::start(LOOPBACK).await;
    let receiver = Receiver::start().await;
    let (tenant, session) = worker.session().await;
    webhook(&worker, tenant, &format!("{}/fine", receiver.address), &["session.checkin"]).await;
    // Held back, so that the job is lost and not merely late.
    worker.redis.call(&["HSET", "bull:webhook-delivery:meta", "paused", "1"]).unwrap();
    check_in(&worker, tenant, session).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while deliveries(&worker, tenant).await.is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.redis.call(&["FLUSHALL"]).unwrap();
    let delivered = attempted(&worker, tenant, 1).await;
    assert_eq!((delivered[0].status.as_str(), receiver.got("/fine").len()), ("success", 1));
    worker.stop().await;
}
