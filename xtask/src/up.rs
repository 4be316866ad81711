//! `cargo xtask up`: from a fresh clone to a product in use.

use std::{fs, io::IsTerminal, path::PathBuf, process::ExitCode, time::Instant};

use clap::Args;

use crate::{
    api::Api,
    demo, down,
    failure::{Context, Failure, Outcome},
    interrupt::Interrupt,
    process::Process,
    servers::{self, seconds},
    services::{self, Environment, Ports, Running},
    state::{Folder, State, random_key},
    workspace::setting,
};

/// Options of `up`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Build with optimizations
    #[arg(long)]
    release: bool,
    /// Return when everything runs; `down` stops it
    #[arg(long)]
    detach: bool,
    /// Folder for servers, state and logs
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// Brings everything up; stays until interrupted, unless detached.
pub async fn run(options: Options) -> Outcome<ExitCode> {
    let folder = Folder::dev(options.dir.as_deref());
    let mut interrupt = Interrupt::listen()?;
    let Some(_own) = folder.try_own()? else {
        let supervisor = folder.load()?.supervisor;
        let process = supervisor.map_or_else(String::new, |process| format!(" (process {})", process.pid));
        return Err(Failure::new(format!(
            "another `cargo xtask` is at work on {}{process}; stop it with Ctrl-C there or with `cargo xtask down`",
            folder.path().display()
        )));
    };
    folder.update(|state| state.supervisor = Process::own())?;
    let mut started = Started::default();
    let result = bring_up(&options, &folder, &mut interrupt, &mut started).await;
    let result = match result {
        Ok(()) if options.detach => {
            folder.update(|state| state.supervisor = None)?;
            return Ok(ExitCode::SUCCESS);
        }
        Ok(()) => watch(&mut interrupt, &mut started).await,
        Err(failure) => Err(failure),
    };
    say!("stopping");
    // The gateway first: it takes no new work while the worker still finishes what it was given.
    for service in [&mut started.gateway, &mut started.worker].into_iter().flatten() {
        service.stop(&mut interrupt).await;
    }
    down::forget_processes(&folder)?;
    let stopped = servers::stop(&folder);
    result.and_then(|code| stopped.map(|()| code))
}

/// The services of this command, as far as it got.
#[derive(Default)]
struct Started {
    gateway: Option<Running>,
    worker: Option<Running>,
}

async fn bring_up(options: &Options, folder: &Folder, interrupt: &mut Interrupt, started: &mut Started) -> Outcome {
    let begun = Instant::now();
    if services::stop_left_running(folder)? {
        say!("services       stopped, to start anew");
    }
    let addresses = servers::start(folder)?;
    let state = folder.load()?;
    let secrets_key = match setting("SECRETS_KEY").or(state.secrets_key) {
        Some(key) => key,
        None => random_key()?,
    };
    folder.update(|state| {
        state.secrets_key = Some(secrets_key.clone());
        state.addresses = Some(addresses.clone());
    })?;
    go_on(interrupt)?;

    let step = Instant::now();
    let programs = services::build(options.release, interrupt).await?;
    say!("build          {}", seconds(step));

    let ports = Ports::choose(state.gateway.as_ref(), state.worker.as_ref())?;
    let pretty = !options.detach && std::io::stdout().is_terminal();
    let environment = Environment::new(&addresses, &secrets_key, &ports, pretty).receipts_in(folder);
    let owner = environment.clone().with("MIGRATION_DATABASE_URL", &addresses.migration_database_url);
    let step = Instant::now();
    services::once(&programs.gateway, &["migrate"], &owner, interrupt)
        .await?
        .map_err(|said| Failure::new(format!("migrating failed: {said}")))?;
    say!("migrations     {}", seconds(step));
    let refused = demo::create_organization(folder, &addresses, &programs, &owner, interrupt).await?;

    let logs = folder.join("logs");
    fs::create_dir_all(&logs).context(format!("cannot make {}", logs.display()))?;
    let logs = options.detach.then_some(logs);
    let step = Instant::now();
    let gateway = Running::start("gateway", &programs.gateway, ports.gateway, &environment, logs.as_deref())?;
    let gateway = started.gateway.insert(gateway);
    folder.update(|state| state.gateway = Some(gateway.service.clone()))?;
    let worker = Running::start("worker", &programs.worker, ports.worker, &environment, logs.as_deref())?;
    let worker = started.worker.insert(worker);
    folder.update(|state| state.worker = Some(worker.service.clone()))?;
    let address = format!("http://127.0.0.1:{}", ports.gateway);
    let filled = async {
        gateway.ready().await?;
        worker.ready().await?;
        say!("services       ready ({})", seconds(step));
        let step = Instant::now();
        demo::fill(folder, &Api::new(&address)?, refused.as_deref()).await?;
        say!("demo           {}", seconds(step));
        Outcome::Ok(())
    };
    tokio::select! {
        filled = filled => filled?,
        () = interrupt.asked(1) => return Err(Failure::new("stopped")),
    }
    summary(&folder.load()?, &address, options, &seconds(begun));
    Ok(())
}

fn go_on(interrupt: &Interrupt) -> Outcome {
    if interrupt.times() > 0 { Err(Failure::new("stopped")) } else { Ok(()) }
}

/// Waits until somebody asks to stop, or a service gives up.
async fn watch(interrupt: &mut Interrupt, started: &mut Started) -> Outcome<ExitCode> {
    let (Some(gateway), Some(worker)) = (&mut started.gateway, &mut started.worker) else {
        return Err(Failure::new("the services are not running"));
    };
    let mut asked = interrupt.clone();
    let ended = tokio::select! {
        () = asked.asked(1) => return Ok(ExitCode::SUCCESS),
        ended = gateway.ended() => ended,
        ended = worker.ended() => ended,
    };
    // `down` may have ended the services just before it reached us.
    if interrupt.times() > 0 { Ok(ExitCode::SUCCESS) } else { Err(Failure::new(ended)) }
}

fn summary(state: &State, address: &str, options: &Options, took: &str) {
    say!("\nFieldTrack is up ({took}).\n");
    say!("  open           {address}/   {address}/health   {address}/ready");
    if let Some(organization) = &state.organization {
        say!("  administrator  {}  {}", organization.admin_email, organization.admin_password);
        for person in &organization.people {
            say!("  employee       {}  {}", person.email, person.password);
        }
        if let Some(km) = organization.replayed_km {
            say!("  a real day     {km:.2} km, replayed for the first employee");
        }
    }
    if let Some(worker) = &state.worker {
        say!("  worker         http://127.0.0.1:{}/metrics", worker.port);
    }
    let folder = options.dir.as_ref().map_or_else(String::new, |folder| format!(" --dir {}", folder.display()));
    say!("\n  cargo xtask replay{folder} testdata/traces/run-4835m.fit --shuffle --duplicate");
    say!("  cargo xtask status{folder} --json");
    say!("  cargo xtask test");
    if options.detach {
        say!(
            "  cargo xtask down{folder}          (logs are in {})",
            Folder::dev(options.dir.as_deref()).join("logs").display()
        );
    } else {
        say!("  Ctrl-C stops everything; the data stays until `cargo xtask reset{folder}`");
    }
    say!();
}
