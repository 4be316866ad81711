//! Processes that outlive the command which started them: told apart, signalled, awaited.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// A process, and when it started: a number alone may belong to somebody else after a while.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    started: String,
}

impl Process {
    /// The process with this number, when there is one.
    pub fn find(pid: u32) -> Option<Self> {
        start_of(pid).map(|started| Self { pid, started })
    }

    /// This command's own process.
    pub fn own() -> Option<Self> {
        Self::find(std::process::id())
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        start_of(self.pid).as_ref() == Some(&self.started)
    }

    /// Sends a signal (`TERM`, `KILL`) if the process still runs.
    pub fn signal(&self, name: &str) {
        if self.runs() {
            // The shell's own `kill` is there even where the program of that name is not. Refused means ended.
            let _ = Command::new("sh")
                .args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &self.pid.to_string()])
                .stderr(Stdio::null())
                .status();
        }
    }

    /// Waits until it has ended; false when it has not in time.
    pub fn ended_within(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while self.runs() {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(25));
        }
        true
    }
}

/// The words a process was started with, as far as the system tells.
pub fn command_line(pid: u32) -> Option<String> {
    if Path::new("/proc/self").exists() {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return Some(String::from_utf8_lossy(&words).replace('\0', " "));
    }
    ps(pid, "command=")
}

fn start_of(pid: u32) -> Option<String> {
    if !Path::new("/proc/self").exists() {
        return ps(pid, "lstart=");
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything: count the fields behind it.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?;
    // One that has ended but was not collected by its parent runs no more.
    if matches!(state, "Z" | "X") { None } else { fields.nth(18).map(str::to_owned) }
}

fn ps(pid: u32, field: &str) -> Option<String> {
    let output = Command::new("ps").args(["-o", field, "-p", &pid.to_string()]).output().ok()?;
    let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(child.id()).unwrap();
        assert!(process.runs());
        // The words appear a moment after the process.
        while !command_line(process.pid).unwrap().contains("sleep") {
            thread::yield_now();
        }
        process.signal("TERM");
        assert!(process.ended_within(Duration::from_secs(5)));
        child.wait().unwrap();
        assert!(!process.runs());
        assert_ne!(Process::own().unwrap(), process);
    }

    #[test]
    fn a_number_taken_over_by_another_process_is_not_ours() {
        let mut stranger = Process::own().unwrap();
        stranger.started.push('1');
        assert!(!stranger.runs());
    }
}
