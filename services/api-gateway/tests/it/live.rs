//! Streams: everybody hears their own organization, in order, until their token ends.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use queue::live::LivePublisher;
use queue::{Redis, RedisConfig};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Person, TestApp, location};

/// An open stream, read event by event.
struct Stream {
    response: Response,
    read: String,
}

#[derive(Debug, PartialEq)]
struct Heard {
    id: Option<i64>,
    event: String,
    data: Value,
}

impl Stream {
    async fn open(person: &Person<'_>, last: Option<i64>) -> Self {
        let mut request = person.request(Method::GET, "/admin/events");
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        Self::of(request.send().await.unwrap()).await
    }

    async fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        assert_eq!(response.headers()["cache-control"], "no-cache, no-transform");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert!(response.headers().contains_key("x-request-id"));
        let mut stream = Self { response, read: String::new() };
        assert_eq!(stream.next().await.unwrap().event, "connected");
        stream
    }

    /// The next event; `None` at the end. Comments are passed over.
    async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some((block, rest)) = self.read.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.read = rest;
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
                let Some(event) = field("event: ") else { continue };
                let data = serde_json::from_str(&field("data: ").unwrap()).unwrap();
                return Some(Heard { id: field("id: ").map(|id| id.parse().unwrap()), event, data });
            }
            let chunk = tokio::time::timeout(Duration::from_secs(30), self.response.chunk()).await.unwrap();
            match chunk {
                Ok(Some(chunk)) => self.read.push_str(&String::from_utf8_lossy(&chunk)),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

/// Hands events on as the worker's relay does.
pub async fn relay(app: &TestApp) {
    let db = app.database.open();
    let redis = Redis::open(&RedisConfig::new(app.redis.url().into())).unwrap();
    let mut tx = db.system().await.unwrap();
    db::relay::turn(&mut tx, Uuid::nil(), 100, app.now()).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    let mut tx = db.system().await.unwrap();
    let told = db::relay::untold(&mut tx, 100).await.unwrap();
    let messages: Vec<_> = told
        .iter()
        .map(|told| queue::live::Live {
            number: told.number,
            organization: told.organization.uuid(),
            about: None,
            body: told.live.clone(),
        })
        .collect();
    LivePublisher::new(redis).publish(&messages).await.unwrap();
    db::relay::told(&mut tx, told.last().unwrap().number).await.unwrap();
    tx.commit().await.unwrap();
}

/// Waits until the gateway listens to Redis: what is told before that, nobody hears.
pub async fn listening(app: &TestApp) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while app.redis.call(&["PUBSUB", "NUMSUB", "fieldtrack:live"]).unwrap().to_string().contains('0') {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_administrator_hears_their_own_organization_in_order() {
    let app = TestApp::start().await;
    listening(&app).await;
    let (ours, theirs) = (app.organization().await, app.organization().await);
    let (asha, stranger) = (ours.employee("Asha").await, theirs.employee("Stranger").await);
    let mut stream = Stream::open(&ours.admin, None).await;
    let query = app.get(&format!("/admin/events?token={}", "x")).await;
    query.refused(401, "UNAUTHORIZED", "Invalid or missing authentication token");
    let url = format!("/admin/events?token={}", ours.admin.token);
    let mut by_query = Stream::of(app.request(Method::GET, &url).send().await.unwrap()).await;

    stranger.check_in().await;
    let session = asha.check_in().await;
    let closed = asha.check_out().await;
    relay(&app).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.event.as_str(), &first.data["type"]), ("session.checkin", &json!("session.checkin")));
    assert_eq!(first.data["payload"]["sessionId"], json!(session));
    assert_eq!(first.data["payload"]["session"]["organization_id"], json!(ours.id));
    let second = stream.next().await.unwrap();
    assert_eq!(second.data["payload"]["session"], closed);
    assert!(second.id > first.id && second.data["ts"].is_string());
    assert_eq!(by_query.next().await.unwrap(), first);

    // Whoever was cut off goes on where they were.
    let mut later = Stream::open(&ours.admin, first.id).await;
    assert_eq!(later.next().await.unwrap(), second);
    asha.check_in().await;
    relay(&app).await;
    assert_eq!(later.next().await.unwrap().event, "session.checkin");
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_with_the_process() {
    let mut app = TestApp::start().await;
    listening(&app).await;
    let admin = app.organization().await.admin;
    let mut stream = Stream::open(&admin, None).await;
    app.clock.advance(TimeDelta::minutes(61));
    assert_eq!(stream.next().await, None);
    let email = admin.email.clone();
    let fresh = app.sign_in(&email).await;
    let mut stream = Stream::open(&fresh, None).await;
    drop((admin, fresh));
    app.stop().await;
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn a_silent_stream_is_pinged_before_a_proxy_would_cut_it() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let mut stream = admin.request(Method::GET, "/admin/events").send().await.unwrap();
    let pinged = async {
        while let Some(chunk) = stream.chunk().await.unwrap() {
            if chunk.windows(6).any(|bytes| bytes == b": ping") {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), pinged).await.unwrap());
}

#[tokio::test]
async fn an_organization_has_twenty_streams_and_a_place_is_free_when_one_ends() {
    let app = TestApp::start().await;
    listening(&app).await;
    let (ours, theirs) = (app.organization().await, app.organization().await);
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(Stream::open(&ours.admin, None).await);
    }
    let refused = ours.admin.get("/admin/events").await;
    refused.refused(429, "RATE_LIMITED", "SSE connection limit reached (max 20 per organization).");
    Stream::open(&theirs.admin, None).await;
    let metrics = app.get("/metrics").await.text;
    assert!(metrics.contains("sse_connections 2"), "{metrics}");
    // That a reader is gone shows when it is pinged.
    streams.pop();
    let deadline = Instant::now() + Duration::from_secs(60);
    while ours.admin.request(Method::GET, "/admin/events").send().await.unwrap().status() != 200 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn positions_are_told_to_whoever_watches() {
    let app = TestApp::start_with(&[("RATE_LIMIT_MULTIPLIER", "100")]).await;
    listening(&app).await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let session = asha.check_in().await;
    let mut stream = Stream::open(&organization.admin, None).await;
    for second in 1..=20 {
        asha.post("/locations", &location(&app, &session, second)).await.data(201);
    }
    let heard = stream.next().await.unwrap();
    assert_eq!((heard.event.as_str(), heard.id), ("location.updated", None));
    assert_eq!(heard.data["payload"]["sessionId"], json!(session));
    assert!(heard.data["payload"]["latitude"].is_number());
}

#[tokio::test]
async fn asking_what_a_stream_would_be_takes_no_place() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    for _ in 0..21 {
        let answer = organization.admin.request(Method::HEAD, "/admin/events").send().await.unwrap();
        assert_eq!(
            (answer.status(), &answer.headers()["content-type"]),
            (reqwest::StatusCode::OK, &"text/event-stream; charset=utf-8".parse().unwrap())
        );
    }
    Stream::open(&organization.admin, None).await;
}

#[tokio::test]
async fn a_client_that_is_ahead_of_the_numbers_hears_what_comes() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    // As after the database was set back.
    let mut stream = Stream::open(&organization.admin, Some(1_000_000)).await;
    asha.check_in().await;
    relay(&app).await;
    assert!(stream.next().await.unwrap().id.unwrap() < 1_000_000);
}

#[tokio::test]
async fn whoever_was_away_for_longer_than_the_history_is_told_of_the_gap() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let (asha, ben) = (organization.employee("Asha").await, organization.employee("Ben").await);
    asha.check_in().await;
    relay(&app).await;
    app.clock.advance(TimeDelta::minutes(16));
    ben.check_in().await;
    relay(&app).await;
    let mut stream = Stream::open(&organization.admin, Some(0)).await;
    assert_eq!(stream.next().await.unwrap().event, "history.gap");
    let heard = stream.next().await.unwrap();
    assert_eq!(heard.data["payload"]["employeeId"], ben.employee_id(), "{heard:?}");
}
