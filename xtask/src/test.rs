//! `cargo xtask test`: all tests, with a real PostgreSQL beside them and Redis at hand.

use std::{fs::TryLockError, process::ExitCode, time::Instant};

use clap::Args;
use tokio::process::Command;

use crate::{
    failure::{Context, Failure, Outcome},
    interrupt::Interrupt,
    packages::{self, Wanted},
    postgres::{Cluster, Purpose},
    servers::seconds,
    state::Folder,
    workspace::{self, setting},
};

/// The variable through which tests find a server where they may make databases of their own.
const SERVER: &str = "FIELDTRACK_TEST_POSTGRES_URL";

/// Options of `test`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Passed on to `cargo test`: `-p db`, `--release`, `-- --nocapture name`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Starts a server for tests, builds, tests, and stops it.
pub async fn run(options: &Options) -> Outcome<ExitCode> {
    let mut interrupt = Interrupt::listen()?;
    let given = setting(SERVER);
    // Unmodified clients, which the tests of these packages run.
    let clients: Vec<&str> =
        ["queue", "e2e"].into_iter().filter(|name| tests_package(name, &options.arguments)).collect();
    let node = !clients.is_empty();
    packages::ensure(Wanted { postgres: given.is_none(), redis: true, node, ..Wanted::default() })?;
    for package in clients {
        packages::npm_ci(&workspace::root().join("crates").join(package).join("tests/node"))?;
    }
    let begun = Instant::now();

    // Several runs may share the server: each holds the lock, and the last one out stops it.
    let folder = Folder::test();
    let in_use = folder.lock_file("in-use.lock")?;
    let (url, cluster) = match given {
        Some(url) => (url, None),
        None => {
            in_use.lock_shared().context("cannot lock the test server")?;
            let starting = folder.lock_file("starting.lock")?;
            starting.lock().context("cannot lock the test server")?;
            let mut cluster = Cluster::of(&folder, Purpose::Test)?;
            cluster.start()?;
            (cluster.superuser_url("postgres"), Some(cluster))
        }
    };
    let started = seconds(begun);

    let result = build_and_test(&options.arguments, &url, &mut interrupt).await;

    let stopping = Instant::now();
    if let Some(cluster) = cluster {
        in_use.unlock().context("cannot unlock the test server")?;
        match in_use.try_lock() {
            Ok(()) => cluster.stop()?,
            Err(TryLockError::WouldBlock) => say!("the test server stays up for another run"),
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the test server"),
        }
    }
    let (code, built, tested) = result?;
    say!("\nservers {started}, build {built}, tests {tested}, stop {}", seconds(stopping));
    Ok(code)
}

/// The arguments that are cargo's own; what follows `--` is the test programs'.
fn before_the_dashes(arguments: &[String]) -> &[String] {
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    &arguments[..end]
}

fn names_packages(argument: &String) -> bool {
    argument.starts_with("-p") || argument.starts_with("--package") || argument == "--workspace"
}

fn tests_package(name: &str, arguments: &[String]) -> bool {
    let arguments = before_the_dashes(arguments);
    let all = !arguments.iter().any(names_packages) || arguments.iter().any(|argument| argument == "--workspace");
    all || arguments.iter().any(|argument| argument.trim_start_matches("-p").trim_start_matches("--package=") == name)
}

async fn build_and_test(
    arguments: &[String],
    url: &str,
    interrupt: &mut Interrupt,
) -> Outcome<(ExitCode, String, String)> {
    let for_cargo = before_the_dashes(arguments);
    let mut words = vec!["test".to_owned()];
    if !for_cargo.iter().any(names_packages) {
        words.push("--workspace".to_owned());
    }
    let building = Instant::now();
    // Built apart only to tell the times apart; documentation tests cannot be.
    if !for_cargo.iter().any(|argument| argument == "--doc" || argument == "--no-run") {
        let build: Vec<String> = words.iter().chain(for_cargo).cloned().chain(["--no-run".to_owned()]).collect();
        let code = cargo(&build, url, interrupt).await?;
        if code != 0 {
            return Ok((ExitCode::from(code), seconds(building), "none".to_owned()));
        }
    }
    let built = seconds(building);
    let testing = Instant::now();
    words.extend_from_slice(arguments);
    let code = cargo(&words, url, interrupt).await?;
    Ok((ExitCode::from(code), built, seconds(testing)))
}

async fn cargo(words: &[String], url: &str, interrupt: &mut Interrupt) -> Outcome<u8> {
    let mut command = Command::from(workspace::cargo());
    // Ctrl-C reaches cargo too: it is in our group, so only a signal to us alone needs the kill.
    let mut child = command.args(words).env(SERVER, url).kill_on_drop(true).spawn().context("cannot run cargo")?;
    let status = tokio::select! {
        status = child.wait() => status.context("cannot wait for cargo")?,
        () = interrupt.asked(1) => {
            let patient = tokio::time::timeout(std::time::Duration::from_secs(3), child.wait()).await;
            if patient.is_err() {
                // Ended in the meantime is as good.
                let _ = child.kill().await;
            }
            return Err(Failure::new("stopped"));
        }
    };
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
