//! A Redis of our own for development: on 127.0.0.1 only, keeping its jobs over a restart.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use testkit::redis::{answers_as, call};

use crate::{
    failure::{Context, Failure, Outcome},
    process::{Process, command_line},
    state::{Folder, free_port, port_is_free},
};

/// The server of a folder, running or not.
#[derive(Debug)]
pub struct Redis {
    folder: Folder,
    port: u16,
}

impl Redis {
    /// The server of `folder`; chooses a port the first time, starts nothing.
    pub fn of(folder: &Folder) -> Outcome<Self> {
        let port = match folder.load()?.redis_port {
            Some(port) => port,
            None => free_port()?,
        };
        folder.update(|state| state.redis_port = Some(port))?;
        Ok(Self { folder: folder.clone(), port })
    }

    /// Address for a client.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the server runs.
    pub fn runs(&self) -> bool {
        self.server().is_some()
    }

    /// Starts the server unless it runs, and waits until it answers.
    pub fn start(&mut self) -> Outcome {
        if let Some(server) = self.server() {
            return self.wait(&server);
        }
        let home = self.folder.join("redis");
        fs::create_dir_all(&home).context(format!("cannot make {}", home.display()))?;
        if !port_is_free(self.port) {
            self.port = free_port()?;
            let port = self.port;
            self.folder.update(|state| state.redis_port = Some(port))?;
        }
        // A crash leaves the note behind, and it must not be taken for the new server's.
        let _ = fs::remove_file(home.join("redis.pid"));
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--daemonize", "yes"])
            .args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""])
            // Evicting a job to make room would lose it without a word; refusing is heard.
            .args(["--maxmemory-policy", "noeviction"])
            // A job's record stays in its compact form, a payload of two ids or an error's text included.
            .args(["--hash-max-listpack-value", "512"])
            .arg("--dir")
            .arg(&home)
            .arg("--pidfile")
            .arg(home.join("redis.pid"))
            .arg("--logfile")
            .arg(home.join("server.log"))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let status = command.status().context("cannot run redis-server")?;
        if !status.success() {
            return Err(Failure::new(format!("redis-server failed ({status})")));
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(server) = self.server() {
                return self.wait(&server);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(Failure::new(format!("Redis does not start: see {}", home.join("server.log").display())))
    }

    /// Stops the server if it runs; what it holds is on disk.
    pub fn stop(&self) -> Outcome {
        let Some(server) = self.server() else { return Ok(()) };
        server.signal("TERM");
        if server.ended_within(Duration::from_secs(20)) {
            Ok(())
        } else {
            Err(Failure::new(format!("Redis (process {}) does not stop", server.pid)))
        }
    }

    /// Sends one command and answers its reply as text; empty when there is none.
    pub fn ask(&self, words: &[&str]) -> String {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        call(address, words, Duration::from_secs(5)).map(|reply| reply.to_string()).unwrap_or_default()
    }

    /// Ends the server as a crash would; `lose` also deletes what it wrote to disk.
    pub fn kill(&self, lose: bool) -> Outcome {
        if let Some(server) = self.server() {
            server.signal("KILL");
            if !server.ended_within(Duration::from_secs(10)) {
                return Err(Failure::new(format!("Redis (process {}) does not end", server.pid)));
            }
        }
        if lose {
            let home = self.folder.join("redis");
            fs::remove_dir_all(&home).context(format!("cannot delete {}", home.display()))?;
        }
        Ok(())
    }

    fn wait(&self, server: &Process) -> Outcome {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.runs() && Instant::now() < deadline {
            if answers_as(address, server.pid) {
                // It answers PING while it still reads its file, but not a question about keys.
                let ready = call(address, &["DBSIZE"], Duration::from_secs(1));
                if matches!(ready, Ok(testkit::redis::Reply::Number(_))) {
                    return Ok(());
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(Failure::new(format!("Redis does not answer: see {}", self.folder.join("redis/server.log").display())))
    }

    /// The running server, if its note names a process that really is one.
    fn server(&self) -> Option<Process> {
        let note = fs::read_to_string(self.folder.join("redis/redis.pid")).ok()?;
        let pid = note.trim().parse().ok()?;
        // Its title names program and port: "redis-server 127.0.0.1:12345".
        let ours = command_line(pid)?.contains(&format!("127.0.0.1:{}", self.port));
        if ours { Process::find(pid) } else { None }
    }
}
