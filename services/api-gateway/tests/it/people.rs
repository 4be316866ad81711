//! Employees after they were hired: listed, changed, found, deactivated.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Organization, PASSWORD, Person, TestApp, point};

const UNKNOWN: &str = "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11";

async fn hire(organization: &Organization<'_>, body: Value) -> Value {
    organization.admin.post("/admin/employees", &body).await.data(201)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap()
}

fn each<'a>(rows: &'a Value, field: &str) -> Vec<&'a str> {
    rows.as_array().unwrap().iter().map(|row| text(row, field)).collect()
}

#[track_caller]
fn invalid(answer: &Answer, error: &str) {
    answer.refused(400, "VALIDATION_ERROR", error);
}

/// Signs in anew: a token lives an hour, and these tests move days.
async fn again<'a>(person: &Person<'a>) -> Person<'a> {
    person.app.sign_in(&person.email).await
}

async fn set_active(admin: &Person<'_>, employee: &str, active: bool) -> Answer {
    admin.patch(&format!("/admin/employees/{employee}/status"), &json!({ "is_active": active })).await
}

async fn refresh(app: &TestApp, refresh_token: &str) -> Answer {
    let body = json!({ "refresh_token": refresh_token });
    app.send(app.request(Method::POST, "/auth/v1/token?grant_type=refresh_token").json(&body)).await
}

/// What the audit log says happened to a resource, oldest first.
async fn audited(app: &TestApp, resource: &str) -> Vec<String> {
    let query = "SELECT event FROM admin_audit_log WHERE resource_id = $1 ORDER BY position";
    let client = app.database.superuser().await;
    client.query(query, &[&resource]).await.unwrap().into_iter().map(|row| row.get(0)).collect()
}

/// The names of the events of an organization, in the order in which they are told.
async fn told(app: &TestApp, organization: &Organization<'_>) -> Vec<String> {
    let query = "SELECT event_type FROM webhook_events WHERE organization_id = $1 ORDER BY position";
    let client = app.database.superuser().await;
    client.query(query, &[&organization.id]).await.unwrap().into_iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn an_employee_is_read_and_changed() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let admin = &organization.admin;
    let hired = hire(&organization, json!({ "name": "Ana", "phone": "1" })).await;
    let path = format!("/admin/employees/{}", text(&hired, "id"));
    assert_eq!(admin.get(&path).await.data(200), hired);

    app.clock.advance(TimeDelta::minutes(1));
    let renamed = admin.patch(&path, &json!({ "name": "Ana Marić", "unknown": 1 })).await.data(200);
    assert_eq!((&renamed["name"], &renamed["phone"]), (&json!("Ana Marić"), &json!("1")));
    assert_ne!(renamed["updated_at"], hired["updated_at"]);
    assert_eq!(admin.patch(&path, &json!({ "phone": null })).await.data(200)["phone"], Value::Null);
    // Nothing to change only moves the time of change, and no body at all is nothing to change (D34).
    app.clock.advance(TimeDelta::minutes(1));
    let mut expected = admin.get(&path).await.data(200);
    let touched = admin.patch(&path, &json!({})).await.data(200);
    assert_ne!(touched["updated_at"], expected["updated_at"]);
    expected["updated_at"] = touched["updated_at"].clone();
    assert_eq!(touched, expected);
    let empty = admin.request(Method::PATCH, &path).header("content-type", "application/json");
    app.send(empty).await.data(200);
    assert_eq!(admin.get(&path).await.data(200)["name"], "Ana Marić");

    for (body, error) in [
        (json!({ "name": "" }), "body/name Too small: expected string to have >=1 characters"),
        (json!({ "name": null }), "body/name Invalid input: expected string, received null"),
        (json!({ "phone": 5 }), "body/phone Invalid input: expected string, received number"),
        (json!({ "name": "a\u{0}b" }), "body/name must not contain characters that cannot be stored"),
        (json!([]), "body/ Invalid input: expected object, received array"),
    ] {
        invalid(&admin.patch(&path, &body).await, error);
    }
    let changes = ["EMPLOYEE_CREATED", "EMPLOYEE_UPDATED", "EMPLOYEE_UPDATED", "EMPLOYEE_UPDATED", "EMPLOYEE_UPDATED"];
    assert_eq!(audited(&app, text(&hired, "id")).await, changes);
    assert_eq!(told(&app, &organization).await, ["employee.created"]);
}

#[tokio::test]
async fn whoever_is_not_in_the_organization_is_not_found() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let foreign = hire(&app.organization().await, json!({ "name": "Foreign" })).await;
    let admin = &organization.admin;
    for id in [UNKNOWN, text(&foreign, "id")] {
        let path = format!("/admin/employees/{id}");
        let answers = [
            admin.get(&path).await,
            admin.patch(&path, &json!({ "name": "Mine" })).await,
            set_active(admin, id, false).await,
        ];
        for answer in answers {
            answer.refused(404, "NOT_FOUND", "Employee not found");
        }
    }
    let long = "9".repeat(400);
    for id in ["x", "3f9f0c52-1f5e-4a55-7f0e-5d1b6f0a7c11", &long] {
        let path = format!("/admin/employees/{id}");
        invalid(&admin.get(&path).await, "params/id Invalid UUID");
        invalid(&admin.patch(&path, &json!({ "name": "" })).await, "params/id Invalid UUID");
        invalid(&set_active(admin, id, true).await, "params/id Invalid UUID");
    }
    let names: i64 = app
        .database
        .superuser()
        .await
        .query_one("SELECT count(*) FROM employees WHERE name = 'Foreign' AND is_active", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(names, 1);
}

#[tokio::test]
async fn employees_are_listed_in_natural_order_page_by_page() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    for code in ["north", "EMP0010", "EMP0002", "A-9007199254740993", "B2", "EMP0100"] {
        hire(&organization, json!({ "name": code, "employee_code": code })).await;
    }
    app.organization().await.employee("Foreign").await;
    let admin = &organization.admin;
    let all = admin.get("/admin/employees").await.json();
    // By number, then by code; a number too large to travel is none (D54).
    let order = ["B2", "EMP0002", "EMP0010", "EMP0100", "A-9007199254740993", "north"];
    assert_eq!(each(&all["data"], "employee_code"), order);
    assert_eq!(all["pagination"], json!({ "page": 1, "limit": 50, "total": 6, "totalPages": 1 }));
    assert_eq!((&all["data"][0]["employee_number"], &all["data"][4]["employee_number"]), (&json!(2), &Value::Null));
    let never = json!({
        "is_checked_in": false, "last_check_in_at": null, "last_check_out_at": null, "last_latitude": null,
        "last_longitude": null, "last_location_at": null, "last_activity_at": null, "activity_status": "INACTIVE",
    });
    for (field, value) in never.as_object().unwrap() {
        assert_eq!(&all["data"][0][field], value, "{field}");
    }
    assert_eq!(all["data"][0].as_object().unwrap().len(), 18);

    let mut seen = Vec::new();
    for page in 1..=3 {
        let list = admin.get(&format!("/admin/employees?limit=2&page={page}")).await.json();
        assert_eq!(list["pagination"], json!({ "page": page, "limit": 2, "total": 6, "totalPages": 3 }));
        seen.extend(each(&list["data"], "employee_code").into_iter().map(str::to_owned));
    }
    assert_eq!(seen, order);
    // Past the end there is nothing, and the totals are true (D42).
    for (query, page) in [("limit=4&page=3", 3_i64), ("limit=4&page=9007199254740991", 9_007_199_254_740_991)] {
        let list = admin.get(&format!("/admin/employees?{query}")).await.json();
        assert_eq!(list["data"], json!([]));
        assert_eq!(list["pagination"], json!({ "page": page, "limit": 4, "total": 6, "totalPages": 2 }));
    }
}

#[tokio::test]
async fn where_somebody_stands_follows_from_their_sessions_without_any_job() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let row = async || {
        let admin = again(&organization.admin).await;
        admin.get("/admin/employees").await.json()["data"][0].clone()
    };
    let place = json!({ "latitude": 45.5, "longitude": 13.5 });
    let opened = asha.post("/attendance/check-in", &place).await.data(201);
    let working = row().await;
    assert_eq!((&working["is_checked_in"], &working["activity_status"]), (&json!(true), &json!("ACTIVE")));
    assert_eq!(working["last_check_in_at"], opened["checkin_at"]);
    assert_eq!(working["last_check_out_at"], Value::Null);
    assert_eq!((&working["last_latitude"], &working["last_longitude"]), (&json!(45.5), &json!(13.5)));
    assert_eq!(working["last_location_at"], opened["checkin_at"]);
    assert!(working["last_activity_at"].is_string());

    let batch = json!({ "session_id": opened["id"], "points": [point(&app, 9), point(&app, 5)] });
    asha.post("/locations/batch", &batch).await;
    app.clock.advance(TimeDelta::minutes(30));
    let first_end = asha.check_out().await["checkout_at"].clone();
    let lately = row().await;
    assert_eq!((&lately["is_checked_in"], &lately["activity_status"]), (&json!(false), &json!("RECENT")));
    // The last point is the one recorded last, not the one sent last.
    assert_eq!((&lately["last_latitude"], &lately["last_check_out_at"]), (&json!(45.00009), &first_end));

    // A session without a position leaves the last one known; its measurement changes nothing.
    app.clock.advance(TimeDelta::minutes(1));
    let asha = again(&asha).await;
    asha.post(&format!("/attendance/{}/recalculate", text(&opened, "id")), &json!({})).await.data(200);
    let second = asha.post("/attendance/check-in", &json!({})).await.data(201);
    let back = row().await;
    assert_eq!((&back["activity_status"], &back["last_check_in_at"]), (&json!("ACTIVE"), &second["checkin_at"]));
    assert_eq!((&back["last_latitude"], &back["last_check_out_at"]), (&json!(45.00009), &first_end));

    let second_end = asha.check_out().await["checkout_at"].clone();
    app.clock.advance(TimeDelta::hours(24) - TimeDelta::microseconds(1));
    assert_eq!(row().await["activity_status"], "RECENT");
    app.clock.advance(TimeDelta::microseconds(1));
    let gone = row().await;
    assert_eq!((&gone["activity_status"], &gone["last_check_out_at"]), (&json!("INACTIVE"), &second_end));
}

#[tokio::test]
async fn employees_are_filtered_before_they_are_paged() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let people = [
        organization.employee("Old").await,
        organization.employee("Late").await,
        organization.employee("Early").await,
        organization.employee("First").await,
        organization.employee("Second").await,
    ];
    let [old, late, early, first, second] = &people;
    old.check_in().await;
    old.check_out().await;
    app.clock.advance(TimeDelta::hours(25));
    for person in [early, late] {
        let person = again(person).await;
        person.check_in().await;
        app.clock.advance(TimeDelta::minutes(1));
        person.check_out().await;
    }
    for person in [first, second] {
        again(person).await.check_in().await;
        app.clock.advance(TimeDelta::minutes(1));
    }
    let admin = again(&organization.admin).await;
    for name in ["Never", "100%_done", r"back\slash"] {
        admin.post("/admin/employees", &json!({ "name": name })).await.data(201);
    }
    let list = async |query: &str| admin.get(&format!("/admin/employees?{query}")).await.json();
    for (query, names) in [
        // Newest check-in first.
        ("segment=active", vec!["Second", "First"]),
        ("segment=recent", vec!["Late", "Early"]),
        ("segment=inactive", vec!["Old", "Never", "100%_done", r"back\slash"]),
        ("search=e", vec!["Late", "Early", "Second", "Never", "100%_done"]),
        ("search=EAR", vec!["Early"]),
        ("search=", vec!["Old", "Late", "Early", "First", "Second", "Never", "100%_done", r"back\slash"]),
        // Letter for letter (D15).
        ("search=%25", vec!["100%_done"]),
        ("search=_", vec!["100%_done"]),
        ("search=k%5C", vec![r"back\slash"]),
        ("search=a,name.eq.Old", vec![]),
        ("search=%27)%20OR%20(1=1", vec![]),
        ("search=e&segment=active", vec!["Second"]),
        ("search=e&segment=inactive", vec!["Never", "100%_done"]),
        ("active=false", vec![]),
    ] {
        let found = list(query).await;
        assert_eq!(each(&found["data"], "name"), names, "{query}");
        assert_eq!(found["pagination"]["total"], names.len(), "{query}");
    }
    // The second page of a segment, and one past its end, count the segment.
    let second_page = list("segment=inactive&limit=3&page=2").await;
    assert_eq!(second_page["pagination"], json!({ "page": 2, "limit": 3, "total": 4, "totalPages": 2 }));
    assert_eq!(each(&second_page["data"], "name"), [r"back\slash"]);
    let past = list("segment=active&limit=3&page=2").await;
    assert_eq!((&past["data"], &past["pagination"]["total"]), (&json!([]), &json!(2)));

    let id = again(first).await.employee_id();
    set_active(&admin, &id, false).await.data(200);
    assert_eq!(each(&list("active=false").await["data"], "name"), ["First"]);
    assert_eq!(list("active=true").await["pagination"]["total"], 7);
    assert_eq!(each(&list("active=true&segment=active").await["data"], "name"), ["Second"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_list_of_employees_is_said() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    for (query, error) in [
        ("page=0", "querystring/page Too small: expected number to be >=1"),
        ("limit=201", "querystring/limit Too big: expected number to be <=200"),
        ("limit=x", "querystring/limit Invalid input: expected number, received NaN"),
        ("page=1.5", "querystring/page Invalid input: expected int, received number"),
        ("active=yes", r#"querystring/active Invalid option: expected one of "true"|"false""#),
        ("segment=all", r#"querystring/segment Invalid option: expected one of "active"|"recent"|"inactive""#),
        ("search=a&search=b", "querystring/search Invalid input: expected string, received array"),
        ("search=a%00", "querystring/search must not contain characters that cannot be stored"),
    ] {
        invalid(&admin.get(&format!("/admin/employees?{query}")).await, error);
    }
    // However long, a filter that nobody matches is no failure (D53).
    let long = "x".repeat(8000);
    let none = admin.get(&format!("/admin/employees?search={long}")).await.json();
    assert_eq!((&none["success"], &none["pagination"]["total"]), (&json!(true), &json!(0)));
    assert_eq!(admin.get("/admin/employees?limit=200").await.json()["pagination"]["limit"], 200);
}

/// A list that cannot be made is no empty list (D49).
#[tokio::test]
async fn a_list_that_cannot_be_made_is_a_failure() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    organization.employee("Asha").await;
    let admin = &organization.admin;
    let client = app.database.superuser().await;
    let queries =
        ["", "active=true", "search=a", "segment=active", "segment=recent", "segment=inactive&search=x&page=9"];
    for (wrong, right) in [
        (
            "REVOKE SELECT ON app.employee_states FROM fieldtrack_app",
            "GRANT SELECT ON app.employee_states TO fieldtrack_app",
        ),
        ("ALTER VIEW app.employee_states RENAME TO mislaid", "ALTER VIEW app.mislaid RENAME TO employee_states"),
    ] {
        client.batch_execute(wrong).await.unwrap();
        for query in queries {
            let failed = admin.get(&format!("/admin/employees?{query}")).await;
            failed.refused(500, "INTERNAL_ERROR", "Internal server error");
        }
        client.batch_execute(right).await.unwrap();
        assert_eq!(admin.get("/admin/employees").await.json()["pagination"]["total"], 1);
    }
}

#[tokio::test]
async fn deactivation_ends_work_and_sign_in_before_it_answers() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let admin = &organization.admin;
    let asha = organization.employee("Asha").await;
    let id = asha.employee_id();
    let session = asha.check_in().await;
    asha.post("/locations/batch", &json!({ "session_id": session, "points": [point(&app, 1)] })).await;
    app.clock.advance(TimeDelta::minutes(10));

    let row = set_active(admin, &id, false).await.data(200);
    assert_eq!((&row["is_active"], &row["id"]), (&json!(false), &json!(id)));
    assert_eq!(row.as_object().unwrap().len(), 9);

    let list = admin.get(&format!("/admin/sessions?employee_id={id}")).await.json();
    assert_eq!((&list["data"][0]["id"], &list["data"][0]["activityStatus"]), (&json!(session), &json!("RECENT")));
    assert_eq!(list["data"][0]["checkout_at"], row["updated_at"]);
    let marked: bool = app
        .database
        .superuser()
        .await
        .query_one("SELECT dirty_from IS NOT NULL FROM attendance_sessions WHERE id::text = $1", &[&session])
        .await
        .unwrap()
        .get(0);
    assert!(marked, "nobody would measure the session");
    assert_eq!(told(&app, &organization).await[3..], ["employee.checked_out", "session.checkout"]);

    // The phone: its token is believed here no longer, its refresh token is worth nothing, its owner cannot come back.
    asha.check_in_refused().await;
    let renewed = refresh(&app, &asha.refresh_token).await;
    assert_eq!((renewed.status.as_u16(), &renewed.json()["code"]), (400, &json!("refresh_token_not_found")));
    app.login(&asha.email, PASSWORD).await.refused(401, "INVALID_CREDENTIALS", "Invalid email or password");
    let banned: chrono::DateTime<chrono::Utc> = app
        .database
        .superuser()
        .await
        .query_one("SELECT banned_until FROM user_credentials JOIN employees USING (organization_id, user_id)", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(banned, app.now() + TimeDelta::hours(876_000));

    // Doing it again is harmless, and activation undoes it.
    set_active(admin, &id, false).await.data(200);
    assert_eq!(set_active(admin, &id, true).await.data(200)["is_active"], true);
    let asha = again(&asha).await;
    asha.check_in().await;
    assert_eq!(refresh(&app, &asha.refresh_token).await.status, 200);
    assert_eq!(audited(&app, &id).await, ["EMPLOYEE_CREATED", "EMPLOYEE_STATUS_CHANGED", "EMPLOYEE_STATUS_CHANGED"]);
    for (body, error) in [
        (json!({ "is_active": "true" }), "body/is_active Invalid input: expected boolean, received string"),
        (json!({}), "body/is_active Invalid input: expected boolean, received undefined"),
        (json!(null), "body/ Invalid input: expected object, received null"),
    ] {
        invalid(&admin.patch(&format!("/admin/employees/{id}/status"), &body).await, error);
    }
}

impl Person<'_> {
    /// Their token is not believed any more where the deactivation happened.
    async fn check_in_refused(&self) {
        let answer = self.post("/attendance/check-in", &json!({})).await;
        answer.refused(401, "UNAUTHORIZED", "Invalid or missing authentication token");
    }
}

#[tokio::test]
async fn another_replica_believes_a_deactivated_employee_for_half_a_minute_at_most_and_opens_no_session() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let id = asha.employee_id();
    // Another replica deactivates: nothing here is forgotten.
    let client = app.database.superuser().await;
    client.execute("UPDATE employees SET is_active = false WHERE id::text = $1", &[&id]).await.unwrap();
    assert_eq!(asha.get("/attendance/my-sessions").await.status, 200);
    let none = "Employee context required. This endpoint is for employees only.";
    asha.post("/attendance/check-in", &json!({})).await.refused(403, "FORBIDDEN", none);
    app.clock.advance(TimeDelta::seconds(31));
    let sessions: i64 = client.query_one("SELECT count(*) FROM attendance_sessions", &[]).await.unwrap().get(0);
    assert_eq!(sessions, 0);
}

#[tokio::test]
async fn a_deactivation_and_a_check_in_at_once_leave_no_open_session_behind() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let id = asha.employee_id();
    for round in 0..12 {
        let asha = again(&asha).await;
        let body = json!({});
        let in_or_out = if round % 3 == 1 { "/attendance/check-out" } else { "/attendance/check-in" };
        // Checked in already, a check-in waits for whoever closes the session: not for each other.
        if round % 3 > 0 {
            asha.check_in().await;
        }
        let (walked, refused) = tokio::join!(asha.post(in_or_out, &body), set_active(&organization.admin, &id, false));
        assert!(walked.status.as_u16() < 500, "{}", walked.text);
        refused.data(200);
        let open = organization.admin.get("/admin/sessions?status=active").await.json();
        assert_eq!(open["pagination"]["total"], 0, "round {round}: {in_or_out} answered {}", walked.status);
        set_active(&organization.admin, &id, true).await.data(200);
    }
}

#[tokio::test]
async fn deactivation_closes_the_session_of_somebody_without_an_account_too() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let ana = hire(&organization, json!({ "name": "Ana" })).await;
    app.database
        .superuser()
        .await
        .execute(
            "INSERT INTO attendance_sessions (organization_id, id, employee_id, checkin_at)
             SELECT organization_id, gen_random_uuid(), id, now() - interval '1 hour' FROM employees",
            &[],
        )
        .await
        .unwrap();
    set_active(&organization.admin, text(&ana, "id"), false).await.data(200);
    let sessions = organization.admin.get("/admin/sessions").await.json();
    assert_eq!(
        (&sessions["data"][0]["activityStatus"], &sessions["pagination"]["total"]),
        (&json!("RECENT"), &json!(1))
    );
}

#[tokio::test]
async fn the_only_administrator_cannot_be_locked_out_by_way_of_their_employee() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let admin = &organization.admin;
    let me = admin.get("/auth/me").await.data(200);
    let boss = hire(&organization, json!({ "name": "The boss", "user_id": me["id"] })).await;
    invalid(
        &set_active(admin, text(&boss, "id"), false).await,
        "An organization needs at least one administrator who can sign in",
    );
    assert_eq!(admin.get(&format!("/admin/employees/{}", text(&boss, "id"))).await.data(200)["is_active"], true);
    again(admin).await;
}
