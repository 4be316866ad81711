//! Developer commands: `cargo xtask up` brings the product to life, `test` and `check` guard it.
//!
//! Each command is a module; what several need (servers, state, the public API) is a module too.

/// Prints a line. Unlike `println!` it survives a reader that went away: a terminal that is closed, or `| head`, must
/// not keep `up` from stopping what it started.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write;
        // Nobody is left to tell.
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}

/// The same for what went wrong, on the other stream.
macro_rules! complain {
    ($($argument:tt)*) => {{
        use std::io::Write;
        // Nobody is left to tell.
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}

mod api;
mod bench;
mod beside;
mod chaos;
mod check;
mod demo;
mod down;
mod failure;
mod interrupt;
mod layers;
mod openapi;
mod ops;
mod outages;
mod packages;
mod postgres;
mod process;
mod redis;
mod replay;
mod servers;
mod services;
mod stack;
mod state;
mod status;
mod test;
mod trace;
mod up;
mod usage;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use failure::{Context, Outcome};

/// Developer commands of FieldTrack.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the product up: servers, services, and a demo organization with a real day in it
    Up(up::Options),
    /// Stop everything that `up` started
    Down(down::Options),
    /// Stop everything and delete the data
    Reset(down::Options),
    /// Tell what runs, and where
    Status(status::Options),
    /// Play recorded tracks through the public API, as a phone would
    Replay(replay::Options),
    /// Run all tests against real servers
    Test(test::Options),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Kill what can be killed under load, and count what is missing
    Chaos(chaos::Options),
    /// Check formatting, lints and layers, as CI does
    Check,
    /// Check only which crate knows which
    Layers,
    /// Write the API's description, as it is served, to a file
    Openapi(openapi::Options),
    /// Check what is deployed with: edge, deployment, backups, alerts, dashboards, workflows
    Ops,
    /// Rehearse outages: a real Prometheus has to hear of each, and a real Alertmanager to tell somebody
    Outages(outages::Options),
    /// Follow one request from its metric through its trace to its log lines, with a collector of others
    Trace(trace::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(failure) => {
            complain!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Outcome<ExitCode> {
    // The HTTP client brings no cryptography of its own. An error would say that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        match command {
            Command::Up(options) => up::run(options).await,
            Command::Down(options) => down::down(&options),
            Command::Reset(options) => down::reset(&options),
            Command::Status(options) => status::run(&options),
            Command::Replay(options) => replay::run(options).await,
            Command::Test(options) => test::run(&options).await,
            Command::Bench(bench) => bench::run(bench).await,
            Command::Chaos(options) => chaos::run(&options).await,
            Command::Check => check::run(),
            Command::Layers => layers::run(),
            Command::Openapi(options) => openapi::run(&options),
            Command::Ops => ops::run(),
            Command::Outages(options) => outages::run(options).await,
            Command::Trace(options) => trace::run(options).await,
        }
    })
}
