//! Every variable the worker reads.

use std::time::Duration;

use chrono::Months;
use db::DatabaseConfig;
use domain::network::Network;
use queue::RedisConfig;
use secrecy::SecretString;
use secrets::SecretsKey;
use settings::{InvalidSettings, Settings};

/// The worker's settings, read once at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// `WORKER_PORT` (3010): `/health`, `/ready` and `/metrics`.
    pub port: u16,
    /// `DATABASE_URL`.
    pub database: DatabaseConfig,
    /// `SYSTEM_DATABASE_URL`.
    pub system_database: DatabaseConfig,
    /// `REDIS_URL`.
    pub redis: RedisConfig,
    /// `WORKER_CONCURRENCY` (1): distance jobs at once.
    pub concurrency: usize,
    /// `ANALYTICS_WORKER_CONCURRENCY` (5, 1–50): analytics jobs at once.
    pub analytics_concurrency: usize,
    /// `WEBHOOK_WORKER_CONCURRENCY` (5, 1–20): webhook deliveries at once.
    pub webhook_concurrency: usize,
    /// `GPS_RETENTION_MONTHS` (0–1200; 0, the default: all are kept): whole months of fixes that are kept.
    pub keep_months: Option<Months>,
    /// `MAX_POINTS_PER_SESSION` (50,000).
    pub max_points: i64,
    /// `SECRETS_KEY`: opens the secrets of webhooks.
    pub secrets: SecretsKey,
    /// `WEBHOOK_MAX_PAYLOAD_BYTES` (262,144).
    pub webhook_max_bytes: usize,
    /// `WEBHOOK_ALLOWED_NETWORKS`: private networks that webhooks may reach.
    pub webhook_networks: Vec<Network>,
    /// `WEBHOOK_DLQ_MAX_SIZE` (10,000): dead letters an organization keeps.
    pub dead_letters_most: i64,
    /// `WEBHOOK_DLQ_RETENTION_DAYS` (30): how long.
    pub dead_letters_days: i64,
    /// `EVENT_RETENTION_DAYS` (90): how long events and deliveries that are over are kept.
    pub event_days: i64,
    /// `IDENTITY=supabase`: the project that signs people in.
    pub provider: Option<ProviderConfig>,
    /// `SHUTDOWN_TIMEOUT_S` (25): how long jobs in hand may take to finish.
    pub shutdown_timeout: Duration,
    /// `METRICS_SCRAPE_TOKEN`.
    pub metrics_scrape_token: Option<SecretString>,
    /// Logs and traces.
    pub telemetry: telemetry::Settings,
}

/// A Supabase project that signs people in.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// `SUPABASE_URL`.
    pub url: String,
    /// `SUPABASE_SERVICE_ROLE_KEY`: may change its users; without it, it is not told who was deactivated.
    pub key: Option<SecretString>,
}

impl Config {
    /// Reads every variable, and reports every mistake at once.
    pub fn read(mut settings: Settings) -> Result<Self, InvalidSettings> {
        let environment =
            settings.text("APP_ENV").or_else(|| settings.text("NODE_ENV")).unwrap_or_else(|| "development".to_owned());
        if !["development", "staging", "production", "test", "ci"].contains(&environment.as_str()) {
            settings.problem("APP_ENV", "must be one of development, staging, production, test, ci");
        }
        let database = DatabaseConfig::read(&mut settings, "DATABASE_URL");
        // Only the schedule uses it, and jobs that name no organization.
        let system_database =
            DatabaseConfig { pool_size: 2, ..DatabaseConfig::read(&mut settings, "SYSTEM_DATABASE_URL") };
        let redis = RedisConfig::read(&mut settings);
        let config = Self {
            port: settings.number("WORKER_PORT", 1000..=65535, 3010),
            database,
            system_database,
            redis,
            concurrency: settings.number("WORKER_CONCURRENCY", 1..=1000, 1),
            analytics_concurrency: settings.number("ANALYTICS_WORKER_CONCURRENCY", 1..=50, 5),
            webhook_concurrency: settings.number("WEBHOOK_WORKER_CONCURRENCY", 1..=20, 5),
            keep_months: Some(settings.number("GPS_RETENTION_MONTHS", 0..=1200, 0))
                .filter(|months| *months > 0)
                .map(Months::new),
            max_points: settings.number("MAX_POINTS_PER_SESSION", 1..=100_000_000, 50_000),
            secrets: SecretsKey::read(&mut settings),
            webhook_max_bytes: settings.number("WEBHOOK_MAX_PAYLOAD_BYTES", 16_384..=1_000_000, 262_144),
            webhook_networks: webhook_networks(&mut settings, &environment),
            dead_letters_most: settings.number("WEBHOOK_DLQ_MAX_SIZE", 1..=10_000_000, 10_000),
            dead_letters_days: settings.number("WEBHOOK_DLQ_RETENTION_DAYS", 14..=30, 30),
            event_days: settings.number("EVENT_RETENTION_DAYS", 31..=3650, 90),
            provider: provider(&mut settings, &environment),
            shutdown_timeout: Duration::from_secs(settings.number("SHUTDOWN_TIMEOUT_S", 1..=120, 25)),
            metrics_scrape_token: settings.secret("METRICS_SCRAPE_TOKEN"),
            telemetry: telemetry::Settings::read(&mut settings, "fieldtrack-worker", &environment),
        };
        settings.finish()?;
        Ok(config)
    }
}

fn provider(settings: &mut Settings, environment: &str) -> Option<ProviderConfig> {
    if settings.choice("IDENTITY", &[("builtin", false), ("supabase", true)]) != Some(true) {
        return None;
    }
    let url = settings.url("SUPABASE_URL").unwrap_or_else(|| {
        settings.problem("SUPABASE_URL", "is required when IDENTITY is supabase");
        String::new()
    });
    if environment == "production" {
        settings.no_clear_text("SUPABASE_URL", &url);
    }
    Some(ProviderConfig { url, key: settings.secret("SUPABASE_SERVICE_ROLE_KEY") })
}

fn webhook_networks(settings: &mut Settings, environment: &str) -> Vec<Network> {
    const VARIABLE: &str = "WEBHOOK_ALLOWED_NETWORKS";
    let list = settings.text(VARIABLE).unwrap_or_default();
    if !list.is_empty() && environment == "production" && !settings.flag("WEBHOOK_ALLOW_PRIVATE", false) {
        settings.problem(VARIABLE, "opens private networks; set WEBHOOK_ALLOW_PRIVATE=1 if that is meant");
    }
    Network::list(&list).unwrap_or_else(|| {
        settings.problem(VARIABLE, "must be a comma-separated list of addresses or CIDR ranges");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_project_does_not_travel_in_clear_in_production() {
        let problems = |environment: &str, url: &str| {
            let variables = [("APP_ENV", environment), ("IDENTITY", "supabase"), ("SUPABASE_URL", url)];
            let Err(InvalidSettings(problems)) = Config::read(Settings::from_variables(variables)) else { return 0 };
            problems.iter().filter(|problem| problem.starts_with("SUPABASE_URL:")).count()
        };
        assert_eq!(problems("production", "http://project.example"), 1);
        assert_eq!(problems("production", "https://project.example"), 0);
        assert_eq!(problems("production", "http://127.0.0.1:9999"), 0);
        assert_eq!(problems("development", "http://project.example"), 0);
    }
}
