//! `cargo xtask check`: what a pull request must pass before its tests are looked at.

use std::{process::ExitCode, time::Instant};

use crate::{
    failure::{Context, Outcome},
    layers,
    servers::seconds,
    workspace,
};

/// Runs every check, also after one has failed, and sums up.
pub fn run() -> Outcome<ExitCode> {
    let commands: [(&str, &[&str]); 2] = [
        ("format", &["fmt", "--all", "--check"]),
        ("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ];
    let mut summary = Vec::new();
    for (name, words) in commands {
        let started = Instant::now();
        let status = workspace::cargo().args(words).status().context("cannot run cargo")?;
        summary.push((name, status.success(), seconds(started)));
    }
    let started = Instant::now();
    let code = layers::run()?;
    summary.push(("layers", code == ExitCode::SUCCESS, seconds(started)));
    say!();
    for (name, passed, took) in &summary {
        say!("{name:<8} {:<7} {took}", if *passed { "passed" } else { "FAILED" });
    }
    Ok(if summary.iter().all(|(_, passed, _)| *passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
