//! Claiming money, and having the claim reviewed.

use chrono::TimeDelta;
use domain::UserId;
use domain::auth::Role;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, Organization, PASSWORD, Person, TestApp};

/// A gateway whose budgets are no hindrance.
async fn roomy() -> TestApp {
    TestApp::start_with(&[("RATE_LIMIT_MULTIPLIER", "1000")]).await
}

/// Claims; answers the id.
async fn claim(person: &Person<'_>, amount: f64, description: &str) -> String {
    let body = json!({ "amount": amount, "description": description });
    person.post("/expenses", &body).await.data(201)["id"].as_str().unwrap().to_owned()
}

async fn approve(admin: &Person<'_>, id: &str) -> Answer {
    admin.patch(&format!("/admin/expenses/{id}"), &json!({ "status": "APPROVED" })).await
}

async fn reject(admin: &Person<'_>, id: &str, comment: &str) -> Answer {
    let body = json!({ "status": "REJECTED", "rejection_comment": comment });
    admin.patch(&format!("/admin/expenses/{id}"), &body).await
}

/// Another administrator of the organization.
async fn second_admin<'a>(organization: &Organization<'a>) -> Person<'a> {
    let app = organization.app;
    let email = format!("second.{}@people.example", Uuid::now_v7().simple());
    let password_hash =
        api_gateway::identity::passwords::Passwords::new().hash(PASSWORD.to_owned().into()).await.unwrap();
    let mut tx = app.database.open().tenant(testkit::database::tenant(organization.id)).await.unwrap();
    let new = db::identity::NewUser {
        id: UserId::generate(),
        email: &email,
        role: Role::Admin,
        password_hash: &password_hash,
    };
    db::identity::create_user(&mut tx, &new).await.unwrap();
    tx.commit().await.unwrap();
    app.sign_in(&email).await
}

fn ids(list: &Value) -> Vec<String> {
    list["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// Types and payloads of the events there are, oldest first.
async fn events(app: &TestApp) -> Vec<(String, Value)> {
    let client = app.database.superuser().await;
    let query = "SELECT event_type, (payload -> 'data')::text FROM webhook_events
                 WHERE event_type LIKE 'expense.%' ORDER BY position";
    let rows = client.query(query, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), serde_json::from_str(row.get::<_, &str>(1)).unwrap())).collect()
}

/// The totals that are kept and those that are counted anew, where they differ.
async fn wrong_totals(app: &TestApp) -> i64 {
    let client = app.database.superuser().await;
    let recount = "SELECT organization_id, employee_id,
            count(*) FILTER (WHERE status = 'PENDING'), coalesce(sum(amount) FILTER (WHERE status = 'PENDING'), 0),
            count(*) FILTER (WHERE status = 'APPROVED'), coalesce(sum(amount) FILTER (WHERE status = 'APPROVED'), 0),
            count(*) FILTER (WHERE status = 'REJECTED'), coalesce(sum(amount) FILTER (WHERE status = 'REJECTED'), 0),
            max(submitted_at) FROM expenses GROUP BY organization_id, employee_id";
    let query = format!(
        "SELECT count(*) FROM ((TABLE employee_expense_totals EXCEPT {recount})
         UNION ALL ({recount} EXCEPT TABLE employee_expense_totals)) AS wrong"
    );
    client.query_one(&query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_claim_is_stored_and_answered_whole() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    app.clock.advance(TimeDelta::minutes(5));
    let body = json!({ "amount": 250.50, "description": "Fuel", "receipt_url": "https://files.example/1.jpg", "x": 1 });
    let answer = asha.post("/expenses", &body).await;
    let stored = answer.data(201);
    let keys: Vec<&str> = stored.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "amount",
        "created_at",
        "description",
        "employee_id",
        "id",
        "organization_id",
        "receipt_url",
        "rejection_comment",
        "reviewed_at",
        "reviewed_by",
        "status",
        "submitted_at",
        "updated_at",
    ];
    let mut keys = keys;
    keys.sort_unstable();
    assert_eq!(keys, expected);
    assert!(answer.text.contains(r#""amount":250.5,"#), "{}", answer.text);
    assert_eq!((&stored["description"], &stored["status"]), (&json!("Fuel"), &json!("PENDING")));
    assert_eq!(stored["receipt_url"], "https://files.example/1.jpg");
    assert_eq!(stored["organization_id"], organization.id.to_string());
    for absent in ["reviewed_at", "reviewed_by", "rejection_comment"] {
        assert_eq!(stored[absent], Value::Null, "{absent}");
    }
    assert!(stored["submitted_at"].as_str().unwrap().ends_with("+00:00"));
    assert_eq!((&stored["created_at"], &stored["updated_at"]), (&stored["submitted_at"], &stored["submitted_at"]));

    let [(kind, data)] = &events(&app).await[..] else { panic!("one event") };
    assert_eq!(kind, "expense.created");
    assert_eq!(
        *data,
        json!({
            "expense_id": stored["id"],
            "employee_id": stored["employee_id"],
            "amount": 250.5,
            "description": "Fuel",
            "submitted_at": stored["submitted_at"],
        })
    );
    let client = app.database.superuser().await;
    let active: chrono::DateTime<chrono::Utc> =
        client.query_one("SELECT last_activity_at FROM employees", &[]).await.unwrap().get(0);
    assert_eq!(active, app.now());
}

#[tokio::test]
async fn an_amount_comes_back_with_every_digit() {
    let app = roomy().await;
    let asha = app.organization().await.employee("Asha").await;
    for (sent, digits) in [
        ("0.1", "0.1"),
        ("100", "100"),
        ("12.30", "12.3"),
        ("1e3", "1000"),
        ("0.005", "0.005"),
        ("1e-7", "0.0000001"),
        ("99999999999999.99", "99999999999999.99"),
        ("9007199254740993", "9007199254740993"),
        ("12345678901234567890.123456789", "12345678901234567890.123456789"),
        ("5e-324", &format!("0.{}5", "0".repeat(323))),
        ("1e308", &format!("1{}", "0".repeat(308))),
    ] {
        let answer = asha.post_raw("/expenses", format!(r#"{{"amount":{sent},"description":"Fuel"}}"#)).await;
        assert_eq!(answer.status, 201, "{sent}: {}", answer.text);
        assert!(answer.text.contains(&format!(r#""amount":{digits},"#)), "{sent}: {}", answer.text);
        app.clock.advance(TimeDelta::seconds(1));
        let read = asha.get("/expenses/my?limit=1").await;
        assert!(read.text.contains(&format!(r#""amount":{digits},"#)), "{sent}: {}", read.text);
    }
    assert_eq!(wrong_totals(&app).await, 0);
}

#[tokio::test]
async fn a_bad_claim_is_refused_for_everything_that_is_wrong_with_it() {
    let app = roomy().await;
    let asha = app.organization().await.employee("Asha").await;
    let long = |length: usize| "x".repeat(length);
    let good = |field: &str, value: Value| {
        let mut body = json!({ "amount": 1, "description": "Fuel" });
        body[field] = value;
        body
    };
    let url = "body/receipt_url receipt_url must be a valid URL, body/receipt_url receipt_url must use HTTPS";
    let https = "body/receipt_url receipt_url must use HTTPS";
    for (body, error) in [
        (
            json!({ "amount": 0, "description": "ab" }),
            "body/amount amount must be greater than 0, body/description description must be at least 3 characters",
        ),
        (
            json!({ "amount": "5", "description": long(501) }),
            "body/amount amount must be a number, body/description description must not exceed 500 characters",
        ),
        (
            json!({}),
            "body/amount amount must be a number, body/description Invalid input: expected string, received undefined",
        ),
        (good("amount", json!(-5)), "body/amount amount must be greater than 0"),
        (good("amount", Value::Null), "body/amount amount must be a number"),
        (good("amount", json!([1])), "body/amount amount must be a number"),
        (good("amount", json!({})), "body/amount amount must be a number"),
        (good("amount", json!(true)), "body/amount amount must be a number"),
        (good("description", json!(5)), "body/description Invalid input: expected string, received number"),
        // Two code units each: 251 of them are 502.
        (good("description", json!("🚀".repeat(251))), "body/description description must not exceed 500 characters"),
        (good("receipt_url", json!("receipt.jpg")), url),
        (good("receipt_url", json!("")), url),
        (good("receipt_url", json!("http://files.example/1.jpg")), https),
        (good("receipt_url", json!("HTTPS://files.example/1.jpg")), https),
        (good("receipt_url", json!("https://")), "body/receipt_url receipt_url must be a valid URL"),
        (good("receipt_url", Value::Null), "body/receipt_url Invalid input: expected string, received null"),
        (good("idempotency_key", json!("")), "body/idempotency_key idempotency_key must not be empty"),
        (
            good("idempotency_key", json!(long(256))),
            "body/idempotency_key idempotency_key must not exceed 255 characters",
        ),
        (good("idempotency_key", json!(7)), "body/idempotency_key Invalid input: expected string, received number"),
        (good("description", json!("a\0bc")), "body/description must not contain characters that cannot be stored"),
        (json!([]), "body/ Invalid input: expected object, received array"),
    ] {
        asha.post("/expenses", &body).await.refused(400, "VALIDATION_ERROR", error);
    }
    for (body, error) in [
        (r#"{"amount":1e400,"description":"Fuel"}"#, "body/amount amount must be a number"),
        (r#"{"amount":1e-400,"description":"Fuel"}"#, "body/amount amount must be greater than 0"),
        (
            r#"{"amount":1,"description":"Fuel","idempotency_key":"\ud800"}"#,
            "body/idempotency_key must not contain characters that cannot be stored",
        ),
        ("{", "Body is not valid JSON but content-type is set to 'application/json'"),
        ("", "body/ Invalid input: expected object, received null"),
    ] {
        asha.post_raw("/expenses", body).await.refused(400, "VALIDATION_ERROR", error);
    }
    for body in [
        good("description", json!("🚀".repeat(250))),
        good("description", json!("abc")),
        good("idempotency_key", json!(long(255))),
    ] {
        asha.post("/expenses", &body).await.data(201);
    }
    assert_eq!(asha.get("/expenses/my").await.json()["pagination"]["total"], 3);
}

#[tokio::test]
async fn a_claim_that_is_sent_again_is_stored_once() {
    let app = roomy().await;
    let organization = app.organization().await;
    let (asha, ben) = (organization.employee("Asha").await, organization.employee("Ben").await);
    let body = json!({ "amount": 12.5, "description": "Fuel", "idempotency_key": "phone-1" });
    let twice = "Duplicate expense submission (idempotency key already used)";
    asha.post("/expenses", &body).await.data(201);
    asha.post("/expenses", &body).await.refused(400, "VALIDATION_ERROR", twice);
    // The key names a claim of one employee: others, and other organizations, know nothing of it.
    ben.post("/expenses", &body).await.data(201);
    app.organization().await.employee("Chandra").await.post("/expenses", &body).await.data(201);
    // Without a key nobody can know that it is the same claim.
    claim(&asha, 12.5, "Fuel").await;
    claim(&asha, 12.5, "Fuel").await;
    assert_eq!(asha.get("/expenses/my").await.json()["pagination"]["total"], 3);
    assert_eq!(events(&app).await.len(), 5);
}

#[tokio::test]
async fn of_a_claim_that_is_sent_several_times_at_once_one_is_stored() {
    let app = roomy().await;
    let asha = app.organization().await.employee("Asha").await;
    for round in 0..3 {
        let body = json!({ "amount": 3, "description": "Toll", "idempotency_key": format!("round {round}") });
        let answers = futures_util::future::join_all((0..6).map(|_| asha.post("/expenses", &body))).await;
        let (stored, refused): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|answer| answer.status == 201);
        assert_eq!((stored.len(), refused.len()), (1, 5));
        for answer in refused {
            answer.refused(400, "VALIDATION_ERROR", "Duplicate expense submission (idempotency key already used)");
        }
    }
    assert_eq!(asha.get("/expenses/my").await.json()["pagination"]["total"], 3);
    assert_eq!(events(&app).await.len(), 3);
    assert_eq!(wrong_totals(&app).await, 0);
}

#[tokio::test]
async fn administrators_claim_nothing_whatever_they_send() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let error = "Employee context required. This endpoint is for employees only.";
    for body in [json!({ "amount": 1, "description": "Fuel" }), json!({ "amount": "nonsense" })] {
        admin.post("/expenses", &body).await.refused(403, "FORBIDDEN", error);
    }
    admin.post_raw("/expenses", "{").await.refused(403, "FORBIDDEN", error);
}

#[tokio::test]
async fn claims_have_a_budget_of_their_own_and_refusals_do_not_use_it() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let (asha, ben) = (organization.employee("Asha").await, organization.employee("Ben").await);
    for _ in 0..12 {
        assert_eq!(asha.post("/expenses", &json!({ "amount": 0 })).await.status, 400);
    }
    let body = json!({ "amount": 1, "description": "Fuel" });
    for left in (0..10).rev() {
        let answer = asha.post("/expenses", &body).await;
        assert_eq!(answer.status, 201);
        assert_eq!(
            (answer.header("x-ratelimit-limit"), answer.header("x-ratelimit-remaining")),
            ("10", &*left.to_string())
        );
    }
    let refused = asha.post("/expenses", &body).await;
    refused.refused(429, "RATE_LIMITED", "Too many requests");
    assert!((1..=60).contains(&refused.header("retry-after").parse::<u32>().unwrap()));
    // Reading is charged elsewhere, and so is everybody else.
    assert_eq!(asha.get("/expenses/my").await.status, 200);
    ben.post("/expenses", &body).await.data(201);
}

#[tokio::test]
async fn my_claims_are_paged_newest_first_and_filtered() {
    let app = roomy().await;
    let organization = app.organization().await;
    let (asha, ben) = (organization.employee("Asha").await, organization.employee("Ben").await);
    let mut all = Vec::new();
    for number in 0..5 {
        all.insert(0, claim(&asha, 10.0 + f64::from(number), &format!("Fuel {number}")).await);
        app.clock.advance(TimeDelta::seconds(1));
    }
    claim(&ben, 1.0, "Somebody else's").await;
    approve(&organization.admin, &all[4]).await.data(200);
    reject(&organization.admin, &all[3], "No receipt").await.data(200);

    let list = asha.get("/expenses/my").await.json();
    assert_eq!(ids(&list), all);
    assert_eq!(list["pagination"], json!({ "page": 1, "limit": 50, "total": 5, "totalPages": 1 }));
    for row in list["data"].as_array().unwrap() {
        assert_eq!(row.as_object().unwrap().len(), 15);
        assert_eq!((&row["employee_name"], &row["employee_code"]), (&Value::Null, &Value::Null));
    }
    assert_eq!(list["data"][3]["rejection_comment"], "No receipt");
    let page = asha.get("/expenses/my?page=2&limit=2").await.json();
    assert_eq!(ids(&page), all[2..4]);
    assert_eq!(page["pagination"], json!({ "page": 2, "limit": 2, "total": 5, "totalPages": 3 }));
    let past = asha.get("/expenses/my?page=9&limit=2").await.json();
    assert_eq!((ids(&past).len(), &past["pagination"]["total"]), (0, &json!(5)));
    let somebody = Uuid::new_v4();
    for (query, expected) in [
        ("status=all".to_owned(), &all[..]),
        ("status=PENDING".to_owned(), &all[..3]),
        ("status=APPROVED".to_owned(), &all[4..]),
        ("status=REJECTED".to_owned(), &all[3..4]),
        ("status=processed".to_owned(), &all[3..]),
        ("search=FUEL%201".to_owned(), &all[3..4]),
        ("search=".to_owned(), &all[..]),
        (format!("employee_id={somebody}"), &all[..]),
    ] {
        let list = asha.get(&format!("/expenses/my?{query}")).await.json();
        assert_eq!(ids(&list), expected, "{query}");
        assert_eq!(list["pagination"]["total"], expected.len(), "{query}");
    }
    let none = organization.admin.get("/expenses/my?limit=7").await.json();
    assert_eq!(none["data"], json!([]));
    assert_eq!(none["pagination"], json!({ "page": 1, "limit": 7, "total": 0, "totalPages": 0 }));
}

#[tokio::test]
async fn both_lists_refuse_what_they_cannot_read() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let words = r#""all"|"PENDING"|"APPROVED"|"REJECTED"|"processed""#;
    for (query, error) in [
        ("page=0", "querystring/page Too small: expected number to be >=1".to_owned()),
        ("limit=101", "querystring/limit Too big: expected number to be <=100".to_owned()),
        ("limit=x", "querystring/limit Invalid input: expected number, received NaN".to_owned()),
        ("page=1.5", "querystring/page Invalid input: expected int, received number".to_owned()),
        ("status=pending", format!("querystring/status Invalid option: expected one of {words}")),
        ("employee_id=7", "querystring/employee_id Invalid UUID".to_owned()),
        ("search=%00", "querystring/search must not contain characters that cannot be stored".to_owned()),
        ("search=a&search=b", "querystring/search Invalid input: expected string, received array".to_owned()),
        (
            "page=0&limit=0&status=x&employee_id=x",
            format!(
                "querystring/page Too small: expected number to be >=1, \
                 querystring/limit Too small: expected number to be >=1, \
                 querystring/status Invalid option: expected one of {words}, querystring/employee_id Invalid UUID"
            ),
        ),
    ] {
        asha.get(&format!("/expenses/my?{query}")).await.refused(400, "VALIDATION_ERROR", &error);
        organization.admin.get(&format!("/admin/expenses?{query}")).await.refused(400, "VALIDATION_ERROR", &error);
    }
    let long = format!("/admin/expenses?search={}", "x".repeat(501));
    organization.admin.get(&long).await.refused(
        400,
        "VALIDATION_ERROR",
        "querystring/search Too big: expected string to have <=500 characters",
    );
}

#[tokio::test]
async fn the_organizations_claims_are_whole_and_narrowed_before_they_are_paged() {
    let app = roomy().await;
    let organization = app.organization().await;
    let (asha, ben) = (organization.employee("Asha").await, organization.employee("Ben").await);
    let mut all = Vec::new();
    for (person, description) in
        [(&asha, "Fuel 100% pure"), (&ben, "Toll_road (north), return"), (&asha, "Hotel"), (&ben, "100 nails")]
    {
        let body = json!({ "amount": 5, "description": description, "receipt_url": "https://files.example/r.pdf" });
        all.insert(0, person.post("/expenses", &body).await.data(201)["id"].as_str().unwrap().to_owned());
        app.clock.advance(TimeDelta::seconds(1));
    }
    let theirs = app.organization().await;
    claim(&theirs.employee("Stranger").await, 9.0, "Fuel elsewhere").await;
    let admin = &organization.admin;
    reject(admin, &all[3], "No receipt").await.data(200);

    let list = admin.get("/admin/expenses").await.json();
    assert_eq!(ids(&list), all);
    assert_eq!(list["pagination"], json!({ "page": 1, "limit": 50, "total": 4, "totalPages": 1 }));
    let names: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|row| row["employee_name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Ben", "Asha", "Ben", "Asha"]);
    assert_eq!(list["data"][3]["employee_code"], "EMP0001");
    assert_eq!(list["data"][3]["rejection_comment"], "No receipt");
    // Pending ones carry everything, too.
    for row in admin.get("/admin/expenses?status=PENDING").await.json()["data"].as_array().unwrap() {
        assert_eq!(row.as_object().unwrap().len(), 15);
        assert!(row["description"].as_str().unwrap().len() >= 5);
        assert_eq!(
            (&row["receipt_url"], &row["rejection_comment"]),
            (&json!("https://files.example/r.pdf"), &Value::Null)
        );
    }
    let bens = list["data"][0]["employee_id"].as_str().unwrap();
    for (query, expected) in [
        (format!("employee_id={bens}"), vec![0, 2]),
        (format!("employee_id={bens}&status=processed"), vec![]),
        (format!("employee_id={}", Uuid::new_v4()), vec![]),
        ("status=PENDING".to_owned(), vec![0, 1, 2]),
        ("status=processed".to_owned(), vec![3]),
        ("search=100".to_owned(), vec![0, 3]),
        ("search=100%25".to_owned(), vec![3]),
        ("search=_".to_owned(), vec![2]),
        ("search=%25".to_owned(), vec![3]),
        ("search=%5C".to_owned(), vec![]),
        ("search=(NORTH),".to_owned(), vec![2]),
        ("search=h%25l".to_owned(), vec![]),
        ("search=100&status=PENDING".to_owned(), vec![0]),
    ] {
        let list = admin.get(&format!("/admin/expenses?{query}")).await.json();
        let expected: Vec<&String> = expected.iter().map(|place| &all[*place]).collect();
        assert_eq!(ids(&list).iter().collect::<Vec<_>>(), expected, "{query}");
        assert_eq!(list["pagination"]["total"], expected.len(), "{query}");
    }
    let page = admin.get("/admin/expenses?page=2&limit=3&status=all").await.json();
    assert_eq!(ids(&page), all[3..]);
    assert_eq!(page["pagination"], json!({ "page": 2, "limit": 3, "total": 4, "totalPages": 2 }));
    let past = admin.get("/admin/expenses?page=9007199254740991&limit=100").await.json();
    assert_eq!((ids(&past).len(), &past["pagination"]["total"]), (0, &json!(4)));
}

#[tokio::test]
async fn an_approved_claim_says_who_and_when() {
    let app = roomy().await;
    let organization = app.organization().await;
    let (admin, asha) = (&organization.admin, organization.employee("Asha").await);
    let id = claim(&asha, 250.5, "Fuel").await;
    app.clock.advance(TimeDelta::minutes(30));
    let body = json!({ "status": "APPROVED", "rejection_comment": "is ignored" });
    let reviewed = admin.patch(&format!("/admin/expenses/{}", id.to_uppercase()), &body).await.data(200);
    assert_eq!(reviewed.as_object().unwrap().len(), 15);
    assert_eq!((&reviewed["id"], &reviewed["status"]), (&json!(id), &json!("APPROVED")));
    assert_eq!((&reviewed["employee_name"], &reviewed["employee_code"]), (&json!("Asha"), &json!("EMP0001")));
    assert_eq!(reviewed["rejection_comment"], Value::Null);
    let reviewer = &admin.get("/auth/me").await.data(200)["id"];
    assert_eq!(&reviewed["reviewed_by"], reviewer);
    assert_eq!(reviewed["reviewed_at"], reviewed["updated_at"]);
    assert_ne!(reviewed["reviewed_at"], reviewed["submitted_at"]);
    assert_eq!(admin.get("/admin/expenses").await.json()["data"][0], reviewed);

    let (kind, data) = events(&app).await.pop().unwrap();
    assert_eq!(kind, "expense.approved");
    assert_eq!(
        data,
        json!({
            "expense_id": id,
            "employee_id": reviewed["employee_id"],
            "amount": 250.5,
            "description": "Fuel",
            "approved_by": reviewer,
            "reviewed_at": reviewed["reviewed_at"],
        })
    );
    let client = app.database.superuser().await;
    let query = "SELECT event, actor_id::text, resource_type, resource_id, payload::text FROM admin_audit_log WHERE event LIKE 'EXPENSE_%'";
    let entry = client.query_one(query, &[]).await.unwrap();
    let text = |place: usize| entry.get::<_, String>(place);
    assert_eq!([text(0), text(2), text(3)], ["EXPENSE_APPROVED", "expense", &id]);
    assert_eq!(json!(text(1)), *reviewer);
    assert_eq!(serde_json::from_str::<Value>(&text(4)).unwrap()["amount"], "250.5");
}

#[tokio::test]
async fn a_rejected_claim_says_why() {
    let app = roomy().await;
    let organization = app.organization().await;
    let (admin, asha) = (&organization.admin, organization.employee("Asha").await);
    let id = claim(&asha, 7.0, "Lunch").await;
    let missing = "rejection_comment is required when rejecting an expense";
    for body in [json!({ "status": "REJECTED" }), json!({ "status": "REJECTED", "rejection_comment": "" })] {
        admin.patch(&format!("/admin/expenses/{id}"), &body).await.refused(400, "VALIDATION_ERROR", missing);
    }
    let comment = "🚀".repeat(500);
    let reviewed = reject(admin, &id, &comment).await.data(200);
    assert_eq!((&reviewed["status"], &reviewed["rejection_comment"]), (&json!("REJECTED"), &json!(comment)));
    let (kind, data) = events(&app).await.pop().unwrap();
    assert_eq!((kind.as_str(), &data["rejection_comment"]), ("expense.rejected", &json!(comment)));
    assert_eq!(data["rejected_by"], reviewed["reviewed_by"]);
    let client = app.database.superuser().await;
    let event: String =
        client.query_one("SELECT event FROM admin_audit_log WHERE event LIKE 'EXPENSE_%'", &[]).await.unwrap().get(0);
    assert_eq!(event, "EXPENSE_REJECTED");
}

#[tokio::test]
async fn a_review_is_refused_in_the_order_of_the_contract() {
    let app = roomy().await;
    let (organization, theirs) = (app.organization().await, app.organization().await);
    let (admin, asha) = (&organization.admin, organization.employee("Asha").await);
    let (approved, rejected) = (claim(&asha, 1.0, "Fuel").await, claim(&asha, 2.0, "Toll").await);
    approve(admin, &approved).await.data(200);
    reject(admin, &rejected, "No receipt").await.data(200);
    let before = events(&app).await.len();

    let silent = json!({ "status": "REJECTED" });
    let review = async |id: &str, body: &Value| admin.patch(&format!("/admin/expenses/{id}"), body).await;
    for id in ["7", "summary", &"x".repeat(200), "3f9f0c52-1f5e-9a55-9f0e-5d1b6f0a7c11"] {
        // The path before the body.
        review(id, &json!({ "status": 1 })).await.refused(400, "VALIDATION_ERROR", "params/id Invalid UUID");
    }
    for (body, error) in [
        (json!({}), "body/status status must be APPROVED or REJECTED"),
        (json!({ "status": "PENDING" }), "body/status status must be APPROVED or REJECTED"),
        (json!({ "status": "approved" }), "body/status status must be APPROVED or REJECTED"),
        (json!({ "status": null }), "body/status status must be APPROVED or REJECTED"),
        (
            json!({ "status": "REJECTED", "rejection_comment": "x".repeat(1001) }),
            "body/rejection_comment rejection_comment must not exceed 1000 characters",
        ),
        (
            json!({ "status": "APPROVED", "rejection_comment": 5 }),
            "body/rejection_comment Invalid input: expected string, received number",
        ),
        (
            json!({ "status": "REJECTED", "rejection_comment": "a\0" }),
            "body/rejection_comment must not contain characters that cannot be stored",
        ),
    ] {
        review(&Uuid::new_v4().to_string(), &body).await.refused(400, "VALIDATION_ERROR", error);
    }
    // Existence, then whether it is pending, then the comment.
    review(&Uuid::new_v4().to_string(), &silent).await.refused(404, "NOT_FOUND", "Expense not found");
    theirs.admin.patch(&format!("/admin/expenses/{approved}"), &silent).await.refused(
        404,
        "NOT_FOUND",
        "Expense not found",
    );
    for (id, word) in [(&approved, "approved"), (&rejected, "rejected")] {
        let error = format!("Expense has already been {word}. Only PENDING expenses can be actioned.");
        review(id, &silent).await.refused(400, "VALIDATION_ERROR", &error);
        approve(admin, id).await.refused(400, "VALIDATION_ERROR", &error);
    }
    assert_eq!(events(&app).await.len(), before);
}

#[tokio::test]
async fn of_two_administrators_who_review_at_once_one_wins_and_the_other_is_told() {
    let app = roomy().await;
    let organization = app.organization().await;
    let (first, second) = (&organization.admin, second_admin(&organization).await);
    let asha = organization.employee("Asha").await;
    let mut outcomes = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let id = claim(&asha, 10.0, "Fuel").await;
        let (one, other) = tokio::join!(approve(first, &id), reject(&second, &id, "No receipt"));
        let (won, lost) = if one.status == 200 { (one, other) } else { (other, one) };
        let status = won.data(200)["status"].as_str().unwrap().to_owned();
        let error =
            format!("Expense has already been {}. Only PENDING expenses can be actioned.", status.to_lowercase());
        lost.refused(400, "VALIDATION_ERROR", &error);
        outcomes.insert(status);
    }
    assert!(!outcomes.is_empty());
    let kinds: Vec<String> = events(&app).await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind != "expense.created").count(), 8);
    let client = app.database.superuser().await;
    let entries: i64 = client
        .query_one("SELECT count(*) FROM admin_audit_log WHERE event LIKE 'EXPENSE_%'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(entries, 8);
    assert_eq!(wrong_totals(&app).await, 0);
}

#[tokio::test]
async fn the_summary_adds_up_per_employee() {
    let app = roomy().await;
    let organization = app.organization().await;
    let admin = &organization.admin;
    let (asha, ben, chandra) = (
        organization.employee("Asha").await,
        organization.employee("Ben").await,
        organization.employee("Chandra").await,
    );
    organization.employee("Nobody").await;
    claim(&app.organization().await.employee("Stranger").await, 1000.0, "Elsewhere").await;
    let mut of = std::collections::BTreeMap::<String, Vec<String>>::new();
    for (person, amounts) in [(&asha, &[0.1, 0.2, 0.005][..]), (&ben, &[1.0, 2.0]), (&chandra, &[5.0, 6.0])] {
        for amount in amounts {
            app.clock.advance(TimeDelta::seconds(1));
            of.entry(person.email.clone()).or_default().push(claim(person, *amount, "Fuel").await);
        }
    }
    approve(admin, &of[&asha.email][0]).await.data(200);
    reject(admin, &of[&ben.email][0], "No receipt").await.data(200);

    let list = admin.get("/admin/expenses/summary").await.json();
    assert_eq!(list["pagination"], json!({ "page": 1, "limit": 50, "total": 3, "totalPages": 1 }));
    // Two pending each for Asha and Chandra, who claimed last; one for Ben.
    let figures: Vec<Value> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            json!([
                row["employeeName"],
                row["pendingCount"],
                row["pendingAmount"],
                row["totalCount"],
                row["totalAmount"]
            ])
        })
        .collect();
    assert_eq!(
        figures,
        [
            json!(["Chandra", 2, 11, 2, 11]),
            // 0.205 and 0.305 are rounded up; as floats they would have been rounded down.
            json!(["Asha", 2, 0.21, 3, 0.31]),
            json!(["Ben", 1, 2, 2, 3]),
        ]
    );
    let first = &list["data"][0];
    assert_eq!(first.as_object().unwrap().len(), 8);
    assert_eq!(first["employeeCode"], "EMP0003");
    let latest = &admin.get("/admin/expenses?limit=1").await.json()["data"][0];
    assert_eq!((&first["employeeId"], &first["latestExpenseDate"]), (&latest["employee_id"], &latest["submitted_at"]));
    let page = admin.get("/admin/expenses/summary?page=2&limit=2").await.json();
    assert_eq!(page["pagination"], json!({ "page": 2, "limit": 2, "total": 3, "totalPages": 2 }));
    assert_eq!((page["data"].as_array().unwrap().len(), &page["data"][0]["employeeName"]), (1, &json!("Ben")));
    assert_eq!(wrong_totals(&app).await, 0);
}

#[tokio::test]
async fn the_summary_has_pages_of_up_to_a_thousand_employees() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let admin = &organization.admin;
    let client = app.database.superuser().await;
    let fill = format!(
        "INSERT INTO employees (organization_id, id, name, employee_code)
             SELECT '{0}', gen_random_uuid(), 'Nobody ' || n, 'N' || n FROM generate_series(1, 250) AS n;
         INSERT INTO expenses (organization_id, id, employee_id, amount, description, submitted_at)
             SELECT '{0}', gen_random_uuid(), id, 1, 'Fuel', now() FROM employees, generate_series(1, 3)",
        organization.id
    );
    client.batch_execute(&fill).await.unwrap();
    let whole = admin.get("/admin/expenses/summary?limit=1000").await.json();
    assert_eq!(whole["data"].as_array().unwrap().len(), 250);
    assert_eq!(whole["pagination"], json!({ "page": 1, "limit": 1000, "total": 250, "totalPages": 1 }));
    let last = admin.get("/admin/expenses/summary?limit=101&page=3").await.json();
    assert_eq!(last["data"].as_array().unwrap().len(), 48);
    // Pages of equals do not overlap.
    let mut seen = std::collections::BTreeSet::new();
    for page in 1..=3 {
        let path = format!("/admin/expenses/summary?limit=101&page={page}");
        for row in admin.get(&path).await.json()["data"].as_array().unwrap() {
            assert!(seen.insert(row["employeeId"].as_str().unwrap().to_owned()));
        }
    }
    for (query, error) in [
        ("page=0", "querystring/page Too small: expected number to be >=1"),
        ("limit=1001", "querystring/limit Too big: expected number to be <=1000"),
        ("limit=", "querystring/limit Too small: expected number to be >=1"),
        ("limit=x", "querystring/limit Invalid input: expected number, received NaN"),
        ("page=1.5", "querystring/page Invalid input: expected int, received number"),
    ] {
        admin.get(&format!("/admin/expenses/summary?{query}")).await.refused(400, "VALIDATION_ERROR", error);
    }
    assert_eq!(wrong_totals(&app).await, 0);
}

#[tokio::test]
async fn totals_stay_right_when_everybody_claims_and_reviews_at_once() {
    let app = roomy().await;
    let organization = app.organization().await;
    let people = [organization.employee("Asha").await, organization.employee("Ben").await];
    let admins = [organization.admin.clone(), second_admin(&organization).await];
    let mut pending: Vec<String> = Vec::new();
    for round in 0..4_u32 {
        let claims = (0..6_u32).map(|number| {
            let person = &people[(number % 2) as usize];
            claim(person, f64::from(round * 6 + number) + 0.01, "Fuel")
        });
        let reviews = pending.drain(..).enumerate().map(|(number, id)| {
            let admin = &admins[number % 2];
            async move {
                if number % 3 == 0 { reject(admin, &id, "No receipt").await } else { approve(admin, &id).await }
                    .data(200)
            }
        });
        let (made, _) = tokio::join!(futures_util::future::join_all(claims), futures_util::future::join_all(reviews));
        pending = made;
        assert_eq!(wrong_totals(&app).await, 0, "after round {round}");
    }
    let totals = admins[0].get("/admin/expenses/summary").await.json();
    let count =
        |name: &str| -> i64 { totals["data"].as_array().unwrap().iter().map(|row| row[name].as_i64().unwrap()).sum() };
    assert_eq!((count("totalCount"), count("pendingCount")), (24, 6));
}
