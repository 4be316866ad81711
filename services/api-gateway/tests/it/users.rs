//! Who signs in, as what, and who no longer may.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Organization, PASSWORD, Person, TestApp};

const ANOTHER_PASSWORD: &str = "staple battery horse correct";

async fn add(organization: &Organization<'_>, email: &str, role: &str) -> Value {
    let body = json!({ "email": email, "password": PASSWORD, "role": role });
    organization.admin.post("/admin/users", &body).await.data(201)
}

async fn change(admin: &Person<'_>, user: &Value, body: Value) -> Answer {
    admin.patch(&format!("/admin/users/{}", user["id"].as_str().unwrap()), &body).await
}

async fn refresh(app: &TestApp, refresh_token: &str) -> Answer {
    let body = json!({ "refresh_token": refresh_token });
    app.send(app.request(Method::POST, "/auth/v1/token?grant_type=refresh_token").json(&body)).await
}

#[track_caller]
fn bad_token(answer: &Answer) {
    answer.refused(401, "UNAUTHORIZED", "Invalid or missing authentication token");
}

#[tokio::test]
async fn a_user_in_the_field_is_an_employee_and_an_administrator_is_none() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let user = add(&organization, "Asha.Rao@People.example", "EMPLOYEE").await;
    assert_eq!((&user["email"], &user["role"]), (&json!("asha.rao@people.example"), &json!("EMPLOYEE")));
    assert_eq!((&user["organization_id"], &user["banned_until"]), (&json!(organization.id), &Value::Null));
    assert_eq!(user.as_object().unwrap().len(), 9);
    let asha = app.sign_in("asha.rao@people.example").await;
    let employee = organization.admin.get("/admin/employees").await.json()["data"][0].clone();
    assert_eq!((&employee["name"], &employee["employee_code"]), (&json!("Asha Rao"), &json!("EMP0001")));
    assert_eq!((&user["employee_id"], &user["id"]), (&employee["id"], &employee["user_id"]));
    assert_eq!(asha.employee_id(), user["employee_id"]);
    asha.check_in().await;

    let boss = add(&organization, "boss@people.example", "ADMIN").await;
    assert_eq!((&boss["role"], &boss["employee_id"]), (&json!("ADMIN"), &Value::Null));
    let boss = app.sign_in("boss@people.example").await;
    assert_eq!(boss.get("/admin/employees").await.json()["pagination"]["total"], 1);
    let named = json!({ "email": "c@people.example", "password": PASSWORD, "role": "EMPLOYEE", "name": "Carla" });
    boss.post("/admin/users", &named).await.data(201);
    assert_eq!(boss.get("/admin/employees").await.json()["data"][1]["name"], "Carla");

    let users = boss.get("/admin/users").await.json();
    assert_eq!(users["pagination"], json!({ "page": 1, "limit": 50, "total": 4, "totalPages": 1 }));
    let emails: Vec<&str> =
        users["data"].as_array().unwrap().iter().map(|user| user["email"].as_str().unwrap()).collect();
    let mut sorted = emails.clone();
    sorted.sort_unstable();
    assert_eq!(emails, sorted);
    assert_eq!(boss.get("/admin/users?role=ADMIN").await.json()["pagination"]["total"], 2);
    let last = boss.get("/admin/users?limit=3&page=2").await.json();
    assert_eq!((last["data"].as_array().unwrap().len(), &last["pagination"]["totalPages"]), (1, &json!(2)));
    // Everybody has their own, and nothing that lets anybody in.
    assert_eq!(app.organization().await.admin.get("/admin/users").await.json()["pagination"]["total"], 1);
    for secret in ["argon2", "hash", "password"] {
        assert!(!users.to_string().contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_new_user_is_said() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    add(&organization, "asha@people.example", "EMPLOYEE").await;
    let roles = r#"Invalid option: expected one of "ADMIN"|"EMPLOYEE""#;
    for (body, error) in [
        (
            json!({ "email": "x", "password": "short", "role": "BOSS" }),
            format!(
                "body/email Invalid email address, body/password Too small: expected string to have >=10 characters, \
                 body/role {roles}"
            ),
        ),
        (json!({ "email": "a@b.example", "password": PASSWORD }), format!("body/role {roles}")),
        (json!({ "email": "a@b.example", "password": PASSWORD, "role": null }), format!("body/role {roles}")),
        (
            json!({ "email": "Asha@People.example", "password": PASSWORD, "role": "ADMIN" }),
            "email 'asha@people.example' is already registered".to_owned(),
        ),
    ] {
        organization.admin.post("/admin/users", &body).await.refused(400, "VALIDATION_ERROR", &error);
    }
    let user = add(&organization, "ben@people.example", "EMPLOYEE").await;
    for (body, error) in [
        (json!({}), "body/ At least one field must be provided".to_owned()),
        (json!({ "role": "BOSS" }), format!("body/role {roles}")),
        (json!({ "banned": 1 }), "body/banned Invalid input: expected boolean, received number".to_owned()),
        (json!({ "password": "short" }), "body/password Too small: expected string to have >=10 characters".to_owned()),
    ] {
        change(&organization.admin, &user, body).await.refused(400, "VALIDATION_ERROR", &error);
    }
    let admin = &organization.admin;
    admin.patch("/admin/users/x", &json!({ "banned": true })).await.refused(
        400,
        "VALIDATION_ERROR",
        "params/id Invalid UUID",
    );
    // Another organization's user is nobody here.
    let stranger = app.organization().await.admin;
    change(&stranger, &user, json!({ "banned": true })).await.refused(404, "NOT_FOUND", "User not found");
    app.sign_in("ben@people.example").await;
}

#[tokio::test]
async fn a_ban_ends_sign_ins_and_is_lifted() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let user = add(&organization, "boss@people.example", "ADMIN").await;
    let boss = app.sign_in("boss@people.example").await;
    boss.get("/admin/employees").await.data(200);
    let banned = change(&organization.admin, &user, json!({ "banned": true })).await.data(200);
    assert!(banned["banned_until"].is_string());
    // A token outlives a ban nowhere for long.
    bad_token(&boss.get("/admin/employees").await);
    assert_eq!(refresh(&app, &boss.refresh_token).await.status, 400);
    app.login(&boss.email, PASSWORD).await.refused(401, "INVALID_CREDENTIALS", "Invalid email or password");
    let back = change(&organization.admin, &user, json!({ "banned": false })).await.data(200);
    assert_eq!(back["banned_until"], Value::Null);
    app.sign_in(&boss.email).await.get("/admin/employees").await.data(200);
}

#[tokio::test]
async fn another_replica_notices_a_ban_within_half_a_minute() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    add(&organization, "boss@people.example", "ADMIN").await;
    let boss = app.sign_in("boss@people.example").await;
    boss.get("/admin/employees").await.data(200);
    let query = "UPDATE user_credentials SET banned_until = now() + interval '1 day' WHERE user_id =
                 (SELECT id FROM users WHERE email = 'boss@people.example')";
    app.database.superuser().await.execute(query, &[]).await.unwrap();
    boss.get("/admin/employees").await.data(200);
    app.clock.advance(TimeDelta::seconds(31));
    bad_token(&boss.get("/admin/employees").await);
    organization.admin.get("/admin/employees").await.data(200);
}

#[tokio::test]
async fn a_new_role_needs_a_new_token() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let user = add(&organization, "dora@people.example", "ADMIN").await;
    let dora = app.sign_in("dora@people.example").await;
    dora.get("/admin/employees").await.data(200);
    let changed = change(&organization.admin, &user, json!({ "role": "EMPLOYEE" })).await.data(200);
    assert_eq!(changed["role"], "EMPLOYEE");
    assert!(changed["employee_id"].is_string());
    bad_token(&dora.get("/admin/employees").await);
    // Renewing the token is enough: the next one is an employee's.
    let renewed = refresh(&app, &dora.refresh_token).await.json();
    let dora = Person { token: renewed["access_token"].as_str().unwrap().to_owned(), ..dora };
    dora.get("/admin/employees").await.refused(403, "FORBIDDEN", "This action requires ADMIN role");
    dora.check_in().await;
    // And back; the employee stays.
    let promoted = change(&organization.admin, &user, json!({ "role": "ADMIN" })).await.data(200);
    assert_eq!(promoted["employee_id"], changed["employee_id"]);
    bad_token(&dora.get("/attendance/my-sessions").await);
    let log = "SELECT event FROM admin_audit_log WHERE organization_id = $1 ORDER BY position";
    let rows = app.database.superuser().await.query(log, &[&organization.id]).await.unwrap();
    let events: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(events, ["USER_CREATED", "EMPLOYEE_CREATED", "USER_UPDATED", "USER_UPDATED"]);
}

#[tokio::test]
async fn a_new_password_signs_out_everywhere() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let user = add(&organization, "asha@people.example", "EMPLOYEE").await;
    let asha = app.sign_in("asha@people.example").await;
    change(&organization.admin, &user, json!({ "password": ANOTHER_PASSWORD })).await.data(200);
    assert_eq!(refresh(&app, &asha.refresh_token).await.status, 400);
    app.login(&asha.email, PASSWORD).await.refused(401, "INVALID_CREDENTIALS", "Invalid email or password");
    app.login(&asha.email, ANOTHER_PASSWORD).await.data(200);
}

#[tokio::test]
async fn an_organization_keeps_an_administrator() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let admin = &organization.admin;
    let me = admin.get("/auth/me").await.data(200);
    let needed = "An organization needs at least one administrator who can sign in";
    for body in [json!({ "banned": true }), json!({ "role": "EMPLOYEE" })] {
        change(admin, &me, body).await.refused(400, "VALIDATION_ERROR", needed);
    }
    // One who is banned is none.
    let other = add(&organization, "other@people.example", "ADMIN").await;
    change(admin, &other, json!({ "banned": true })).await.data(200);
    change(admin, &me, json!({ "role": "EMPLOYEE" })).await.refused(400, "VALIDATION_ERROR", needed);
    change(admin, &other, json!({ "banned": false })).await.data(200);
    // Two who push each other out at once: one stays.
    let second = app.sign_in("other@people.example").await;
    let (one, two) = tokio::join!(
        change(admin, &other, json!({ "banned": true })),
        change(&second, &me, json!({ "banned": true })),
    );
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses[0], 200, "{} {}", one.text, two.text);
    assert!([400, 401].contains(&statuses[1]), "{} {}", one.text, two.text);
}
