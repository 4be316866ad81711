//! Metrics, as OpenMetrics text with exemplars.

use std::fmt;
use std::fs;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::MetricConstructor;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Metric;
use tracing_appender::non_blocking::ErrorCounter;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;

use crate::Settings;

/// Upper bounds of the histograms of a family.
#[derive(Debug, Clone, Copy)]
pub struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// A histogram for each value of some labels.
pub type Histograms<L> = Family<L, Histogram, Bounds>;

/// What labels have to be.
pub trait LabelSet: Clone + fmt::Debug + Eq + Hash + EncodeLabelSet + Send + Sync + 'static {}

impl<L: Clone + fmt::Debug + Eq + Hash + EncodeLabelSet + Send + Sync + 'static> LabelSet for L {}

/// The metrics of one process.
#[derive(Debug)]
pub struct Registry(prometheus_client::registry::Registry);

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// A registry that knows the process: its processor time, memory and open files.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Process));
        Self(registry)
    }

    /// Adds a metric that starts at nothing. Counters are named without `_total`, which the text adds.
    pub fn add<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        let metric = M::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    /// Adds a histogram with these upper bounds; `labels` are the same for all of it.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[f64],
        labels: &[(&'static str, &'static str)],
    ) -> Histogram {
        let histogram = Histogram::new(bounds.iter().copied());
        let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        self.0.sub_registry_with_labels(labels).register(name, help, histogram.clone());
        histogram
    }

    /// Adds a histogram for each value of some labels, all with these upper bounds.
    pub fn histograms<L: LabelSet>(&mut self, name: &str, help: &str, bounds: &'static [f64]) -> Histograms<L> {
        let family = Family::new_with_constructor(Bounds(bounds));
        self.0.register(name, help, family.clone());
        family
    }

    /// Everything, as OpenMetrics 1.0 text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.0) {
            tracing::error!(error.message = %error, "metrics cannot be written");
        }
        text
    }

    pub(crate) fn describe_build(&mut self, settings: &Settings) {
        let build: Family<[(&str, String); 3], Gauge> = self.add("build_info", "What runs here");
        build
            .get_or_create(&[
                ("service", settings.service.clone()),
                ("release", settings.release.clone()),
                ("slot", settings.slot.to_owned()),
            ])
            .set(1);
    }

    pub(crate) fn observe_drops(&mut self, lines: ErrorCounter, spans: Arc<AtomicU64>) {
        self.0.register_collector(Box::new(Drops { lines, spans }));
    }
}

/// What telemetry itself lost.
struct Drops {
    lines: ErrorCounter,
    spans: Arc<AtomicU64>,
}

impl fmt::Debug for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Drops")
    }
}

impl Collector for Drops {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        counter(&mut encoder, "log_lines_dropped", "Log lines nobody read in time", self.lines.dropped_lines() as f64)?;
        counter(
            &mut encoder,
            "otel_spans_dropped",
            "Spans no collector took",
            self.spans.load(Ordering::Relaxed) as f64,
        )
    }
}

/// What the kernel knows of this process.
#[derive(Debug)]
struct Process;

/// Kernel clock ticks a second and the size of a page: fixed in the interface to programs on every Linux we run on.
const TICKS_A_SECOND: f64 = 100.0;
const PAGE_BYTES: f64 = 4096.0;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(process) = read_process() else { return Ok(()) };
        counter(&mut encoder, "process_cpu_user_seconds", "Processor time in user mode", process.user_s)?;
        counter(&mut encoder, "process_cpu_system_seconds", "Processor time in the kernel", process.system_s)?;
        counter(&mut encoder, "process_cpu_seconds", "Processor time", process.user_s + process.system_s)?;
        gauge(&mut encoder, "process_start_time_seconds", "Start, as Unix time", process.started_s)?;
        gauge(&mut encoder, "process_resident_memory_bytes", "Memory in use", process.resident)?;
        gauge(&mut encoder, "process_virtual_memory_bytes", "Memory reserved", process.virtual_bytes)?;
        gauge(&mut encoder, "process_heap_bytes", "Data segment and heap", process.heap)?;
        gauge(&mut encoder, "process_open_fds", "Open files", process.open_files)?;
        gauge(&mut encoder, "process_max_fds", "Files that may be open", process.max_files)
    }
}

struct ProcessFigures {
    user_s: f64,
    system_s: f64,
    started_s: f64,
    resident: f64,
    virtual_bytes: f64,
    heap: f64,
    open_files: f64,
    max_files: f64,
}

fn read_process() -> Option<ProcessFigures> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything; fields are numbered from 1.
    let after_name: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| after_name.get(number - 3)?.parse::<f64>().ok();
    let memory = fs::read_to_string("/proc/self/statm").ok()?;
    let pages = |place: usize| memory.split_whitespace().nth(place)?.parse::<f64>().ok();
    let booted = fs::read_to_string("/proc/stat").ok()?;
    let booted = booted.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<f64>().ok()?;
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let max_files = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?;
    Some(ProcessFigures {
        user_s: field(14)? / TICKS_A_SECOND,
        system_s: field(15)? / TICKS_A_SECOND,
        started_s: booted + field(22)? / TICKS_A_SECOND,
        resident: pages(1)? * PAGE_BYTES,
        virtual_bytes: pages(0)? * PAGE_BYTES,
        heap: pages(5)? * PAGE_BYTES,
        open_files: fs::read_dir("/proc/self/fd").ok()?.count() as f64,
        max_files: max_files.parse().unwrap_or(f64::INFINITY),
    })
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> Result<(), fmt::Error> {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> Result<(), fmt::Error> {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// Bounds of request times in seconds.
const REQUEST_S: [f64; 8] = [0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

type RequestLabels = [(&'static str, String); 3];
type Exemplar = [(&'static str, String); 1];
type RequestTimes = HistogramWithExemplars<Exemplar>;

fn request_times() -> RequestTimes {
    HistogramWithExemplars::new(REQUEST_S.into_iter())
}

/// What a server counts of its requests.
#[derive(Clone)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    times: Family<RequestLabels, RequestTimes, fn() -> RequestTimes>,
    in_flight: Gauge<i64, AtomicI64>,
    aborted: Counter,
}

impl HttpMetrics {
    /// Adds them to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let times = Family::<RequestLabels, RequestTimes, fn() -> RequestTimes>::new_with_constructor(request_times);
        registry.0.register("http_request_duration_seconds", "Time from a request's head to its answer", times.clone());
        Self {
            requests: registry.add("http_requests", "Requests answered"),
            times,
            in_flight: registry.add("http_requests_in_flight", "Requests being served"),
            aborted: registry.add("http_requests_aborted", "Requests whose caller went away"),
        }
    }

    /// A request has begun. Drop the answer without [`InFlight::finish`] and it counts as aborted.
    #[must_use]
    pub fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight { metrics: self.clone(), finished: false }
    }
}

/// A request being served; leaves the count exactly once, however it ends.
pub struct InFlight {
    metrics: HttpMetrics,
    finished: bool,
}

impl InFlight {
    /// It was answered. `route` is the pattern, never the path; `trace_id` only of traces that are kept.
    pub fn finish(mut self, method: &str, route: &str, status: u16, took: Duration, trace_id: Option<&str>) {
        self.finished = true;
        // Anybody can invent methods; a label must not hold more than there are.
        let method = match method {
            "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method,
            _ => "OTHER",
        };
        let labels = [("method", method.to_owned()), ("route", route.to_owned()), ("status_code", status.to_string())];
        self.metrics.requests.get_or_create(&labels).inc();
        let exemplar = trace_id.map(|trace_id| [("trace_id", trace_id.to_owned())]);
        let at = exemplar.is_some().then(SystemTime::now);
        self.metrics.times.get_or_create(&labels).observe(took.as_secs_f64(), exemplar, at);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        if !self.finished {
            self.metrics.aborted.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_names_and_exemplars_that_dashboards_use() {
        let mut registry = Registry::new();
        let http = HttpMetrics::register(&mut registry);
        http.begin().finish("GET", "/admin/employees/:id", 200, Duration::from_millis(30), Some("abc"));
        http.begin().finish("BREW", "unmatched", 404, Duration::from_millis(3), None);
        drop(http.begin());
        let open = http.begin();
        let text = registry.encode();
        for line in [
            r#"http_requests_total{method="GET",route="/admin/employees/:id",status_code="200"} 1"#,
            r#"http_requests_total{method="OTHER",route="unmatched",status_code="404"} 1"#,
            r#"http_request_duration_seconds_bucket{le="0.01",method="GET",route="/admin/employees/:id",status_code="200"} 0"#,
            r#"http_request_duration_seconds_bucket{le="0.05",method="GET",route="/admin/employees/:id",status_code="200"} 1 # {trace_id="abc"} 0.03"#,
            "http_requests_in_flight 1",
            "http_requests_aborted_total 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        drop(open);
        assert!(text.ends_with("# EOF\n"));
        assert!(registry.encode().contains("http_requests_in_flight 0"));
    }

    #[test]
    fn the_process_is_described() {
        let text = Registry::new().encode();
        for name in [
            "process_cpu_user_seconds_total",
            "process_cpu_system_seconds_total",
            "process_cpu_seconds_total",
            "process_start_time_seconds",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_heap_bytes",
            "process_open_fds",
            "process_max_fds",
        ] {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{name} ")))
                .unwrap_or_else(|| panic!("{name}\n{text}"));
            let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(value >= 0.0, "{line}");
        }
    }
}
