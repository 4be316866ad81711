//! Our two programs: built, configured, started, awaited, stopped.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
};

use crate::{
    api::Api,
    failure::{Context, Failure, Outcome},
    interrupt::Interrupt,
    process::Process,
    state::{Addresses, Folder, Service, free_port, port_is_free},
    workspace::{self, setting},
};

/// How long a service may take to become ready; the first start of a debug build is slow on a busy machine.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// The two program files.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The API.
    pub gateway: PathBuf,
    /// The worker.
    pub worker: PathBuf,
}

/// Builds both programs and tells where they are.
pub async fn build(release: bool, interrupt: &mut Interrupt) -> Outcome<Programs> {
    let mut cargo = Command::from(workspace::cargo());
    // The whole workspace, as the tests build it: with a smaller selection cargo would choose other features for
    // shared dependencies and compile them twice.
    cargo.args(["build", "--workspace", "--bins", "--message-format=json-render-diagnostics"]);
    if release {
        cargo.arg("--release");
    }
    let mut child = cargo.stdout(Stdio::piped()).kill_on_drop(true).spawn().context("cannot run cargo")?;
    let stdout = child.stdout.take().ok_or_else(|| Failure::new("cargo has no output"))?;
    let mut found = BTreeMap::new();
    let work = async {
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await.context("cannot read cargo's output")? {
            let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
            if let (Some(name), Some(file)) = (message["target"]["name"].as_str(), message["executable"].as_str()) {
                found.insert(name.to_owned(), PathBuf::from(file));
            }
        }
        child.wait().await.context("cannot wait for cargo")
    };
    let status = tokio::select! {
        status = work => status?,
        () = interrupt.asked(1) => return Err(Failure::new("stopped while building")),
    };
    if !status.success() {
        return Err(Failure::new("the build failed"));
    }
    let mut program = |name: &str| found.remove(name).ok_or_else(|| Failure::new(format!("cargo built no `{name}`")));
    Ok(Programs { gateway: program("api-gateway")?, worker: program("distance-worker")? })
}

/// The environment of the services: what `up` was given wins, the rest is ours.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    set: BTreeMap<String, String>,
    removed: Vec<String>,
}

impl Environment {
    /// For services with these stores, this key and these ports.
    pub fn new(addresses: &Addresses, secrets_key: &str, ports: &Ports, pretty: bool) -> Self {
        let mut environment = Self::default();
        environment.force("DATABASE_URL", &addresses.database_url);
        environment.force("SYSTEM_DATABASE_URL", &addresses.system_database_url);
        environment.force("REDIS_URL", &addresses.redis_url);
        environment.force("SECRETS_KEY", secrets_key);
        environment.force("PORT", &ports.gateway.to_string());
        environment.force("WORKER_PORT", &ports.worker.to_string());
        // A running service has no business with the owner of the tables, nor with the first password.
        for secret in ["MIGRATION_DATABASE_URL", "ADMIN_PASSWORD"] {
            environment.remove(secret);
        }
        environment.offer("APP_ENV", "development");
        environment.offer("WORKERS_ENABLED", "true");
        environment.offer("IDENTITY", "builtin");
        environment.offer("API_BASE_URL", &format!("http://127.0.0.1:{}", ports.gateway));
        if pretty {
            environment.offer("LOG_FORMAT", "pretty");
        }
        environment
    }

    /// The same, with receipts in a folder of this copy of the product, unless something else was asked for.
    pub fn receipts_in(mut self, folder: &Folder) -> Self {
        self.offer("RECEIPTS_DIR", &folder.join("receipts").display().to_string());
        self
    }

    /// The same with another value.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.force(name, value);
        self
    }

    fn force(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.set.insert(name.to_owned(), value.to_owned());
    }

    fn remove(&mut self, name: &str) {
        // A value and a file for it together are refused, so the file goes where the value was decided here.
        self.removed.extend([name.to_owned(), format!("{name}_FILE")]);
        self.set.remove(name);
    }

    fn offer(&mut self, name: &str, value: &str) {
        let given = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        if !given(name) && !given(&format!("{name}_FILE")) {
            self.set.insert(name.to_owned(), value.to_owned());
        }
    }

    fn apply(&self, command: &mut Command) {
        for name in &self.removed {
            command.env_remove(name);
        }
        command.envs(&self.set);
    }
}

/// The ports the services listen on.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// The API.
    pub gateway: u16,
    /// The worker's health and metrics.
    pub worker: u16,
}

impl Ports {
    /// Those asked for by `PORT` and `WORKER_PORT`, else those of the last time, else the usual ones, else any.
    pub fn choose(gateway: Option<&Service>, worker: Option<&Service>) -> Outcome<Self> {
        Ok(Self {
            gateway: choose("PORT", gateway.map(|service| service.port), 3000)?,
            worker: choose("WORKER_PORT", worker.map(|service| service.port), 3010)?,
        })
    }
}

fn choose(variable: &str, last: Option<u16>, usual: u16) -> Outcome<u16> {
    if let Some(asked) = setting(variable) {
        let port = asked.parse().ok().filter(|port| *port >= 1000);
        let port = port.ok_or_else(|| Failure::new(format!("{variable} must be a port from 1000 to 65535")))?;
        return if port_is_free(port) {
            Ok(port)
        } else {
            Err(Failure::new(format!("{variable}: somebody listens on port {port} already")))
        };
    }
    match last.into_iter().chain([usual]).find(|port| port_is_free(*port)) {
        Some(port) => Ok(port),
        None => free_port(),
    }
}

/// Runs a program's subcommand to its end and returns what it printed; `Err` holds what it complained about.
pub async fn once(
    program: &Path,
    arguments: &[&str],
    environment: &Environment,
    interrupt: &mut Interrupt,
) -> Outcome<Result<String, String>> {
    let mut command = Command::new(program);
    environment.apply(&mut command);
    command.args(arguments).current_dir(workspace::root()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::select! {
        output = command.output() => output.context(format!("cannot run {}", program.display()))?,
        () = interrupt.asked(1) => return Err(Failure::new("stopped")),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        let said = [text(&output.stdout), text(&output.stderr)].join("\n");
        Err(format!("{} ({})", said.trim(), output.status))
    })
}

/// A service that was started by this command.
#[derive(Debug)]
pub struct Running {
    name: &'static str,
    child: Child,
    log: Option<PathBuf>,
    /// What to remember of it.
    pub service: Service,
}

impl Running {
    /// Starts a service; its log goes to a file when it shall outlive this command, else to the terminal.
    pub fn start(
        name: &'static str,
        program: &Path,
        port: u16,
        environment: &Environment,
        log_folder: Option<&Path>,
    ) -> Outcome<Self> {
        let mut command = Command::new(program);
        environment.apply(&mut command);
        // A group of its own: Ctrl-C is for this command, which then stops the services in order.
        command.arg("serve").current_dir(workspace::root()).stdin(Stdio::null()).process_group(0);
        let log = log_folder.map(|folder| folder.join(format!("{name}.log")));
        match &log {
            Some(log) => {
                let _ = fs::rename(log, log.with_extension("previous.log"));
                let file = fs::File::create(log).context(format!("cannot make {}", log.display()))?;
                let copy = file.try_clone().context("cannot share a file")?;
                command.stdout(file).stderr(copy);
            }
            None => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
        }
        let mut child = command.spawn().context(format!("cannot run {}", program.display()))?;
        if let Some(out) = child.stdout.take() {
            tokio::spawn(forward(name, out));
        }
        if let Some(error) = child.stderr.take() {
            tokio::spawn(forward(name, error));
        }
        let process = child.id().and_then(Process::find);
        Ok(Self { name, child, log, service: Service { bin: program.to_owned(), port, process } })
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The process; an error when it has ended.
    pub fn known_pid(&self) -> Outcome<u32> {
        self.pid().ok_or_else(|| Failure::new(format!("{} has ended", self.name)))
    }

    /// Ends it as a crash would.
    pub async fn kill(&mut self) -> Outcome {
        self.child.kill().await.context("cannot kill a service")
    }

    /// Waits until `/health` and `/ready` answer 200, or tells why they never will.
    pub async fn ready(&mut self) -> Outcome {
        let api = Api::new(&format!("http://127.0.0.1:{}", self.service.port))?;
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot look at a process")? {
                return Err(Failure::new(format!("{} ended ({status}){}", self.name, self.last_lines())));
            }
            if api.answers("/health").await && api.answers("/ready").await {
                return Ok(());
            }
            if Instant::now() > deadline {
                let advice = format!("{} is not ready after {} s", self.name, READY_TIMEOUT.as_secs());
                return Err(Failure::new(format!("{advice}{}", self.last_lines())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the service ends by itself, which it should not.
    pub async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => format!("{} ended by itself ({status})", self.name),
            Err(error) => format!("{} is lost: {error}", self.name),
        }
    }

    /// Asks the service to stop and waits for it to finish its work; a second interrupt ends it at once.
    pub async fn stop(&mut self, interrupt: &mut Interrupt) {
        if let Some(process) = &self.service.process {
            process.signal("TERM");
        }
        let impatient = interrupt.times() + 1;
        tokio::select! {
            _ = self.child.wait() => return,
            () = tokio::time::sleep(grace()) => {}
            () = interrupt.asked(impatient.max(2)) => {}
        }
        complain!("{} is ended by force", self.name);
        // Ended in the meantime is as good.
        let _ = self.child.kill().await;
    }

    fn last_lines(&self) -> String {
        let Some(log) = &self.log else { return String::new() };
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        format!("; its log ({}) ends with:\n{}", log.display(), lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}

/// Stops services that an earlier command left running.
pub fn stop_left_running(folder: &Folder) -> Outcome<bool> {
    let state = folder.load()?;
    let services: Vec<Process> =
        [state.gateway, state.worker].into_iter().flatten().filter_map(|service| service.process).collect();
    let running: Vec<&Process> = services.iter().filter(|process| process.runs()).collect();
    for process in &running {
        process.signal("TERM");
    }
    for process in &running {
        if !process.ended_within(grace()) {
            process.signal("KILL");
            process.ended_within(Duration::from_secs(5));
        }
    }
    folder.update(|state| {
        for service in [&mut state.gateway, &mut state.worker].into_iter().flatten() {
            service.process = None;
        }
    })?;
    Ok(!running.is_empty())
}

/// What a service may take to drain, and a little more.
fn grace() -> Duration {
    let drain = setting("SHUTDOWN_TIMEOUT_S").and_then(|seconds| seconds.parse().ok()).unwrap_or(25);
    Duration::from_secs(drain + 10)
}

async fn forward(name: &'static str, output: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        say!("{name:<7} | {line}");
    }
}
