//! Traces: followed from the caller, through the request, to the job it causes, and sent to a collector.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan, SpanData,
    SpanExporter, SpanProcessor,
};
use serde_json::Value;
use tracing::Span;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};

use crate::{Settings, TelemetryError};

/// Spans that may wait to be sent; further ones are dropped and counted.
const WAITING_SPANS: usize = 2048;
/// Spans sent at once.
const BATCH_SPANS: usize = 512;
/// How often spans are sent.
const SEND_EVERY: Duration = Duration::from_secs(5);
/// How long a collector may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last spans may take at the end of the process.
const LAST_SPANS: Duration = Duration::from_secs(3);
/// How often trouble with the collector is logged at the most.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Continues the trace of a caller, if its headers name one: W3C `traceparent`, any version but `ff`, any flags (bit 0
/// is "sampled"), no zero ids.
pub fn follow(span: &Span, traceparent: Option<&str>, tracestate: Option<&str>) {
    if let Some(parent) = traceparent.and_then(|header| parse(header, tracestate)) {
        // A span that has begun already, or is filtered out, stays a root: nothing depends on it.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let mut parts = traceparent.trim().split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let well_formed = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    if !well_formed || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & 1);
    let state = tracestate.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    let context = SpanContext::new(TraceId::from_hex(trace).ok()?, SpanId::from_hex(parent).ok()?, flags, true, state);
    context.is_valid().then_some(context)
}

/// Names a span by what is known only at its end: a request's route is found while it runs.
pub fn rename(span: &Span, name: String) {
    span.context().span().update_name(name);
}

/// The present trace and the request's id, as a JSON string for the options of a job: `{"traceparent":…}`.
/// `None` outside of any trace.
#[must_use]
pub fn carrier(request_id: &str) -> Option<String> {
    let context = Span::current().context();
    let here = context.span().span_context().clone();
    if !here.is_valid() {
        return None;
    }
    let mut carrier = serde_json::Map::new();
    let traceparent = format!("00-{}-{}-{:02x}", here.trace_id(), here.span_id(), here.trace_flags().to_u8());
    carrier.insert("traceparent".to_owned(), traceparent.into());
    let state = here.trace_state().header();
    if !state.is_empty() {
        carrier.insert("tracestate".to_owned(), state.into());
    }
    carrier.insert("baggage".to_owned(), format!("request_id={request_id}").into());
    Some(Value::Object(carrier).to_string())
}

/// Continues the trace of a job's carrier; answers the id of the request that caused the job. A carrier that makes no
/// sense is ignored: the job is then the root of its own trace.
#[must_use]
pub fn follow_carrier(span: &Span, carrier: &str) -> Option<String> {
    let carrier: Value = serde_json::from_str(carrier).ok()?;
    follow(span, carrier["traceparent"].as_str(), carrier["tracestate"].as_str());
    let baggage = carrier["baggage"].as_str()?;
    let id = baggage.split(',').find_map(|member| member.trim().strip_prefix("request_id="))?;
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    ((1..=128).contains(&id.len()) && id.bytes().all(harmless)).then(|| id.to_owned())
}

/// The id of a span's trace, if the trace is kept: exemplars must not point at traces that nobody has.
#[must_use]
pub fn sampled_trace_id(span: &Span) -> Option<String> {
    let context = span.context();
    let here = context.span().span_context().clone();
    (here.is_valid() && here.is_sampled()).then(|| here.trace_id().to_string())
}

/// The trace pipeline of this process.
pub(crate) struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    dropped: Arc<AtomicU64>,
}

impl Exporting {
    /// Without an endpoint nothing is sent, but traces still have ids and are passed on.
    pub(crate) fn start(settings: &Settings) -> Result<Self, TelemetryError> {
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", settings.service.clone()),
                KeyValue::new("service.version", "2.0"),
                KeyValue::new("service.instance.id", format!("{}-{}", settings.slot, std::process::id())),
                KeyValue::new("deployment.environment", settings.environment.clone()),
                KeyValue::new("slot", settings.slot),
            ])
            .build();
        // What nobody will be sent need not be recorded.
        let root = match settings.tempo_endpoint {
            Some(_) => Sampler::TraceIdRatioBased(settings.trace_sample_ratio),
            None => Sampler::AlwaysOff,
        };
        let sampler = Sampler::ParentBased(Box::new(root));
        let dropped = Arc::new(AtomicU64::new(0));
        let mut provider = SdkTracerProvider::builder().with_resource(resource).with_sampler(sampler);
        if let Some(endpoint) = &settings.tempo_endpoint {
            let waiting = Arc::new(AtomicUsize::new(0));
            let exporter = exporter(endpoint)?;
            let counted = Counted {
                exporter,
                waiting: Arc::clone(&waiting),
                dropped: Arc::clone(&dropped),
                complained: Arc::default(),
            };
            let config = BatchConfigBuilder::default()
                .with_max_queue_size(WAITING_SPANS)
                .with_max_export_batch_size(BATCH_SPANS)
                .with_scheduled_delay(SEND_EVERY)
                .build();
            let batches = BatchSpanProcessor::builder(counted).with_batch_config(config).build();
            provider = provider.with_span_processor(Bounded { batches, waiting, dropped: Arc::clone(&dropped) });
        }
        let provider = provider.build();
        let tracer = provider.tracer("fieldtrack");
        Ok(Self { provider, tracer, dropped })
    }

    /// The layer that makes spans.
    pub(crate) fn layer<S>(&self) -> OpenTelemetryLayer<S, SdkTracer>
    where
        S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
    }

    /// Spans lost so far.
    pub(crate) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    pub(crate) fn shutdown(self) {
        // What cannot be sent by now is lost; the process ends either way.
        let _ = self.provider.shutdown_with_timeout(LAST_SPANS);
    }
}

fn exporter(endpoint: &str) -> Result<opentelemetry_otlp::SpanExporter, TelemetryError> {
    let failed = |error: &dyn fmt::Display| TelemetryError::Exporter(error.to_string());
    // The client brings no cryptography of its own. An error would say that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Made on a thread of its own: the blocking client must not be made, or dropped, within an async runtime.
    let client = std::thread::spawn(|| reqwest::blocking::Client::builder().timeout(SEND_TIMEOUT).no_proxy().build())
        .join()
        .map_err(|_| TelemetryError::Exporter("no client".to_owned()))?
        .map_err(|error| failed(&error))?;
    opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .with_timeout(SEND_TIMEOUT)
        .build()
        .map_err(|error| failed(&error))
}

/// Lets no more spans wait than the batches can hold, and counts the rest: left to themselves, batches drop silently.
#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut SdkSpan, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_SPANS {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.batches.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Counts what could not be sent, and says so once a minute.
struct Counted<E> {
    exporter: E,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
    complained: Arc<std::sync::Mutex<Option<Instant>>>,
}

impl<E> fmt::Debug for Counted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.exporter.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        if let Err(error) = &sent {
            self.dropped.fetch_add(spans as u64, Ordering::Relaxed);
            self.complain(error);
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E> Counted<E> {
    fn complain(&self, error: &OTelSdkError) {
        let mut complained = self.complained.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            *complained = Some(Instant::now());
            tracing::warn!(error.message = %error, "traces cannot be sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogFormat;
    use std::io::{Read, Write};
    use tracing_subscriber::layer::SubscriberExt;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn settings(endpoint: Option<String>, ratio: f64) -> Settings {
        Settings {
            service: "s".into(),
            release: "r".into(),
            slot: "none",
            environment: "test".into(),
            log_level: "info".into(),
            log_format: LogFormat::Json,
            tempo_endpoint: endpoint,
            trace_sample_ratio: ratio,
        }
    }

    #[test]
    fn headers_of_any_version_are_read_and_nonsense_is_not() {
        let context = |header: &str| parse(header, Some("vendor=1"));
        let good = context(&format!("00-{TRACE}-00f067aa0ba902b7-03")).unwrap();
        assert!(good.is_sampled() && good.is_remote());
        assert_eq!(good.trace_state().header(), "vendor=1");
        assert!(!context(&format!("00-{TRACE}-00f067aa0ba902b7-02")).unwrap().is_sampled());
        assert!(context(&format!("cc-{TRACE}-00f067aa0ba902b7-01-more")).is_some());
        for bad in [
            "",
            "00",
            &format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            &format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            &format!("00-{TRACE}-0000000000000000-01"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            &format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            &format!("00-{TRACE}-00f067aa0ba902b7-0"),
        ] {
            assert!(context(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_trace_goes_through_a_job() {
        let exporting = Exporting::start(&settings(None, 0.0)).unwrap();
        crate::one_at_a_time::under(tracing_subscriber::registry().with(exporting.layer()), || {
            assert_eq!(carrier("r-1"), None);
            let request = tracing::info_span!("request");
            follow(&request, Some(&format!("00-{TRACE}-00f067aa0ba902b7-01")), None);
            let carried = request.in_scope(|| carrier("r-1")).unwrap();
            let job = tracing::info_span!("job");
            assert_eq!(follow_carrier(&job, &carried).as_deref(), Some("r-1"));
            assert_eq!(sampled_trace_id(&job).as_deref(), Some(TRACE));
            let root = tracing::info_span!("root");
            assert_eq!(follow_carrier(&root, "nonsense"), None);
            assert_eq!(sampled_trace_id(&root), None, "a ratio of 0 keeps no new trace");
        });
    }

    #[test]
    fn spans_reach_a_collector_and_losing_it_costs_nothing_but_a_count() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let received = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
            (head, body)
        });
        let exporting = Exporting::start(&settings(Some(endpoint), 1.0)).unwrap();
        crate::one_at_a_time::under(tracing_subscriber::registry().with(exporting.layer()), || {
            tracing::info_span!("found by its name").in_scope(|| {});
            exporting.provider.force_flush().unwrap();
            let (head, body) = received.join().unwrap();
            assert!(
                head.starts_with("post /v1/traces") && head.contains("content-type: application/x-protobuf"),
                "{head}"
            );
            assert!(String::from_utf8_lossy(&body).contains("found by its name"));
            // The collector is gone.
            for _ in 0..3 * WAITING_SPANS {
                tracing::info_span!("lost").in_scope(|| {});
            }
            let _ = exporting.provider.force_flush();
            let dropped = exporting.dropped();
            let deadline = Instant::now() + Duration::from_secs(20);
            while (dropped.load(Ordering::Relaxed) as usize) < 3 * WAITING_SPANS && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(dropped.load(Ordering::Relaxed) as usize, 3 * WAITING_SPANS);
        });
    }
}
