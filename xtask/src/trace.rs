//! `cargo xtask trace`: the way an operator goes, from a slow request on a dashboard to what it did. One check-out is made
//! through the real programs. A real Prometheus has its exemplar, a collector that is not ours has received one trace that
//! spans request, job and worker, and the log lines of both programs carry the trace's id.

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode};

use clap::Args;
use serde_json::Value;

use crate::{
    bench::write,
    beside::{self, Beside, put, until},
    failure::{Context, Failure, Outcome},
    packages::{self, Wanted},
    stack::Stack,
    state::{free_port, random_hex},
    workspace,
};

/// Options of `trace`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// Write the table to docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

/// A collector of OpenTelemetry, prebuilt: it writes down every span as it has understood it.
const COLLECTOR: (&str, &str) = ("rotel", "0.0.1a15");

/// A caller's request, by which its log lines are found.
const REQUEST: &str = "the-check-out";

/// A span as the collector wrote it down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Span {
    service: String,
    trace: String,
    parent: String,
    id: String,
    name: String,
    kind: String,
    begun_ns: u64,
    ended_ns: u64,
}

/// Runs the walk.
pub async fn run(options: Options) -> Outcome<ExitCode> {
    packages::ensure(Wanted { operations: true, ..Wanted::default() })?;
    let (name, version) = COLLECTOR;
    let collector = packages::python(name, version)?.join("rotel/rotel-agent");
    let token = random_hex(16)?;
    let port = free_port()?;
    let endpoint = format!("http://127.0.0.1:{port}");
    // Nothing is kept but what a caller asks for: what arrives is the one trace.
    let settings = [
        ("METRICS_SCRAPE_TOKEN", &*token),
        ("TEMPO_ENDPOINT", &*endpoint),
        ("TRACE_SAMPLE_RATIO", "0"),
        ("SLOT", "blue"),
    ];
    let mut stack = Stack::start("trace", false, &settings).await?;
    let walked = walk(&mut stack, &collector, port, &token).await;
    let text = stack.end_as(walked)?;
    say!("\n{text}");
    if options.write {
        write("trace", &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn walk(stack: &mut Stack, collector: &Path, port: u16, token: &str) -> Outcome<String> {
    let mut programs = Beside::new(&stack.folder.join("watch"))?;
    let words = [
        "start",
        "--exporter",
        "blackhole",
        "--debug-log",
        "traces",
        "--debug-log-verbosity",
        "detailed",
        "--otlp-http-endpoint",
        &format!("127.0.0.1:{port}"),
        "--otlp-grpc-endpoint",
        &format!("127.0.0.1:{}", free_port()?),
    ];
    programs.start(collector, &words.map(str::to_owned), &[])?;
    let prometheus = prometheus(&mut programs, stack.port(), token)?;

    let mut interrupt = stack.interrupt.clone();
    let mut gateway = stack.gateway(&[]).await?;
    let mut worker = stack.worker()?;
    worker.ready().await?;
    let person = stack.people(1, 1).await?.remove(0);
    let (trace, caller) = (random_hex(16)?, random_hex(8)?);
    let http = beside::client()?;
    let answer = http
        .post(format!("http://127.0.0.1:{}/attendance/check-out", stack.port()))
        .bearer_auth(&person.token)
        .header("traceparent", format!("00-{trace}-{caller}-01"))
        .header("x-request-id", REQUEST)
        .json(&serde_json::json!({}))
        .send()
        .await;
    let status = answer.context("the gateway does not answer")?.status();
    if !status.is_success() {
        return Err(Failure::new(format!("the check-out was answered with {status}")));
    }
    until("the session is measured", async || {
        let session = person.signed_in.session(&person.session).await?;
        Ok(session.is_some_and(|session| session.distance_recalculation_status.as_deref() == Some("done")))
    })
    .await?;

    let label = exemplar_label()?;
    let route = exemplar(&http, &prometheus, &label, &trace).await?;
    say!("  Prometheus has an exemplar of {route} whose {label} is the trace's id");

    // Both send what they have every five seconds.
    let log = programs.log("rotel-agent");
    let mut spans = Vec::new();
    until("the collector has the whole trace", async || {
        let said = fs::read_to_string(&log).context("the collector says nothing")?;
        spans = understood(&said).into_iter().filter(|span| span.trace == trace).collect();
        Ok(is_whole(&spans, &caller).is_ok())
    })
    .await
    .or_else(|_| is_whole(&spans, &caller))?;
    worker.stop(&mut interrupt).await;
    gateway.stop(&mut interrupt).await;
    say!("  the collector has {} spans of it", spans.len());

    let mut lines = BTreeMap::new();
    for program in ["gateway", "worker"] {
        let path = stack.folder.join("logs").join(format!("{program}.log"));
        let text = fs::read_to_string(&path).context(format!("cannot read {}", path.display()))?;
        let count = lines_of(&text, &trace)?;
        say!("  the {program} wrote {count} lines with its id");
        lines.insert(program, count);
    }
    let (name, version) = COLLECTOR;
    Ok(table(&spans, &caller, &format!("{name} {version}"), &lines))
}

/// Starts a Prometheus that keeps exemplars, as the product's does.
fn prometheus(programs: &mut Beside, gateway: u16, token: &str) -> Outcome<String> {
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs:\n\
         - job_name: fieldtrack-api\n  \
           authorization: {{credentials: {token}}}\n  \
           static_configs: [{{targets: [\"127.0.0.1:{gateway}\"]}}]\n"
    );
    put(&programs.file("prometheus.yml"), &config)?;
    let port = free_port()?;
    let words = [
        format!("--config.file={}", programs.file("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", programs.file("data").display()),
        "--enable-feature=exemplar-storage".to_owned(),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    programs.start(Path::new("prometheus"), &words, &[])?;
    Ok(format!("http://127.0.0.1:{port}/api/v1"))
}

/// The label of an exemplar that Grafana takes for a trace's id.
fn exemplar_label() -> Outcome<String> {
    let path = workspace::root().join("monitoring/grafana/provisioning/datasources/fieldtrack.yml");
    let text = fs::read_to_string(&path).context(format!("cannot read {}", path.display()))?;
    let (_, rest) = text
        .split_once("exemplarTraceIdDestinations: [{name: ")
        .ok_or_else(|| Failure::new("Grafana is not told which label of an exemplar names a trace"))?;
    Ok(rest.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect())
}

/// Waits until Prometheus has an exemplar of this trace; answers the route it is of.
async fn exemplar(http: &reqwest::Client, prometheus: &str, label: &str, trace: &str) -> Outcome<String> {
    let now = chrono::Utc::now().timestamp();
    let (start, end) = ((now - 600).to_string(), (now + 600).to_string());
    let asked = [("query", "http_request_duration_seconds_bucket"), ("start", &*start), ("end", &*end)];
    let url = reqwest::Url::parse_with_params(&format!("{prometheus}/query_exemplars"), asked).context("no address")?;
    let mut route = None;
    until("Prometheus has the exemplar", async || {
        let answer = beside::ask(http, url.as_str()).await?;
        let series = answer["data"].as_array().cloned().unwrap_or_default();
        let of_it = |one: &&Value| {
            one["exemplars"].as_array().is_some_and(|found| found.iter().any(|it| it["labels"][label] == trace))
        };
        route = series.iter().find(of_it).and_then(|one| one["seriesLabels"]["route"].as_str().map(str::to_owned));
        Ok(route.is_some())
    })
    .await?;
    route.ok_or_else(|| Failure::new("an exemplar without a route"))
}

/// The spans of what the collector wrote down.
fn understood(text: &str) -> Vec<Span> {
    let (mut spans, mut service): (Vec<Span>, String) = (Vec::new(), String::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with("ResourceSpans #") {
            service.clear();
        } else if let Some(rest) = line.strip_prefix("-> service.name: Str(") {
            rest.trim_end_matches(')').clone_into(&mut service);
        } else if line.starts_with("Span #") {
            spans.push(Span { service: service.clone(), ..Span::default() });
        } else if let (Some(span), Some((name, value))) = (spans.last_mut(), line.split_once(':')) {
            let value = value.trim();
            match name.trim_end() {
                "Trace ID" => value.clone_into(&mut span.trace),
                "Parent ID" => value.clone_into(&mut span.parent),
                "ID" => value.clone_into(&mut span.id),
                "Name" => value.clone_into(&mut span.name),
                "Kind" => value.trim_start_matches("SPAN_KIND_").to_lowercase().clone_into(&mut span.kind),
                "Start time" => span.begun_ns = value.parse().unwrap_or(0),
                "End time" => span.ended_ns = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    spans
}

/// Whether these spans are one tree, from the caller's span over the request and the job to the worker's queries.
fn is_whole(spans: &[Span], caller: &str) -> Outcome {
    let ids: BTreeMap<&str, &Span> = spans.iter().map(|span| (&*span.id, span)).collect();
    if let Some(orphan) = spans.iter().find(|span| span.parent != caller && !ids.contains_key(&*span.parent)) {
        return Err(Failure::new(format!("{} has a parent that did not arrive", orphan.name)));
    }
    let under = |span: &Span, wanted: &Span| {
        let (mut at, mut steps) = (Some(span), 0);
        while let Some(here) = at.filter(|here| here.id != wanted.id) {
            steps += 1;
            at = ids.get(&*here.parent).copied().filter(|_| steps <= spans.len());
        }
        at.is_some()
    };
    let wanted = [
        ("fieldtrack-api", "POST /attendance/check-out", "server"),
        ("fieldtrack-api", "db close session", ""),
        ("fieldtrack-api", "publish distance-engine", "producer"),
        ("fieldtrack-worker", "process distance-engine", "consumer"),
        ("fieldtrack-worker", "measure session", ""),
        ("fieldtrack-worker", "db read route", ""),
    ];
    let mut above: Option<&Span> = None;
    for (service, name, kind) in wanted {
        let is = |span: &&Span| span.service == service && span.name == name && (kind.is_empty() || span.kind == kind);
        let of_above = |span: &&Span| match above {
            None => span.parent == caller,
            Some(above) => under(span, above),
        };
        let found = spans.iter().filter(is).find(of_above);
        let found = found.ok_or_else(|| Failure::new(format!("{service} sent no {kind} span {name} in its place")))?;
        // Statements have nothing below them.
        if !kind.is_empty() {
            above = Some(found);
        }
    }
    Ok(())
}

/// How many of a program's lines belong to the request, all of which must have the trace's id.
fn lines_of(log: &str, trace: &str) -> Outcome<usize> {
    let mut count = 0;
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).context(format!("a line that is no JSON: {line}"))?;
        if line["request_id"] == REQUEST {
            if line["trace_id"] != trace {
                return Err(Failure::new(format!("a line of the request without its trace: {line}")));
            }
            count += 1;
        }
    }
    match count {
        0 => Err(Failure::new("a program wrote no line about the request")),
        count => Ok(count),
    }
}

fn table(spans: &[Span], caller: &str, collector: &str, lines: &BTreeMap<&str, usize>) -> String {
    let mut spans: Vec<&Span> = spans.iter().collect();
    spans.sort_by_key(|span| span.begun_ns);
    let first = spans.first().map_or(0, |span| span.begun_ns);
    let milliseconds = |ns: u64| ns as f64 / 1e6;
    let mut text = format!(
        "One check-out as {collector} received it, and how the parts hang together; a debug build, on {}.\n\n\
         | span | kind | of | child of | begun after ms | took ms |\n| --- | --- | --- | --- | ---: | ---: |",
        chrono::Utc::now().format("%Y-%m-%d")
    );
    for span in &spans {
        let parent = spans.iter().find(|other| other.id == span.parent).map(|parent| &*parent.name);
        let parent = parent.unwrap_or(if span.parent == caller { "the caller's" } else { "?" });
        text.push_str(&format!(
            "\n| {} | {} | {} | {parent} | {:.1} | {:.1} |",
            span.name,
            span.kind,
            span.service,
            milliseconds(span.begun_ns.saturating_sub(first)),
            milliseconds(span.ended_ns.saturating_sub(span.begun_ns)),
        ));
    }
    text.push_str("\n\n- Prometheus has the trace's id as an exemplar of the request's duration");
    for (program, count) in lines {
        text.push_str(&format!("\n- lines of the {program}'s log with its id: {count}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
2026 INFO Starting Rotel.
ResourceSpans #0
Resource SchemaURL:
Resource attributes:
     -> service.name: Str(fieldtrack-api)
     -> slot: Str(blue)
ScopeSpans #0
InstrumentationScope fieldtrack
Span #0
    Trace ID       : 4bf9
    Parent ID      : 00f0
    ID             : 00f1
    Name           : POST /attendance/check-out
    Kind           : SPAN_KIND_SERVER
Start time: 1000000
End time: 3000000
Attributes:
     -> name: Str(a: b)
Span #1
    Trace ID       : 4bf9
    Parent ID      : 00f1
    ID             : 00f2
    Name           : db close session
    Kind           : SPAN_KIND_INTERNAL
Start time: 2000000
End time: 2500000
ResourceSpans #0
Resource attributes:
     -> service.name: Str(fieldtrack-worker)
Span #0
    Trace ID       : 4bf9
    Parent ID      : 00f1
    ID             : 00f3
    Name           : process distance-engine
    Kind           : SPAN_KIND_CONSUMER
";

    #[test]
    fn what_the_collector_writes_down_is_understood() {
        let spans = understood(SAID);
        assert_eq!(spans.len(), 3);
        let expected = Span {
            service: "fieldtrack-api".into(),
            trace: "4bf9".into(),
            parent: "00f0".into(),
            id: "00f1".into(),
            name: "POST /attendance/check-out".into(),
            kind: "server".into(),
            begun_ns: 1_000_000,
            ended_ns: 3_000_000,
        };
        assert_eq!(spans[0], expected);
        assert_eq!((&*spans[2].service, &*spans[2].kind), ("fieldtrack-worker", "consumer"));
    }

    fn span(service: &str, id: &str, parent: &str, kind: &str, name: &str) -> Span {
        let [service, id, parent, kind, name] = [service, id, parent, kind, name].map(str::to_owned);
        Span { service, id, parent, kind, name, ..Span::default() }
    }

    #[test]
    fn a_trace_is_whole_when_everything_hangs_together_and_only_then() {
        let whole = [
            span("fieldtrack-api", "1", "0", "server", "POST /attendance/check-out"),
            span("fieldtrack-api", "2", "1", "internal", "db close session"),
            span("fieldtrack-api", "3", "2", "producer", "publish distance-engine"),
            span("fieldtrack-worker", "4", "3", "consumer", "process distance-engine"),
            span("fieldtrack-worker", "5", "4", "internal", "measure session"),
            span("fieldtrack-worker", "6", "5", "internal", "db read route"),
        ];
        is_whole(&whole, "0").unwrap();
        for missing in 0..whole.len() {
            let mut spans = whole.to_vec();
            spans.remove(missing);
            assert!(is_whole(&spans, "0").is_err(), "without {}", whole[missing].name);
        }
        let mut elsewhere = whole.to_vec();
        elsewhere[3].parent = "0".into();
        assert!(is_whole(&elsewhere, "0").is_err(), "a job that does not hang below its request");
        assert!(is_whole(&whole, "9").is_err(), "a request that does not hang below its caller");
    }

    #[test]
    fn lines_of_a_request_have_its_trace() {
        let line = |request: &str, trace: &str| format!("{{\"request_id\":\"{request}\",\"trace_id\":\"{trace}\"}}\n");
        let log = line("other", "t2") + &line(REQUEST, "t1") + &line(REQUEST, "t1");
        assert_eq!(lines_of(&log, "t1").unwrap(), 2);
        assert!(lines_of(&log, "t2").is_err());
        assert!(lines_of(&line("other", "t1"), "t1").is_err());
    }

    #[test]
    fn grafana_is_told_which_label_names_a_trace() {
        assert_eq!(exemplar_label().unwrap(), "trace_id");
    }
}
