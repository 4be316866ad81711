//! A PostgreSQL cluster of our own: made once, started and stopped at will, reached only over 127.0.0.1 with a password.
//!
//! Two things about the machine matter. Debian keeps the server's programs outside the search path. And PostgreSQL
//! refuses to run as root, so root hands the cluster to the user `postgres`, who must be able to reach its folder.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    failure::{Context, Failure, Outcome},
    packages,
    process::{self, Process},
    state::{Folder, PostgresState, free_port, port_is_free, random_hex},
};

/// The oldest version whose row-level security and `public` schema are what the migrations expect.
const OLDEST: u32 = 15;

/// The account that root lends to the server.
const ACCOUNT: &str = "postgres";

/// The programs of one PostgreSQL version.
#[derive(Clone, Debug)]
pub struct Tools {
    bin: PathBuf,
    major: u32,
}

impl Tools {
    /// The newest usable installation, or the one of a given major version.
    pub fn find(major: Option<u32>) -> Option<Self> {
        let mut folders: Vec<PathBuf> = Vec::new();
        folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
        for parent in ["/usr/lib/postgresql", "/usr/local/opt", "/opt/homebrew/opt", "/usr"] {
            let versions = fs::read_dir(parent).into_iter().flatten().flatten();
            folders.extend(versions.map(|version| version.path().join("bin")));
        }
        folders.push("/usr/local/pgsql/bin".into());
        folders
            .into_iter()
            .filter(|bin| ["initdb", "pg_ctl", "postgres", "psql"].iter().all(|name| bin.join(name).is_file()))
            .filter_map(|bin| version(&bin).map(|major| Self { bin, major }))
            .filter(|tools| tools.major >= OLDEST && major.is_none_or(|major| tools.major == major))
            .max_by_key(|tools| tools.major)
    }

    fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

fn version(bin: &Path) -> Option<u32> {
    let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    // "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().nth(2)?;
    number.split(|digit: char| !digit.is_ascii_digit()).next()?.parse().ok()
}

/// What a cluster is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Keeps what was committed, as in production.
    Develop,
    /// Forgets after a crash of the machine: tests make their data anew and want speed.
    Test,
}

impl Purpose {
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Develop => &["max_connections=200", "shared_buffers=128MB", "jit=off"],
            Self::Test => &[
                "max_connections=300",
                "shared_buffers=128MB",
                "jit=off",
                "fsync=off",
                "synchronous_commit=off",
                "full_page_writes=off",
                "wal_level=minimal",
                "max_wal_senders=0",
                "max_wal_size=2GB",
                "checkpoint_timeout=30min",
            ],
        }
    }
}

/// A cluster, running or not.
#[derive(Debug)]
pub struct Cluster {
    folder: Folder,
    purpose: Purpose,
    tools: Tools,
    account: Option<Account>,
    state: PostgresState,
}

/// Whom root becomes to run the server.
#[derive(Clone, Copy, Debug)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Cluster {
    /// The cluster of `folder`; makes up port and passwords the first time, touches no server.
    pub fn of(folder: &Folder, purpose: Purpose) -> Outcome<Self> {
        let account = if packages::is_root() { Some(Account::find()?) } else { None };
        let known = folder.load()?.postgres;
        let state = match known {
            Some(state) if state.home.exists() => state,
            // `/var/tmp` is tidied up by some systems: the data is gone, the passwords may stay.
            Some(mut state) => {
                state.home = choose_home(folder, account)?;
                folder.update(|all| all.postgres = Some(state.clone()))?;
                state
            }
            None => {
                let state = PostgresState {
                    home: choose_home(folder, account)?,
                    port: free_port()?,
                    superuser_password: random_hex(20)?,
                    owner_password: random_hex(20)?,
                    app_password: random_hex(20)?,
                    system_password: random_hex(20)?,
                };
                folder.update(|all| all.postgres = Some(state.clone()))?;
                state
            }
        };
        let kept = fs::read_to_string(state.home.join("data/PG_VERSION")).ok();
        let major = kept.and_then(|version| version.trim().parse().ok());
        let tools = Tools::find(major).ok_or_else(|| match major {
            Some(major) => Failure::new(format!(
                "the data in {} is of PostgreSQL {major}, which is not installed: install it, or delete the data with \
                 `cargo xtask reset`",
                state.home.display()
            )),
            None => Failure::new(format!("PostgreSQL {OLDEST} or newer is not installed")),
        })?;
        Ok(Self { folder: folder.clone(), purpose, tools, account, state })
    }

    /// Starts the server unless it runs, making the cluster first when there is none.
    pub fn start(&mut self) -> Outcome {
        match self.make_and_launch() {
            // Nothing in a test cluster is worth a repair.
            Err(failure) if self.purpose == Purpose::Test && self.marker().exists() => {
                complain!("the test cluster does not start ({failure}); making a new one");
                let _ = self.stop();
                fs::remove_dir_all(self.data()).context("cannot delete the test cluster")?;
                let _ = fs::remove_file(self.marker());
                self.make_and_launch()
            }
            other => other,
        }
    }

    fn make_and_launch(&mut self) -> Outcome {
        self.make()?;
        self.launch()
    }

    /// Stops the server if it runs: sessions are ended and rolled back, as any client must expect of a server.
    pub fn stop(&self) -> Outcome {
        self.stop_in("fast")
    }

    fn stop_in(&self, mode: &str) -> Outcome {
        let Some(server) = self.server() else { return Ok(()) };
        let mut stop = self.as_server(&self.tools.program("pg_ctl"));
        stop.arg("-D").arg(self.data()).args(["-m", mode, "-w", "-t", "60", "stop"]);
        let _ = quiet(&mut stop);
        if !server.ended_within(Duration::from_secs(5)) {
            server.signal("QUIT");
        }
        if server.ended_within(Duration::from_secs(20)) {
            Ok(())
        } else {
            Err(Failure::new(format!("PostgreSQL (process {}) does not stop", server.pid)))
        }
    }

    /// Whether the server runs.
    pub fn runs(&self) -> bool {
        self.server().is_some()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.state.port
    }

    /// Major version of the server.
    pub fn major(&self) -> u32 {
        self.tools.major
    }

    /// One of the server's own programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.tools.program(name)
    }

    /// Ends the server as a crash would: no checkpoint, recovery at the next start.
    pub fn crash(&self) -> Outcome {
        self.stop_in("immediate")
    }

    /// Address for the superuser.
    pub fn superuser_url(&self, database: &str) -> String {
        self.url("postgres", &self.state.superuser_password, database)
    }

    /// Addresses of the product's database for its three roles: owner, app, system.
    pub fn role_urls(&self) -> [String; 3] {
        [
            self.url("fieldtrack_owner", &self.state.owner_password, "fieldtrack"),
            self.url("fieldtrack_app", &self.state.app_password, "fieldtrack"),
            self.url("fieldtrack_system", &self.state.system_password, "fieldtrack"),
        ]
    }

    /// Makes the product's roles and its database where they are missing; migrations do the rest.
    pub fn create_product_database(&self) -> Outcome {
        let mut script = String::new();
        for (role, password) in [
            ("fieldtrack_owner", &self.state.owner_password),
            ("fieldtrack_app", &self.state.app_password),
            ("fieldtrack_system", &self.state.system_password),
        ] {
            // The rights are said again each time, so that nobody's experiment outlives a restart.
            script.push_str(&format!(
                "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role}; \
                 END IF; END $$;\n\
                 ALTER ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS \
                 PASSWORD '{password}';\n"
            ));
        }
        script.push_str(
            "SELECT 'CREATE DATABASE fieldtrack OWNER fieldtrack_owner' \
             WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'fieldtrack') \\gexec\n\
             REVOKE ALL ON DATABASE fieldtrack FROM PUBLIC;\n\
             GRANT CONNECT ON DATABASE fieldtrack TO fieldtrack_app, fieldtrack_system;\n",
        );
        self.sql("postgres", &script).context("cannot make the roles and the database").map(|_| ())
    }

    /// Runs a script as the superuser and returns what it printed.
    pub fn sql(&self, database: &str, script: &str) -> Outcome<String> {
        let mut command = Command::new(self.tools.program("psql"));
        command
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"])
            .args(["-p", &self.state.port.to_string(), "-d", database, "-f", "-"])
            // Neither the password nor the script's own may show in the list of processes.
            .env("PGPASSWORD", &self.state.superuser_password)
            .env("PGCONNECT_TIMEOUT", "10")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut psql = command.spawn().context("cannot run psql")?;
        if let Some(mut stdin) = psql.stdin.take() {
            stdin.write_all(script.as_bytes()).context("cannot speak to psql")?;
        }
        let output = psql.wait_with_output().context("cannot run psql")?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(Failure::new(format!("psql says: {}", String::from_utf8_lossy(&output.stderr).trim())))
        }
    }

    fn url(&self, role: &str, password: &str, database: &str) -> String {
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}", self.state.port)
    }

    fn data(&self) -> PathBuf {
        self.state.home.join("data")
    }

    /// Where the server writes what it has to say.
    pub fn log(&self) -> PathBuf {
        self.state.home.join("server.log")
    }

    /// Written when the cluster is complete: an `initdb` that was killed leaves a folder that looks like one.
    fn marker(&self) -> PathBuf {
        self.state.home.join("complete")
    }

    fn make(&self) -> Outcome {
        if self.marker().exists() && self.data().join("PG_VERSION").exists() {
            return Ok(());
        }
        let home = &self.state.home;
        make_private_folder(home, self.account)?;
        let password_file = home.join("password");
        // Without the superuser's password there is no way in, with or without the network.
        let locale_of_machine: &[&str] = &[];
        for locale in [&["--locale=C.UTF-8"], locale_of_machine] {
            if self.data().exists() {
                fs::remove_dir_all(self.data()).context("cannot delete an unfinished cluster")?;
            }
            self.write_private(&password_file, &self.state.superuser_password)?;
            let mut initdb = self.as_server(&self.tools.program("initdb"));
            initdb.arg("-D").arg(self.data()).arg("--pwfile").arg(&password_file);
            initdb.args(["-U", "postgres", "--auth=scram-sha-256", "--encoding=UTF8"]).args(locale);
            if self.purpose == Purpose::Test {
                initdb.arg("--no-sync");
            }
            let made = quiet(&mut initdb);
            fs::remove_file(&password_file).context("cannot delete the password file")?;
            match made {
                Ok(()) => {
                    return fs::write(self.marker(), "").context("cannot finish the cluster");
                }
                Err(failure) if locale.is_empty() => return Err(failure),
                // Not every system has that locale; then its own must do.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn launch(&mut self) -> Outcome {
        if self.server().is_some() {
            return self.wait_for_login();
        }
        // A crash leaves the note behind; the server would take whoever has that number now for itself.
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if !port_is_free(self.state.port) {
                self.state.port = free_port()?;
                let port = self.state.port;
                self.folder.update(|all| {
                    if let Some(postgres) = &mut all.postgres {
                        postgres.port = port;
                    }
                })?;
            }
            let _ = fs::remove_file(self.log());
            let mut start = self.as_server(&self.tools.program("pg_ctl"));
            start.arg("-D").arg(self.data()).arg("-l").arg(self.log());
            start.args(["-w", "-t", "60", "-o", &self.options(), "start"]);
            let Err(failure) = quiet(&mut start) else { return self.wait_for_login() };
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            // Processes of a crashed server may need a moment to notice that they are orphans, and a port may have
            // been taken since we looked.
            let passing = ["shared memory block", "lock file", "could not bind", "in use"];
            if Instant::now() > deadline || !passing.iter().any(|text| log.contains(text)) {
                let end: Vec<&str> = log.lines().rev().take(5).collect();
                let end: Vec<&str> = end.into_iter().rev().collect();
                return Err(Failure::new(format!("PostgreSQL does not start: {failure}\n{}", end.join("\n"))));
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    fn options(&self) -> String {
        let mut options = format!("-c port={} -c listen_addresses=127.0.0.1", self.state.port);
        // The usual place of the socket belongs to the system's own server, and a path of ours may be too long for one.
        options.push_str(" -c unix_socket_directories='' -c timezone=UTC -c log_timezone=UTC");
        for setting in self.purpose.settings() {
            options.push_str(&format!(" -c {setting}"));
        }
        options
    }

    fn wait_for_login(&self) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.sql("postgres", "SELECT 1;") {
                Ok(_) => return Ok(()),
                // Recovery after a crash takes its time.
                Err(_) if Instant::now() < deadline && self.runs() => thread::sleep(Duration::from_millis(200)),
                Err(failure) => return Err(failure).context("PostgreSQL runs but lets nobody in"),
            }
        }
    }

    /// The running server of this cluster, if its note names a process that really is one.
    fn server(&self) -> Option<Process> {
        let note = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let pid = note.lines().next()?.trim().parse().ok()?;
        let words = process::command_line(pid)?;
        let ours = words.contains("postgres") && words.contains(&self.data().display().to_string());
        if ours { Process::find(pid) } else { None }
    }

    fn as_server(&self, program: &Path) -> Command {
        let mut command = match self.account {
            Some(_) => {
                let mut command = Command::new("runuser");
                command.args(["-u", ACCOUNT, "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // The account may not enter the folder we are in, and a message in another language could not be told apart.
        command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    fn write_private(&self, path: &Path, content: &str) -> Outcome {
        use std::os::unix::fs::OpenOptionsExt;
        let _ = fs::remove_file(path);
        let write = || {
            let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
            file.write_all(content.as_bytes())?;
            if let Some(account) = self.account {
                chown(path, Some(account.uid), Some(account.gid))?;
            }
            Ok::<_, std::io::Error>(())
        };
        write().context(format!("cannot write {}", path.display()))
    }
}

impl Account {
    fn find() -> Outcome<Self> {
        let id = |flag| {
            let output = Command::new("id").args([flag, ACCOUNT]).stderr(Stdio::null()).output().ok()?;
            String::from_utf8_lossy(&output.stdout).trim().parse().ok()
        };
        match (id("-u"), id("-g")) {
            (Some(uid), Some(gid)) => Ok(Self { uid, gid }),
            _ => Err(Failure::new(format!(
                "PostgreSQL refuses to run as root, and there is no user `{ACCOUNT}` to run it as: run this command as \
                 an ordinary user, or create that user"
            ))),
        }
    }
}

/// Below the state if the server's user gets there, else in `/var/tmp`: a checkout under `/root` is closed to others.
fn choose_home(folder: &Folder, account: Option<Account>) -> Outcome<PathBuf> {
    folder.create()?;
    let near = folder.join("postgres");
    make_private_folder(&near, account)?;
    if account.is_none() || account_reaches(&near) {
        return Ok(near);
    }
    fs::remove_dir(&near).context(format!("cannot delete {}", near.display()))?;
    let path = folder.path().canonicalize().context("cannot resolve the folder of the state")?;
    let far = PathBuf::from(format!("/var/tmp/fieldtrack-{:016x}", fingerprint(&path)));
    match fs::symlink_metadata(&far) {
        // Anybody may write to /var/tmp: what is there already must be ours.
        Ok(found) if found.is_dir() && found.uid() == 0 => {}
        Ok(_) => return Err(Failure::new(format!("{} belongs to somebody else", far.display()))),
        Err(_) => fs::DirBuilder::new().mode(0o755).create(&far).context(format!("cannot make {}", far.display()))?,
    }
    let home = far.join("postgres");
    make_private_folder(&home, account)?;
    if !account_reaches(&home) {
        return Err(Failure::new(format!("the user `{ACCOUNT}` cannot reach {}", home.display())));
    }
    let note = format!(
        "The database is in {}, because the user `{ACCOUNT}`, as whom PostgreSQL runs, cannot enter this folder.\n",
        home.display()
    );
    fs::write(folder.join("data-is-elsewhere.txt"), note).context("cannot leave a note about the data")?;
    Ok(home)
}

fn account_reaches(folder: &Path) -> bool {
    let mut test = Command::new("runuser");
    test.args(["-u", ACCOUNT, "--", "test", "-w"]).arg(folder).current_dir("/").stderr(Stdio::null());
    test.status().is_ok_and(|status| status.success())
}

fn make_private_folder(folder: &Path, account: Option<Account>) -> Outcome {
    let make = || {
        if !folder.exists() {
            fs::DirBuilder::new().mode(0o700).create(folder)?;
        }
        account.map_or(Ok(()), |account| chown(folder, Some(account.uid), Some(account.gid)))
    };
    make().context(format!("cannot make {}", folder.display()))
}

/// FNV-1a: the same path has the same name for ever, which the standard hasher does not promise.
fn fingerprint(path: &Path) -> u64 {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Runs a command, and shows what it said only if it failed.
fn quiet(command: &mut Command) -> Outcome {
    let name = command.get_program().to_string_lossy().into_owned();
    // Files, not pipes: a server started by the command may keep them open, and a pipe would be read for ever.
    let said = tempfile::tempfile().context("cannot make a temporary file")?;
    let (out, error) = (said.try_clone(), said.try_clone());
    let status = command
        .stdout(out.context("cannot share a file")?)
        .stderr(error.context("cannot share a file")?)
        .status()
        .context(format!("cannot run {name}"))?;
    if status.success() {
        return Ok(());
    }
    use std::io::{Read, Seek};
    let mut said = said;
    let mut text = String::new();
    let _ = said.rewind().and_then(|()| said.read_to_string(&mut text));
    Err(Failure::new(format!("{name} failed ({status}): {}", text.trim())))
}
