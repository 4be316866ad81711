//! Hiring people.

use serde_json::{Value, json};

use crate::support::{PASSWORD, TestApp};

#[tokio::test]
async fn an_employee_gets_the_next_free_code() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let hire = async |body: Value| organization.admin.post("/admin/employees", &body).await.data(201);
    let first = hire(json!({ "name": "Ana", "phone": "+385 1 234" })).await;
    assert_eq!(
        (&first["employee_code"], &first["phone"], &first["is_active"]),
        (&json!("EMP0001"), &json!("+385 1 234"), &json!(true))
    );
    assert_eq!((&first["user_id"], &first["organization_id"]), (&Value::Null, &json!(organization.id)));
    assert_eq!(first.as_object().unwrap().len(), 9);
    assert_eq!(hire(json!({ "name": "Ben", "employee_code": "EMP0002" })).await["employee_code"], "EMP0002");
    assert_eq!(hire(json!({ "name": "Carla" })).await["employee_code"], "EMP0003");
    let taken = "employee_code 'EMP0002' is already in use within this organization";
    let again = json!({ "name": "Dora", "employee_code": "EMP0002" });
    organization.admin.post("/admin/employees", &again).await.refused(400, "VALIDATION_ERROR", taken);
    // Codes are unique in an organization, not in the world (D50).
    let other = app.organization().await;
    assert_eq!(other.admin.post("/admin/employees", &again).await.data(201)["employee_code"], "EMP0002");
}

#[tokio::test]
async fn administrators_who_hire_at_once_get_different_codes() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let body = json!({ "name": "Ana" });
    let hired =
        futures_util::future::join_all((0..8).map(|_| organization.admin.post("/admin/employees", &body))).await;
    let mut codes: Vec<String> =
        hired.iter().map(|answer| answer.data(201)["employee_code"].as_str().unwrap().to_owned()).collect();
    codes.sort();
    assert_eq!(codes, (1..=8).map(|number| format!("EMP{number:04}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_employee_with_an_address_and_a_password_can_sign_in() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let body = json!({ "name": "Ana", "email": "Ana@People.example", "password": PASSWORD });
    let hired = organization.admin.post("/admin/employees", &body).await.data(201);
    assert!(hired["user_id"].is_string());
    let ana = app.sign_in("ana@people.example").await;
    let me = ana.get("/auth/me").await.data(200);
    assert_eq!(
        me,
        json!({ "id": hired["user_id"], "email": "ana@people.example", "role": "EMPLOYEE", "orgId": organization.id })
    );
    ana.check_in().await;
    let again = json!({ "name": "Another Ana", "email": "ana@people.example", "password": PASSWORD });
    organization.admin.post("/admin/employees", &again).await.refused(
        400,
        "VALIDATION_ERROR",
        "email 'ana@people.example' is already registered",
    );
    // Neither half of the pair is left behind.
    let count = app.database.superuser().await;
    let employees: i64 = count.query_one("SELECT count(*) FROM employees", &[]).await.unwrap().get(0);
    assert_eq!(employees, 1);
}

#[tokio::test]
async fn a_user_is_at_most_one_employee_and_of_the_same_organization() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let me = organization.admin.get("/auth/me").await.data(200);
    let user = me["id"].as_str().unwrap();
    let body = json!({ "name": "The boss", "user_id": user });
    organization.admin.post("/admin/employees", &body).await.data(201);
    let linked = format!("user_id '{user}' is already linked to another employee");
    organization.admin.post("/admin/employees", &body).await.refused(400, "VALIDATION_ERROR", &linked);
    let unknown = format!("user_id '{user}' does not correspond to any registered user");
    app.organization().await.admin.post("/admin/employees", &body).await.refused(400, "VALIDATION_ERROR", &unknown);
}

#[tokio::test]
async fn what_is_wrong_with_a_new_employee_is_said() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    for (body, error) in [
        (json!({}), "body/name Invalid input: expected string, received undefined"),
        (json!({ "name": "" }), "body/name name is required"),
        (json!({ "name": null }), "body/name Invalid input: expected string, received null"),
        (
            json!({ "name": "A", "employee_code": "" }),
            "body/employee_code Too small: expected string to have >=1 characters",
        ),
        (json!({ "name": "A", "user_id": "x" }), "body/user_id user_id must be a valid UUID"),
        (json!({ "name": "A", "phone": 7 }), "body/phone Invalid input: expected string, received number"),
        (json!({ "name": "A", "email": "x", "password": PASSWORD }), "body/email Invalid email address"),
        (
            json!({ "name": "A", "email": "a@b.example", "password": "short" }),
            "body/password Too small: expected string to have >=10 characters",
        ),
        (json!({ "name": "A", "email": "a@b.example" }), "body/ email and password must be given together"),
    ] {
        admin.post("/admin/employees", &body).await.refused(400, "VALIDATION_ERROR", error);
    }
}
