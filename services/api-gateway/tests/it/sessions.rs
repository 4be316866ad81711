//! Sessions as administrators see and close them.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::support::{TestApp, point};

fn each<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
    list["data"].as_array().unwrap().iter().map(|row| row[field].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_latest_session_of_everybody_comes_by_how_live_it_is() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let mut people = Vec::new();
    for name in ["Gone", "Late", "Later", "Working", "Never"] {
        people.push(organization.employee(name).await);
    }
    app.organization().await.employee("Foreign").await.check_in().await;
    let [gone, late, later, working, _] = &people[..] else { panic!() };
    gone.check_in().await;
    gone.check_out().await;
    app.clock.advance(TimeDelta::hours(25));
    let signed_in = async |email: &str| app.sign_in(email).await;
    for person in [late, later] {
        let person = signed_in(&person.email).await;
        person.check_in().await;
        app.clock.advance(TimeDelta::minutes(1));
        person.check_out().await;
        app.clock.advance(TimeDelta::minutes(1));
    }
    // Two sessions, of which the latest counts.
    let working = signed_in(&working.email).await;
    working.check_in().await;
    working.check_out().await;
    let open = working.check_in().await;

    let admin = signed_in(&organization.admin.email).await;
    let list = async |query: &str| admin.get(&format!("/admin/sessions?{query}")).await.json();
    let all = list("").await;
    assert_eq!(each(&all, "employee_name"), ["Working", "Later", "Late", "Gone"]);
    assert_eq!(each(&all, "activityStatus"), ["ACTIVE", "RECENT", "RECENT", "INACTIVE"]);
    assert_eq!(all["pagination"], json!({ "page": 1, "limit": 50, "total": 4, "totalPages": 1 }));
    let first = &all["data"][0];
    assert_eq!((first.as_object().unwrap().len(), &first["id"]), (13, &json!(open)));
    // There, though null (D21).
    assert_eq!(first.get("checkout_at"), Some(&Value::Null));
    assert_eq!((&first["employee_code"], &first["created_at"]), (&json!("EMP0004"), &first["checkin_at"]));
    assert_eq!(
        (&first["distance_recalculation_status"], &first["total_distance_km"]),
        (&json!("pending"), &Value::Null)
    );
    for (query, names) in [
        ("status=all", vec!["Working", "Later", "Late", "Gone"]),
        ("status=active", vec!["Working"]),
        ("status=recent", vec!["Later", "Late"]),
        ("status=inactive", vec!["Gone"]),
        // Ordered before it is paged.
        ("limit=2&page=2", vec!["Late", "Gone"]),
        ("limit=1&page=2&status=recent", vec!["Late"]),
        ("limit=2&page=3", vec![]),
    ] {
        assert_eq!(each(&list(query).await, "employee_name"), names, "{query}");
    }
    let page = list("limit=3&page=2").await;
    assert_eq!(page["pagination"], json!({ "page": 2, "limit": 3, "total": 4, "totalPages": 2 }));
    let past = list("status=recent&page=7&limit=1").await;
    assert_eq!(past["pagination"], json!({ "page": 7, "limit": 1, "total": 2, "totalPages": 2 }));
}

#[tokio::test]
async fn the_sessions_of_one_employee_carry_their_name_and_real_status() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let id = asha.employee_id();
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.insert(0, asha.check_in().await);
        asha.check_out().await;
    }
    asha.post(&format!("/attendance/{}/recalculate", sessions[0]), &json!({})).await.data(200);
    let list = async |query: &str| organization.admin.get(&format!("/admin/sessions?{query}")).await.json();
    let all = list(&format!("employee_id={id}")).await;
    assert_eq!(each(&all, "id"), sessions);
    assert_eq!(each(&all, "employee_name"), ["Asha"; 3]);
    assert_eq!(each(&all, "employee_code"), ["EMP0001"; 3]);
    assert_eq!(each(&all, "distance_recalculation_status"), ["done", "pending", "pending"]);
    let page = list(&format!("employee_id={id}&limit=2&page=2")).await;
    assert_eq!(page["pagination"], json!({ "page": 2, "limit": 2, "total": 3, "totalPages": 2 }));
    assert_eq!(each(&page, "id"), sessions[2..]);
    let open = asha.check_in().await;
    for (status, total) in [("all", 4), ("active", 1), ("recent", 3), ("inactive", 0)] {
        assert_eq!(list(&format!("employee_id={id}&status={status}")).await["pagination"]["total"], total, "{status}");
    }
    assert_eq!(each(&list(&format!("employee_id={id}&status=active")).await, "id"), [open]);
    // Somebody else's employee has none here.
    let stranger = app.organization().await.employee("Stranger").await;
    stranger.check_in().await;
    for nobody in [&stranger.employee_id(), "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11"] {
        let none = list(&format!("employee_id={nobody}")).await;
        assert_eq!((&none["data"], &none["pagination"]["totalPages"]), (&json!([]), &json!(0)));
    }
    for (query, error) in [
        ("page=0", "querystring/page Too small: expected number to be >=1"),
        ("limit=101", "querystring/limit Too big: expected number to be <=100"),
        ("limit=x", "querystring/limit Invalid input: expected number, received NaN"),
        ("page=1.5", "querystring/page Invalid input: expected int, received number"),
        ("employee_id=x", "querystring/employee_id Invalid UUID"),
        ("employee_id=", "querystring/employee_id Invalid UUID"),
        ("status=open", r#"querystring/status Invalid option: expected one of "all"|"active"|"recent"|"inactive""#),
    ] {
        let answer = organization.admin.get(&format!("/admin/sessions?{query}")).await;
        answer.refused(400, "VALIDATION_ERROR", error);
    }
}

#[tokio::test]
async fn clocks_of_replicas_that_differ_do_not_hide_an_open_session() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    app.clock.advance(TimeDelta::seconds(2));
    asha.check_in().await;
    asha.check_out().await;
    // The other replica is two seconds behind.
    app.clock.advance(TimeDelta::seconds(-2));
    let open = asha.check_in().await;
    let sessions = organization.admin.get("/admin/sessions").await.json();
    assert_eq!((&sessions["data"][0]["id"], &sessions["data"][0]["activityStatus"]), (&json!(open), &json!("ACTIVE")));
    let employees = organization.admin.get("/admin/employees?segment=active").await.json();
    assert_eq!(employees["data"][0]["is_checked_in"], true);
}

#[tokio::test]
async fn an_administrator_sees_every_point_of_a_session() {
    let app = TestApp::start_with(&[("MAX_POINTS_PER_SESSION", "150")]).await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let session = asha.check_in().await;
    let path = format!("/admin/sessions/{session}/locations");
    assert_eq!(organization.admin.get(&path).await.data(200), json!([]));
    for start in [101, 1] {
        let points: Vec<Value> = (start..start + 100).map(|second| point(&app, second % 120)).collect();
        asha.post("/locations/batch", &json!({ "session_id": session, "points": points })).await;
    }
    let points = organization.admin.get(&path).await.data(200);
    let points = points.as_array().unwrap();
    // More than one page of anything (D35), oldest first; what was sent twice is there once.
    assert_eq!(points.len(), 120);
    let times: Vec<&str> = points.iter().map(|point| point["recorded_at"].as_str().unwrap()).collect();
    assert!(times.is_sorted());
    assert_eq!(points[0].as_object().unwrap().len(), 6);
    assert_eq!((&points[0]["accuracy"], &points[0]["sequence_number"]), (&json!(5.0), &Value::Null));
    // Another organization's session is empty, and so is one that does not exist.
    let stranger = app.organization().await.admin;
    assert_eq!(stranger.get(&path).await.data(200), json!([]));
    let unknown = "/admin/sessions/3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11/locations";
    assert_eq!(organization.admin.get(unknown).await.data(200), json!([]));
    let answer = organization.admin.get("/admin/sessions/x/locations").await;
    answer.refused(400, "VALIDATION_ERROR", "params/id Invalid UUID");
}

#[tokio::test]
async fn a_forced_check_out_is_a_check_out() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let admin = &organization.admin;
    let asha = organization.employee("Asha").await;
    let id = asha.employee_id();
    let body = json!({ "employee_id": id });
    let none = format!("No active session found for employee {id}");
    admin.post("/admin/force-checkout", &body).await.refused(404, "NOT_FOUND", &none);
    let session = asha.check_in().await;
    app.clock.advance(TimeDelta::milliseconds(90_999));
    // Another organization's administrator finds nobody.
    let stranger = app.organization().await.admin;
    stranger.post("/admin/force-checkout", &body).await.refused(404, "NOT_FOUND", &none);

    let closed = admin.post("/admin/force-checkout", &body).await.data(200);
    assert_eq!((&closed["id"], &closed["employee_id"]), (&json!(session), &json!(id)));
    assert_eq!((&closed["duration_seconds"], closed.as_object().unwrap().len()), (&json!(90), 11));
    assert!(closed["checkout_at"].is_string());
    let out = "Cannot check out: no active session found. Check in first.";
    asha.post("/attendance/check-out", &json!({})).await.refused(400, "VALIDATION_ERROR", out);
    admin.post("/admin/force-checkout", &body).await.refused(404, "NOT_FOUND", &none);

    let client = app.database.superuser().await;
    let row = client
        .query_one("SELECT dirty_from IS NOT NULL, distance_recalculation_status FROM attendance_sessions", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, bool>(0), row.get::<_, &str>(1)), (true, "pending"));
    let events: Vec<String> = client
        .query(
            "SELECT event_type FROM webhook_events WHERE organization_id = $1 ORDER BY position",
            &[&organization.id],
        )
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(
        events,
        ["employee.created", "employee.checked_in", "session.checkin", "employee.checked_out", "session.checkout"]
    );
    let entry = client
        .query_one(
            "SELECT resource_type, resource_id, payload->>'employee_id' FROM admin_audit_log
             WHERE event = 'SESSION_FORCE_CLOSED'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        (entry.get::<_, &str>(0), entry.get::<_, String>(1), entry.get::<_, String>(2)),
        ("attendance_session", session, id)
    );
    for (body, error) in [
        (json!({ "employee_id": "x" }), "body/employee_id Invalid UUID"),
        (json!({}), "body/employee_id Invalid input: expected string, received undefined"),
        (json!({ "employee_id": null }), "body/employee_id Invalid input: expected string, received null"),
    ] {
        admin.post("/admin/force-checkout", &body).await.refused(400, "VALIDATION_ERROR", error);
    }
}

#[tokio::test]
async fn of_check_outs_that_are_forced_and_own_at_once_one_wins() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let forced = json!({ "employee_id": asha.employee_id() });
    asha.check_in().await;
    let own = json!({});
    let (own, forced) = tokio::join!(
        futures_util::future::join_all((0..3).map(|_| asha.post("/attendance/check-out", &own))),
        futures_util::future::join_all((0..3).map(|_| organization.admin.post("/admin/force-checkout", &forced))),
    );
    let mut statuses: Vec<u16> = own.iter().chain(&forced).map(|answer| answer.status.as_u16()).collect();
    assert!(own.iter().all(|answer| [200, 400].contains(&answer.status.as_u16())));
    assert!(forced.iter().all(|answer| [200, 404].contains(&answer.status.as_u16())));
    statuses.retain(|status| *status == 200);
    assert_eq!(statuses.len(), 1);
    let ended: i64 = app
        .database
        .superuser()
        .await
        .query_one("SELECT count(*) FROM webhook_events WHERE event_type = 'session.checkout'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(ended, 1);
}
