//! Signing in, staying signed in, signing out: by our own routes and as Supabase's clients do it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, PASSWORD, Person, TestApp};

async fn token(app: &TestApp, grant: &str, body: Value) -> Answer {
    let path = format!("/auth/v1/token?grant_type={grant}");
    app.send(app.request(Method::POST, &path).header("apikey", "anything").json(&body)).await
}

async fn refresh(app: &TestApp, refresh_token: &str) -> Answer {
    token(app, "refresh_token", json!({ "refresh_token": refresh_token })).await
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[track_caller]
fn gotrue_error(answer: &Answer, status: u16, code: &str) {
    let body = answer.json();
    assert_eq!((answer.status.as_u16(), body["code"].as_str()), (status, Some(code)), "{body}");
    assert!(body["message"].is_string());
    assert_eq!(answer.header("x-supabase-api-version"), "2024-01-01");
}

#[tokio::test]
async fn a_login_gives_tokens_with_the_claims_of_the_contract() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let data = app.login(&asha.email.to_uppercase(), PASSWORD).await.data(200);
    assert_eq!((&data["token_type"], &data["expires_in"]), (&json!("bearer"), &json!(3600)));
    assert_eq!(data["expires_at"], app.now().timestamp() + 3600);
    let claims = claims(data["access_token"].as_str().unwrap());
    assert_eq!((&claims["role"], &claims["org_id"]), (&json!("EMPLOYEE"), &json!(organization.id)));
    assert_eq!(
        (&claims["aud"], &claims["iss"]),
        (&json!("authenticated"), &json!("https://api.fieldtrack.test/auth/v1"))
    );
    assert_eq!(claims["email"], asha.email);
    assert!(claims["employee_id"].is_string() && claims["sub"].is_string() && claims["session_id"].is_string());
}

#[tokio::test]
async fn a_login_that_makes_no_sense_is_refused() {
    let app = TestApp::start().await;
    let login = async |body: Value| app.send(app.request(Method::POST, "/auth/login").json(&body)).await;
    login(json!({ "email": "x", "password": "" })).await.refused(
        400,
        "VALIDATION_ERROR",
        "body/email Invalid email address, body/password Too small: expected string to have >=1 characters",
    );
    login(json!(null)).await.refused(400, "VALIDATION_ERROR", "body/ Invalid input: expected object, received null");
    for email in ["nobody@example.com", "o'neil@example.com"] {
        login(json!({ "email": email, "password": "x' OR '1'='1" })).await.refused(
            401,
            "INVALID_CREDENTIALS",
            "Invalid email or password",
        );
    }
}

#[tokio::test]
async fn a_token_ends_after_an_hour() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    app.clock.advance(TimeDelta::seconds(3600 + 4));
    assert_eq!(admin.get("/auth/me").await.status, 200, "clocks may differ by 5 s");
    app.clock.advance(TimeDelta::seconds(2));
    admin.get("/auth/me").await.refused(401, "UNAUTHORIZED", "Invalid or missing authentication token");
}

#[tokio::test]
async fn a_client_of_supabase_signs_in_stays_signed_in_and_signs_out() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let session = token(&app, "password", json!({ "email": admin.email, "password": PASSWORD })).await.json();
    assert_eq!(session["user"]["email"], admin.email);
    let person = Person {
        app: &app,
        email: admin.email.clone(),
        token: session["access_token"].as_str().unwrap().to_owned(),
        refresh_token: session["refresh_token"].as_str().unwrap().to_owned(),
    };
    assert_eq!(person.get("/auth/v1/user").await.json()["id"], session["user"]["id"]);
    let next = refresh(&app, &person.refresh_token).await.json();
    assert_ne!(next["refresh_token"], session["refresh_token"]);
    assert_eq!(person.get("/auth/me").await.status, 200);
    let signed_out = person.post("/auth/v1/logout?scope=local", &json!({})).await;
    assert_eq!((signed_out.status.as_u16(), signed_out.text.as_str()), (204, ""));
    gotrue_error(&refresh(&app, next["refresh_token"].as_str().unwrap()).await, 400, "refresh_token_not_found");
    gotrue_error(&person.get("/auth/v1/user").await, 403, "session_not_found");
    // The first sign-in, on another device, goes on.
    assert_eq!(refresh(&app, &admin.refresh_token).await.status, 200);
}

#[tokio::test]
async fn a_token_refreshed_twice_at_once_gives_one_successor() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let answers = futures_util::future::join_all((0..6).map(|_| refresh(&app, &admin.refresh_token))).await;
    let successors: std::collections::BTreeSet<String> = answers
        .iter()
        .map(|answer| answer.json()["refresh_token"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned())
        .collect();
    assert_eq!(successors.len(), 1);
    app.clock.advance(TimeDelta::seconds(9));
    let again = refresh(&app, &admin.refresh_token).await.json();
    assert!(successors.contains(again["refresh_token"].as_str().unwrap()));
}

#[tokio::test]
async fn a_token_used_again_later_ends_the_whole_sign_in() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let next = refresh(&app, &admin.refresh_token).await.json();
    app.clock.advance(TimeDelta::seconds(11));
    gotrue_error(&refresh(&app, &admin.refresh_token).await, 400, "refresh_token_already_used");
    let successor = refresh(&app, next["refresh_token"].as_str().unwrap()).await;
    assert_eq!(successor.status, 400, "whoever stole either token is out: {}", successor.text);
    gotrue_error(&refresh(&app, "unknown").await, 400, "refresh_token_not_found");
}

#[tokio::test]
async fn signing_out_everywhere_or_elsewhere() {
    let app = TestApp::start().await;
    let here = app.organization().await.admin;
    let there = app.sign_in(&here.email).await;
    assert_eq!(here.post("/auth/v1/logout?scope=others", &json!({})).await.status, 204);
    gotrue_error(&refresh(&app, &there.refresh_token).await, 400, "refresh_token_not_found");
    assert_eq!(refresh(&app, &here.refresh_token).await.status, 200);
    assert_eq!(here.post("/auth/v1/logout", &json!({})).await.status, 204);
    gotrue_error(&here.post("/auth/v1/logout?scope=x", &json!({})).await, 400, "validation_failed");
    gotrue_error(&app.get("/auth/v1/user").await, 401, "no_authorization");
}

#[tokio::test]
async fn the_wrong_password_and_a_ban_have_gotrues_codes() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let wrong = token(&app, "password", json!({ "email": asha.email, "password": "wrong" })).await;
    gotrue_error(&wrong, 400, "invalid_credentials");
    gotrue_error(&token(&app, "magic", json!({})).await, 400, "invalid_credentials");
    gotrue_error(&token(&app, "password", json!({})).await, 400, "validation_failed");
    app.database
        .superuser()
        .await
        .execute("UPDATE user_credentials SET banned_until = now() + interval '100 years'", &[])
        .await
        .unwrap();
    gotrue_error(
        &token(&app, "password", json!({ "email": asha.email, "password": PASSWORD })).await,
        400,
        "user_banned",
    );
    gotrue_error(&refresh(&app, &asha.refresh_token).await, 400, "user_banned");
    app.login(&asha.email, PASSWORD).await.refused(401, "INVALID_CREDENTIALS", "Invalid email or password");
}

#[tokio::test]
async fn pages_of_any_origin_may_speak_the_identity_protocol() {
    let app = TestApp::start().await;
    let request = app
        .request(Method::OPTIONS, "/auth/v1/token?grant_type=password")
        .header("origin", "https://anywhere.example")
        .header("access-control-request-method", "POST");
    let preflight = app.send(request).await;
    assert_eq!((preflight.status.as_u16(), preflight.header("access-control-allow-origin")), (204, "*"));
    for header in ["apikey", "authorization", "x-client-info", "x-supabase-api-version", "content-type"] {
        assert!(preflight.header("access-control-allow-headers").contains(header));
    }
    let answer = app.get("/auth/v1/settings").await;
    assert_eq!(answer.header("access-control-expose-headers"), "x-supabase-api-version");
}

#[tokio::test]
async fn replicas_sign_alike_and_publish_their_key() {
    let app = TestApp::start().await;
    let admin = app.organization().await.admin;
    let keys = app.get("/auth/v1/.well-known/jwks.json").await.json();
    let keys = keys["keys"].as_array().unwrap();
    assert_eq!(
        (keys.len(), &keys[0]["kty"], &keys[0]["crv"], &keys[0]["alg"]),
        (1, &json!("EC"), &json!("P-256"), &json!("ES256"))
    );
    let header = admin.token.split('.').next().unwrap();
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    assert_eq!(header["kid"], keys[0]["kid"]);
    // The private part never stands in the clear.
    let stored: Vec<u8> = app
        .database
        .superuser()
        .await
        .query_one("SELECT sealed_private_key FROM signing_keys", &[])
        .await
        .unwrap()
        .get(0);
    assert!(stored.len() > 64);
}

/// A password that nobody checked is not wrong (D40).
#[tokio::test]
async fn a_login_cannot_be_judged_while_the_project_is_away() {
    let app = TestApp::start_with(&[
        ("IDENTITY", "supabase"),
        ("SUPABASE_URL", "http://127.0.0.1:9"),
        ("SUPABASE_ANON_KEY", "the public key of the project"),
    ])
    .await;
    app.login("asha@people.example", PASSWORD).await.refused(503, "SERVICE_UNAVAILABLE", "Service unavailable");
}

#[tokio::test]
async fn a_gateway_may_leave_identity_to_a_supabase_project() {
    // Our own identity speaks as Supabase's does, so one gateway can be the project of another.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let project = TestApp::start_on(listener, &[("API_BASE_URL", &url)]).await;
    let organization = project.organization().await;
    let asha = organization.employee("Asha").await;
    let app = TestApp::start_with(&[
        ("IDENTITY", "supabase"),
        ("SUPABASE_URL", &url),
        ("SUPABASE_ANON_KEY", "the public key of the project"),
        ("DATABASE_URL", &project.database.app_url()),
        ("SYSTEM_DATABASE_URL", &project.database.system_url()),
    ])
    .await;

    let person = app.sign_in(&asha.email).await;
    let me = person.get("/auth/me").await.data(200);
    assert_eq!((&me["email"], &me["orgId"]), (&json!(asha.email), &json!(organization.id)));
    person.check_in().await;
    app.login(&asha.email, "wrong").await.refused(401, "INVALID_CREDENTIALS", "Invalid email or password");
    // A token of the project itself is as good; one of another provider is not.
    let direct = Person { app: &app, ..asha.clone() };
    direct.get("/attendance/my-sessions").await.data(200);
    let stranger = TestApp::start().await;
    let stranger = stranger.organization().await.admin;
    let foreign = Person { app: &app, email: stranger.email, token: stranger.token, refresh_token: String::new() };
    foreign.get("/auth/me").await.refused(401, "UNAUTHORIZED", "Invalid or missing authentication token");
    // Whether somebody may sign in is the project's to say, and the worker's to tell it.
    let admin = Person { app: &app, ..organization.admin.clone() };
    let path = format!("/admin/employees/{}/status", asha.employee_id());
    let client = project.database.superuser().await;
    let notices = async || -> Vec<(String, uuid::Uuid)> {
        let rows = client.query("SELECT user_id::text, decision FROM sign_in_notices", &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    // Built in, there is nobody to tell.
    let ours = organization.admin.patch(&path, &json!({ "is_active": false })).await;
    assert_eq!((ours.data(200)["is_active"].clone(), notices().await), (json!(false), Vec::new()));
    admin.patch(&path, &json!({ "is_active": true })).await.data(200);
    let activated = notices().await;
    assert_eq!(activated[0].0, me["id"].as_str().unwrap());
    admin.patch(&path, &json!({ "is_active": false })).await.data(200);
    let deactivated = notices().await;
    assert_eq!((deactivated.len(), &deactivated[0].0), (1, &activated[0].0), "one a user");
    assert_ne!(deactivated[0].1, activated[0].1, "whoever tells the first leaves the second");
    // Nobody to be kept out, nobody to tell of.
    let nobody = admin.post("/admin/employees", &json!({ "name": "Ana" })).await.data(201);
    let path = format!("/admin/employees/{}/status", nobody["id"].as_str().unwrap());
    admin.patch(&path, &json!({ "is_active": false })).await.data(200);
    assert_eq!(notices().await, deactivated);
    // Who is whom is not ours to say: the routes of the built-in identity are not there.
    assert_eq!(app.get("/auth/v1/.well-known/jwks.json").await.status, 404);
}
