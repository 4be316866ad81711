//! Checking in, working, checking out.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::support::{TestApp, location, point};

#[tokio::test]
async fn a_check_in_opens_a_session_and_a_check_out_closes_it() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let opened = asha.post("/attendance/check-in", &json!({})).await.data(201);
    for absent in ["checkout_at", "total_distance_km", "total_duration_seconds"] {
        assert_eq!(opened[absent], Value::Null);
    }
    assert_eq!(opened["distance_recalculation_status"], "pending");
    assert!(opened["checkin_at"].as_str().unwrap().ends_with("+00:00"));
    app.clock.advance(TimeDelta::minutes(50));
    let closed = asha.check_out().await;
    assert_eq!(closed["id"], opened["id"]);
    assert_eq!(closed["checkin_at"], opened["checkin_at"]);
    assert!(closed["checkout_at"].is_string());
    assert_eq!(closed.as_object().unwrap().len(), 10);
}

#[tokio::test]
async fn nobody_checks_in_twice_or_out_without_having_checked_in() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let out = "Cannot check out: no active session found. Check in first.";
    asha.post("/attendance/check-out", &json!({})).await.refused(400, "VALIDATION_ERROR", out);
    asha.check_in().await;
    let twice = "Cannot check in: you already have an active session. Check out first.";
    asha.post("/attendance/check-in", &json!({})).await.refused(400, "VALIDATION_ERROR", twice);
    asha.check_out().await;
    asha.post("/attendance/check-out", &json!({})).await.refused(400, "VALIDATION_ERROR", out);
    asha.check_in().await;
}

#[tokio::test]
async fn of_simultaneous_check_ins_and_check_outs_one_wins() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    for (path, won) in [("/attendance/check-in", 201), ("/attendance/check-out", 200)] {
        let body = json!({});
        let answers = futures_util::future::join_all((0..6).map(|_| asha.post(path, &body))).await;
        let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
        statuses.sort_unstable();
        let mut expected = vec![won];
        expected.extend([400; 5]);
        assert_eq!(statuses, expected, "{path}");
    }
}

#[tokio::test]
async fn a_position_at_check_in_becomes_the_first_fix() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let place = json!({ "latitude": 45.1, "longitude": 13.2 });
    let session = asha.post("/attendance/check-in", &place).await.data(201);
    let id = session["id"].as_str().unwrap();
    let route = asha.get(&format!("/locations/my-route?sessionId={id}")).await.data(200);
    assert_eq!(route.as_array().unwrap().len(), 1);
    assert_eq!((&route[0]["latitude"], &route[0]["accuracy"]), (&json!(45.1), &Value::Null));
    assert_eq!(route[0]["recorded_at"], session["checkin_at"]);
}

#[tokio::test]
async fn a_check_in_needs_no_body_and_refuses_half_a_position() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    for (name, body) in [("One", ""), ("Two", "null"), ("Three", r#"{"latitude":null,"longitude":null,"extra":1}"#)] {
        let answer = organization.employee(name).await.post_raw("/attendance/check-in", body).await;
        assert_eq!(answer.status, 201, "{body:?}: {}", answer.text);
    }
    let asha = organization.employee("Asha").await;
    for (body, error) in [
        (r#"{"latitude":91,"longitude":0}"#, "body/latitude Too big: expected number to be <=90"),
        (r#"{"latitude":1}"#, "body/longitude Invalid input: expected number, received undefined"),
        (r#"{"latitude":1,"longitude":null}"#, "body/longitude Invalid input: expected number, received null"),
        (r#"{"latitude":"1","longitude":2}"#, "body/latitude Invalid input: expected number, received string"),
        ("[]", "body/ Invalid input: expected object, received array"),
    ] {
        asha.post_raw("/attendance/check-in", body).await.refused(400, "VALIDATION_ERROR", error);
    }
}

#[tokio::test]
async fn my_sessions_are_paged_newest_first_and_filtered() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.insert(0, asha.check_in().await);
        app.clock.advance(TimeDelta::minutes(1));
        asha.check_out().await;
        app.clock.advance(TimeDelta::minutes(1));
    }
    let first = asha.get("/attendance/my-sessions?page=1&limit=2").await.json();
    assert_eq!(first["pagination"], json!({ "page": 1, "limit": 2, "total": 5, "totalPages": 3 }));
    assert_eq!(first["data"].as_array().unwrap().len(), 2);
    assert_eq!(first["data"][0]["id"], *ids[0]);
    assert_eq!(first["data"][0]["activityStatus"], "RECENT");
    assert_eq!(first["data"][0]["employee_name"], Value::Null);
    let past_the_end = asha.get("/attendance/my-sessions?page=9&limit=2").await.json();
    assert_eq!((&past_the_end["data"], &past_the_end["pagination"]["total"]), (&json!([]), &json!(5)));
    // A token lives an hour; a day later Asha signs in again.
    app.clock.advance(TimeDelta::hours(25));
    let asha = app.sign_in(&asha.email).await;
    let open = asha.check_in().await;
    for (status, total) in [("all", 6), ("active", 1), ("recent", 0), ("inactive", 5)] {
        let list = asha.get(&format!("/attendance/my-sessions?status={status}")).await.json();
        assert_eq!(list["pagination"]["total"], total, "{status}");
    }
    let active = asha.get("/attendance/my-sessions?status=active").await.json();
    assert_eq!((&active["data"][0]["id"], &active["data"][0]["activityStatus"]), (&json!(open), &json!("ACTIVE")));
    // Whoever is no employee has none.
    let none = organization.admin.get("/attendance/my-sessions");
    assert_eq!(none.await.status, 401, "the administrator's token has ended too");
}

#[tokio::test]
async fn an_administrator_has_no_sessions_of_their_own() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let list = organization.admin.get("/attendance/my-sessions").await.json();
    assert_eq!(
        list,
        json!({ "success": true, "data": [], "pagination": { "page": 1, "limit": 20, "total": 0, "totalPages": 0 } })
    );
}

#[tokio::test]
async fn queries_are_read_as_javascript_reads_them() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    for fine in ["page=1e0&limit=%207%20", "page=1&limit=0x10", "limit=100&unknown=x"] {
        assert_eq!(asha.get(&format!("/attendance/my-sessions?{fine}")).await.status, 200, "{fine}");
    }
    for (query, error) in [
        ("page=0", "querystring/page Too small: expected number to be >=1"),
        ("page=", "querystring/page Too small: expected number to be >=1"),
        ("limit=101", "querystring/limit Too big: expected number to be <=100"),
        ("limit=x", "querystring/limit Invalid input: expected number, received NaN"),
        ("limit=1&limit=2", "querystring/limit Invalid input: expected number, received NaN"),
        ("page=1.5", "querystring/page Invalid input: expected int, received number"),
        ("page=1e300", "querystring/page Too big: expected int to be <=9007199254740991"),
        ("status=open", r#"querystring/status Invalid option: expected one of "all"|"active"|"recent"|"inactive""#),
        (
            "page=-1&limit=x",
            "querystring/page Too small: expected number to be >=1, querystring/limit Invalid input: expected number, received NaN",
        ),
    ] {
        asha.get(&format!("/attendance/my-sessions?{query}")).await.refused(400, "VALIDATION_ERROR", error);
    }
}

#[tokio::test]
async fn the_old_listing_is_gone() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let gone = "GET /attendance/org-sessions has been removed. Use GET /admin/sessions instead.";
    organization.admin.get("/attendance/org-sessions").await.refused(410, "GONE", gone);
    let asha = organization.employee("Asha").await;
    asha.get("/attendance/org-sessions").await.refused(403, "FORBIDDEN", "This action requires ADMIN role");
}

#[tokio::test]
async fn a_recalculation_answers_with_the_kilometres_of_the_stored_points() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let session = asha.check_in().await;
    // A tenth of a degree of latitude: 11.12 km.
    let mut far = point(&app, 2);
    far["latitude"] = json!(45.10001);
    let batch = json!({ "session_id": session, "points": [point(&app, 1), far] });
    assert_eq!(asha.post("/locations/batch", &batch).await.json(), json!({ "success": true, "inserted": 2 }));
    app.clock.advance(TimeDelta::milliseconds(90_999));
    let path = format!("/attendance/{session}/recalculate");
    let expected = json!({ "session_id": session, "total_distance_km": 11.12, "total_duration_seconds": 90 });
    assert_eq!(asha.post(&path, &json!({})).await.data(200), expected);
    assert_eq!(organization.admin.post(&path, &json!({})).await.data(200), expected);
    let list = asha.get("/attendance/my-sessions").await.json();
    assert_eq!(list["data"][0]["total_distance_km"], 11.12);
    assert_eq!(list["data"][0]["distance_recalculation_status"], "done");
}

#[tokio::test]
async fn a_recalculation_is_refused_for_strangers_and_for_sessions_out_of_bounds() {
    let app = TestApp::start_with(&[("MAX_POINTS_PER_SESSION", "2"), ("MAX_SESSION_DURATION_HOURS", "1")]).await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let ben = organization.employee("Ben").await;
    let stranger = app.organization().await;
    let session = asha.check_in().await;
    let path = format!("/attendance/{session}/recalculate");
    for other in [&ben, &stranger.admin] {
        other.post(&path, &json!({})).await.refused(404, "NOT_FOUND", "Attendance session not found");
    }
    for (bad, message) in [("x", "params/sessionId Invalid UUID"), (&"9".repeat(400), "params/sessionId Invalid UUID")]
    {
        asha.post(&format!("/attendance/{bad}/recalculate"), &json!({})).await.refused(
            400,
            "VALIDATION_ERROR",
            message,
        );
    }
    for seconds in 1..=3 {
        assert_eq!(asha.post("/locations", &location(&app, &session, seconds)).await.status, 201);
    }
    asha.post(&path, &json!({})).await.refused(
        400,
        "VALIDATION_ERROR",
        "Session exceeds the maximum allowed GPS points (2). Recalculation rejected to protect the event loop. \
         Raise MAX_POINTS_PER_SESSION to override.",
    );
    app.clock.advance(TimeDelta::minutes(90));
    let admin = app.sign_in(&organization.admin.email).await;
    admin.post(&path, &json!({})).await.refused(
        400,
        "VALIDATION_ERROR",
        &format!(
            "Session {session} has an abnormal duration of 1.5 hours (maximum allowed: 1 hours). \
             Recalculation rejected. Raise MAX_SESSION_DURATION_HOURS to override."
        ),
    );
}

#[tokio::test]
async fn a_check_out_takes_any_body() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    asha.check_in().await;
    assert_eq!(asha.post_raw("/attendance/check-out", "{not json").await.status, 200);
}
