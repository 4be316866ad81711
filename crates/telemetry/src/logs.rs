//! Log lines: one JSON object each, with what is known of the request or job around it.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;

use chrono::{SecondsFormat, Utc};
use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use tracing::dispatcher::WeakDispatch;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use crate::Settings;

/// Lines that may wait for a slow reader of standard output; further ones are dropped and counted. Logging never
/// makes a request wait.
const WAITING_LINES: usize = 16_384;

/// A writer to standard output that never blocks.
pub(crate) fn writer() -> (NonBlocking, ErrorCounter, WorkerGuard) {
    let (lines, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES).finish(std::io::stdout());
    let counter = lines.error_counter();
    (lines, counter, guard)
}

/// Lets through what the filter asks for, and always the spans of requests and jobs: traces need them, and a warning
/// must be able to say which request it belongs to, however little is logged.
///
/// In front of everything instead of around single layers: a layer that is wrapped in a filter of its own can no longer
/// be asked for the trace of a span.
pub(crate) struct Gate(pub(crate) EnvFilter);

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && *metadata.level() <= Level::INFO
}

impl<S: Subscriber> Layer<S> for Gate {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_ours(metadata) { Interest::always() } else { Layer::<S>::register_callsite(&self.0, metadata) }
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        is_ours(metadata) || Layer::<S>::enabled(&self.0, metadata, context)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Layer::<S>::max_level_hint(&self.0).map(|level| level.max(LevelFilter::INFO))
    }
}

/// Writes events as JSON lines.
pub(crate) struct JsonLines<W> {
    /// What is the same in every line.
    process: Map<String, Value>,
    lines: W,
    /// Knows the trace of a span.
    dispatch: OnceLock<WeakDispatch>,
}

impl<W> JsonLines<W> {
    pub(crate) fn new(settings: &Settings, lines: W) -> Self {
        let mut process = Map::new();
        for (name, value) in [
            ("service", settings.service.as_str()),
            ("slot", settings.slot),
            ("release", settings.release.as_str()),
            ("env", settings.environment.as_str()),
        ] {
            process.insert(name.to_owned(), value.into());
        }
        Self { process, lines, dispatch: OnceLock::new() }
    }
}

/// Fields of a span, kept beside it for the lines written within.
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        // Those are for the trace, not for the log.
        if !(field.name().starts_with("otel.") || field.name().starts_with("messaging.")) {
            self.0.insert(field.name().to_owned(), value);
        }
    }
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields(Map::new());
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Fields(Map::new());
        let metadata = event.metadata();
        line.0.insert("ts".to_owned(), Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true).into());
        line.0.insert("level".to_owned(), metadata.level().as_str().to_ascii_lowercase().into());
        line.0.insert("msg".to_owned(), Value::Null);
        line.0.extend(self.process.clone());
        line.0.insert("target".to_owned(), metadata.target().into());
        if let Some(scope) = context.event_scope(event) {
            for span in scope.from_root() {
                if let Some(Fields(fields)) = span.extensions().get::<Fields>() {
                    line.0.extend(fields.clone());
                }
            }
        }
        // Asked for outside of the loop: finding the trace looks at the span's extensions, too.
        if let Some(span) = context.event_span(event)
            && let Some(dispatch) = self.dispatch.get().and_then(WeakDispatch::upgrade)
            && let Some(trace) = tracing_opentelemetry::get_otel_context(&span.id(), &dispatch)
        {
            let trace = trace.span().span_context().clone();
            if trace.is_valid() {
                line.0.insert("trace_id".to_owned(), trace.trace_id().to_string().into());
                line.0.insert("span_id".to_owned(), trace.span_id().to_string().into());
            }
        }
        event.record(&mut line);
        let message = line.0.remove("message").unwrap_or(Value::Null);
        line.0.insert("msg".to_owned(), message);
        if let Ok(mut text) = serde_json::to_vec(&line.0) {
            text.push(b'\n');
            // Nobody can be told that standard output is gone.
            let _ = self.lines.make_writer().write_all(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogFormat;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Captured {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn settings() -> Settings {
        Settings {
            service: "fieldtrack-api".into(),
            release: "abc".into(),
            slot: "blue",
            environment: "test".into(),
            log_level: "warn,chatty=error".into(),
            log_format: LogFormat::Json,
            tempo_endpoint: None,
            trace_sample_ratio: 0.0,
        }
    }

    fn lines_of(work: impl FnOnce()) -> Vec<Value> {
        let captured = Captured::default();
        let exporting = crate::traces::Exporting::start(&settings()).unwrap();
        let subscriber = tracing_subscriber::registry()
            .with(Gate(EnvFilter::new(settings().log_level)))
            .with(exporting.layer())
            .with(JsonLines::new(&settings(), captured.clone()));
        crate::one_at_a_time::under(subscriber, work);
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_says_what_happened_where_and_in_which_request() {
        let lines = lines_of(|| {
            let span =
                tracing::info_span!("request", request_id = "r-1", status = tracing::field::Empty, otel.name = "x");
            let _entered = span.enter();
            span.record("status", 201);
            tracing::info!("nobody asked for this");
            tracing::warn!(target: "chatty", "nor for this");
            tracing::warn!(duration_ms = 1.5, error.kind = "NONE", "request answered");
        });
        let [line] = &lines[..] else { panic!("{lines:?}") };
        for (name, value) in [
            ("msg", "request answered"),
            ("level", "warn"),
            ("service", "fieldtrack-api"),
            ("slot", "blue"),
            ("release", "abc"),
            ("env", "test"),
            ("request_id", "r-1"),
            ("error.kind", "NONE"),
        ] {
            assert_eq!(line[name], value, "{line}");
        }
        assert_eq!((&line["status"], &line["duration_ms"]), (&201.into(), &1.5.into()));
        assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
        assert_eq!(line["span_id"].as_str().unwrap().len(), 16);
        assert!(line["ts"].as_str().unwrap().ends_with('Z'));
        assert!(line.get("otel.name").is_none());
    }

    #[test]
    fn inner_spans_win_and_lines_outside_have_no_trace() {
        let lines = lines_of(|| {
            tracing::warn!("alone");
            let outer = tracing::info_span!("outer", queue = "a", attempt = 1).entered();
            let inner = tracing::info_span!("inner", attempt = 2).entered();
            tracing::error!(attempt = 3, "within");
            drop((inner, outer));
        });
        assert!(lines[0].get("trace_id").is_none());
        assert_eq!((&lines[1]["queue"], &lines[1]["attempt"]), (&"a".into(), &3.into()));
    }
}
