//! Every variable the gateway reads.

use std::time::Duration;

use db::DatabaseConfig;
use domain::network::Network;
use queue::RedisConfig;
use ring::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretString};
use settings::{InvalidSettings, Settings};

use crate::receipts::{ReceiptsConfig, StoreConfig};
use secrets::SecretsKey;

/// Where the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// A developer's machine.
    Development,
    /// A rehearsal of production.
    Staging,
    /// The real thing: nothing is defaulted that should be chosen.
    Production,
    /// A test.
    Test,
}

/// Who signs people in.
#[derive(Debug, Clone)]
pub enum IdentityConfig {
    /// We do.
    BuiltIn {
        /// Seals signing keys and derives tokens.
        secrets: SecretsKey,
    },
    /// A Supabase project does.
    Supabase {
        /// Its address.
        url: String,
        /// Its public key, sent along when signing in.
        anon_key: SecretString,
    },
}

/// The gateway's settings, read once at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// `APP_ENV` (or `NODE_ENV`): where the process runs.
    pub environment: Environment,
    /// `APP_ENV` as it was written, for logs.
    pub environment_name: String,
    /// `PORT`, 1000–65535 (3000).
    pub port: u16,
    /// `API_BASE_URL`: our own address, part of the tokens we issue.
    pub api_base_url: String,
    /// `CORS_ORIGIN`: web origins that may call.
    pub cors_origins: Vec<String>,
    /// `DATABASE_URL`.
    pub database: DatabaseConfig,
    /// `SYSTEM_DATABASE_URL`.
    pub system_database: DatabaseConfig,
    /// `REDIS_URL`.
    pub redis: RedisConfig,
    /// `IDENTITY`.
    pub identity: IdentityConfig,
    /// `RECEIPTS_*`: where receipts lie, and what they may be.
    pub receipts: ReceiptsConfig,
    /// `METRICS_SCRAPE_TOKEN`.
    pub metrics_scrape_token: Option<SecretString>,
    /// `BODY_LIMIT_BYTES` (1,000,000).
    pub body_limit: usize,
    /// `REQUEST_TIMEOUT_MS` (30,000).
    pub request_timeout: Duration,
    /// `MAX_QUEUE_DEPTH` (1,000).
    pub max_queue_depth: u64,
    /// `MAX_POINTS_PER_SESSION` (50,000).
    pub max_points: i64,
    /// `MAX_SESSION_DURATION_HOURS` (168).
    pub max_session_hours: i64,
    /// `TRUSTED_PROXIES`: proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// `SECRETS_KEY`: seals what the database keeps.
    pub secrets: SecretsKey,
    /// `WEBHOOK_ALLOWED_NETWORKS`: private networks that webhooks may reach, also without encryption. Refused in
    /// production unless `WEBHOOK_ALLOW_PRIVATE=1` says that it is meant.
    pub webhook_networks: Vec<Network>,
    /// `WORKERS_ENABLED` (false): whether somebody does what is put on queues.
    pub workers_enabled: bool,
    /// `RATE_LIMIT_MULTIPLIER` (1): multiplies every budget, for load tests.
    pub rate_limit_multiplier: u32,
    /// `LOCATIONS_PER_COMMIT` (512): single fixes that may share a commit; 1 gives each its own, for comparison.
    pub locations_per_commit: usize,
    /// `SHUTDOWN_TIMEOUT_S` (25): how long running requests may take to finish.
    pub shutdown_timeout: Duration,
    /// Logs and traces.
    pub telemetry: telemetry::Settings,
    /// Identifies the settings that decide behaviour, 12 hex digits; equal on both colours.
    pub config_hash: String,
}

const VERSIONS: [(&str, ()); 1] = [("1", ())];

impl Config {
    /// Reads every variable, and reports every mistake at once.
    pub fn read(mut settings: Settings) -> Result<Self, InvalidSettings> {
        let environment_name =
            settings.text("APP_ENV").or_else(|| settings.text("NODE_ENV")).unwrap_or_else(|| "development".to_owned());
        let environment = match environment_name.as_str() {
            "development" => Environment::Development,
            "staging" => Environment::Staging,
            "production" => Environment::Production,
            "test" | "ci" => Environment::Test,
            _ => {
                settings.problem("APP_ENV", "must be one of development, staging, production, test, ci");
                Environment::Development
            }
        };
        settings.choice("CONFIG_VERSION", &VERSIONS);
        let port = settings.number("PORT", 1000..=65535, 3000);
        let given_base = settings.url("API_BASE_URL");
        let api_base_url = given_base.clone().unwrap_or_else(|| format!("http://localhost:{port}"));
        let app_and_frontend = [settings.url("APP_BASE_URL"), settings.url("FRONTEND_BASE_URL")];
        let cors_origins = cors_origins(&settings, environment);
        let database = DatabaseConfig::read(&mut settings, "DATABASE_URL");
        let mut system_database = DatabaseConfig::read(&mut settings, "SYSTEM_DATABASE_URL");
        // Only sign-ins, refreshes and gauges use it.
        system_database.pool_size = database.pool_size.div_ceil(2);
        let redis = RedisConfig::read(&mut settings);
        let secrets = SecretsKey::read(&mut settings);
        let identity = identity(&mut settings, environment, &secrets);
        let receipts = ReceiptsConfig::read(&mut settings, |_| secrets.clone());
        let metrics_scrape_token = settings.secret("METRICS_SCRAPE_TOKEN");
        let trusted_proxies = networks(&mut settings, "TRUSTED_PROXIES");
        let workers_enabled = settings.flag("WORKERS_ENABLED", false);
        if environment == Environment::Production {
            in_production(
                &mut settings,
                &[
                    ("API_BASE_URL", &given_base),
                    ("APP_BASE_URL", &app_and_frontend[0]),
                    ("FRONTEND_BASE_URL", &app_and_frontend[1]),
                ],
                metrics_scrape_token.as_ref(),
                workers_enabled,
            );
        }
        let mut config = Self {
            environment,
            port,
            api_base_url,
            cors_origins,
            database,
            system_database,
            redis,
            identity,
            receipts,
            metrics_scrape_token,
            body_limit: settings.number("BODY_LIMIT_BYTES", 1..=100_000_000, 1_000_000),
            request_timeout: Duration::from_millis(settings.number("REQUEST_TIMEOUT_MS", 100..=600_000, 30_000)),
            max_queue_depth: settings.number("MAX_QUEUE_DEPTH", 1..=10_000_000, 1_000),
            max_points: settings.number("MAX_POINTS_PER_SESSION", 1..=100_000_000, 50_000),
            max_session_hours: settings.number("MAX_SESSION_DURATION_HOURS", 1..=87_600, 168),
            trusted_proxies,
            secrets,
            webhook_networks: networks(&mut settings, "WEBHOOK_ALLOWED_NETWORKS"),
            workers_enabled,
            rate_limit_multiplier: settings.number("RATE_LIMIT_MULTIPLIER", 1..=1_000_000, 1),
            locations_per_commit: settings.number("LOCATIONS_PER_COMMIT", 1..=10_000, 512),
            shutdown_timeout: Duration::from_secs(settings.number("SHUTDOWN_TIMEOUT_S", 1..=120, 25)),
            telemetry: telemetry::Settings::read(&mut settings, "fieldtrack-api", &environment_name),
            config_hash: String::new(),
            environment_name,
        };
        settings.finish()?;
        config.config_hash = config.hash();
        Ok(config)
    }

    /// Hashes what decides behaviour and is no secret, so that two colours can be compared.
    fn hash(&self) -> String {
        let decisive = format!(
            "{:?}|{}|{:?}|{}|{:?}|{}|{}|{}|{:?}|{}|{}|{}|{:?}",
            self.environment,
            self.api_base_url,
            self.cors_origins,
            self.body_limit,
            self.request_timeout,
            self.max_queue_depth,
            self.max_points,
            self.max_session_hours,
            self.trusted_proxies,
            self.rate_limit_multiplier,
            matches!(self.identity, IdentityConfig::BuiltIn { .. }),
            matches!(self.receipts.store, StoreConfig::Local { .. }),
            self.receipts.limits,
        );
        digest(&SHA256, decisive.as_bytes()).as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn cors_origins(settings: &Settings, environment: Environment) -> Vec<String> {
    match settings.text("CORS_ORIGIN") {
        Some(list) => {
            list.split(',').map(|origin| origin.trim().to_owned()).filter(|origin| !origin.is_empty()).collect()
        }
        None if environment == Environment::Development => {
            vec!["http://localhost:3000".to_owned(), "http://localhost:5173".to_owned()]
        }
        None => Vec::new(),
    }
}

fn identity(settings: &mut Settings, environment: Environment, secrets: &SecretsKey) -> IdentityConfig {
    if settings.choice("IDENTITY", &[("builtin", false), ("supabase", true)]) == Some(true) {
        let url = settings.url("SUPABASE_URL").unwrap_or_else(|| {
            settings.problem("SUPABASE_URL", "is required when IDENTITY is supabase");
            String::new()
        });
        // Passwords go there.
        if environment == Environment::Production {
            settings.no_clear_text("SUPABASE_URL", &url);
        }
        return IdentityConfig::Supabase { url, anon_key: settings.required_secret("SUPABASE_ANON_KEY") };
    }
    IdentityConfig::BuiltIn { secrets: secrets.clone() }
}

fn networks(settings: &mut Settings, variable: &str) -> Vec<Network> {
    let list = settings.text(variable).unwrap_or_default();
    Network::list(&list).unwrap_or_else(|| {
        settings.problem(variable, "must be a comma-separated list of addresses or CIDR ranges");
        Vec::new()
    })
}

/// What production insists on.
fn in_production(
    settings: &mut Settings,
    base_urls: &[(&str, &Option<String>)],
    scrape_token: Option<&SecretString>,
    workers_enabled: bool,
) {
    for (variable, url) in base_urls {
        match url {
            None if settings.text(variable).is_none() => settings.problem(variable, "is required in production"),
            Some(url)
                if !url.starts_with("https://")
                    || ["//localhost", "//127.", "//[::1]"].iter().any(|own| url.contains(own)) =>
            {
                settings.problem(variable, "must be an https address that is not loopback in production");
            }
            _ => {}
        }
    }
    for variable in ["CONFIG_VERSION", "CORS_ORIGIN"] {
        if settings.text(variable).is_none() {
            settings.problem(variable, "is required in production");
        }
    }
    if scrape_token.is_none_or(|token| token.expose_secret().len() < 32) {
        settings.problem("METRICS_SCRAPE_TOKEN", "must have at least 32 characters in production");
    }
    if settings.text("WEBHOOK_ALLOWED_NETWORKS").is_some() && !settings.flag("WEBHOOK_ALLOW_PRIVATE", false) {
        settings.problem(
            "WEBHOOK_ALLOWED_NETWORKS",
            "opens private networks; set WEBHOOK_ALLOW_PRIVATE=1 if that is meant",
        );
    }
    if !workers_enabled {
        settings.problem("WORKERS_ENABLED", "must be true in production");
    }
}
