//! The programs as processes, and a phone that uses them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use testkit::database::TestDatabase;
use testkit::redis::{RedisServer, free_port};
use testkit::track::TrackPoint;

pub const ADMIN: &str = "admin@journey.example";
pub const PASSWORD: &str = "planted-password-7c1d";
pub const SECRETS_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// Where the workspace's programs are built.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join(name);
    assert!(path.exists(), "{} is not built; run `cargo xtask test`", path.display());
    path
}

/// A program that runs; killed when dropped.
pub struct Process {
    pub child: Child,
    pub port: u16,
    pub log: PathBuf,
}

impl Process {
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, and waits.
    pub fn terminate(&mut self) -> ExitStatus {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        self.child.wait().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole product: database, Redis, a gateway, any number of workers.
pub struct Product {
    pub database: TestDatabase,
    pub redis: RedisServer,
    pub gateway: Process,
    /// Further gateways.
    pub replicas: Vec<Process>,
    pub workers: Vec<Process>,
    pub http: Client,
    folder: PathBuf,
    settings: Vec<(String, String)>,
}

impl Product {
    pub async fn start(workers: usize, settings: &[(&str, &str)]) -> Self {
        // The client brings no cryptography of its own. An error would say that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let database = TestDatabase::create().await;
        let redis = RedisServer::start().unwrap();
        let folder = std::env::temp_dir().join(format!("fieldtrack-journey-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut all: Vec<(String, String)> = [
            ("APP_ENV", "test"),
            ("DATABASE_URL", &*database.app_url()),
            ("SYSTEM_DATABASE_URL", &database.system_url()),
            ("REDIS_URL", &redis.url()),
            ("SECRETS_KEY", SECRETS_KEY),
            ("RATE_LIMIT_MULTIPLIER", "1000"),
            // Both lives of a gateway issue the same tokens, whatever their port.
            ("API_BASE_URL", "http://journey.example"),
            ("WORKERS_ENABLED", "true"),
            ("LOG_FORMAT", "json"),
            ("ADMIN_PASSWORD", PASSWORD),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let made = command("api-gateway", &all)
            .args(["organization", "create", "--name", "Journey", "--slug", "journey", "--admin-email", ADMIN])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let gateway = serve("api-gateway", "PORT", &all, &folder);
        let mut product = Self {
            database,
            redis,
            gateway,
            replicas: Vec::new(),
            workers: Vec::new(),
            http: Client::builder().no_proxy().build().unwrap(),
            folder,
            settings: all,
        };
        for _ in 0..workers {
            product.add_worker();
        }
        product.ready(product.gateway.port).await;
        product
    }

    pub fn add_worker(&mut self) {
        self.workers.push(serve("distance-worker", "WORKER_PORT", &self.settings, &self.folder));
    }

    /// Starts one more gateway, and waits until it is ready.
    pub async fn add_gateway(&mut self) {
        let process = serve("api-gateway", "PORT", &self.settings, &self.folder);
        self.ready(process.port).await;
        self.replicas.push(process);
    }

    pub fn restart_gateway(&mut self) {
        self.gateway = serve("api-gateway", "PORT", &self.settings, &self.folder);
    }

    /// Waits until a program is ready.
    pub async fn ready(&self, port: u16) {
        let url = format!("http://127.0.0.1:{port}/ready");
        eventually("the program is ready", async || {
            self.http.get(&url).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK)
        })
        .await;
    }

    pub fn api(&self) -> Api {
        self.api_of(&self.gateway)
    }

    /// The API as one of the gateways serves it.
    pub fn api_of(&self, gateway: &Process) -> Api {
        Api { http: self.http.clone(), base: format!("http://127.0.0.1:{}", gateway.port) }
    }

    /// Hires somebody, signs them in, checks them in.
    pub async fn phone(&self) -> Phone {
        let api = self.api();
        let email = format!("planted.{}@people.example", uuid::Uuid::now_v7().simple());
        let admin = api.sign_in(ADMIN).await;
        let person = json!({ "name": "Asha", "email": email, "password": PASSWORD });
        let (status, hired) = api.post(&admin, "/admin/employees", &person).await;
        assert_eq!(status, 201, "{hired}");
        let token = api.sign_in(&email).await;
        let (status, session) = api.post(&token, "/attendance/check-in", &json!({})).await;
        assert_eq!(status, 201, "{session}");
        let since = session["data"]["checkin_at"].as_str().unwrap().parse().unwrap();
        Phone { api, token, session: session["data"]["id"].as_str().unwrap().to_owned(), since }
    }
}

fn command(name: &str, settings: &[(String, String)]) -> Command {
    let mut command = Command::new(program(name));
    command.env_clear().envs(settings.iter().cloned()).stdin(Stdio::null());
    command
}

fn serve(name: &str, port_variable: &str, settings: &[(String, String)], folder: &Path) -> Process {
    let port = free_port().unwrap();
    let log = folder.join(format!("{name}-{port}.log"));
    let file = File::create(&log).unwrap();
    let child = command(name, settings)
        .env(port_variable, port.to_string())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    Process { child, port, log }
}

/// The public API.
#[derive(Clone)]
pub struct Api {
    http: Client,
    base: String,
}

impl Api {
    pub async fn sign_in(&self, email: &str) -> String {
        let answer = self.post("", "/auth/login", &json!({ "email": email, "password": PASSWORD })).await;
        answer.1["data"]["access_token"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
    }

    pub async fn post(&self, token: &str, path: &str, body: &Value) -> (u16, Value) {
        self.post_with(token, path, body, &[]).await
    }

    pub async fn post_with(&self, token: &str, path: &str, body: &Value, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = self.http.post(format!("{}{path}", self.base)).bearer_auth(token).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Opens the stream of events; `last` is the number of the last event that was seen.
    pub async fn events(&self, token: &str, last: Option<i64>) -> Events {
        let mut request = self.http.get(format!("{}/admin/events", self.base)).bearer_auth(token);
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let mut events = Events { response, read: String::new() };
        assert_eq!(events.next().await.unwrap().1, "connected");
        events
    }

    pub async fn get(&self, token: &str, path: &str) -> Value {
        self.http.get(format!("{}{path}", self.base)).bearer_auth(token).send().await.unwrap().json().await.unwrap()
    }
}

/// A stream of events, read event by event.
pub struct Events {
    response: reqwest::Response,
    read: String,
}

impl Events {
    /// Number, name and message of the next event; `None` when the stream has ended. Comments are passed over.
    pub async fn next(&mut self) -> Option<(Option<i64>, String, Value)> {
        loop {
            if let Some((block, rest)) = self.read.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.read = rest;
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
                let Some(name) = field("event: ") else { continue };
                let data = serde_json::from_str(&field("data: ").unwrap()).unwrap();
                return Some((field("id: ").map(|id| id.parse().unwrap()), name, data));
            }
            match tokio::time::timeout(Duration::from_secs(60), self.response.chunk()).await.unwrap() {
                Ok(Some(chunk)) => self.read.push_str(&String::from_utf8_lossy(&chunk)),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

/// A phone whose owner is at work.
pub struct Phone {
    pub api: Api,
    pub token: String,
    pub session: String,
    pub since: DateTime<Utc>,
}

impl Phone {
    /// A recorded track as this phone would have recorded it: the same places in the same order, within this session.
    pub fn points(&self, track: &[TrackPoint]) -> Vec<Value> {
        let begun = track[0].recorded_at;
        track
            .iter()
            .map(|point| {
                // An hour fits into 36 s, so that no point lies too far ahead of the server's clock.
                let passed = (point.recorded_at - begun) / 100;
                let at = self.since + passed + TimeDelta::milliseconds(1);
                json!({
                    "latitude": point.latitude, "longitude": point.longitude, "accuracy": point.accuracy_m.unwrap_or(5.0),
                    "recorded_at": at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
                })
            })
            .collect()
    }

    /// Uploads points, and keeps at it until they are acknowledged.
    pub async fn upload(&self, points: &[Value]) {
        let body = json!({ "session_id": self.session, "points": points });
        let (status, answer) = self.api.post(&self.token, "/locations/batch", &body).await;
        assert_eq!(status, 201, "{answer}");
    }

    pub async fn check_out(&self) {
        let (status, answer) = self.api.post(&self.token, "/attendance/check-out", &json!({})).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// The kilometres of the session, once they are those of all its points.
    pub async fn kilometres(&self) -> f64 {
        let mut session = Value::Null;
        eventually("the session is measured", async || {
            session = self.api.get(&self.token, "/attendance/my-sessions").await["data"][0].clone();
            session["distance_recalculation_status"] == "done"
        })
        .await;
        session["total_distance_km"].as_f64().unwrap()
    }
}

/// Waits until something is so; a lease has to end in some of these tests, so it may take a while.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !is_so().await {
            assert!(Instant::now() < deadline, "{caller}: not within 90 s: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
