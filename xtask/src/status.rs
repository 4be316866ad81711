//! `cargo xtask status`: what runs, for people and for scripts.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    failure::Outcome,
    postgres::{Cluster, Purpose},
    redis::Redis,
    state::{Folder, Service, State},
};

/// Options of `status`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Print one JSON object, passwords included
    #[arg(long)]
    json: bool,
    /// Folder for servers, state and logs
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// Prints the state; fails when a service does not run, so that scripts can ask.
pub fn run(options: &Options) -> Outcome<ExitCode> {
    let folder = Folder::dev(options.dir.as_deref());
    let state = folder.load()?;
    let up = [&state.gateway, &state.worker].into_iter().all(|service| service.as_ref().is_some_and(Service::runs));
    if options.json {
        say!("{:#}", object(&state));
    } else {
        print(&folder, &state)?;
    }
    Ok(if up { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The object that scripts and other people's tests drive the product by. Keys are a contract; absent is null.
fn object(state: &State) -> Value {
    let addresses = state.addresses.as_ref();
    let organization = state.organization.as_ref();
    let gateway = state.gateway.as_ref();
    let worker = state.worker.as_ref();
    let pid = |service: Option<&Service>| {
        service.filter(|service| service.runs()).and_then(|service| service.process.as_ref()).map(|process| process.pid)
    };
    json!({
        "api_url": gateway.map(|service| format!("http://127.0.0.1:{}", service.port)),
        "database_url": addresses.map(|addresses| &addresses.database_url),
        "system_database_url": addresses.map(|addresses| &addresses.system_database_url),
        "migration_database_url": addresses.map(|addresses| &addresses.migration_database_url),
        "redis_url": addresses.map(|addresses| &addresses.redis_url),
        "secrets_key": state.secrets_key,
        "organization_id": organization.and_then(|organization| organization.id.as_ref()),
        "admin_email": organization.map(|organization| &organization.admin_email),
        "admin_password": organization.map(|organization| &organization.admin_password),
        "gateway_bin": gateway.map(|service| &service.bin),
        "worker_bin": worker.map(|service| &service.bin),
        "gateway_pid": pid(gateway),
        "worker_pid": pid(worker),
        "worker_metrics_url": worker.map(|service| format!("http://127.0.0.1:{}/metrics", service.port)),
    })
}

fn print(folder: &Folder, state: &State) -> Outcome {
    let line = |name: &str, runs: bool, place: String| {
        say!("{name:<11} {:<8} {place}", if runs { "runs" } else { "stopped" });
    };
    match &state.addresses {
        Some(addresses) if !addresses.own_database => say!("PostgreSQL  yours    as DATABASE_URL said"),
        _ => match &state.postgres {
            Some(postgres) if postgres.home.exists() => {
                let cluster = Cluster::of(folder, Purpose::Develop)?;
                line(
                    "PostgreSQL",
                    cluster.runs(),
                    format!("127.0.0.1:{} ({})", postgres.port, postgres.home.display()),
                );
            }
            _ => say!("PostgreSQL  never started"),
        },
    }
    match (&state.addresses, state.redis_port) {
        (Some(addresses), _) if !addresses.own_redis => say!("Redis       yours    as REDIS_URL said"),
        (_, Some(port)) => line("Redis", Redis::of(folder)?.runs(), format!("127.0.0.1:{port}")),
        _ => say!("Redis       never started"),
    }
    for (name, service, path) in [("API", &state.gateway, "/"), ("worker", &state.worker, "/metrics")] {
        match service {
            Some(service) => line(name, service.runs(), format!("http://127.0.0.1:{}{path}", service.port)),
            None => say!("{name:<11} never started"),
        }
    }
    if let Some(organization) = &state.organization {
        say!("\nadministrator {}  {}", organization.admin_email, organization.admin_password);
        for person in &organization.people {
            say!("employee      {}  {}", person.email, person.password);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_always_has_every_key() {
        let object = object(&State::default());
        let keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys.len(), 14);
        for key in ["api_url", "database_url", "redis_url", "gateway_pid", "worker_metrics_url", "secrets_key"] {
            assert!(keys.contains(&key), "{key}");
        }
    }
}
