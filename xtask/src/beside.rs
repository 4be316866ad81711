//! Programs of others that run beside the product and end with the command that started them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::Client;
use serde_json::Value;

use crate::{
    failure::{Context, Failure, Outcome},
    packages,
};

/// How long anything may take to be seen.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Running programs; each writes to `<name>.log` in one folder.
pub struct Beside {
    folder: PathBuf,
    children: Vec<(String, Child)>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            // Ended in the meantime is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Beside {
    /// Nobody yet, with logs and files in `folder`.
    pub fn new(folder: &Path) -> Outcome<Self> {
        fs::create_dir_all(folder).context(format!("cannot make {}", folder.display()))?;
        Ok(Self { folder: folder.to_owned(), children: Vec::new() })
    }

    /// Starts a program of the system, or the one at a path.
    pub fn start(&mut self, program: &Path, words: &[String], variables: &[(&str, &str)]) -> Outcome {
        let name = name_of(program);
        let log = fs::File::create(self.log(&name)).context("cannot make a log")?;
        let copy = log.try_clone().context("cannot share a file")?;
        let found = match program.is_absolute() {
            true => program.to_owned(),
            // Debian keeps programs of administrators where not everybody looks.
            false => packages::find(&name).unwrap_or_else(|| Path::new("/usr/sbin").join(&name)),
        };
        let mut command = Command::new(found);
        command.args(words).envs(variables.iter().copied()).current_dir(&self.folder);
        let child = command.stdin(Stdio::null()).stdout(log).stderr(copy).spawn();
        self.children.push((name.clone(), child.context(format!("cannot run {name}"))?));
        Ok(())
    }

    /// Ends a program that was started before.
    pub fn end(&mut self, program: &str) -> Outcome {
        let found = self.children.iter().position(|(name, _)| name == program);
        let place = found.ok_or_else(|| Failure::new(format!("{program} does not run")))?;
        let (_, mut child) = self.children.remove(place);
        child.kill().context(format!("cannot end {program}"))?;
        child.wait().context(format!("cannot wait for {program}"))?;
        Ok(())
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where a program writes.
    pub fn log(&self, program: &str) -> PathBuf {
        self.folder.join(format!("{program}.log"))
    }
}

fn name_of(program: &Path) -> String {
    program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
}

/// Writes a file.
pub fn put(path: &Path, text: &str) -> Outcome {
    fs::write(path, text).context(format!("cannot write {}", path.display()))
}

/// A client for servers on this machine.
pub fn client() -> Outcome<Client> {
    Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().context("no HTTP client")
}

/// What a server on this machine answers, as JSON.
pub async fn ask(http: &Client, url: &str) -> Outcome<Value> {
    let answer = http.get(url).send().await.context(format!("{url} does not answer"))?;
    answer.json().await.context(format!("{url} answers no JSON"))
}

/// Asks again and again until it is so; an error counts as not yet.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> Outcome<bool>) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = so().await;
        if matches!(now, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            now?;
            return Err(Failure::new(format!("not within {} s: {what}", PATIENCE.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_end_when_they_are_told_to_and_with_their_owner() {
        let folder = tempfile::tempdir().unwrap();
        let mut beside = Beside::new(folder.path()).unwrap();
        beside.start(Path::new("sleep"), &["60".to_owned()], &[]).unwrap();
        beside.end("sleep").unwrap();
        assert!(beside.end("sleep").is_err(), "it ended before");
        beside.start(Path::new("sleep"), &["60".to_owned()], &[]).unwrap();
        let process = crate::process::Process::find(beside.children[0].1.id()).unwrap();
        drop(beside);
        assert!(!process.runs());
    }
}
