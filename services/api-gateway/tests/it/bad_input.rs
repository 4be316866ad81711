//! Whatever callers send, they get a clear 4xx, and nobody else notices.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{TestApp, location, point};

#[tokio::test]
async fn every_problem_of_a_body_is_named_at_once() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let body =
        json!({ "session_id": "x", "latitude": 91, "longitude": -181, "accuracy": -1, "recorded_at": "yesterday" });
    let answer = asha.post("/locations", &body).await.refused(
        400,
        "VALIDATION_ERROR",
        "body/session_id session_id must be a valid UUID, body/latitude Too big: expected number to be <=90, \
         body/longitude Too small: expected number to be >=-180, body/accuracy Too small: expected number to be >=0, \
         body/recorded_at Invalid ISO datetime",
    );
    assert_eq!(answer["details"]["fields"].as_array().unwrap().len(), 5);
    assert_eq!(
        answer["details"]["fields"][0],
        json!({ "field": "body/session_id", "message": "session_id must be a valid UUID" })
    );
}

#[tokio::test]
async fn values_are_never_coerced() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let session = asha.check_in().await;
    let mut good = location(&app, &session, 1);
    good["sequence_number"] = json!(3);
    let expected = |kind: &str, received: &str| format!("Invalid input: expected {kind}, received {received}");
    let cases = [
        ("latitude", json!("45"), expected("number", "string")),
        ("latitude", Value::Null, expected("number", "null")),
        ("longitude", json!(true), expected("number", "boolean")),
        ("accuracy", json!([1]), expected("number", "array")),
        ("accuracy", json!({}), expected("number", "object")),
        ("recorded_at", json!(1_773_129_600), expected("string", "number")),
        ("recorded_at", json!("2026-03-10T08:00:00+00:00"), "Invalid ISO datetime".to_owned()),
        ("session_id", json!(7), expected("string", "number")),
        ("sequence_number", json!(1.5), "Invalid input: expected int, received number".to_owned()),
        ("sequence_number", json!(-1), "sequence_number must be >= 0".to_owned()),
        ("sequence_number", Value::Null, expected("number", "null")),
        (
            "sequence_number",
            json!(9_007_199_254_740_992_u64),
            "Too big: expected int to be <=9007199254740991".to_owned(),
        ),
    ];
    for (field, value, message) in cases {
        let mut body = good.clone();
        body[field] = value;
        asha.post("/locations", &body).await.refused(400, "VALIDATION_ERROR", &format!("body/{field} {message}"));
        app.redis.call(&["FLUSHALL"]).unwrap();
    }
    for field in ["latitude", "longitude", "accuracy", "recorded_at", "session_id"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(field);
        let kind = if ["recorded_at", "session_id"].contains(&field) { "string" } else { "number" };
        let message = format!("body/{field} {}", expected(kind, "undefined"));
        asha.post("/locations", &body).await.refused(400, "VALIDATION_ERROR", &message);
    }
    assert_eq!(asha.post("/locations", &good).await.status, 201);
}

#[tokio::test]
async fn batches_hold_one_to_a_hundred_points_in_the_order_of_their_numbers() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let session = asha.check_in().await;
    let batch = |points: Vec<Value>| json!({ "session_id": session, "points": points });
    let numbered = |seconds: i64, number: Value| {
        let mut point = point(&app, seconds);
        point["sequence_number"] = number;
        point
    };
    for (body, error) in [
        (batch(vec![]), "body/points Too small: expected array to have >=1 items"),
        (
            batch((1..=101).map(|second| point(&app, second)).collect()),
            "body/points Too big: expected array to have <=100 items",
        ),
        (json!({ "session_id": session }), "body/points Invalid input: expected array, received undefined"),
        (json!({ "session_id": session, "points": "x" }), "body/points Invalid input: expected array, received string"),
        (batch(vec![json!(1)]), "body/points/0 Invalid input: expected object, received number"),
        (
            batch(vec![numbered(1, json!(2)), numbered(2, json!(1))]),
            "body/ points must be in non-descending sequence_number order",
        ),
        (
            batch(vec![numbered(1, json!(1.5)), numbered(2, json!(1))]),
            "body/points/0/sequence_number Invalid input: expected int, received number",
        ),
        (json!([]), "body/ Invalid input: expected object, received array"),
    ] {
        asha.post("/locations/batch", &body).await.refused(400, "VALIDATION_ERROR", error);
    }
    // The order is looked at only when every point has a number.
    let mixed = batch(vec![numbered(1, json!(2)), point(&app, 2), numbered(3, json!(1))]);
    assert_eq!(asha.post("/locations/batch", &mixed).await.json()["inserted"], 3);
    let hundred = batch((1..=100).map(|second| point(&app, second)).collect());
    assert_eq!(asha.post("/locations/batch", &hundred).await.json()["inserted"], 97);
}

#[tokio::test]
async fn what_is_no_json_is_told_so() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let session = asha.check_in().await;
    let malformed = "Body is not valid JSON but content-type is set to 'application/json'";
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for body in [
        "{",
        "not json",
        "{\"latitude\":NaN}",
        "{\"latitude\":Infinity}",
        "{\"latitude\":-Infinity}",
        "{\"a\":1}x",
        "\u{0}",
        "{\"latitude\":01}",
        "{'a':1}",
        "",
    ] {
        let answer = asha.post_raw("/locations", body.to_owned()).await;
        if body.is_empty() {
            answer.refused(400, "VALIDATION_ERROR", "body/ Invalid input: expected object, received null");
        } else {
            answer.refused(400, "VALIDATION_ERROR", malformed);
        }
    }
    // However deep it is, it is read without a stack of its own.
    asha.post_raw("/locations", deep).await.refused(
        400,
        "VALIDATION_ERROR",
        "body/ Invalid input: expected object, received array",
    );
    asha.post_raw("/locations", vec![b'"', 0xff, b'"']).await.refused(400, "VALIDATION_ERROR", malformed);
    let huge = format!(r#"{{"session_id":"{session}","latitude":1e400,"longitude":1,"accuracy":1}}"#);
    asha.post_raw("/locations", huge).await.refused(400, "VALIDATION_ERROR", malformed);
    // Who asks is looked at before what they say.
    let nobody = app.request(reqwest::Method::POST, "/locations").header("content-type", "application/json").body("{");
    app.send(nobody).await.refused(401, "UNAUTHORIZED", "Missing or malformed Authorization header");
}

/// A web console says that it sends JSON with every request, and often sends nothing (D34).
#[tokio::test]
async fn an_empty_body_is_fine_where_nothing_has_to_be_said() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let (admin, asha) = (&organization.admin, organization.employee("Asha").await);
    let (_, key) = admin.api_key(&["read:sessions"]).await;
    let employee = format!("/admin/employees/{}", asha.employee_id());
    let key = format!("/admin/api-keys/{key}");
    for (person, method, path, status) in [
        (&asha, Method::POST, "/attendance/check-in", 201),
        (&asha, Method::POST, "/attendance/check-out", 200),
        (admin, Method::PATCH, &employee, 200),
        (admin, Method::DELETE, &key, 204),
        (admin, Method::POST, "/admin/queues/replay-distance-dlq", 200),
        (admin, Method::GET, "/admin/employees", 200),
        // Where something has to be said, its absence is what is told.
        (admin, Method::POST, "/admin/employees", 400),
    ] {
        let request = person.request(method.clone(), path).header("content-type", "application/json");
        let answer = app.send(request).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
    }
}

#[tokio::test]
async fn bodies_of_another_type_or_size_are_refused() {
    let app = TestApp::start_with(&[("BODY_LIMIT_BYTES", "20000")]).await;
    let asha = app.organization().await.employee("Asha").await;
    let send = async |kind: &str, body: String| {
        let request = asha.request(reqwest::Method::POST, "/locations").header("content-type", kind).body(body);
        app.send(request).await
    };
    for kind in
        ["application/xml", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "application/jsonp"]
    {
        send(kind, "{}".into()).await.refused(415, "UNSUPPORTED_MEDIA_TYPE", "Unsupported Media Type");
    }
    send("text/plain", "{}".into()).await.refused(
        400,
        "VALIDATION_ERROR",
        "body/ Invalid input: expected object, received string",
    );
    assert_eq!(send("application/json; charset=utf-8", "{}".into()).await.status, 400);
    let huge = format!("{{\"x\":\"{}\"}}", "x".repeat(20_000));
    send("application/json", huge.clone()).await.refused(413, "PAYLOAD_TOO_LARGE", "Request body is too large");
    // The same without a declared length.
    let head = format!(
        "POST /locations HTTP/1.1\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n",
        asha.token
    );
    let body = format!("{:x}\r\n{huge}\r\n0\r\n\r\n", huge.len());
    let answer = raw(&app, &head, &body).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("PAYLOAD_TOO_LARGE"), "{answer}");
    asha.check_in().await;
}

#[tokio::test]
async fn text_that_cannot_be_stored_is_refused_by_the_name_of_its_field() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    for name in [r"a\u0000b", r"a\ud800b", r"\udc00"] {
        admin.post_raw("/admin/employees", format!(r#"{{"name":"{name}"}}"#)).await.refused(
            400,
            "VALIDATION_ERROR",
            "body/name must not contain characters that cannot be stored",
        );
    }
    let emoji = admin.post_raw("/admin/employees", r#"{"name":"Zo\u00eb \ud83d\ude80"}"#).await.data(201);
    assert_eq!(emoji["name"], "Zoë 🚀");
}

#[tokio::test]
async fn urls_that_cannot_be_decoded_are_refused() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    // Written by hand: a client library would encode it.
    let answer =
        raw(&app, &format!("GET /attendance/%zz/recalculate HTTP/1.1\r\nauthorization: Bearer {}\r\n", asha.token), "")
            .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("VALIDATION_ERROR"), "{answer}");
}

/// Sends a head and a body as they stand, and reads the answer to its end.
async fn raw(app: &TestApp, head: &str, body: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(app.api.trim_start_matches("http://")).await.unwrap();
    stream.write_all(format!("{head}host: x\r\nconnection: close\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that answers before it has read everything may close under our writing.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
