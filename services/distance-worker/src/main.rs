//! The worker's command line.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use distance_worker::config::Config;
use distance_worker::http::is_healthy;
use distance_worker::startup::{StartError, Worker};
use domain::SystemClock;
use settings::Settings;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit status for a wrong configuration (EX_CONFIG of sysexits).
const WRONG_CONFIGURATION: u8 = 78;

#[derive(Parser)]
#[command(name = "distance-worker", version, about = "FieldTrack's worker")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Take jobs and do them (the default)
    Serve,
    /// Ask the worker on this machine whether it is alive; exit 0 if so
    Healthcheck,
    /// Say what is wrong with the settings, if anything
    CheckConfig,
    /// List every variable this program reads, a JSON object a line
    Settings,
}

#[tokio::main]
async fn main() -> ExitCode {
    match Arguments::parse().command.unwrap_or(Command::Serve) {
        Command::Healthcheck => {
            let port = std::env::var("WORKER_PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3010);
            match is_healthy(port).await {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => complain("not healthy", 1),
                Err(error) => complain(format_args!("no answer: {error}"), 1),
            }
        }
        Command::Settings => list_settings(),
        command => match Config::read(Settings::from_environment()) {
            Err(problems) => complain(problems, WRONG_CONFIGURATION),
            Ok(_) if matches!(command, Command::CheckConfig) => ExitCode::SUCCESS,
            Ok(config) => serve(config).await,
        },
    }
}

#[expect(clippy::print_stdout, reason = "a command answers on standard output")]
fn list_settings() -> ExitCode {
    for variable in settings::describe(Config::read, &[&[], &[("APP_ENV", "production")], &[("IDENTITY", "supabase")]])
    {
        let line = serde_json::json!({
            "name": variable.name,
            "rule": variable.rule,
            "default": variable.default,
            "secret": variable.secret,
            "required": variable.required.as_str(),
        });
        println!("{line}");
    }
    ExitCode::SUCCESS
}

async fn serve(config: Config) -> ExitCode {
    let telemetry = match telemetry::init(&config.telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => return complain(error, 1),
    };
    let worker = match Worker::build(config, telemetry.registry(), Arc::new(SystemClock)).await {
        Ok(worker) => worker,
        Err(error @ StartError::Settings(_)) => return complain(error, WRONG_CONFIGURATION),
        Err(error @ StartError::Port(..)) => return complain(error, 1),
    };
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(stop_when_told(stop));
    tracing::info!("working");
    worker.run(stopped).await;
    tracing::info!("stopped");
    telemetry.shutdown();
    ExitCode::SUCCESS
}

/// Waits for SIGTERM or SIGINT, then says stop; a second signal ends the process at once.
async fn stop_when_told(stop: watch::Sender<bool>) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be heard; the process will have to be killed");
        std::future::pending::<()>().await;
        return;
    };
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::info!("stopping");
    // Nobody listens any more only when the worker has ended already.
    let _ = stop.send(true);
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    std::process::exit(1);
}

#[expect(clippy::print_stderr, reason = "a command complains on standard error")]
fn complain(text: impl std::fmt::Display, status: u8) -> ExitCode {
    eprintln!("{text}");
    ExitCode::from(status)
}
