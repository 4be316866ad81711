//! Where the database is, and how many connections may be held.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use settings::Settings;

use crate::tls::{SslMode, TlsSettings};

/// How to reach the database with one role.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// Address of one role; may hold a password.
    pub url: SecretString,
    /// Connections at most, 1 to 100.
    pub pool_size: usize,
    /// How long a caller waits for a connection before it is told that the database is unavailable.
    pub acquire_timeout: Duration,
    /// How long one statement may run.
    pub statement_timeout: Duration,
}

impl DatabaseConfig {
    /// The defaults of a service: 10 connections, 2 s to get one, 10 s a statement.
    #[must_use]
    pub fn new(url: SecretString) -> Self {
        Self { url, pool_size: 10, acquire_timeout: Duration::from_secs(2), statement_timeout: Duration::from_secs(10) }
    }

    /// Reads the address from `variable`, and `DATABASE_POOL_SIZE` (10, 1–100), `DATABASE_ACQUIRE_TIMEOUT_MS` (2000,
    /// 100–30000) and `DATABASE_STATEMENT_TIMEOUT_MS` (10000, 100–60000), which hold for every role.
    pub fn read(settings: &mut Settings, variable: &str) -> Self {
        let millis = |settings: &mut Settings, variable: &str, range, default| {
            Duration::from_millis(settings.number(variable, range, default))
        };
        let config = Self {
            url: settings.required_secret(variable),
            pool_size: settings.number("DATABASE_POOL_SIZE", 1..=100, 10),
            acquire_timeout: millis(settings, "DATABASE_ACQUIRE_TIMEOUT_MS", 100..=30_000, 2_000),
            statement_timeout: millis(settings, "DATABASE_STATEMENT_TIMEOUT_MS", 100..=60_000, 10_000),
        };
        // A missing address has been reported already.
        if !config.url.expose_secret().is_empty()
            && let Err(why) = config.validate()
        {
            settings.problem(variable, why);
        }
        config
    }

    /// Whether the address can be understood, `sslmode` and `sslrootcert` included.
    pub fn validate(&self) -> Result<(), InvalidDatabaseUrl> {
        self.parse().map(|_| ())
    }

    pub(crate) fn parse(&self) -> Result<(tokio_postgres::Config, TlsSettings), InvalidDatabaseUrl> {
        let url = self.url.expose_secret();
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(InvalidDatabaseUrl("must start with postgres://"));
        }
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let mut tls = TlsSettings { mode: SslMode::Prefer, root_certificate: None };
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => {
                    tls.mode = SslMode::parse(mode).ok_or(InvalidDatabaseUrl(
                        "sslmode must be disable, prefer, require, verify-ca or verify-full",
                    ))?;
                }
                Some(("sslrootcert", path)) => tls.root_certificate = Some(path.replace("%2F", "/").into()),
                _ => rest.push(pair),
            }
        }
        let cleaned = if rest.is_empty() { address.to_owned() } else { format!("{address}?{}", rest.join("&")) };
        let mut config: tokio_postgres::Config =
            cleaned.parse().map_err(|_| InvalidDatabaseUrl("is not an address that PostgreSQL understands"))?;
        if config.get_user().is_none() || config.get_hosts().is_empty() || config.get_dbname().is_none() {
            return Err(InvalidDatabaseUrl("needs a user, a host and a database"));
        }
        config.ssl_mode(tls.mode.for_driver());
        config.connect_timeout(self.acquire_timeout);
        // Options of the address come after ours, so an operator can overrule them.
        let ours = format!("-c statement_timeout={} -c timezone=UTC", self.statement_timeout.as_millis());
        let options = config.get_options().map_or(ours.clone(), |theirs| format!("{ours} {theirs}"));
        config.options(options);
        Ok((config, tls))
    }
}

/// Why an address cannot be used. Never holds the address: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidDatabaseUrl(pub(crate) &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<(tokio_postgres::Config, TlsSettings), InvalidDatabaseUrl> {
        DatabaseConfig::new(url.to_owned().into()).parse()
    }

    #[test]
    fn every_sslmode_of_libpq_is_understood() {
        for (text, mode) in [
            ("", SslMode::Prefer),
            ("?sslmode=disable", SslMode::Disable),
            ("?sslmode=require", SslMode::Require),
            ("?sslmode=verify-ca", SslMode::VerifyCa),
            ("?application_name=x&sslmode=verify-full&sslrootcert=/etc/ca.pem", SslMode::VerifyFull),
        ] {
            let (_, tls) = parse(&format!("postgres://u:p@db.example/f{text}")).unwrap();
            assert_eq!(tls.mode, mode);
        }
        assert!(parse("postgres://u@h/d?sslmode=maybe").is_err());
    }

    #[test]
    fn an_address_without_its_parts_is_refused_without_being_printed() {
        for url in ["mysql://u:secret@h/d", "postgres://h/d", "postgres://u:secret@h:notaport/d", "postgres://u@h"] {
            let error = parse(url).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
