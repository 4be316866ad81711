//! `cargo xtask down` and `reset`: the way back.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;

use crate::{
    failure::{Context, Failure, Outcome},
    servers, services,
    state::Folder,
};

/// Options of `down` and `reset`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Folder for servers, state and logs
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// Stops services and servers, whoever started them; nothing running is fine too.
pub fn down(options: &Options) -> Outcome<ExitCode> {
    let folder = Folder::dev(options.dir.as_deref());
    if !folder.path().exists() {
        say!("nothing was ever started");
        return Ok(ExitCode::SUCCESS);
    }
    stop(&folder)?;
    say!("everything is stopped; the data stays until `cargo xtask reset`");
    Ok(ExitCode::SUCCESS)
}

/// Stops everything and deletes state, data and logs.
pub fn reset(options: &Options) -> Outcome<ExitCode> {
    let folder = Folder::dev(options.dir.as_deref());
    if !folder.path().exists() {
        say!("there is nothing to delete");
        return Ok(ExitCode::SUCCESS);
    }
    let _own = stop(&folder)?;
    let state = folder.load()?;
    if let Some(postgres) = &state.postgres {
        delete(&postgres.home)?;
        if !postgres.home.starts_with(folder.path())
            && let Some(parent) = postgres.home.parent()
        {
            // Ours too, but only if nothing else is in it.
            let _ = fs::remove_dir(parent);
        }
    }
    // By name: a folder that was given with --dir may hold other things.
    for name in ["postgres", "redis", "logs"] {
        delete(&folder.join(name))?;
    }
    for name in ["data-is-elsewhere.txt", "state.json", "state.json.new", "state.lock", "up.lock"] {
        let _ = fs::remove_file(folder.join(name));
    }
    // Stays if it was given with --dir and holds other things.
    let _ = fs::remove_dir(folder.path());
    say!("deleted: the data in {}", folder.path().display());
    if state.addresses.is_some_and(|addresses| !addresses.own_database || !addresses.own_redis) {
        say!("untouched: the servers named by DATABASE_URL or REDIS_URL");
    }
    Ok(ExitCode::SUCCESS)
}

/// Forgets the processes of services that have ended.
pub fn forget_processes(folder: &Folder) -> Outcome {
    folder.update(|state| {
        state.supervisor = None;
        for service in [&mut state.gateway, &mut state.worker].into_iter().flatten() {
            service.process = None;
        }
    })
}

fn stop(folder: &Folder) -> Outcome<fs::File> {
    let own = match folder.try_own()? {
        Some(own) => own,
        None => {
            // An `up` in some terminal: it knows best how to stop its services.
            if let Some(supervisor) = folder.load()?.supervisor {
                supervisor.signal("TERM");
                supervisor.ended_within(Duration::from_secs(90));
            }
            folder.try_own()?.ok_or_else(|| Failure::new("another `cargo xtask` is at work and does not end"))?
        }
    };
    services::stop_left_running(folder)?;
    forget_processes(folder)?;
    servers::stop(folder)?;
    Ok(own)
}

fn delete(folder: &std::path::Path) -> Outcome {
    if folder.exists() {
        fs::remove_dir_all(folder).context(format!("cannot delete {}", folder.display()))?;
    }
    Ok(())
}
