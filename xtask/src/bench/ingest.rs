//! `cargo xtask bench ingest`: ingestion over HTTP against what the database itself can take.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{
    bench::write,
    failure::{Context, Failure, Outcome},
    stack::{Person, Stack, machine},
    usage,
};

/// Options of `bench ingest`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Seconds a measurement lasts
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// How often everything is measured; medians are reported
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Write the table to docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

/// Points in a batch, and rows in a statement of the ceiling.
const BATCH: usize = 100;
const ORGANIZATIONS: usize = 8;
const PEOPLE: usize = 64;

/// What one measurement found.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    requests_s: f64,
    points_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    gateway_us: f64,
    postgres_us: f64,
    redis_us: f64,
    load_us: f64,
}

/// Runs it.
pub async fn run(options: &Options) -> Outcome<ExitCode> {
    // Every request is counted in Redis as ever, but none is refused; the worker scales apart and does not run here.
    let settings = [("RATE_LIMIT_MULTIPLIER", "100000"), ("LOG_LEVEL", "warn"), ("DATABASE_POOL_SIZE", "10")];
    let mut stack = Stack::start("bench", true, &settings).await?;
    let measured = measure_all(&mut stack, options).await;
    stack.end()?;
    let (text, met) = measured?;
    say!("\n{text}");
    if options.write {
        write("ingest", &text)?;
    }
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure_all(stack: &mut Stack, options: &Options) -> Outcome<(String, bool)> {
    let mut gateway = stack.gateway(&[]).await?;
    let mut interrupt = stack.interrupt.clone();
    let people = stack.people(ORGANIZATIONS, PEOPLE).await?;
    let people: Arc<Vec<Lane>> = Arc::new(lanes(&people, 256));
    let postgres = stack.postmaster()?;
    let redis = stack.redis_pid()?;
    let mut samples: BTreeMap<&'static str, Vec<Sample>> = BTreeMap::new();
    let mut peak_mib: f64 = 0.0;
    let mut sent_points = 0;

    // A ceiling stands before and after everything it is compared with.
    for round in 0..options.rounds {
        say!("round {} of {}", round + 1, options.rounds);
        for clients in [4, 8] {
            let name = if clients == 4 { "pgbench, 4 clients" } else { "pgbench, 8 clients" };
            settle(stack)?;
            let sample = ceiling(stack, postgres, clients, options.seconds)?;
            say!("  {name:<42} {:>9.0} points/s", sample.points_s);
            samples.entry(name).or_default().push(sample);
        }
        for (name, connections) in [("batches of 100, 16 connections", 16), ("batches of 100, 32 connections", 32)] {
            let load = Load { points: BATCH, connections, seconds: options.seconds };
            settle(stack)?;
            let (sample, points) = load.run(stack.port(), &people, gateway.known_pid()?, postgres, redis).await?;
            sent_points += points;
            say!("  {name:<42} {:>9.0} points/s", sample.points_s);
            samples.entry(name).or_default().push(sample);
        }
        for (name, connections) in [("single, 32 connections", 32), ("single, 256 connections", 256)] {
            let load = Load { points: 1, connections, seconds: options.seconds };
            settle(stack)?;
            let (sample, points) = load.run(stack.port(), &people, gateway.known_pid()?, postgres, redis).await?;
            sent_points += points;
            say!("  {name:<42} {:>9.0} requests/s", sample.requests_s);
            samples.entry(name).or_default().push(sample);
        }
        peak_mib = peak_mib.max(usage::peak_mib(gateway.known_pid()?));
        gateway.stop(&mut interrupt).await;
        let mut single = stack.gateway(&[("LOCATIONS_PER_COMMIT", "1")]).await?;
        for (name, connections) in
            [("single, a commit each, 32 connections", 32), ("single, a commit each, 256 connections", 256)]
        {
            let load = Load { points: 1, connections, seconds: options.seconds };
            settle(stack)?;
            let (sample, points) = load.run(stack.port(), &people, single.known_pid()?, postgres, redis).await?;
            sent_points += points;
            say!("  {name:<42} {:>9.0} requests/s", sample.requests_s);
            samples.entry(name).or_default().push(sample);
        }
        single.stop(&mut interrupt).await;
        gateway = stack.gateway(&[]).await?;
    }
    gateway.stop(&mut interrupt).await;
    let stored: u64 = stack
        .cluster
        .sql("fieldtrack", "SELECT count(*) FROM gps_locations WHERE accuracy = 5")?
        .trim()
        .parse()
        .context("no number of rows")?;
    if stored != sent_points {
        return Err(Failure::new(format!("{sent_points} points were acknowledged, {stored} are stored")));
    }
    let machine = machine(Some(&stack.cluster), &stack.redis);
    Ok(report(&samples, peak_mib, stored, options, &machine))
}

fn median(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> f64 {
    let mut figures: Vec<f64> = samples.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

fn report(
    samples: &BTreeMap<&'static str, Vec<Sample>>,
    peak_mib: f64,
    stored: u64,
    options: &Options,
    machine: &str,
) -> (String, bool) {
    let of = |name: &str| samples.get(name).map_or(&[][..], Vec::as_slice);
    let points = |name: &str| median(of(name), |sample| sample.points_s);
    let requests = |name: &str| median(of(name), |sample| sample.requests_s);
    let ceiling = points("pgbench, 4 clients").max(points("pgbench, 8 clients"));
    let mut text = format!(
        "Machine: {machine}. Load generator, gateway, PostgreSQL and Redis share it. Medians of {} rounds of {} s, \
         interleaved.\n\n",
        options.rounds, options.seconds
    );
    text.push_str(
        "| | requests/s | points/s | ratio | p50 / p99 ms | CPU µs a point: gateway, PostgreSQL, Redis, load |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let rows = [
        ("pgbench, 4 clients", None),
        ("pgbench, 8 clients", None),
        ("batches of 100, 16 connections", Some(ceiling)),
        ("batches of 100, 32 connections", Some(ceiling)),
        ("single, a commit each, 32 connections", None),
        ("single, 32 connections", Some(points("single, a commit each, 32 connections"))),
        ("single, a commit each, 256 connections", None),
        ("single, 256 connections", Some(points("single, a commit each, 256 connections"))),
    ];
    for (name, baseline) in rows {
        let all = of(name);
        let figure = |pick: fn(&Sample) -> f64| median(all, pick);
        let ratio = baseline.map_or_else(|| "–".to_owned(), |baseline| format!("{:.2}", points(name) / baseline));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {name} | {:.0} | {:.0} | {ratio} | {:.1} / {:.1} | {:.1}, {:.1}, {:.2}, {:.1} |",
            figure(|sample| sample.requests_s),
            figure(|sample| sample.points_s),
            figure(|sample| sample.p50_ms),
            figure(|sample| sample.p99_ms),
            figure(|sample| sample.gateway_us),
            figure(|sample| sample.postgres_us),
            figure(|sample| sample.redis_us),
            figure(|sample| sample.load_us),
        );
    }
    let best = points("batches of 100, 16 connections").max(points("batches of 100, 32 connections")) / ceiling;
    let at_32 = requests("single, 32 connections") / requests("single, a commit each, 32 connections");
    let at_256 = requests("single, 256 connections") / requests("single, a commit each, 256 connections");
    let aims = [
        (format!("batches reach {best:.2} of the ceiling (aim 0.75)"), best >= 0.75),
        (format!("single fixes: {at_32:.1} times a commit each at 32 connections (aim 3)"), at_32 >= 3.0),
        (format!("single fixes: {at_256:.1} times a commit each at 256 connections (aim 6)"), at_256 >= 6.0),
        (format!("the gateway held {peak_mib:.0} MiB at the most (aim under 64 MB)"), peak_mib * 1.048_576 < 64.0),
    ];
    text.push('\n');
    for (aim, met) in &aims {
        let _ = writeln!(text, "- {aim}: {}", if *met { "met" } else { "NOT met" });
    }
    let _ = write!(text, "- every acknowledged point is stored: {stored} of {stored}");
    (text, aims.iter().all(|(_, met)| *met))
}

/// Every measurement begins with the debts of the one before paid: vacuum and checkpoint would otherwise run in it.
fn settle(stack: &Stack) -> Outcome {
    for statement in ["VACUUM ANALYZE gps_locations", "VACUUM ANALYZE attendance_sessions", "CHECKPOINT"] {
        stack.cluster.sql("fieldtrack", statement)?;
    }
    Ok(())
}

/// The same batches, without HTTP, tokens, row-level security, validation or jobs: as the superuser, by pgbench, into
/// the same table. Each client has sessions of its own, 64 in all with 8 clients, as the people of the gateway have.
fn ceiling(stack: &Stack, postgres: u32, clients: u32, seconds: u64) -> Outcome<Sample> {
    let script = "\\set session :client_id * 8 + random(10, 17)
        INSERT INTO gps_locations (organization_id, session_id, recorded_at, id, employee_id, latitude, longitude, accuracy)
        SELECT '01890000-0000-7000-8000-000000000001', ('01890000-0000-7000-9000-0000000000' || :session)::uuid,
               statement_timestamp() + after * interval '1 us', id, '01890000-0000-7000-b000-000000000001',
               latitude, longitude, accuracy
        FROM unnest(:ids::uuid[], :after::float8[], :latitudes::float8[], :longitudes::float8[], :accuracies::float8[])
            AS fix (id, after, latitude, longitude, accuracy)
        ON CONFLICT DO NOTHING;
    ";
    let array = |item: fn(usize) -> String| (0..BATCH).map(item).collect::<Vec<_>>().join(",");
    let columns = [
        ("ids", array(|row| format!("01890000-0000-7000-a000-000000000{row:03}"))),
        ("after", array(|row| row.to_string())),
        ("latitudes", array(|row| format!("45.{row:06}"))),
        ("longitudes", array(|row| format!("13.{row:06}"))),
        ("accuracies", array(|_| "7".to_owned())),
    ];
    let file = stack.folder.join("ceiling.sql");
    fs::write(&file, script).context("cannot write the script of the ceiling")?;
    let cpu = usage::family_cpu_s(postgres);
    let begun = Instant::now();
    let output = Command::new(stack.cluster.program("pgbench"))
        .args(["-n", "-M", "prepared", "-c", &clients.to_string(), "-j", "2", "-T", &seconds.to_string()])
        .args(columns.iter().flat_map(|(name, items)| ["-D".to_owned(), format!("{name}={{{items}}}")]))
        .arg("-f")
        .arg(&file)
        .arg(stack.cluster.superuser_url("fieldtrack"))
        .output()
        .context("cannot run pgbench")?;
    let elapsed = begun.elapsed().as_secs_f64();
    let cpu = usage::family_cpu_s(postgres) - cpu;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |before: &str, after: &str| {
        text.lines().find_map(|line| line.strip_prefix(before)?.split(after).next()?.trim().parse::<f64>().ok())
    };
    let tps = number("tps = ", " (")
        .ok_or_else(|| Failure::new(format!("pgbench failed: {text}{}", String::from_utf8_lossy(&output.stderr))))?;
    let points = tps * BATCH as f64 * elapsed.min(seconds as f64);
    Ok(Sample {
        requests_s: tps,
        points_s: tps * BATCH as f64,
        p50_ms: number("latency average = ", " ms").unwrap_or(0.0),
        postgres_us: cpu * 1e6 / points,
        ..Sample::default()
    })
}

/// One connection's share of a person's session: times of its own, so that no two points are the same.
struct Lane {
    token: String,
    session: String,
    next_us: AtomicI64,
}

/// Room for the times of a lane, in microseconds.
const LANE_US: i64 = 25_000_000;

fn lanes(people: &[Person], connections: usize) -> Vec<Lane> {
    (0..connections)
        .map(|number| {
            let person = &people[number % people.len()];
            let lane = i64::try_from(number / people.len()).unwrap_or(0);
            Lane {
                token: person.token.clone(),
                session: person.session.clone(),
                next_us: AtomicI64::new(person.since_us + 1 + lane * LANE_US),
            }
        })
        .collect()
}

struct Load {
    points: usize,
    connections: usize,
    seconds: u64,
}

impl Load {
    async fn run(
        &self,
        port: u16,
        lanes: &Arc<Vec<Lane>>,
        gateway: u32,
        postgres: u32,
        redis: u32,
    ) -> Outcome<(Sample, u64)> {
        let before = [
            usage::cpu_s(gateway),
            usage::family_cpu_s(postgres),
            usage::cpu_s(redis),
            usage::cpu_s(std::process::id()),
        ];
        let begun = Instant::now();
        let until = begun + Duration::from_secs(self.seconds);
        let (lanes, points, connections) = (Arc::clone(lanes), self.points, self.connections);
        // One thread: the load generator shares the machine with what it measures, so it has to be light.
        let sending = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
            runtime.block_on(async {
                let mut senders = JoinSet::new();
                for number in 0..connections {
                    let lanes = Arc::clone(&lanes);
                    senders.spawn(async move { send(port, &lanes[number], points, until).await });
                }
                let (mut latencies, mut stored) = (Vec::new(), 0);
                while let Some(ended) = senders.join_next().await {
                    let (own, kept) = ended.context("a connection ended badly")??;
                    latencies.extend(own);
                    stored += kept;
                }
                Outcome::Ok((latencies, stored))
            })
        });
        let (mut latencies, stored) = sending.await.context("the load generator ended badly")??;
        let elapsed = begun.elapsed().as_secs_f64();
        let after = [
            usage::cpu_s(gateway),
            usage::family_cpu_s(postgres),
            usage::cpu_s(redis),
            usage::cpu_s(std::process::id()),
        ];
        latencies.sort_unstable();
        let at = |share: f64| {
            let place = ((latencies.len() as f64 - 1.0) * share).max(0.0) as usize;
            latencies.get(place).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
        };
        let per_point = |number: usize| (after[number] - before[number]) * 1e6 / (stored as f64).max(1.0);
        let sample = Sample {
            requests_s: latencies.len() as f64 / elapsed,
            points_s: stored as f64 / elapsed,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            gateway_us: per_point(0),
            postgres_us: per_point(1),
            redis_us: per_point(2),
            load_us: per_point(3),
        };
        Ok((sample, stored))
    }
}

/// Sends request after request on one connection; answers how long each took and how many points were new.
async fn send(port: u16, lane: &Lane, points: usize, until: Instant) -> Outcome<(Vec<Duration>, u64)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.context("cannot connect")?;
    stream.set_nodelay(true).context("cannot set up a connection")?;
    let path = if points == 1 { "/locations" } else { "/locations/batch" };
    let mut latencies = Vec::new();
    let mut stored = 0;
    let mut buffer = vec![0; 16_384];
    let mut body = String::new();
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: ",
        lane.token
    );
    let head = request.len();
    while Instant::now() < until {
        write_body(&mut body, lane, points);
        request.truncate(head);
        // Writing to a string does not fail.
        let _ = write!(request, "{}\r\n\r\n", body.len());
        request.push_str(&body);
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).await.context("cannot send")?;
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..]).await.context("cannot read")?;
            if read == 0 {
                return Err(Failure::new("the gateway closed a connection"));
            }
            filled += read;
            if let Some(kept) = answer(&buffer[..filled])? {
                stored += kept;
                break;
            }
        }
        latencies.push(begun.elapsed());
    }
    Ok((latencies, stored))
}

fn write_body(body: &mut String, lane: &Lane, points: usize) {
    let first = lane.next_us.fetch_add(i64::try_from(points).unwrap_or(1), Ordering::Relaxed);
    let mut second = i64::MIN;
    let mut text = String::new();
    body.clear();
    if points > 1 {
        body.push_str("{\"session_id\":\"");
        body.push_str(&lane.session);
        body.push_str("\",\"points\":[");
    }
    for number in 0..points {
        let at = first + i64::try_from(number).unwrap_or(0);
        if at.div_euclid(1_000_000) != second {
            second = at.div_euclid(1_000_000);
            text =
                DateTime::<Utc>::from_timestamp(second, 0).unwrap_or_default().format("%Y-%m-%dT%H:%M:%S").to_string();
        }
        body.push_str(if number == 0 { "{" } else { ",{" });
        if points == 1 {
            body.push_str("\"session_id\":\"");
            body.push_str(&lane.session);
            body.push_str("\",");
        }
        body.push_str("\"latitude\":45.");
        six_digits(body, at);
        body.push_str(",\"longitude\":13.");
        six_digits(body, at * 7);
        body.push_str(",\"accuracy\":5,\"recorded_at\":\"");
        body.push_str(&text);
        body.push('.');
        six_digits(body, at);
        body.push_str("Z\"}");
    }
    if points > 1 {
        body.push_str("]}");
    }
}

/// The last six digits of a number that is not negative.
fn six_digits(text: &mut String, number: i64) {
    let mut rest = u32::try_from(number.rem_euclid(1_000_000)).unwrap_or(0);
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    text.push_str(str::from_utf8(&digits).unwrap_or_default());
}

/// How many points an answer says are new; `None` while it is not complete, an error for any other answer than 201.
fn answer(bytes: &[u8]) -> Outcome<Option<u64>> {
    let text = str::from_utf8(bytes).context("the gateway answered no text")?;
    let Some((head, rest)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let Some(body) = rest.get(..length.unwrap_or(0)) else { return Ok(None) };
    if !head.starts_with("HTTP/1.1 201") {
        return Err(Failure::new(format!("the gateway answered {head}\n{body}")));
    }
    let inserted = body.split_once("\"inserted\":").and_then(|(_, rest)| rest.trim_end_matches('}').parse().ok());
    Ok(Some(inserted.unwrap_or(1)))
}
