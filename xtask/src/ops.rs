//! `cargo xtask ops`: what surrounds the services is tested as they are: the edge on a real nginx, the deployment's state
//! machine on an engine of files, backups on a real PostgreSQL, alerts by Prometheus's own unit tests, migrations by what
//! the release before would say of them.

use std::{
    env,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use crate::{
    failure::{Context, Outcome},
    packages::{self, Wanted},
    servers::seconds,
    workspace,
};

/// What is run, in the order in which a mistake is cheapest to find.
const STEPS: [(&str, &str); 8] = [
    (
        "shellcheck",
        "shellcheck -x -P SCRIPTDIR deploy/*.sh nginx/edge.sh deploy/postgres/*.sh deploy/redis/*.sh deploy/tests/*.sh deploy/tests/fakes/* deploy/tests/killer/* monitoring/*/start.sh",
    ),
    (
        "rules",
        "promtool check rules monitoring/prometheus/rules/*.yml && promtool check config --syntax-only monitoring/prometheus/prometheus.yml",
    ),
    ("files", "node --test monitoring/tests/files.test.mjs"),
    ("migrations", "node --test deploy/tests/migrations.test.mjs"),
    ("edge", "node --test deploy/tests/nginx.test.mjs"),
    ("alerts", "promtool test rules monitoring/prometheus/tests/*.yml"),
    ("deploy", "deploy/tests/deploy.test.sh"),
    ("backup", "deploy/tests/backup.test.sh"),
];

/// What reads migrations, and its version.
const SQUAWK: (&str, &str) = ("squawk-cli", "2.70.0");

/// Runs every step, also after one has failed, and sums up; what a failed one said is shown.
pub fn run() -> Outcome<ExitCode> {
    packages::ensure(Wanted { postgres: true, node: true, operations: true, ..Wanted::default() })?;
    packages::npm_ci(&workspace::root().join("monitoring/tests"))?;
    let path = format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default());
    let mut summary = Vec::new();
    for (name, script) in STEPS {
        let started = Instant::now();
        let mut command = Command::new("bash");
        command.args(["-c", script]).current_dir(workspace::root()).env("PATH", &path).stdin(Stdio::null());
        if name == "migrations" {
            match packages::python(SQUAWK.0, SQUAWK.1) {
                Ok(folder) => _ = command.env("SQUAWK", folder.join("bin/squawk")),
                // Without it this step cannot run, but the others can.
                Err(failure) => {
                    say!("{failure}");
                    summary.push((name, false, seconds(started)));
                    continue;
                }
            }
        }
        let output = command.output().context("cannot run bash")?;
        let passed = output.status.success();
        if !passed {
            say!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
        summary.push((name, passed, seconds(started)));
    }
    for (name, passed, took) in &summary {
        say!("{name:<10} {:<7} {took}", if *passed { "passed" } else { "FAILED" });
    }
    Ok(if summary.iter().all(|(_, passed, _)| *passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_names_files_that_are_there() {
        let words = STEPS.iter().flat_map(|(_, script)| script.split_whitespace());
        for word in words.filter(|word| word.contains('/') && !word.contains('*')) {
            assert!(workspace::root().join(word).is_file(), "{word}");
        }
    }
}
