//! What a running product remembers between commands: ports, passwords, processes, people.
//!
//! One JSON file, readable by its owner only. Passwords are made here and nowhere written down in the repository.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Context, Failure, Outcome},
    process::Process,
    workspace,
};

/// A folder that holds one set of servers with their state.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder of `cargo xtask up`, or another that was asked for.
    pub fn dev(other: Option<&Path>) -> Self {
        Self(other.map_or_else(
            || workspace::target().join("dev"),
            // The servers are told the path and run elsewhere, so it must hold everywhere.
            |folder| std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()),
        ))
    }

    /// The folder of `cargo xtask test`.
    pub fn test() -> Self {
        Self(workspace::target().join("test"))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file or folder in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes the folder if it is missing.
    pub fn create(&self) -> Outcome {
        fs::create_dir_all(&self.0).context(format!("cannot make {}", self.0.display()))
    }

    /// Opens a file that is only there to be locked.
    pub fn lock_file(&self, name: &str) -> Outcome<File> {
        self.create()?;
        let path = self.join(name);
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        open.context(format!("cannot open {}", path.display()))
    }

    /// Becomes the one command that changes what runs here; `None` when another is at it.
    pub fn try_own(&self) -> Outcome<Option<File>> {
        let lock = self.lock_file("up.lock")?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).context("cannot lock the state"),
        }
    }

    /// What was remembered; nothing at first.
    pub fn load(&self) -> Outcome<State> {
        let path = self.join("state.json");
        if !path.exists() {
            return Ok(State::default());
        }
        let content = fs::read_to_string(&path).context(format!("cannot read {}", path.display()))?;
        serde_json::from_str(&content).context(format!("{} is not understood", path.display()))
    }

    /// Changes what is remembered; two commands at once lose nothing of each other.
    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> Outcome<T> {
        let lock = self.lock_file("state.lock")?;
        lock.lock().context("cannot lock the state")?;
        let mut state = self.load()?;
        let result = change(&mut state);
        self.save(&state)?;
        Ok(result)
    }

    fn save(&self, state: &State) -> Outcome {
        let content = serde_json::to_string_pretty(state).context("cannot write the state")?;
        let path = self.join("state.json");
        let fresh = self.join("state.json.new");
        // A crash half-way must leave the old passwords readable, hence the second file.
        let write = || {
            // The mode counts only for a file that is made now.
            if fresh.exists() {
                fs::remove_file(&fresh)?;
            }
            let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&fresh)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().context(format!("cannot write {}", path.display()))
    }
}

/// Everything that is remembered.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct State {
    /// Our PostgreSQL, once it was made.
    pub postgres: Option<PostgresState>,
    /// Port of our Redis, once it was started.
    pub redis_port: Option<u16>,
    /// The key that encrypts secrets in the database.
    pub secrets_key: Option<String>,
    /// The addresses the services were given last.
    pub addresses: Option<Addresses>,
    /// The demo organization, once it was asked for.
    pub organization: Option<Organization>,
    /// The `up` that stays in the foreground, if any.
    pub supervisor: Option<Process>,
    /// The API.
    pub gateway: Option<Service>,
    /// The worker.
    pub worker: Option<Service>,
}

/// Our PostgreSQL cluster.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PostgresState {
    /// Folder of the cluster: not always below the state, see `postgres.rs`.
    pub home: PathBuf,
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Password of the superuser `postgres`.
    pub superuser_password: String,
    /// Password of `fieldtrack_owner`.
    pub owner_password: String,
    /// Password of `fieldtrack_app`.
    pub app_password: String,
    /// Password of `fieldtrack_system`.
    pub system_password: String,
}

/// Where the services find their stores.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// For the role of tenants' queries.
    pub database_url: String,
    /// For the role of login, relay and schedule.
    pub system_database_url: String,
    /// For the role that owns the tables.
    pub migration_database_url: String,
    /// The queue store.
    pub redis_url: String,
    /// Whether the database is ours, or was named by `DATABASE_URL`.
    pub own_database: bool,
    /// Whether Redis is ours, or was named by `REDIS_URL`.
    pub own_redis: bool,
}

impl Addresses {
    /// Tells one database from another, even when ours has moved to another port.
    pub fn database(&self) -> &str {
        if self.own_database { "own" } else { &self.database_url }
    }
}

/// The demo organization.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Organization {
    /// The database it lives in, see [`Addresses::database`].
    pub database: String,
    /// Its id, once it exists.
    pub id: Option<String>,
    /// E-mail of its administrator.
    pub admin_email: String,
    /// Password of its administrator.
    pub admin_password: String,
    /// Employees who can sign in.
    pub people: Vec<Person>,
    /// Kilometres of the day that was replayed, when one was.
    pub replayed_km: Option<f64>,
}

/// Somebody who can sign in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Person {
    /// Full name.
    pub name: String,
    /// E-mail.
    pub email: String,
    /// Password.
    pub password: String,
}

/// One of our two programs, running or not.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Service {
    /// The program file.
    pub bin: PathBuf,
    /// The port it listens on.
    pub port: u16,
    /// The process, as long as it should run.
    pub process: Option<Process>,
}

impl Service {
    /// Whether its process runs.
    pub fn runs(&self) -> bool {
        self.process.as_ref().is_some_and(Process::runs)
    }
}

/// Random bytes of the system, as hexadecimal digits: a password without a character that needs quoting.
pub fn random_hex(bytes: usize) -> Outcome<String> {
    Ok(random(bytes)?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A fresh `SECRETS_KEY`.
pub fn random_key() -> Outcome<String> {
    Ok(STANDARD.encode(random(32)?))
}

fn random(bytes: usize) -> Outcome<Vec<u8>> {
    let mut random = vec![0; bytes];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .context("cannot read /dev/urandom")?;
    Ok(random)
}

/// A port on 127.0.0.1 nobody listens on.
pub fn free_port() -> Outcome<u16> {
    testkit::redis::free_port().context("no free port")
}

/// Whether nobody listens on this port of 127.0.0.1.
pub fn port_is_free(port: u16) -> bool {
    std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The running product's state, or advice when there is none.
pub fn of_running_product(folder: &Folder) -> Outcome<State> {
    let state = folder.load()?;
    if state.gateway.as_ref().is_some_and(Service::runs) {
        Ok(state)
    } else {
        Err(Failure::new("the product is not up: run `cargo xtask up` (add --detach to keep this terminal)"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_state_is_kept_for_its_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder(parent.path().join("deep/dev"));
        assert!(folder.load().unwrap().redis_port.is_none());
        folder.update(|state| state.redis_port = Some(1234)).unwrap();
        folder.update(|state| state.secrets_key = Some("key".to_owned())).unwrap();
        let state = folder.load().unwrap();
        assert_eq!((state.redis_port, state.secrets_key.as_deref()), (Some(1234), Some("key")));
        let mode = fs::metadata(folder.join("state.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn only_one_command_owns_a_folder() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder(parent.path().to_owned());
        let first = folder.try_own().unwrap();
        assert!(first.is_some());
        assert!(folder.try_own().unwrap().is_none());
        drop(first);
        assert!(folder.try_own().unwrap().is_some());
    }

    #[test]
    fn secrets_are_long_and_never_the_same() {
        assert_eq!(random_hex(16).unwrap().len(), 32);
        assert_ne!(random_hex(16).unwrap(), random_hex(16).unwrap());
        assert_eq!(STANDARD.decode(random_key().unwrap()).unwrap().len(), 32);
    }
}
