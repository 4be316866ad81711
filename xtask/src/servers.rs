//! The stores the services need: ours, or those the environment names.

use std::time::Instant;

use crate::{
    failure::{Failure, Outcome},
    packages::{self, Wanted},
    postgres::{Cluster, Purpose},
    redis::Redis,
    state::{Addresses, Folder},
    workspace::setting,
};

/// The variables that name a database, in the order of [`Addresses`].
const DATABASE_VARIABLES: [&str; 3] = ["DATABASE_URL", "SYSTEM_DATABASE_URL", "MIGRATION_DATABASE_URL"];

/// Starts what the environment does not name, and tells the addresses of everything.
pub fn start(folder: &Folder) -> Outcome<Addresses> {
    let given = given_database()?;
    let given_redis = setting("REDIS_URL");
    packages::ensure(Wanted { postgres: given.is_none(), redis: given_redis.is_none(), ..Wanted::default() })?;

    let own_database = given.is_none();
    let [database_url, system_database_url, migration_database_url] = match given {
        Some(urls) => {
            say!("PostgreSQL     as DATABASE_URL says");
            urls
        }
        None => {
            let started = Instant::now();
            let mut cluster = Cluster::of(folder, Purpose::Develop)?;
            cluster.start()?;
            cluster.create_product_database()?;
            say!("PostgreSQL {:<3} 127.0.0.1:{} ({})", cluster.major(), cluster.port(), seconds(started));
            let [owner, app, system] = cluster.role_urls();
            [app, system, owner]
        }
    };
    let own_redis = given_redis.is_none();
    let redis_url = match given_redis {
        Some(url) => {
            say!("Redis          as REDIS_URL says");
            url
        }
        None => {
            let started = Instant::now();
            let mut redis = Redis::of(folder)?;
            redis.start()?;
            say!("Redis          127.0.0.1:{} ({})", redis.port(), seconds(started));
            redis.url()
        }
    };
    Ok(Addresses { database_url, system_database_url, migration_database_url, redis_url, own_database, own_redis })
}

/// Stops our own servers, whichever run.
pub fn stop(folder: &Folder) -> Outcome {
    let state = folder.load()?;
    // Both are tried, whatever becomes of the first.
    let redis = if state.redis_port.is_some() { Redis::of(folder)?.stop() } else { Ok(()) };
    let postgres = match state.postgres {
        Some(postgres) if postgres.home.exists() => Cluster::of(folder, Purpose::Develop)?.stop(),
        _ => Ok(()),
    };
    redis.and(postgres)
}

/// The time since `started`, to be read by a person.
pub fn seconds(started: Instant) -> String {
    format!("{:.1} s", started.elapsed().as_secs_f64())
}

fn given_database() -> Outcome<Option<[String; 3]>> {
    let given = DATABASE_VARIABLES.map(setting);
    match given {
        [None, None, None] => Ok(None),
        [Some(app), Some(system), Some(owner)] => Ok(Some([app, system, owner])),
        given => {
            let missing: Vec<&str> = DATABASE_VARIABLES
                .into_iter()
                .zip(given)
                .filter(|(_, url)| url.is_none())
                .map(|(name, _)| name)
                .collect();
            Err(Failure::new(format!(
                "a database of yours needs an address for each of its three roles: set {} too (tenants' queries, \
                 the system's own, and the owner who migrates), or none of them to use a private server",
                missing.join(" and ")
            )))
        }
    }
}
