//! A gateway of a test's own, and people who use it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use api_gateway::config::Config;
use api_gateway::startup::{Application, Stopper};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Clock, ManualClock};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use settings::Settings;
use testkit::database::TestDatabase;
use testkit::redis::RedisServer;
use uuid::Uuid;

use crate::schema::check_answer;

/// Everybody's password.
pub const PASSWORD: &str = "correct horse battery staple";
/// 32 bytes, base64.
pub const SECRETS_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// A gateway with its own database and Redis, and a clock that only a test moves.
pub struct TestApp {
    pub api: String,
    pub database: TestDatabase,
    pub redis: RedisServer,
    /// Where receipts lie.
    pub receipts: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub http: Client,
    stopper: Option<Stopper>,
    server: Option<JoinHandle<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {} {:?}", self.status, self.text))
    }

    /// `data` of a success with that status.
    #[track_caller]
    pub fn data(&self, status: u16) -> Value {
        let body = self.json();
        assert_eq!((self.status.as_u16(), &body["success"]), (status, &json!(true)), "{body}");
        body["data"].clone()
    }

    /// Checks the envelope of a refusal.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str, error: &str) -> Value {
        let body = self.json();
        assert_eq!(self.status.as_u16(), status, "{body}");
        assert_eq!(body["success"], false, "{body}");
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["error"], error, "{body}");
        assert_eq!(body["requestId"], self.header("x-request-id"), "{body}");
        body
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}: {:?}", self.headers)).to_str().unwrap()
    }
}

impl TestApp {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts with further settings.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap(), settings).await
    }

    /// Starts at an address that was chosen before, with further settings.
    pub async fn start_on(listener: TcpListener, settings: &[(&str, &str)]) -> Self {
        let database = TestDatabase::create().await;
        let redis = RedisServer::start().unwrap();
        let receipts = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Utc::now()));
        let mut variables: Vec<(String, String)> = [
            ("APP_ENV", "test"),
            ("DATABASE_URL", &database.app_url()),
            ("SYSTEM_DATABASE_URL", &database.system_url()),
            ("REDIS_URL", &redis.url()),
            ("SECRETS_KEY", SECRETS_KEY),
            ("RECEIPTS_DIR", receipts.path().to_str().unwrap()),
            ("API_BASE_URL", "https://api.fieldtrack.test"),
            ("CORS_ORIGIN", "https://console.fieldtrack.test, https://second.fieldtrack.test"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for (name, value) in settings {
            variables.retain(|(known, _)| known != name);
            variables.push(((*name).to_owned(), (*value).to_owned()));
        }
        let config = Config::read(Settings::from_variables(variables)).unwrap();
        // The server's own runtime, as in production: it outlives every request.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (ready, started) = std::sync::mpsc::channel();
        let server = std::thread::spawn({
            let (handle, clock) = (runtime.handle().clone(), Arc::clone(&clock));
            move || {
                handle.block_on(async {
                    let registry = telemetry::metrics::Registry::new();
                    let application = Application::build(config, registry, clock, listener).unwrap();
                    ready.send((application.address(), application.stopper())).unwrap();
                    application.serve().await.unwrap();
                });
            }
        });
        let (address, stopper) = started.recv().unwrap();
        Self {
            api: format!("http://{address}"),
            database,
            redis,
            receipts,
            clock,
            http: Client::builder().no_proxy().build().unwrap(),
            stopper: Some(stopper),
            server: Some(server),
            runtime: Some(runtime),
        }
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.api))
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let request = request.build().unwrap();
        let (method, path) = (request.method().to_string(), request.url().path().to_owned());
        let response = self.http.execute(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let media_type = headers.get("content-type").and_then(|value| value.to_str().ok());
        if !headers.contains_key("content-encoding") {
            check_answer(&method, &path, status.as_u16(), media_type, &text);
        }
        Answer { status, headers, text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// Calls with an API key; a body of `null` is none.
    pub async fn with_key(&self, key: &str, method: Method, path: &str, body: &Value) -> Answer {
        let request = self.request(method, path).header("x-api-key", key);
        self.send(if body.is_null() { request } else { request.json(body) }).await
    }

    /// Makes an organization as `organization create` does, and signs its administrator in.
    pub async fn organization(&self) -> Organization<'_> {
        let slug = format!("org-{}", Uuid::now_v7().simple());
        let email = format!("admin@{slug}.example");
        let db = self.database.open();
        let made = api_gateway::identity::provision::create_organization(
            &db,
            &api_gateway::identity::passwords::Passwords::new(),
            api_gateway::identity::provision::NewOrganization {
                name: "Field Services".into(),
                slug,
                admin_email: email.clone(),
                password: PASSWORD.to_owned().into(),
                time_zone: None,
            },
        )
        .await
        .unwrap();
        let admin = self.sign_in(&email).await;
        Organization { app: self, id: made.organization.uuid(), admin }
    }

    /// Signs somebody in.
    pub async fn sign_in(&self, email: &str) -> Person<'_> {
        let answer = self.login(email, PASSWORD).await;
        let data = answer.data(200);
        Person {
            app: self,
            email: email.to_owned(),
            token: data["access_token"].as_str().unwrap().to_owned(),
            refresh_token: data["refresh_token"].as_str().unwrap().to_owned(),
        }
    }

    pub async fn login(&self, email: &str, password: &str) -> Answer {
        self.send(self.request(Method::POST, "/auth/login").json(&json!({ "email": email, "password": password })))
            .await
    }

    /// Drains and waits for the end.
    pub async fn stop(&mut self) {
        if let Some(stopper) = self.stopper.take() {
            stopper.drain().await;
        }
        if let Some(server) = self.server.take() {
            tokio::task::spawn_blocking(move || server.join().unwrap()).await.unwrap();
        }
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        // A runtime must not be waited for within another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An organization and its administrator.
pub struct Organization<'a> {
    pub app: &'a TestApp,
    pub id: Uuid,
    pub admin: Person<'a>,
}

impl<'a> Organization<'a> {
    /// Hires somebody and signs them in.
    pub async fn employee(&self, name: &str) -> Person<'a> {
        let email = format!("{}.{}@people.example", name.to_lowercase(), Uuid::now_v7().simple());
        let body = json!({ "name": name, "email": email, "password": PASSWORD });
        self.admin.post("/admin/employees", &body).await.data(201);
        self.app.sign_in(&email).await
    }
}

/// Somebody who is signed in.
#[derive(Clone)]
pub struct Person<'a> {
    pub app: &'a TestApp,
    pub email: String,
    pub token: String,
    pub refresh_token: String,
}

impl Person<'_> {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.app.request(method, path).bearer_auth(&self.token)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.app.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.app.send(self.request(Method::POST, path).json(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.app.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// The employee they are, as their token says.
    pub fn employee_id(&self) -> String {
        let claims = URL_SAFE_NO_PAD.decode(self.token.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        claims["employee_id"].as_str().unwrap().to_owned()
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.app.send(self.request(Method::DELETE, path)).await
    }

    /// Makes an API key; answers it and its id.
    pub async fn api_key(&self, scopes: &[&str]) -> (String, String) {
        let made = self.post("/admin/api-keys", &json!({ "name": "erp sync", "scopes": scopes })).await.data(201);
        (made["key"].as_str().unwrap().to_owned(), made["record"]["id"].as_str().unwrap().to_owned())
    }

    /// Posts these very bytes as JSON.
    pub async fn post_raw(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request(Method::POST, path).header("content-type", "application/json").body(body);
        self.app.send(request).await
    }

    /// Checks in; answers the session's id.
    pub async fn check_in(&self) -> String {
        self.post("/attendance/check-in", &json!({})).await.data(201)["id"].as_str().unwrap().to_owned()
    }

    pub async fn check_out(&self) -> Value {
        self.post("/attendance/check-out", &json!({})).await.data(200)
    }
}

/// A point a phone could send now, `seconds` from now.
pub fn point(app: &TestApp, seconds: i64) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let north = seconds as f64 * 1e-5;
    json!({
        "latitude": 45.0 + north,
        "longitude": 13.0,
        "accuracy": 5,
        "recorded_at": (app.now() + TimeDelta::seconds(seconds)).format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
    })
}

/// A point with its session.
pub fn location(app: &TestApp, session: &str, seconds: i64) -> Value {
    let mut location = point(app, seconds);
    location["session_id"] = json!(session);
    location
}
