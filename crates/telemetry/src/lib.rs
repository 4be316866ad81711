//! Logs, traces and metrics: one [`init`] per process; knows nothing of the product.

mod logs;
pub mod metrics;
pub mod traces;

use std::io::IsTerminal;

use settings::Settings as Variables;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::metrics::Registry;
use crate::traces::Exporting;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people at a terminal.
    Pretty,
}

/// What a process says about itself, and how much.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `SERVICE_NAME`.
    pub service: String,
    /// `GITHUB_SHA`, else `manual`.
    pub release: String,
    /// `SLOT`: `blue`, `green` or `none`.
    pub slot: &'static str,
    /// `APP_ENV`.
    pub environment: String,
    /// `LOG_LEVEL`: a filter as `tracing` understands it (`info`).
    pub log_level: String,
    /// `LOG_FORMAT`: `json`, or `pretty` (the default at a terminal; refused in production).
    pub log_format: LogFormat,
    /// `TEMPO_ENDPOINT`: where traces go. By default `http://tempo:4318` in production and staging, elsewhere nowhere.
    pub tempo_endpoint: Option<String>,
    /// `TRACE_SAMPLE_RATIO` (0.1): share of new traces that are kept; a caller's decision is always followed.
    pub trace_sample_ratio: f64,
}

impl Settings {
    /// Reads the variables; `service` is the name when `SERVICE_NAME` is unset.
    pub fn read(variables: &mut Variables, service: &str, environment: &str) -> Self {
        const SLOTS: [(&str, &str); 3] = [("none", "none"), ("blue", "blue"), ("green", "green")];
        let format = match variables.text("LOG_FORMAT").as_deref() {
            Some("json") => LogFormat::Json,
            Some("pretty") if environment == "production" => {
                variables.problem("LOG_FORMAT", "must be json in production");
                LogFormat::Json
            }
            Some("pretty") => LogFormat::Pretty,
            Some(_) => {
                variables.problem("LOG_FORMAT", "must be json or pretty");
                LogFormat::Json
            }
            None if environment == "development" && std::io::stdout().is_terminal() => LogFormat::Pretty,
            None => LogFormat::Json,
        };
        let log_level = variables.text("LOG_LEVEL").unwrap_or_else(|| "info".to_owned());
        if EnvFilter::try_new(&log_level).is_err() {
            variables.problem("LOG_LEVEL", "must be a level or a filter like info,db=debug");
        }
        let deployed = matches!(environment, "production" | "staging");
        Self {
            service: variables.text("SERVICE_NAME").unwrap_or_else(|| service.to_owned()),
            release: variables.text("GITHUB_SHA").unwrap_or_else(|| "manual".to_owned()),
            slot: variables.choice("SLOT", &SLOTS).unwrap_or("none"),
            environment: environment.to_owned(),
            log_level,
            log_format: format,
            tempo_endpoint: match variables.text("TEMPO_ENDPOINT") {
                Some(_) => variables.url("TEMPO_ENDPOINT"),
                None => deployed.then(|| "http://tempo:4318".to_owned()),
            },
            trace_sample_ratio: variables.number("TRACE_SAMPLE_RATIO", 0.0..=1.0, 0.1),
        }
    }
}

/// Logs or traces cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// This process has them already.
    #[error("logs are set up already")]
    Twice,
    /// The filter cannot be understood.
    #[error("LOG_LEVEL is no filter: {0}")]
    Filter(String),
    /// Traces cannot be sent there.
    #[error("TEMPO_ENDPOINT cannot be used: {0}")]
    Exporter(String),
}

/// What keeps logs and traces going; kept until the end of the process.
pub struct Telemetry {
    exporting: Exporting,
    written: tracing_appender::non_blocking::ErrorCounter,
    settings: Settings,
    _writer: tracing_appender::non_blocking::WorkerGuard,
}

/// Sets up logs and traces of this process, once.
pub fn init(settings: &Settings) -> Result<Telemetry, TelemetryError> {
    let filter = EnvFilter::try_new(&settings.log_level).map_err(|error| TelemetryError::Filter(error.to_string()))?;
    let (lines, written, writer) = logs::writer();
    let exporting = Exporting::start(settings)?;
    // Boxed, not optional: an optional layer is never told of the dispatcher, and could not find a line's trace.
    let lines = match settings.log_format {
        LogFormat::Json => logs::JsonLines::new(settings, lines).boxed(),
        LogFormat::Pretty => {
            tracing_subscriber::fmt::layer().with_ansi(std::io::stdout().is_terminal()).with_writer(lines).boxed()
        }
    };
    tracing_subscriber::registry()
        .with(logs::Gate(filter))
        .with(exporting.layer())
        .with(lines)
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    Ok(Telemetry { exporting, written, settings: settings.clone(), _writer: writer })
}

impl Telemetry {
    /// A registry that already knows the process, its build and what telemetry itself had to drop.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::new();
        registry.describe_build(&self.settings);
        registry.observe_drops(self.written.clone(), self.exporting.dropped());
        registry
    }

    /// Sends what is left, for at most 3 s. Lines written so far are flushed when the value is dropped.
    pub fn shutdown(self) {
        self.exporting.shutdown();
    }
}

#[cfg(test)]
pub(crate) mod one_at_a_time {
    use std::sync::{Mutex, PoisonError};

    /// Runs `work` under a subscriber. The tracing library remembers for the whole process which call sites somebody
    /// listens to, so tests with subscribers of their own must not run beside each other.
    pub(crate) fn under(subscriber: impl tracing::Subscriber + Send + Sync + 'static, work: impl FnOnce()) {
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        tracing::subscriber::with_default(subscriber, work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn production_writes_json_and_sends_traces() {
        let mut variables = Variables::from_variables([("SLOT", "green"), ("GITHUB_SHA", "abc")]);
        let settings = Settings::read(&mut variables, "fieldtrack-api", "production");
        variables.finish().unwrap();
        assert_eq!((settings.log_format, settings.slot, &*settings.release), (LogFormat::Json, "green", "abc"));
        assert_eq!(settings.tempo_endpoint.as_deref(), Some("http://tempo:4318"));
    }

    #[test]
    fn mistakes_are_reported_together() {
        let mut variables = Variables::from_variables([
            ("SLOT", "red"),
            ("LOG_FORMAT", "xml"),
            ("LOG_LEVEL", "a=b=c"),
            ("TRACE_SAMPLE_RATIO", "2"),
            ("TEMPO_ENDPOINT", "tempo"),
        ]);
        Settings::read(&mut variables, "fieldtrack-api", "development");
        assert_eq!(variables.finish().unwrap_err().0.len(), 5);
        let mut variables = Variables::from_variables([("LOG_FORMAT", "pretty")]);
        Settings::read(&mut variables, "fieldtrack-api", "production");
        assert!(variables.finish().is_err());
    }
}
