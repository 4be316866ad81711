//! Administrators who watch, and the map they look at.

use std::time::Instant;

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{TestApp, location};

const NONE_OPEN: &str = "No active monitoring session found. Start one first.";

#[tokio::test]
async fn somebody_watches_from_start_to_stop_and_once_at_a_time() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let admin = &organization.admin;
    admin.post("/admin/stop-monitoring", &json!({})).await.refused(404, "NOT_FOUND", NONE_OPEN);

    // Without a body, with one that is ignored, and several at the same moment: it is one session.
    let request = || app.send(admin.request(Method::POST, "/admin/start-monitoring"));
    let (first, second, third) = tokio::join!(request(), request(), request());
    let opened = first.data(201);
    assert_eq!((second.data(201), third.data(201)), (opened.clone(), opened.clone()));
    let again = admin.post("/admin/start-monitoring", &json!({ "anything": 1 })).await.data(201);
    assert_eq!(again, opened);
    let me = admin.get("/auth/me").await.data(200);
    assert_eq!((&opened["admin_id"], &opened["organization_id"]), (&me["id"], &json!(organization.id)));
    assert_eq!((&opened["ended_at"], &opened["created_at"]), (&Value::Null, &opened["started_at"]));

    app.clock.advance(TimeDelta::minutes(5));
    let closed = app.send(admin.request(Method::POST, "/admin/stop-monitoring")).await.data(200);
    assert_eq!((&closed["id"], &closed["started_at"]), (&opened["id"], &opened["started_at"]));
    assert!(closed["ended_at"].as_str().unwrap() > closed["started_at"].as_str().unwrap());
    admin.post("/admin/stop-monitoring", &json!({})).await.refused(404, "NOT_FOUND", NONE_OPEN);

    let next = admin.post("/admin/start-monitoring", &json!({})).await.data(201);
    assert_ne!(next["id"], opened["id"]);
    let history = admin.get("/admin/monitoring-history").await.json();
    assert_eq!(history["data"], json!([next, closed]));
    assert_eq!(history["pagination"], json!({ "page": 1, "limit": 20, "total": 2, "totalPages": 1 }));
    let page = admin.get("/admin/monitoring-history?page=2&limit=1").await.json();
    assert_eq!((&page["data"], &page["pagination"]["totalPages"]), (&json!([closed]), &json!(2)));
    let past_the_end = admin.get("/admin/monitoring-history?page=9").await.json();
    assert_eq!((&past_the_end["data"], &past_the_end["pagination"]["total"]), (&json!([]), &json!(2)));
}

#[tokio::test]
async fn everybody_sees_their_own_history_and_a_key_that_of_its_organization() {
    let app = TestApp::start().await;
    let (ours, theirs) = (app.organization().await, app.organization().await);
    let email = format!("second@{}.example", ours.id.simple());
    let second = json!({ "email": email, "password": crate::support::PASSWORD, "role": "ADMIN" });
    ours.admin.post("/admin/users", &second).await.data(201);
    let second = app.sign_in(&email).await;
    let mine = ours.admin.post("/admin/start-monitoring", &json!({})).await.data(201);
    app.clock.advance(TimeDelta::seconds(1));
    let other = second.post("/admin/start-monitoring", &json!({})).await.data(201);
    theirs.admin.post("/admin/start-monitoring", &json!({})).await.data(201);
    assert_eq!(ours.admin.get("/admin/monitoring-history").await.json()["data"], json!([mine]));
    assert_eq!(second.get("/admin/monitoring-history").await.json()["data"], json!([other]));
    // One administrator's session is not another's to close.
    second.post("/admin/stop-monitoring", &json!({})).await.data(200);
    assert_eq!(ours.admin.get("/admin/monitoring-history").await.json()["data"][0]["ended_at"], Value::Null);

    let (key, _) = ours.admin.api_key(&["admin:all"]).await;
    let all = app.with_key(&key, Method::GET, "/admin/monitoring-history", &Value::Null).await.json();
    assert_eq!((&all["pagination"]["total"], &all["data"][1]), (&json!(2), &mine));
}

#[tokio::test]
async fn watching_is_done_by_people_and_questions_have_limits() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let (all, _) = organization.admin.api_key(&["admin:all"]).await;
    let (reader, _) = organization.admin.api_key(&["read:sessions"]).await;
    for path in ["/admin/start-monitoring", "/admin/stop-monitoring"] {
        let refused = app.with_key(&all, Method::POST, path, &json!({})).await;
        refused.refused(403, "JWT_REQUIRED", "This endpoint requires JWT user authentication");
        let refused = app.with_key(&reader, Method::POST, path, &json!({})).await;
        refused.refused(403, "FORBIDDEN", "API key missing required scope: admin:all");
    }
    for path in ["/admin/monitoring-history", "/admin/monitoring/map"] {
        let refused = app.with_key(&reader, Method::GET, path, &Value::Null).await;
        refused.refused(403, "FORBIDDEN", "API key missing required scope: admin:all");
        assert_eq!(app.with_key(&all, Method::GET, path, &Value::Null).await.status, 200);
    }
    for (query, error) in [
        ("page=0", "querystring/page Too small: expected number to be >=1"),
        ("page=1.5", "querystring/page Invalid input: expected int, received number"),
        ("limit=101", "querystring/limit Too big: expected number to be <=100"),
        ("limit=x", "querystring/limit Invalid input: expected number, received NaN"),
    ] {
        let refused = organization.admin.get(&format!("/admin/monitoring-history?{query}")).await;
        refused.refused(400, "VALIDATION_ERROR", error);
    }
}

#[tokio::test]
async fn the_map_shows_whoever_is_at_work_or_was_lately_where_they_were_last() {
    let app = TestApp::start_with(&[("RATE_LIMIT_MULTIPLIER", "100")]).await;
    let (ours, theirs) = (app.organization().await, app.organization().await);
    assert_eq!(ours.admin.get("/admin/monitoring/map").await.data(200), json!([]));
    let (asha, ben, unseen) = (ours.employee("Asha").await, ours.employee("Ben").await, ours.employee("Unseen").await);
    let stranger = theirs.employee("Stranger").await;
    let mut sessions = Vec::new();
    for person in [&asha, &ben, &stranger] {
        let session = person.check_in().await;
        // The later one comes first: the latest counts, not the last to arrive.
        for second in [9, 3] {
            person.post("/locations", &location(&app, &session, second)).await.data(201);
        }
        sessions.push(session);
    }
    unseen.check_in().await;
    let checked_in = app.now();
    ben.check_out().await;

    let map = ours.admin.get("/admin/monitoring/map").await.data(200);
    let markers = map.as_array().unwrap();
    assert_eq!(markers.len(), 2, "{map}");
    let ids: Vec<&str> = markers.iter().map(|marker| marker["employeeId"].as_str().unwrap()).collect();
    assert!(ids.is_sorted());
    let of = |person: &crate::support::Person<'_>| {
        markers.iter().find(|marker| marker["employeeId"] == json!(person.employee_id())).unwrap()
    };
    let expected = domain::clock::Stored(checked_in + TimeDelta::seconds(9)).to_string();
    for (person, name, status, session) in
        [(&asha, "Asha", "ACTIVE", &sessions[0]), (&ben, "Ben", "RECENT", &sessions[1])]
    {
        let marker = of(person);
        assert_eq!((&marker["employeeName"], &marker["status"]), (&json!(name), &json!(status)));
        assert_eq!((&marker["sessionId"], &marker["recordedAt"]), (&json!(session), &json!(expected)));
        assert_eq!((&marker["latitude"], &marker["longitude"]), (&json!(45.000_09), &json!(13.0)));
        assert!(marker["employeeCode"].as_str().unwrap().starts_with("EMP"));
    }
    // A day later Ben is nobody's business any more; Asha has forgotten to check out.
    app.clock.advance(TimeDelta::hours(24));
    let email = ours.admin.email.clone();
    let map = app.sign_in(&email).await.get("/admin/monitoring/map").await.data(200);
    assert_eq!(map.as_array().unwrap().len(), 1, "{map}");
    assert_eq!(map[0]["employeeName"], "Asha");
}

#[tokio::test]
async fn the_map_of_a_thousand_is_quick_and_ends_there() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let superuser = app.database.superuser().await;
    // A thousand and five at work, each after thirty days of sessions; every third one's last points are not measured yet.
    superuser
        .batch_execute(&format!(
            "INSERT INTO employees (organization_id, id, name, employee_code)
                 SELECT '{id}', gen_random_uuid(), 'Person ' || n, 'X' || n FROM generate_series(1, 1005) n;
             INSERT INTO attendance_sessions (organization_id, id, employee_id, checkin_at, checkout_at, measured_points,
                                              measured_to, measured_latitude, measured_longitude, distance_recalculation_status)
                 SELECT '{id}', gen_random_uuid(), employees.id, now() - make_interval(days => day),
                        CASE WHEN day > 0 THEN now() - make_interval(days => day) + interval '1 hour' END,
                        10, now() - make_interval(days => day), 45, 13, 'done'
                 FROM employees, generate_series(0, 30) day WHERE organization_id = '{id}';
             UPDATE attendance_sessions SET dirty_from = checkin_at, dirty_since = now(), measured_to = NULL,
                    measured_latitude = NULL, measured_longitude = NULL, measured_points = 0
                 WHERE checkout_at IS NULL AND (hashtext(employee_id::text) % 3) = 0;
             INSERT INTO gps_locations (organization_id, session_id, recorded_at, id, employee_id, latitude, longitude)
                 SELECT organization_id, id, checkin_at + make_interval(secs => n), gen_random_uuid(), employee_id, 46, 14
                 FROM attendance_sessions, generate_series(1, 30) n WHERE dirty_from IS NOT NULL;
             ANALYZE employees, attendance_sessions, gps_locations;",
            id = organization.id
        ))
        .await
        .unwrap();
    organization.admin.get("/admin/monitoring/map").await.data(200);
    let begun = Instant::now();
    let map = organization.admin.get("/admin/monitoring/map").await.data(200);
    let took = begun.elapsed();
    assert_eq!(map.as_array().unwrap().len(), 1000);
    let unmeasured = map.as_array().unwrap().iter().filter(|marker| marker["latitude"] == json!(46.0)).count();
    assert!((200..500).contains(&unmeasured), "{unmeasured}");
    println!("a map of a thousand took {took:?}");
    assert!(took.as_millis() < 500, "{took:?}");
}
