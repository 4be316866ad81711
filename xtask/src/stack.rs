//! A private copy of the product for a benchmark or a chaos run: fresh servers, own ports, nothing of `up` is touched.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{
    api::{Api, SignedIn},
    failure::{Context, Failure, Outcome},
    interrupt::Interrupt,
    packages::{self, Wanted},
    postgres::{Cluster, Purpose},
    redis::Redis,
    services::{Environment, Ports, Programs, Running, build, once},
    state::{Addresses, Folder, free_port, random_hex, random_key},
    usage, workspace,
};

/// Servers, programs, and how to start them.
pub struct Stack {
    pub folder: Folder,
    pub cluster: Cluster,
    pub redis: Redis,
    pub programs: Programs,
    environment: Environment,
    gateway_port: u16,
    pub interrupt: Interrupt,
}

/// Somebody at work, ready to send fixes.
#[derive(Clone)]
pub struct Person {
    pub token: String,
    pub session: String,
    /// Check-in, in Unix microseconds.
    pub since_us: i64,
    pub signed_in: SignedIn,
}

impl Stack {
    /// Starts fresh servers under `target/<name>`, builds the programs, migrates. `settings` go to both services.
    pub async fn start(name: &str, release: bool, settings: &[(&str, &str)]) -> Outcome<Self> {
        let mut interrupt = Interrupt::listen()?;
        packages::ensure(Wanted { postgres: true, redis: true, ..Wanted::default() })?;
        let folder = Folder::dev(Some(&workspace::target().join(name)));
        // Left over from a run that was cut off.
        Self::remove(&folder)?;
        folder.create()?;
        let programs = build(release, &mut interrupt).await?;
        let mut cluster = Cluster::of(&folder, Purpose::Develop)?;
        cluster.start()?;
        cluster.create_product_database()?;
        let mut redis = Redis::of(&folder)?;
        redis.start()?;
        let [owner, app, system] = cluster.role_urls();
        let addresses = Addresses {
            database_url: app,
            system_database_url: system,
            migration_database_url: owner.clone(),
            redis_url: redis.url(),
            own_database: true,
            own_redis: true,
        };
        let gateway_port = free_port()?;
        let ports = Ports { gateway: gateway_port, worker: free_port()? };
        let mut environment =
            Environment::new(&addresses, &random_key()?, &ports, false).receipts_in(&folder).with("LOG_FORMAT", "json");
        for (name, value) in settings {
            environment = environment.with(name, value);
        }
        let migrating = environment.clone().with("MIGRATION_DATABASE_URL", &owner);
        once(&programs.gateway, &["migrate"], &migrating, &mut interrupt)
            .await?
            .map_err(|said| Failure::new(format!("migrating failed: {said}")))?;
        fs::create_dir_all(folder.join("logs")).context("cannot make a folder for logs")?;
        Ok(Self { folder, cluster, redis, programs, environment, gateway_port, interrupt })
    }

    /// Where the API is.
    pub fn api(&self) -> Outcome<Api> {
        Api::new(&format!("http://127.0.0.1:{}", self.gateway_port))
    }

    /// The port of the API.
    pub fn port(&self) -> u16 {
        self.gateway_port
    }

    /// Starts the gateway, with further settings, and waits until it is ready.
    pub async fn gateway(&self, settings: &[(&str, &str)]) -> Outcome<Running> {
        let mut gateway = self.launch("gateway", &self.programs.gateway, self.gateway_port, settings)?;
        gateway.ready().await?;
        Ok(gateway)
    }

    /// Starts the gateway without waiting: what it needs may be away.
    pub fn gateway_unready(&self) -> Outcome<Running> {
        self.launch("gateway", &self.programs.gateway, self.gateway_port, &[])
    }

    /// Starts a worker without waiting.
    pub fn worker(&self) -> Outcome<Running> {
        self.worker_of(&self.programs.worker)
    }

    /// Starts a worker of another release.
    pub fn worker_of(&self, program: &Path) -> Outcome<Running> {
        self.launch_worker(program, free_port()?)
    }

    /// Starts a worker whose health and metrics are at this port, without waiting.
    pub fn worker_at(&self, port: u16) -> Outcome<Running> {
        self.launch_worker(&self.programs.worker, port)
    }

    fn launch_worker(&self, program: &Path, port: u16) -> Outcome<Running> {
        self.launch("worker", program, port, &[("WORKER_PORT", &port.to_string())])
    }

    fn launch(&self, name: &'static str, program: &Path, port: u16, settings: &[(&str, &str)]) -> Outcome<Running> {
        let mut environment = self.environment.clone();
        for (name, value) in settings {
            environment = environment.with(name, value);
        }
        Running::start(name, program, port, &environment, Some(&self.folder.join("logs")))
    }

    /// The process that every server process of PostgreSQL is a child of.
    pub fn postmaster(&self) -> Outcome<u32> {
        let pid =
            self.cluster.sql("postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")?;
        let pid = pid.trim().parse().context("no checkpointer")?;
        usage::parent_of(pid).ok_or_else(|| Failure::new("the checkpointer has no parent"))
    }

    /// The process of Redis.
    pub fn redis_pid(&self) -> Outcome<u32> {
        let about = self.redis.ask(&["INFO", "server"]);
        let pid = about.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap_or_default();
        pid.trim().parse().context("Redis does not say who it is")
    }

    /// Makes an organization and signs its administrator in.
    pub async fn organization(&mut self, number: usize) -> Outcome<SignedIn> {
        let (slug, email, password) =
            (format!("field-{number}"), format!("admin{number}@field.example"), random_hex(10)?);
        let environment = self.environment.clone().with("ADMIN_PASSWORD", &password);
        let words = ["organization", "create", "--name", "Field Services", "--slug", &slug, "--admin-email", &email];
        once(&self.programs.gateway, &words, &environment, &mut self.interrupt)
            .await?
            .map_err(|said| Failure::new(format!("no organization: {said}")))?;
        Ok(self.api()?.sign_in(&email, &password).await?)
    }

    /// Makes organizations and people in them, signs everybody in and checks them in; people of different
    /// organizations take turns.
    pub async fn people(&mut self, organizations: usize, people: usize) -> Outcome<Vec<Person>> {
        let api = self.api()?;
        let mut admins = Vec::new();
        for number in 0..organizations {
            admins.push(self.organization(number).await?);
        }
        let mut made = Vec::new();
        for number in 0..people {
            let (email, password) = (format!("person{number}@field.example"), random_hex(10)?);
            admins[number % organizations].create_employee(&format!("Person {number}"), &email, &password).await?;
            let signed_in = api.sign_in(&email, &password).await?;
            let session = signed_in.check_in().await?;
            let id = session.id.ok_or_else(|| Failure::new("a check-in without a session"))?;
            let since_us = session.checkin_at.timestamp_micros();
            made.push(Person { token: signed_in.token().to_owned(), session: id, since_us, signed_in });
        }
        Ok(made)
    }

    /// Stops the servers and deletes their data.
    pub fn end(self) -> Outcome {
        self.stop()?;
        Self::remove(&self.folder)
    }

    /// Ends as well as what was done with it did: after a failure everybody's logs stay, until the next run.
    pub fn end_as<T>(self, result: Outcome<T>) -> Outcome<T> {
        match result {
            Ok(result) => self.end().map(|()| result),
            Err(failure) => {
                complain!("logs are in {}", self.folder.path().display());
                self.stop()?;
                Err(failure)
            }
        }
    }

    fn stop(&self) -> Outcome {
        let redis = self.redis.stop();
        let postgres = self.cluster.stop();
        redis.and(postgres)
    }

    fn remove(folder: &Folder) -> Outcome {
        crate::servers::stop(folder)?;
        if let Some(postgres) = folder.load()?.postgres {
            let _ = fs::remove_dir_all(&postgres.home);
        }
        let _ = fs::remove_dir_all(folder.path());
        Ok(())
    }
}

/// What the figures were measured on.
pub fn machine(cluster: Option<&Cluster>, redis: &Redis) -> String {
    let first = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory_gib = first("/proc/meminfo", "MemTotal").split(' ').next().and_then(|kb| kb.parse::<f64>().ok());
    let kernel = Command::new("uname")
        .arg("-r")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let postgres = cluster.map(|cluster| cluster.sql("postgres", "SHOW server_version").unwrap_or_default());
    let postgres = postgres.map_or_else(String::new, |version| {
        format!("PostgreSQL {}, ", version.split_whitespace().next().unwrap_or("?"))
    });
    let redis = redis.ask(&["INFO", "server"]);
    let redis = redis.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("?").trim().to_owned();
    format!(
        "{}, {cores} cores, {:.0} GiB, Linux {}, {postgres}Redis {redis}, {}",
        first("/proc/cpuinfo", "model name"),
        memory_gib.unwrap_or(0.0) / 1024.0 / 1024.0,
        kernel.unwrap_or_default(),
        chrono::Utc::now().format("%Y-%m-%d"),
    )
}
