//! `cargo xtask openapi`: the API's description as a file.

use std::{
    fs,
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use clap::Args;

use crate::{
    failure::{Context, Failure, Outcome},
    workspace,
};

/// Options of `openapi`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where to write it
    #[arg(long, default_value = "docs/api/openapi.json")]
    output: PathBuf,
}

/// Builds the gateway, asks it for its description, and writes that down.
pub fn run(options: &Options) -> Outcome<ExitCode> {
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--quiet", "--package", "api-gateway", "--", "openapi"]).stderr(Stdio::inherit());
    let output = cargo.output().context("cannot run cargo")?;
    if !output.status.success() {
        return Err(Failure::new("the gateway did not print its description"));
    }
    let file = workspace::root().join(&options.output);
    fs::write(&file, &output.stdout).context("cannot write the description")?;
    say!("wrote {} ({} KB)", file.display(), output.stdout.len() / 1000);
    Ok(ExitCode::SUCCESS)
}
