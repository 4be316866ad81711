//! The programs we need from the system, installed when they are missing and we may.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    failure::{Context, Failure, Outcome},
    postgres::Tools,
    workspace,
};

/// What has to be there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// PostgreSQL's server.
    pub postgres: bool,
    /// Redis's server.
    pub redis: bool,
    /// Node.js and npm: the tests run unmodified clients of other languages.
    pub node: bool,
    /// nginx, Prometheus's and Alertmanager's own checkers, shellcheck and what the deployment scripts call.
    pub operations: bool,
    /// Prometheus's exporters: outages are rehearsed with them.
    pub exporters: bool,
    /// Python's own installer: some checkers come from there alone.
    pub python: bool,
}

/// A program of `Wanted::operations`, and the package that brings it.
const OPERATIONS: [(&str, &str); 8] = [
    ("nginx", "nginx-light"),
    ("promtool", "prometheus"),
    ("amtool", "prometheus-alertmanager"),
    ("shellcheck", "shellcheck"),
    ("jq", "jq"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("pg_basebackup", "postgresql-client"),
];

/// Programs of `Wanted::exporters`; each is in the package of its name.
const EXPORTERS: [&str; 4] = [
    "prometheus-blackbox-exporter",
    "prometheus-node-exporter",
    "prometheus-postgres-exporter",
    "prometheus-redis-exporter",
];

/// Makes sure that whatever is wanted is installed.
pub fn ensure(wanted: Wanted) -> Outcome {
    let missing = missing(wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let Some(apt) = Apt::usable() else { return Err(advice(&missing)) };
    say!("installing     {} (with apt-get)", missing.join(", "));
    // A fresh image has no package lists, an old one has lists that name packages no longer there.
    if !apt.install(&missing) {
        apt.update();
        apt.install(&missing);
    }
    let still = self::missing(wanted);
    if still.is_empty() { Ok(()) } else { Err(advice(&still)) }
}

/// A program of this name on the search path.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Whether this is the superuser of the machine.
pub fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Installs the npm packages of a folder as its lock file names them, unless they are there.
pub fn npm_ci(folder: &Path) -> Outcome {
    let changed = |file: &str| fs::metadata(folder.join(file)).and_then(|about| about.modified()).ok();
    if changed("node_modules/.package-lock.json") >= changed("package-lock.json") {
        return Ok(());
    }
    say!("installing     npm packages of {}", folder.display());
    let mut command = Command::new("npm");
    let status = command.args(["ci", "--loglevel=error"]).current_dir(folder).stdin(Stdio::null()).status();
    match status.context("cannot run npm")?.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("npm ci failed in {}", folder.display()))),
    }
}

/// Installs one program of the Python Package Index, in exactly this version, below `target/`; answers the folder. What it
/// would like beside itself is not installed: only programs that need nothing are used.
pub fn python(name: &str, version: &str) -> Outcome<PathBuf> {
    let folder = workspace::target().join("tools").join(format!("{name}-{version}"));
    if folder.exists() {
        return Ok(folder);
    }
    ensure(Wanted { python: true, ..Wanted::default() })?;
    say!("installing     {name} {version} (with pip)");
    // Renamed at the end, so that what was cut off is not taken for the whole.
    let fresh = folder.with_extension(format!("{}.new", std::process::id()));
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target"]).arg(&fresh);
    // It is told where to, so neither who we are nor how old the installer is matters; somebody's setting to install for
    // the user alone would contradict that.
    command.envs([("PIP_USER", "0"), ("PIP_ROOT_USER_ACTION", "ignore"), ("PIP_DISABLE_PIP_VERSION_CHECK", "1")]);
    let status = command.arg(format!("{name}=={version}")).stdin(Stdio::null()).status();
    if !status.context("cannot run python3")?.success() {
        return Err(Failure::new(format!("pip cannot install {name} {version}")));
    }
    match fs::rename(&fresh, &folder) {
        // Another command was quicker.
        Err(_) if folder.exists() => fs::remove_dir_all(&fresh).context("cannot delete a second copy")?,
        renamed => renamed.context(format!("cannot make {}", folder.display()))?,
    }
    Ok(folder)
}

fn missing(wanted: Wanted) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if wanted.postgres && Tools::find(None).is_none() {
        missing.push("postgresql");
    }
    if wanted.redis && find("redis-server").is_none() {
        missing.push("redis-server");
    }
    if wanted.node && find("node").is_none() {
        missing.push("nodejs");
    }
    if wanted.node && find("npm").is_none() {
        missing.push("npm");
    }
    if wanted.python && !has_pip() {
        missing.push("python3-pip");
    }
    // Debian keeps programs of administrators where not everybody looks.
    let there = |program: &str| find(program).is_some() || Path::new("/usr/sbin").join(program).is_file();
    if wanted.exporters {
        missing.extend(EXPORTERS.iter().filter(|program| !there(program)));
    }
    if wanted.operations {
        missing.extend(OPERATIONS.iter().filter(|(program, _)| !there(program)).map(|(_, package)| *package));
    }
    missing
}

fn has_pip() -> bool {
    let mut command = Command::new("python3");
    let output = command.args(["-m", "pip", "--version"]).stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success())
}

fn advice(missing: &[&str]) -> Failure {
    let servers = match missing.iter().any(|package| matches!(*package, "postgresql" | "redis-server")) {
        true => {
            " PostgreSQL has to be 15 or newer, Redis 7 or newer. Or name servers of your own with DATABASE_URL, \
             SYSTEM_DATABASE_URL, MIGRATION_DATABASE_URL and REDIS_URL."
        }
        false => "",
    };
    Failure::new(format!(
        "missing on this machine: {list}. On Debian and Ubuntu install it with `sudo apt-get install {list}`, and run this \
         again.{servers}",
        list = missing.join(" ")
    ))
}

struct Apt {
    sudo: bool,
}

impl Apt {
    /// apt-get, if it is here and we may run it without being asked for a password.
    fn usable() -> Option<Self> {
        find("apt-get")?;
        if is_root() {
            return Some(Self { sudo: false });
        }
        let quiet = Command::new("sudo").args(["-n", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        quiet.is_ok_and(|status| status.success()).then_some(Self { sudo: true })
    }

    fn update(&self) {
        // When it fails, so does the installation after it, and that is reported.
        let _ = self.run(&["update"]);
    }

    fn install(&self, packages: &[&str]) -> bool {
        let has_lists = fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| entries.count() > 2);
        if !has_lists {
            self.update();
        }
        let words: Vec<&str> = ["install", "-y", "--no-install-recommends"].iter().chain(packages).copied().collect();
        self.run(&words).unwrap_or(false)
    }

    fn run(&self, words: &[&str]) -> Outcome<bool> {
        let mut command = if self.sudo { Command::new("sudo") } else { Command::new("env") };
        if self.sudo {
            command.args(["-n", "env"]);
        }
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]).args(words).stdin(Stdio::null());
        Ok(command.status().context("cannot run apt-get")?.success())
    }
}
