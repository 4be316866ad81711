//! A real `redis-server` process of a test's own.
//!
//! Tests stop it, kill it and freeze it to see what the product does meanwhile, so each has one and none is shared.
//! The protocol is spoken by hand: `testkit` serves the crates below `queue`, which alone knows a client library.

use std::{
    fmt,
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a server may take to answer its first PING, on a machine that compiles at the same time.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a server may take to end after it was asked.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The program is not on this machine.
    #[error("redis-server is not installed; `cargo xtask test` installs it and runs the tests")]
    NotInstalled,
    /// The program ended, or never answered.
    #[error("redis-server did not start: {0}")]
    NotStarted(String),
    /// The server could not be reached or controlled.
    #[error("redis-server on port {port}: {source}")]
    Io {
        /// Port of the server.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
}

/// What the server remembers when it starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Everything it wrote to disk; that is nothing, unless it was started with [`RedisServer::persistent`].
    Kept,
    /// Nothing: as after the loss of its disk.
    Lost,
}

/// A `redis-server` on a free port of this machine, ended and removed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    persistent: bool,
    folder: TempDir,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts a server that keeps nothing on disk, and waits until it answers.
    pub fn start() -> Result<Self, RedisError> {
        Self::launch(false)
    }

    /// Starts a server that writes each change to disk before it answers, and waits until it answers.
    pub fn persistent() -> Result<Self, RedisError> {
        Self::launch(true)
    }

    fn launch(persistent: bool) -> Result<Self, RedisError> {
        let folder = tempfile::Builder::new()
            .prefix("fieldtrack-redis-")
            .tempdir()
            .map_err(|source| RedisError::NotStarted(source.to_string()))?;
        let mut server = Self { port: 0, persistent, folder, child: None };
        // Another test may take the port between our look and the server's: then the server ends, and we try again.
        let mut attempt = 1;
        loop {
            server.port = free_port().map_err(|source| RedisError::Io { port: 0, source })?;
            match server.spawn() {
                Err(RedisError::NotStarted(_)) if attempt < 5 => attempt += 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(server),
            }
        }
    }

    /// Address for a client.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Port on 127.0.0.1; stays the same through [`RedisServer::start_again`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Asks the server to end, as an operator would, and waits until it has.
    pub fn stop(&mut self) -> Result<(), RedisError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let address = self.address();
        // The connection closes instead of answering, and a frozen server does not answer at all.
        let _ = call(address, &["SHUTDOWN", "NOSAVE"], Duration::from_secs(2));
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            match child.try_wait() {
                Ok(Some(_)) => return Ok(()),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                _ => {
                    end(&mut child);
                    return Ok(());
                }
            }
        }
    }

    /// Ends the server at once, as a crash would (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            end(&mut child);
        }
    }

    /// Starts the server again on the same port and waits until it answers; stops it first when it runs.
    pub fn start_again(&mut self, memory: Memory) -> Result<(), RedisError> {
        self.stop()?;
        if memory == Memory::Lost {
            self.forget().map_err(|source| RedisError::Io { port: self.port, source })?;
        }
        self.spawn()
    }

    /// Suspends the server: it keeps its connections and answers nothing, as behind a broken network (SIGSTOP).
    pub fn freeze(&self) -> Result<(), RedisError> {
        self.signal("STOP")
    }

    /// Lets a frozen server go on (SIGCONT).
    pub fn thaw(&self) -> Result<(), RedisError> {
        self.signal("CONT")
    }

    /// Sends one command and returns the answer: `["SET", "key", "value"]`.
    pub fn call(&self, command: &[&str]) -> Result<Reply, RedisError> {
        call(self.address(), command, Duration::from_secs(5))
            .map_err(|source| RedisError::Io { port: self.port, source })
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    fn spawn(&mut self) -> Result<(), RedisError> {
        let log_path = self.folder.path().join("redis.log");
        let failed = |source: io::Error| RedisError::NotStarted(source.to_string());
        let log = File::create(&log_path).map_err(failed)?;
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--databases", "1"])
            .args(["--appendonly", if self.persistent { "yes" } else { "no" }, "--appendfsync", "always"])
            .args(["--maxmemory-policy", "noeviction", "--loglevel", "notice", "--dir"])
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stderr(log.try_clone().map_err(failed)?)
            .stdout(log)
            .spawn()
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => RedisError::NotInstalled,
                _ => RedisError::NotStarted(source.to_string()),
            })?;
        let process = child.id();
        let child = self.child.insert(child);
        let deadline = Instant::now() + START_TIMEOUT;
        let problem = loop {
            if let Ok(Some(status)) = child.try_wait() {
                break format!("it ended ({status})");
            }
            if answers_as(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), process) {
                return Ok(());
            }
            if Instant::now() > deadline {
                break format!("no answer within {} s", START_TIMEOUT.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        };
        self.kill();
        Err(RedisError::NotStarted(format!("{problem}; its log ends with: {}", last_lines(&log_path))))
    }

    fn forget(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.folder.path())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn signal(&self, name: &str) -> Result<(), RedisError> {
        let failed = |source| RedisError::Io { port: self.port, source };
        let child = self.child.as_ref().ok_or_else(|| failed(io::ErrorKind::NotConnected.into()))?;
        // The shell's own `kill` is there even where the program of that name is not installed.
        let status = Command::new("sh")
            .args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &child.id().to_string()])
            .status()
            .map_err(failed)?;
        if status.success() { Ok(()) } else { Err(failed(io::Error::other("the signal was refused"))) }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An answer of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing there.
    Nil,
    /// A status (`OK`) or a value.
    Text(String),
    /// A number.
    Number(i64),
    /// Several answers.
    List(Vec<Reply>),
    /// The command was refused.
    Refused(String),
}

/// The answer as text, one value a line.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => Ok(()),
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::List(replies) => replies.iter().try_for_each(|reply| writeln!(f, "{reply}")),
            Self::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

/// Sends one command over a connection of its own and returns the answer.
pub fn call(address: SocketAddr, command: &[&str], timeout: Duration) -> io::Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let mut request = format!("*{}\r\n", command.len());
    for word in command {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes())?;
    read_reply(&mut BufReader::new(stream))
}

fn read_reply(reader: &mut impl BufRead) -> io::Result<Reply> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not of Redis");
    let line = line.trim_end_matches(['\r', '\n']);
    let (kind, rest) = line.split_at_checked(1).ok_or_else(nonsense)?;
    let number = || rest.parse::<i64>().map_err(|_| nonsense());
    match kind {
        "+" => Ok(Reply::Text(rest.to_owned())),
        "-" => Ok(Reply::Refused(rest.to_owned())),
        ":" => number().map(Reply::Number),
        "$" => {
            let Ok(length) = usize::try_from(number()?) else { return Ok(Reply::Nil) };
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
        }
        "*" => {
            let Ok(length) = usize::try_from(number()?) else { return Ok(Reply::Nil) };
            (0..length).map(|_| read_reply(reader)).collect::<io::Result<_>>().map(Reply::List)
        }
        _ => Err(nonsense()),
    }
}

/// A port on 127.0.0.1 nobody listens on, below those the system gives to outgoing connections: one of these could
/// otherwise take the port of a server that a test has stopped for a while.
pub fn free_port() -> io::Result<u16> {
    for _ in 0..200 {
        // The keys of the standard hasher are random, which saves a generator.
        let port = 12_000 + (RandomState::new().hash_one(()) % 18_000) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr().map(|address| address.port())
}

/// Whether the server at `address` answers and is the given process, not another that took its port.
pub fn answers_as(address: SocketAddr, process: u32) -> bool {
    let wait = Duration::from_millis(500);
    if !matches!(call(address, &["PING"], wait), Ok(Reply::Text(pong)) if pong == "PONG") {
        return false;
    }
    let wanted = format!("process_id:{process}");
    matches!(call(address, &["INFO", "server"], wait), Ok(Reply::Text(facts)) if facts.lines().any(|line| line == wanted))
}

fn end(child: &mut Child) {
    // Already ended is as good: nothing is left to do about either error.
    let _ = child.kill();
    let _ = child.wait();
}

fn last_lines(path: &Path) -> String {
    let log = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = log.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Reply {
        Reply::Text(value.to_owned())
    }

    #[test]
    fn a_server_answers_and_ends_with_its_owner() {
        let server = RedisServer::start().unwrap();
        assert_eq!(server.call(&["SET", "key", "two words"]).unwrap(), text("OK"));
        assert_eq!(server.call(&["GET", "key"]).unwrap(), text("two words"));
        assert_eq!(server.call(&["GET", "other"]).unwrap(), Reply::Nil);
        assert_eq!(server.call(&["CONFIG", "GET", "save"]).unwrap(), Reply::List(vec![text("save"), text("")]));
        assert!(matches!(server.call(&["NONSENSE"]).unwrap(), Reply::Refused(_)));
        let address = server.address();
        drop(server);
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn what_was_written_to_disk_outlives_a_crash_and_can_be_lost() {
        let mut server = RedisServer::persistent().unwrap();
        let url = server.url();
        server.call(&["SET", "key", "kept"]).unwrap();
        server.kill();
        assert!(server.call(&["PING"]).is_err());
        server.start_again(Memory::Kept).unwrap();
        assert_eq!(server.url(), url);
        assert_eq!(server.call(&["GET", "key"]).unwrap(), text("kept"));
        server.start_again(Memory::Lost).unwrap();
        assert_eq!(server.call(&["GET", "key"]).unwrap(), Reply::Nil);
    }

    #[test]
    fn a_frozen_server_accepts_but_does_not_answer() {
        let server = RedisServer::start().unwrap();
        server.freeze().unwrap();
        assert!(call(server.address(), &["PING"], Duration::from_millis(200)).is_err());
        server.thaw().unwrap();
        assert_eq!(server.call(&["PING"]).unwrap(), text("PONG"));
    }

    #[test]
    fn many_servers_start_at_once() {
        let servers: Vec<_> = thread::scope(|scope| {
            let starts: Vec<_> = (0..6).map(|_| scope.spawn(|| RedisServer::start().unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        for (number, server) in servers.iter().enumerate() {
            server.call(&["SET", "number", &number.to_string()]).unwrap();
        }
        for (number, server) in servers.iter().enumerate() {
            assert_eq!(server.call(&["GET", "number"]).unwrap(), text(&number.to_string()));
        }
    }
}
