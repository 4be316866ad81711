//! Encrypted connections, each `sslmode` against certificates that are right and wrong.

use db::{DatabaseConfig, Db, DbError};
use testkit::database::TestDatabase;
use testkit::tls::{Greeting, TlsDoor};

/// The database's server, as the test's own address names it.
fn server(url: &str) -> std::net::SocketAddr {
    use std::net::ToSocketAddrs;
    let (_, host) = url.rsplit_once('@').unwrap();
    let (host, _) = host.split_once('/').unwrap();
    host.to_socket_addrs().unwrap().find(std::net::SocketAddr::is_ipv4).unwrap()
}

/// The same role and database through another door.
fn through(url: &str, door: &TlsDoor, options: &str) -> String {
    let (user, rest) = url.rsplit_once('@').unwrap();
    let (_, database) = rest.split_once('/').unwrap();
    format!("{user}@localhost:{}/{database}?{options}", door.port())
}

async fn connects(url: &str) -> Result<(), DbError> {
    let config = DatabaseConfig::new(url.to_owned().into());
    let db = Db::open(&config, &config).unwrap();
    db.ping(std::time::Duration::from_secs(10)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_as_private_as_the_address_asks() {
    let database = TestDatabase::create().await;
    let url = database.app_url();
    let right = TlsDoor::open(server(&url), "localhost", Greeting::Postgres).await.unwrap();
    let misnamed = TlsDoor::open(server(&url), "db.example", Greeting::Postgres).await.unwrap();
    let trusting = |door: &TlsDoor, mode: &str| format!("sslmode={mode}&sslrootcert={}", door.authority().display());

    for (what, door, options, accepted) in [
        ("no encryption", &right, "sslmode=disable".to_owned(), false),
        ("any encryption will do", &right, "sslmode=prefer".to_owned(), true),
        ("any certificate will do", &misnamed, "sslmode=require".to_owned(), true),
        ("the right authority", &right, trusting(&right, "verify-ca"), true),
        ("the right authority, another name", &misnamed, trusting(&misnamed, "verify-ca"), true),
        ("another authority", &right, trusting(&misnamed, "verify-ca"), false),
        ("the right authority and name", &right, trusting(&right, "verify-full"), true),
        ("another name", &misnamed, trusting(&misnamed, "verify-full"), false),
        ("another authority, the right name", &right, trusting(&misnamed, "verify-full"), false),
        ("an authority of nobody's choice", &right, "sslmode=verify-full".to_owned(), false),
    ] {
        let answer = connects(&through(&url, door, &options)).await;
        assert_eq!(answer.is_ok(), accepted, "{what} ({options}): {answer:?}");
    }

    // The server itself speaks no TLS: whoever prefers it does without, whoever requires it does not connect.
    connects(&format!("{url}?sslmode=prefer")).await.unwrap();
    connects(&format!("{url}?sslmode=require")).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_run_over_an_encrypted_connection_too() {
    let database = TestDatabase::empty().await;
    let url = database.owner_url();
    let door = TlsDoor::open(server(&url), "localhost", Greeting::Postgres).await.unwrap();
    let options = format!("sslmode=verify-full&sslrootcert={}", door.authority().display());
    let address = through(&url, &door, &options);
    let steps = tokio::task::spawn_blocking(move || db::migrate(&address.into())).await.unwrap().unwrap();
    assert!(!steps.is_empty());
}
