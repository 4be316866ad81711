//! Sockets that follow tables: everybody hears what they may see, and nothing else, until their token ends.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::live::{listening, relay};
use crate::support::{PASSWORD, Person, TestApp, location};

/// A client's socket, of the newer way of writing.
struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    reference: u32,
}

/// What a socket is told.
#[derive(Debug)]
struct Told {
    join_ref: Value,
    reference: Value,
    topic: String,
    event: String,
    payload: Value,
}

fn url(app: &TestApp, query: &str) -> String {
    format!("{}/realtime/v1/websocket?{query}", app.api.replace("http://", "ws://"))
}

impl Socket {
    async fn open(app: &TestApp) -> Self {
        let (stream, _) = connect_async(url(app, "apikey=anon&vsn=2.0.0")).await.unwrap();
        Self { stream, reference: 0 }
    }

    /// Opens a socket and joins a topic that follows these.
    async fn following(person: &Person<'_>, changes: &Value) -> Self {
        let mut socket = Self::open(person.app).await;
        let joined = socket.join("realtime:board", changes, &person.token).await;
        assert_eq!(joined["status"], "ok", "{joined}");
        if changes.as_array().is_some_and(|changes| !changes.is_empty()) {
            let told = socket.next().await.unwrap();
            assert_eq!((told.event.as_str(), &told.payload["status"]), ("system", &json!("ok")), "{told:?}");
            assert_eq!(told.payload["message"], "Subscribed to PostgreSQL");
        }
        socket
    }

    async fn send(&mut self, topic: &str, event: &str, payload: &Value) -> String {
        self.reference += 1;
        let reference = self.reference.to_string();
        let message = json!([reference, reference, topic, event, payload]).to_string();
        self.stream.send(Message::text(message)).await.unwrap();
        reference
    }

    /// Sends and waits for the answer; what is told before it is passed over.
    async fn ask(&mut self, topic: &str, event: &str, payload: &Value) -> Value {
        let reference = self.send(topic, event, payload).await;
        loop {
            let told = self.next().await.unwrap();
            if told.event == "phx_reply" && told.reference == json!(reference) {
                assert_eq!(told.topic, topic);
                return told.payload;
            }
        }
    }

    async fn join(&mut self, topic: &str, changes: &Value, token: &str) -> Value {
        let config = json!({ "config": { "postgres_changes": changes, "private": false }, "access_token": token });
        self.ask(topic, "phx_join", &config).await
    }

    /// The next message; the code of the close at the end.
    async fn next(&mut self) -> Result<Told, Option<CloseCode>> {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(30), self.stream.next()).await.unwrap();
            match message {
                Some(Ok(Message::Text(text))) => {
                    let (join_ref, reference, topic, event, payload) = serde_json::from_str(&text).unwrap();
                    return Ok(Told { join_ref, reference, topic, event, payload });
                }
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|frame| frame.code)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// The next change.
    async fn change(&mut self) -> Value {
        let told = self.next().await.unwrap();
        assert_eq!((told.event.as_str(), told.topic.as_str()), ("postgres_changes", "realtime:board"), "{told:?}");
        told.payload
    }
}

fn all(table: &str) -> Value {
    json!([{ "event": "*", "schema": "public", "table": table }])
}

fn everything() -> Value {
    json!([{ "event": "*", "schema": "public" }])
}

async fn claim(person: &Person<'_>, amount: f64) -> String {
    let claimed = person.post("/expenses", &json!({ "amount": amount, "description": "Fuel for the van" })).await;
    claimed.data(201)["id"].as_str().unwrap().to_owned()
}

/// A row as the database has it.
async fn row(app: &TestApp, table: &str, id: &Value) -> Value {
    let query = format!("SELECT row_to_json(r)::text FROM {table} AS r WHERE id::text = $1");
    let client = app.database.superuser().await;
    client.batch_execute("SET TIME ZONE 'UTC'").await.unwrap();
    let text: String = client.query_one(&query, &[&id.as_str().unwrap()]).await.unwrap().get(0);
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn an_administrator_hears_changes_of_their_own_organization_and_nothing_else() {
    let app = TestApp::start_with(&[("RATE_LIMIT_MULTIPLIER", "100")]).await;
    listening(&app).await;
    let (ours, theirs) = (app.organization().await, app.organization().await);
    let (asha, stranger) = (ours.employee("Asha").await, theirs.employee("Stranger").await);
    let mut socket = Socket::following(&ours.admin, &everything()).await;
    // What a filter says cannot open another organization.
    let filter = format!("organization_id=eq.{}", theirs.id);
    let foreign = json!([{ "event": "*", "schema": "public", "table": "expenses", "filter": filter }]);
    assert_eq!(socket.join("realtime:foreign", &foreign, &ours.admin.token).await["status"], "ok");
    assert_eq!(socket.next().await.unwrap().event, "system");

    let their_session = stranger.check_in().await;
    claim(&stranger, 7.0).await;
    let session = asha.check_in().await;
    relay(&app).await;
    let told = socket.change().await;
    let data = &told["data"];
    assert_eq!(
        (&data["schema"], &data["table"], &data["type"]),
        (&json!("public"), &json!("attendance_sessions"), &json!("INSERT"))
    );
    assert_eq!((&data["record"]["id"], &data["errors"], data.get("old_record")), (&json!(session), &Value::Null, None));
    let stored = row(&app, "attendance_sessions", &json!(session)).await;
    for column in data["columns"].as_array().unwrap() {
        let name = column["name"].as_str().unwrap();
        assert_eq!(data["record"][name], stored[name], "{name}");
    }
    assert_eq!(data["record"].as_object().unwrap().len(), data["columns"].as_array().unwrap().len());

    let expense = claim(&asha, 12.5).await;
    relay(&app).await;
    let told = socket.change().await;
    assert_eq!((&told["data"]["record"]["id"], &told["data"]["record"]["amount"]), (&json!(expense), &json!(12.5)));
    let review = json!({ "status": "REJECTED", "rejection_comment": "No receipt" });
    ours.admin.patch(&format!("/admin/expenses/{expense}"), &review).await.data(200);
    let closed = asha.check_out().await;
    relay(&app).await;
    let told = socket.change().await;
    assert_eq!((&told["data"]["type"], &told["data"]["record"]["status"]), (&json!("UPDATE"), &json!("REJECTED")));
    assert_eq!(told["data"]["old_record"], json!({ "id": expense }));
    let told = socket.change().await;
    assert_eq!(told["data"]["record"]["checkout_at"], closed["checkout_at"]);

    // A fix: the row, as it was stored.
    let session = asha.check_in().await;
    relay(&app).await;
    socket.change().await;
    stranger.post("/locations", &location(&app, &their_session, 1)).await.data(201);
    for second in 1..=50 {
        asha.post("/locations", &location(&app, &session, second)).await.data(201);
    }
    let told = socket.change().await;
    let record = &told["data"]["record"];
    assert_eq!((&told["data"]["table"], &record["session_id"]), (&json!("gps_locations"), &json!(session)));
    let stored = row(&app, "gps_locations", &record["id"]).await;
    assert_eq!((record, &record["organization_id"]), (&stored, &json!(ours.id)));
}

#[tokio::test]
async fn an_employee_hears_of_their_own_rows_until_they_may_no_longer_work() {
    let app = TestApp::start().await;
    listening(&app).await;
    let organization = app.organization().await;
    let (asha, ravi) = (organization.employee("Asha").await, organization.employee("Ravi").await);
    let mut socket = Socket::following(&asha, &everything()).await;
    ravi.check_in().await;
    claim(&ravi, 3.0).await;
    let session = asha.check_in().await;
    relay(&app).await;
    assert_eq!(socket.change().await["data"]["record"]["id"], json!(session));

    let path = format!("/admin/employees/{}/status", asha.employee_id());
    organization.admin.patch(&path, &json!({ "is_active": false })).await.data(200);
    app.clock.advance(TimeDelta::seconds(31));
    socket.send("phoenix", "heartbeat", &json!({})).await;
    let events: Vec<String> = [socket.next().await.unwrap().event, socket.next().await.unwrap().event].into();
    assert_eq!(events.join(" "), "phx_reply phx_error");
    let refused = socket.join("realtime:board", &everything(), &asha.token).await;
    let reason = "Invalid or missing authentication token";
    assert_eq!(refused, json!({ "status": "error", "response": { "reason": reason } }));
}

#[tokio::test]
async fn a_topic_is_told_what_it_asked_for() {
    let app = TestApp::start().await;
    listening(&app).await;
    let organization = app.organization().await;
    let (asha, ravi) = (organization.employee("Asha").await, organization.employee("Ravi").await);
    let of_asha = format!("employee_id=eq.{}", asha.employee_id());
    let asked = json!([
        { "event": "INSERT", "schema": "public", "table": "expenses", "filter": of_asha },
        { "event": "*", "schema": "public", "table": "expenses", "filter": "amount=gt.100,status=in.(PENDING,APPROVED)" },
        { "event": "UPDATE", "schema": "public", "table": "attendance_sessions" },
        { "event": "*", "schema": "public", "table": "expenses", "filter": "amount=gt.900", "select": ["id", "amount"] },
        { "event": "DELETE", "schema": "public", "table": "expenses" },
    ]);
    let mut socket = Socket::open(&app).await;
    let joined = socket.join("realtime:board", &asked, &organization.admin.token).await;
    let told = joined["response"]["postgres_changes"].as_array().unwrap();
    let ids: Vec<&Value> = told.iter().map(|one| &one["id"]).collect();
    for (told, asked) in told.iter().zip(asked.as_array().unwrap()) {
        for part in ["event", "schema", "table", "filter"] {
            assert_eq!(told[part], asked[part]);
        }
    }
    assert_eq!(socket.next().await.unwrap().event, "system");

    ravi.check_in().await;
    claim(&ravi, 5.0).await;
    claim(&asha, 6.0).await;
    claim(&ravi, 101.0).await;
    claim(&asha, 102.0).await;
    claim(&ravi, 901.0).await;
    ravi.check_out().await;
    relay(&app).await;
    let mut heard = Vec::new();
    for _ in 0..6 {
        let change = socket.change().await;
        heard.push((change["ids"].clone(), change["data"]["record"]["amount"].clone()));
    }
    let expected = [
        (json!([ids[0]]), json!(6.0)),
        (json!([ids[1]]), json!(101.0)),
        (json!([ids[0], ids[1]]), json!(102.0)),
        (json!([ids[1]]), json!(901.0)),
        (json!([ids[3]]), json!(901.0)),
        (json!([ids[2]]), Value::Null),
    ];
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn what_is_no_good_is_refused_by_name() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let mut socket = Socket::open(&app).await;
    let reason = |answer: &Value| {
        assert_eq!(answer["status"], "error", "{answer}");
        answer["response"]["reason"].as_str().unwrap().to_owned()
    };
    for (token, why) in [
        ("x.y.z", "Invalid or missing authentication token"),
        // Signed out: the client shows the public key instead.
        ("anon", "Missing or malformed Authorization header"),
        ("", "Missing or malformed Authorization header"),
    ] {
        assert_eq!(reason(&socket.join("realtime:board", &everything(), token).await), why);
    }
    let users = reason(&socket.join("realtime:board", &all("users"), &admin.token).await);
    assert_eq!(users, "the table \"users\" cannot be followed");
    assert_eq!(reason(&socket.join("board", &everything(), &admin.token).await), "unmatched topic");
    assert_eq!(reason(&socket.ask("realtime:board", "phx_leave", &json!({})).await), "unmatched topic");
    assert_eq!(socket.ask("phoenix", "heartbeat", &json!({})).await, json!({ "status": "ok", "response": {} }));
    let metrics = app.get("/metrics").await.text;
    assert!(metrics.contains("security_abuse_total{kind=\"token_refused\"} 1"), "{metrics}");

    for (message, code) in
        [(Message::text("[]"), CloseCode::Invalid), (Message::text("x".repeat(70_000)), CloseCode::Size)]
    {
        let mut socket = Socket::open(&app).await;
        socket.stream.send(message).await.unwrap();
        assert_eq!(socket.next().await.unwrap_err(), Some(code));
    }
    let mut socket = Socket::open(&app).await;
    for _ in 0..401 {
        // The server may have closed it already.
        let _ = socket.stream.send(Message::text(r#"[null,"1","phoenix","heartbeat",{}]"#)).await;
    }
    let end = loop {
        if let Err(code) = socket.next().await {
            break code;
        }
    };
    assert!(matches!(end, None | Some(CloseCode::Policy)), "{end:?}");
}

#[tokio::test]
async fn only_a_websocket_of_a_known_origin_is_opened() {
    let app = TestApp::start().await;
    let plain = app.get("/realtime/v1/websocket?vsn=2.0.0").await;
    assert_eq!((plain.status.as_u16(), &plain.json()["code"]), (400, &json!("VALIDATION_ERROR")));
    app.get("/realtime/v1/websocket?vsn=3").await.refused(400, "VALIDATION_ERROR", "vsn must be 1.0.0 or 2.0.0");
    let own = app.api.clone();
    for (origin, status) in [
        ("https://evil.example", Some(403)),
        ("null", Some(403)),
        ("https://console.fieldtrack.test", None),
        (own.as_str(), None),
    ] {
        let mut request = url(&app, "apikey=anon").into_client_request().unwrap();
        request.headers_mut().insert("origin", HeaderValue::from_str(origin).unwrap());
        match (connect_async(request).await, status) {
            (Ok((_, response)), None) => assert_eq!(response.status(), 101),
            (Err(Error::Http(response)), Some(status)) => assert_eq!(response.status(), status, "{origin}"),
            (answer, _) => panic!("{origin}: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_socket_ends_with_its_token_unless_that_is_renewed() {
    let app = TestApp::start().await;
    listening(&app).await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let mut renewed = Socket::following(&organization.admin, &everything()).await;
    let mut left = Socket::following(&organization.admin, &everything()).await;
    app.clock.advance(TimeDelta::minutes(59));
    let fresh = app.sign_in(&organization.admin.email).await;
    renewed.send("realtime:board", "access_token", &json!({ "access_token": fresh.token })).await;
    assert_eq!(renewed.ask("phoenix", "heartbeat", &json!({})).await["status"], "ok");
    app.clock.advance(TimeDelta::minutes(2));
    assert_eq!(left.next().await.unwrap_err(), Some(CloseCode::Again));
    let asha = app.sign_in(&asha.email).await;
    let session = asha.check_in().await;
    relay(&app).await;
    assert_eq!(renewed.change().await["data"]["record"]["id"], json!(session));

    // A token that is no good ends the topic.
    renewed.send("realtime:board", "access_token", &json!({ "access_token": "anon" })).await;
    let told = renewed.next().await.unwrap();
    assert_eq!((told.event.as_str(), told.join_ref), ("phx_error", told.reference));
}

#[tokio::test]
async fn whoever_signs_in_next_hears_their_own_organization() {
    let app = TestApp::start().await;
    listening(&app).await;
    let (ours, theirs) = (app.organization().await, app.organization().await);
    let (asha, stranger) = (ours.employee("Asha").await, theirs.employee("Stranger").await);
    let mut socket = Socket::following(&ours.admin, &everything()).await;
    socket.send("realtime:board", "access_token", &json!({ "access_token": theirs.admin.token })).await;
    assert_eq!(socket.next().await.unwrap().event, "phx_error");
    assert_eq!(socket.join("realtime:board", &everything(), &theirs.admin.token).await["status"], "ok");
    assert_eq!(socket.next().await.unwrap().event, "system");
    asha.check_in().await;
    let session = stranger.check_in().await;
    relay(&app).await;
    assert_eq!(socket.change().await["data"]["record"]["id"], json!(session));
}

#[tokio::test]
async fn topics_are_left_and_joined_again() {
    let app = TestApp::start().await;
    listening(&app).await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let mut socket = Socket::following(&organization.admin, &all("expenses")).await;
    let first = socket.reference.to_string();
    // Joined again, the topic is closed first, under the name it had.
    let token = &organization.admin.token;
    let config = json!({ "config": { "postgres_changes": all("expenses") }, "access_token": token });
    let second = socket.send("realtime:board", "phx_join", &config).await;
    let closed = socket.next().await.unwrap();
    assert_eq!((closed.event.as_str(), closed.join_ref), ("phx_close", json!(first)));
    assert_eq!(socket.next().await.unwrap().payload["status"], "ok");
    assert_eq!(socket.next().await.unwrap().event, "system");
    claim(&asha, 2.0).await;
    relay(&app).await;
    let told = socket.next().await.unwrap();
    assert_eq!((told.event.as_str(), told.join_ref), ("postgres_changes", json!(second)));
    let other = socket.join("realtime:other", &all("attendance_sessions"), token).await;
    assert_eq!(other["status"], "ok");
    assert_eq!(socket.next().await.unwrap().event, "system");
    assert_eq!(socket.ask("realtime:board", "phx_leave", &json!({})).await["status"], "ok");
    assert_eq!(socket.next().await.unwrap().event, "phx_close");
    claim(&asha, 3.0).await;
    asha.check_in().await;
    relay(&app).await;
    let told = socket.next().await.unwrap();
    assert_eq!(
        (told.topic.as_str(), &told.payload["data"]["table"]),
        ("realtime:other", &json!("attendance_sessions"))
    );
    // Whoever follows nothing holds no place.
    assert_eq!(socket.ask("realtime:other", "phx_leave", &json!({})).await["status"], "ok");
    let metrics = app.get("/metrics").await.text;
    assert!(metrics.contains("realtime_connections 0"), "{metrics}");
}

#[tokio::test]
async fn sockets_and_streams_share_the_places_and_employees_leave_half_of_them() {
    let app = TestApp::start().await;
    listening(&app).await;
    let organization = app.organization().await;
    let (admin, asha) = (&organization.admin, organization.employee("Asha").await);
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(Socket::following(&asha, &everything()).await);
    }
    let refused = "Realtime connection limit reached (max 20 per organization).";
    let mut socket = Socket::open(&app).await;
    assert_eq!(socket.join("realtime:board", &everything(), &asha.token).await["response"]["reason"], refused);
    for _ in 0..10 {
        sockets.push(Socket::following(admin, &everything()).await);
    }
    assert_eq!(socket.join("realtime:board", &everything(), &admin.token).await["response"]["reason"], refused);
    let stream = admin.get("/admin/events").await;
    stream.refused(429, "RATE_LIMITED", "SSE connection limit reached (max 20 per organization).");
    sockets.pop();
    let deadline = Instant::now() + Duration::from_secs(30);
    while admin.request(Method::GET, "/admin/events").send().await.unwrap().status() != 200 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // All of them are told of one event.
    let session = asha.check_in().await;
    relay(&app).await;
    let mut heard = BTreeSet::new();
    for socket in &mut sockets {
        heard.insert(socket.change().await["data"]["record"]["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(heard, [session].into());
}

#[tokio::test]
async fn sockets_end_with_the_process_and_when_something_was_missed() {
    let mut app = TestApp::start().await;
    listening(&app).await;
    let organization = app.organization().await;
    let admin = organization.admin.email.clone();
    let mut socket = Socket::following(&organization.admin, &everything()).await;
    app.redis.call(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap();
    assert_eq!(socket.next().await.unwrap_err(), Some(CloseCode::Again));
    listening(&app).await;
    drop(organization);
    let token = app.login(&admin, PASSWORD).await.data(200)["access_token"].as_str().unwrap().to_owned();
    let mut joined = Socket::open(&app).await;
    assert_eq!(joined.join("realtime:board", &everything(), &token).await["status"], "ok");
    assert_eq!(joined.next().await.unwrap().event, "system");
    let mut waiting = Socket::open(&app).await;
    app.stop().await;
    for socket in [&mut joined, &mut waiting] {
        assert_eq!(socket.next().await.unwrap_err(), Some(CloseCode::Restart));
    }
}
