//! What an employee's profile and sheet add up to, and what a search finds.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::support::{Answer, Organization, Person, TestApp, point};

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

async fn hire(organization: &Organization<'_>, body: Value) -> Value {
    organization.admin.post("/admin/employees", &body).await.data(201)
}

#[tokio::test]
async fn nobody_else_has_a_sheet_here() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let foreign = app.organization().await.employee("Foreign").await.employee_id();
    for id in ["3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11", &foreign] {
        let answer = organization.admin.get(&format!("/admin/employees/{id}/profile")).await;
        answer.refused(404, "NOT_FOUND", "Employee not found");
    }
    invalid(&organization.admin.get("/admin/employees/x/profile").await, "params/employeeId Invalid UUID");
}

/// A deactivated employee has no profile once their standing is asked again (D4).
#[tokio::test]
async fn a_deactivated_employee_has_no_profile() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    asha.get("/profile/me").await.data(200);
    // By another replica.
    app.database.superuser().await.execute("UPDATE employees SET is_active = false", &[]).await.unwrap();
    app.clock.advance(TimeDelta::seconds(31));
    let profile = asha.get("/profile/me").await.json();
    assert_eq!(profile, json!({ "success": true, "data": null, "meta": { "hasProfile": false } }));
}

#[tokio::test]
async fn a_sheet_adds_up_what_its_rows_say() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let id = asha.employee_id();
    let path = format!("/admin/employees/{id}/profile");
    let empty = organization.admin.get(&path).await.data(200);
    let zero = json!({
        "totalSessions": 0, "totalDistanceKm": 0.0, "totalDurationSeconds": 0, "expensesSubmitted": 0,
        "expensesApproved": 0,
    });
    assert_eq!(empty["summary"], zero);
    assert_eq!((&empty["recentSessions"], &empty["expenses"]), (&json!([]), &json!([])));
    assert_eq!(empty["employee"].as_object().unwrap().len(), 13);
    assert_eq!(
        (&empty["employee"]["is_checked_in"], &empty["employee"]["employee_number"]),
        (&json!(false), &json!(1))
    );

    // Twelve sessions of 101.5 s each: whole seconds of each are added, as payroll reads them.
    for round in 0..12 {
        let session = asha.check_in().await;
        let mut far = point(&app, 2);
        far["latitude"] = json!(45.10001);
        let batch = json!({ "session_id": session, "points": [point(&app, 1), far] });
        asha.post("/locations/batch", &batch).await;
        app.clock.advance(TimeDelta::milliseconds(101_500));
        asha.check_out().await;
        // The others have not been measured yet: they lack kilometres, and no time.
        if round < 4 {
            asha.post(&format!("/attendance/{session}/recalculate"), &json!({})).await.data(200);
        }
    }
    for amount in [10, 12] {
        let claim = json!({ "amount": amount, "description": "Fuel for the van" });
        asha.post("/expenses", &claim).await.data(201);
        app.clock.advance(TimeDelta::seconds(1));
    }
    let newest = organization.admin.get("/admin/expenses").await.json()["data"][0]["id"].as_str().unwrap().to_owned();
    let approved = json!({ "status": "APPROVED" });
    organization.admin.patch(&format!("/admin/expenses/{newest}"), &approved).await.data(200);
    let sheet = again(&organization.admin).await.get(&path).await.data(200);
    assert_eq!((&sheet["summary"]["expensesSubmitted"], &sheet["summary"]["expensesApproved"]), (&json!(2), &json!(1)));
    assert_eq!((&sheet["expenses"][0]["amount"], &sheet["expenses"][1]["amount"]), (&json!(12), &json!(10)));
    assert_eq!(
        (&sheet["expenses"][0]["status"], sheet["expenses"][0].as_object().unwrap().len()),
        (&json!("APPROVED"), 6)
    );
    assert_eq!(sheet["summary"]["totalSessions"], 12);
    assert_eq!(sheet["summary"]["totalDurationSeconds"], 12 * 101);
    assert_eq!(sheet["summary"]["totalDistanceKm"], 44.48);
    let recent = sheet["recentSessions"].as_array().unwrap();
    assert_eq!((recent.len(), recent[0].as_object().unwrap().len()), (10, 7));
    let mut ordered = each(&sheet["recentSessions"], "checkin_at");
    ordered.sort_unstable();
    ordered.reverse();
    assert_eq!(each(&sheet["recentSessions"], "checkin_at"), ordered);
}

#[tokio::test]
async fn everybody_sees_their_own_profile() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let fresh = asha.get("/profile/me").await.data(200);
    assert_eq!(
        (&fresh["name"], &fresh["employee_code"], &fresh["phone"], &fresh["is_active"]),
        (&json!("Asha"), &json!("EMP0001"), &Value::Null, &json!(true))
    );
    assert_eq!((&fresh["activityStatus"], &fresh["last_activity_at"]), (&json!("INACTIVE"), &Value::Null));
    assert_eq!((fresh.as_object().unwrap().len(), fresh["stats"].as_object().unwrap().len()), (9, 5));
    asha.check_in().await;
    app.clock.advance(TimeDelta::seconds(90));
    asha.check_out().await;
    let mut profile = Value::Null;
    // A check-out is no activity; the check-in was, 90 s before.
    for (hours, status) in [(0, "ACTIVE"), (23, "ACTIVE"), (1, "RECENT"), (24 * 6 - 1, "RECENT"), (1, "INACTIVE")] {
        app.clock.advance(TimeDelta::hours(hours));
        profile = again(&asha).await.get("/profile/me").await.data(200);
        assert_eq!(profile["activityStatus"], status, "{hours} h later");
    }
    assert_eq!(
        (&profile["stats"]["totalSessions"], &profile["stats"]["totalDurationSeconds"]),
        (&json!(1), &json!(90))
    );
    let admin = again(&organization.admin).await.get("/profile/me").await.json();
    assert_eq!(admin, json!({ "success": true, "data": null, "meta": { "hasProfile": false } }));
}

#[tokio::test]
async fn a_search_takes_its_text_letter_for_letter() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    for (name, code) in [("Zoë Ant", "EMP0007"), ("Ant, (the second)", "X_7"), ("Bee 100%", "Y7"), ("Cat", "ANT-1")] {
        hire(&organization, json!({ "name": name, "employee_code": code })).await;
    }
    let foreign = app.organization().await;
    hire(&foreign, json!({ "name": "Ant of others" })).await;
    let search = async |query: &str| organization.admin.get(&format!("/admin/search?{query}")).await;
    for (q, names) in [
        ("ant", vec!["Ant, (the second)", "Cat", "Zoë Ant"]),
        ("emp0007", vec!["Zoë Ant"]),
        ("%25", vec!["Bee 100%"]),
        ("_", vec!["Ant, (the second)"]),
        ("Ant,%20(", vec!["Ant, (the second)"]),
        ("%5C", vec![]),
        ("Zo%C3%AB", vec!["Zoë Ant"]),
        ("7", vec!["Ant, (the second)", "Bee 100%", "Zoë Ant"]),
        ("x,or(name.ilike.*)", vec![]),
    ] {
        let hits = search(&format!("q={q}")).await.data(200);
        assert_eq!(each(&hits["employees"], "name"), names, "{q}");
    }
    let ben = organization.employee("Ben").await;
    for description in ["Fuel 50%", "fuel_for the van", "Lunch"] {
        ben.post("/expenses", &json!({ "amount": 5.5, "description": description })).await.data(201);
        app.clock.advance(TimeDelta::seconds(1));
    }
    for (q, descriptions) in [
        ("FUEL", vec!["fuel_for the van", "Fuel 50%"]),
        ("%25", vec!["Fuel 50%"]),
        ("l_f", vec!["fuel_for the van"]),
        ("ben", vec![]),
    ] {
        let hits = search(&format!("q={q}")).await.data(200);
        assert_eq!(each(&hits["expenses"], "description"), descriptions, "{q}");
    }
    let claim = search("q=lunch").await.data(200)["expenses"][0].clone();
    assert_eq!((&claim["amount"], &claim["status"]), (&json!(5.5), &json!("PENDING")));
    assert_eq!((&claim["employee_name"], claim.as_object().unwrap().len()), (&json!("Ben"), 5));
    let hits = search("q=ant&limit=2").await.data(200);
    assert_eq!(each(&hits["employees"], "name"), ["Ant, (the second)", "Cat"]);
    assert_eq!(hits["employees"][0].as_object().unwrap().len(), 4);
    for (query, error) in [
        ("", "querystring/q Invalid input: expected string, received undefined"),
        ("q=", "querystring/q Too small: expected string to have >=1 characters"),
        (&format!("q={}", "x".repeat(201)), "querystring/q Too big: expected string to have <=200 characters"),
        ("q=%00", "querystring/q must not contain characters that cannot be stored"),
        ("q=a&limit=51", "querystring/limit Too big: expected number to be <=50"),
        ("q=a&limit=0", "querystring/limit Too small: expected number to be >=1"),
    ] {
        invalid(&search(query).await, error);
    }
}
