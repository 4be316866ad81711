//! `cargo xtask bench live`: thousands of open streams in one gateway, and how long after its commit an event is heard.

use std::fmt::Write as _;
use std::fs;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::{
    bench::write,
    failure::{Context, Failure, Outcome},
    stack::{Stack, machine},
    usage,
};

/// Options of `bench live`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Open streams; an organization has 20 of them
    #[arg(long, default_value_t = 5020)]
    streams: usize,
    /// Events a second in one organization; in each of the others there is one
    #[arg(long, default_value_t = 200)]
    events: usize,
    /// Seconds of events
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Use debug builds: to see that it works, not to measure
    #[arg(long)]
    debug: bool,
    /// Write the table to docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

/// What the contract gives an organization.
const STREAMS_EACH: usize = 20;

/// Aims: of a hundred events the slowest, and what a stream may cost.
const P99_MS: f64 = 250.0;
const STREAM_KB: f64 = 20.0;

/// How long what was committed may take to be heard before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs it.
pub async fn run(options: &Options) -> Outcome<ExitCode> {
    if options.streams < 2 * STREAMS_EACH {
        return Err(Failure::new("it takes 40 streams at the least: two organizations"));
    }
    raise_open_files(options.streams + 200)?;
    let settings = [("RATE_LIMIT_MULTIPLIER", "100000"), ("LOG_LEVEL", "warn")];
    let mut stack = Stack::start("live", !options.debug, &settings).await?;
    let measured = measure(&mut stack, options).await;
    stack.end()?;
    let (text, met) = measured?;
    say!("\n{text}");
    if options.write {
        write("live", &text)?;
    }
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As many files as we may have open; the gateway does the same for itself.
fn raise_open_files(needed: usize) -> Outcome {
    let limit = getrlimit(Resource::Nofile);
    if let Some(most) = limit.maximum.filter(|most| *most < needed as u64) {
        return Err(Failure::new(format!("{needed} files have to be open at once, and {most} may be (ulimit -Hn)")));
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("cannot raise the number of open files")
}

/// What all streams of a group have heard.
#[derive(Default)]
struct Heard {
    messages: AtomicU64,
    streams: AtomicU64,
}

/// What was found.
struct Found {
    busy: Latencies,
    others: Latencies,
    idle_kb: f64,
    loaded_kb: f64,
    committed: [u64; 2],
    heard: [u64; 2],
    /// Share of a processor: gateway, worker, PostgreSQL, Redis, load.
    cpu: [f64; 5],
}

/// Microseconds, in order.
struct Latencies(Vec<u32>);

impl Latencies {
    fn at_ms(&self, share: f64) -> f64 {
        let place = ((self.0.len() as f64 - 1.0) * share).max(0.0) as usize;
        self.0.get(place).map_or(0.0, |us| f64::from(*us) / 1000.0)
    }
}

async fn measure(stack: &mut Stack, options: &Options) -> Outcome<(String, bool)> {
    let mut interrupt = stack.interrupt.clone();
    let mut gateway = stack.gateway(&[]).await?;
    let mut worker = stack.worker()?;
    worker.ready().await?;
    let organizations = options.streams / STREAMS_EACH;
    let begun = Instant::now();
    let mut tokens = Vec::new();
    for number in 0..organizations {
        tokens.push(stack.organization(number).await?.token().to_owned());
    }
    stack.cluster.sql("fieldtrack", PEOPLE)?;
    say!("{organizations} organizations: {:.0} s", begun.elapsed().as_secs_f64());
    // Signing in takes memory that is kept for a while, and would be taken for that of streams.
    gateway.stop(&mut interrupt).await;
    gateway = stack.gateway(&[]).await?;

    // The first streams make the process allocate what it has once, whatever the streams.
    let mut streams = Streams::none();
    let (first, rest) = tokens.split_at(2);
    streams.open(stack.port(), first, STREAMS_EACH).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let gateway_pid = gateway.known_pid()?;
    let before_kib = usage::resident_kib(gateway_pid);
    let begun = Instant::now();
    streams.open(stack.port(), rest, STREAMS_EACH).await?;
    say!("{} streams: {:.1} s", organizations * STREAMS_EACH, begun.elapsed().as_secs_f64());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let count = (rest.len() * STREAMS_EACH) as f64;
    let a_stream = |kib: f64| (kib - before_kib) * 1.024 / count;
    let idle_kb = a_stream(usage::resident_kib(gateway_pid));

    let (postgres, redis, worker_pid) = (stack.postmaster()?, stack.redis_pid()?, worker.known_pid()?);
    let used = || {
        [
            usage::cpu_s(gateway_pid),
            usage::cpu_s(worker_pid),
            usage::family_cpu_s(postgres),
            usage::cpu_s(redis),
            usage::cpu_s(std::process::id()),
        ]
    };
    let before = used();
    let began = Instant::now();
    let writers = [
        Writer::start(stack, "busy", options.events, "0", 1, options.seconds)?,
        Writer::start(stack, "others", organizations - 1, "1", organizations - 1, options.seconds)?,
    ];
    let mut committed = [0; 2];
    for (count, writer) in committed.iter_mut().zip(writers) {
        *count = tokio::task::block_in_place(|| writer.end())?;
    }
    let took_s = began.elapsed().as_secs_f64();
    let after = used();
    let loaded_kb = a_stream(usage::resident_kib(gateway_pid));
    let expected = committed.map(|events| events * STREAMS_EACH as u64);
    let heard = streams.heard_by(expected, Instant::now() + PATIENCE).await;
    let [busy, others] = streams.end().await?;
    worker.stop(&mut interrupt).await;
    gateway.stop(&mut interrupt).await;
    let mut cpu = [0.0; 5];
    for (share, (after, before)) in cpu.iter_mut().zip(after.into_iter().zip(before)) {
        *share = (after - before) / took_s;
    }
    let found = Found { busy, others, idle_kb, loaded_kb, committed, heard, cpu };
    let machine = machine(Some(&stack.cluster), &stack.redis);
    Ok(report(&found, organizations, options, &machine))
}

/// Somebody at work in every organization, and how the writers find them, by number.
const PEOPLE: &str = "
    INSERT INTO employees (organization_id, id, name, employee_code, employee_number)
    SELECT id, gen_random_uuid(), 'Asha', 'EMP0001', 1 FROM organizations;
    INSERT INTO attendance_sessions (organization_id, id, employee_id, checkin_at)
    SELECT organization_id, gen_random_uuid(), id, now() FROM employees;
    CREATE TABLE bench_sessions AS
    SELECT (row_number() OVER (ORDER BY slug = 'field-0' DESC, slug))::integer - 1 AS number, session.*
    FROM organizations JOIN attendance_sessions AS session ON session.organization_id = organizations.id;
    ALTER TABLE bench_sessions ADD PRIMARY KEY (number);
    ANALYZE;";

/// Writes events at a steady rate: pgbench, as the superuser. An event is what a check-in writes, in one statement and one
/// transaction: a row for each of its two names, one of them with what open streams are told, of the usual size. The time
/// it carries is read in that statement, so the flush to the disk is part of what is measured.
struct Writer(Child);

impl Writer {
    fn start(stack: &Stack, name: &str, rate: usize, first: &str, organizations: usize, seconds: u64) -> Outcome<Self> {
        let script = format!(
            "\\set turn (:turn + 1) % {organizations}
            \\set number {first} + :turn
            WITH session AS (SELECT * FROM bench_sessions WHERE number = :number), moment AS (
                SELECT clock_timestamp() AS at, to_jsonb(session) - 'number' AS row FROM session
            )
            INSERT INTO webhook_events (organization_id, id, event_type, payload, live, created_at)
            SELECT session.organization_id, gen_random_uuid(), kind,
                   jsonb_build_object('id', gen_random_uuid(), 'type', kind, 'version', 1, 'occurred_at', at,
                       'organization_id', session.organization_id, 'data', jsonb_build_object(
                           'employee_id', session.employee_id, 'session_id', session.id, 'checkin_at', session.checkin_at)),
                   CASE kind WHEN 'session.checkin' THEN jsonb_build_object('type', kind, 'ts', at, 'payload',
                       jsonb_build_object('sessionId', session.id, 'employeeId', session.employee_id, 'session', row,
                           'sent', (extract(epoch FROM at) * 1000000)::bigint)) END,
                   at
            FROM session, moment, unnest(ARRAY['employee.checked_in', 'session.checkin']) AS kind;
            "
        );
        let file = stack.folder.join(&format!("{name}.sql"));
        fs::write(&file, script).context("cannot write a script")?;
        let child = Command::new(stack.cluster.program("pgbench"))
            .args(["-n", "-M", "prepared", "-c", "4", "-j", "1", "-D", "turn=-1"])
            .args(["-R", &rate.to_string(), "-T", &seconds.to_string(), "-f"])
            .arg(&file)
            .arg(stack.cluster.superuser_url("fieldtrack"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run pgbench")?;
        Ok(Self(child))
    }

    /// Waits for the end; answers how many events were committed.
    fn end(self) -> Outcome<u64> {
        let output = self.0.wait_with_output().context("cannot wait for pgbench")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
        line.and_then(|line| line.split('/').next()?.trim().parse().ok())
            .ok_or_else(|| Failure::new(format!("pgbench failed: {text}{}", String::from_utf8_lossy(&output.stderr))))
    }
}

/// Open streams, those of the first organization and those of all others.
struct Streams {
    reading: JoinSet<Outcome<(usize, Vec<u32>)>>,
    heard: [Arc<Heard>; 2],
    done: tokio::sync::watch::Sender<bool>,
}

impl Streams {
    fn none() -> Self {
        Self { reading: JoinSet::new(), heard: Default::default(), done: tokio::sync::watch::Sender::new(false) }
    }

    /// Opens so many for each token, some at once. The first token of all is that of the first group.
    async fn open(&mut self, port: u16, tokens: &[String], each: usize) -> Outcome {
        let at_once = Arc::new(Semaphore::new(32));
        let open = self.reading.len();
        for (number, token) in tokens.iter().enumerate() {
            let group = usize::from(open + number > 0);
            for _ in 0..each {
                let (token, heard, ended) = (token.clone(), Arc::clone(&self.heard[group]), self.done.subscribe());
                let at_once = Arc::clone(&at_once);
                self.reading.spawn(async move {
                    let turn = at_once.acquire().await.context("no turn")?;
                    let stream = connect(port, &token).await?;
                    drop(turn);
                    heard.streams.fetch_add(1, Ordering::Relaxed);
                    Ok((group, read(stream, &heard, ended).await?))
                });
            }
        }
        let all = (open + tokens.len() * each) as u64;
        while self.heard.iter().map(|heard| heard.streams.load(Ordering::Relaxed)).sum::<u64>() < all {
            // None ends by itself, so one that ends could not be opened.
            tokio::select! {
                Some(ended) = self.reading.join_next() => {
                    ended.context("a stream was lost")??;
                    return Err(Failure::new("a stream ended"));
                },
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        Ok(())
    }

    /// Waits until so many messages were heard, or until it is too late; answers how many were.
    async fn heard_by(&self, expected: [u64; 2], deadline: Instant) -> [u64; 2] {
        loop {
            let heard = [0, 1].map(|group| self.heard[group].messages.load(Ordering::Relaxed));
            if heard.iter().zip(expected).all(|(heard, expected)| *heard >= expected) || Instant::now() > deadline {
                return heard;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends them all; answers how long each message took, by group.
    async fn end(mut self) -> Outcome<[Latencies; 2]> {
        self.done.send_replace(true);
        let mut all = [Vec::new(), Vec::new()];
        while let Some(read) = self.reading.join_next().await {
            let (group, latencies) = read.context("a stream was lost")??;
            all[group].extend(latencies);
        }
        Ok(all.map(|mut latencies| {
            latencies.sort_unstable();
            Latencies(latencies)
        }))
    }
}

async fn connect(port: u16, token: &str) -> Outcome<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.context("cannot connect")?;
    let request = format!("GET /admin/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("cannot send")?;
    let mut head = Vec::new();
    while !head.windows(16).any(|part| part == b"event: connected") {
        if stream.read_buf(&mut head).await.context("cannot read")? == 0 {
            return Err(Failure::new(format!("no stream: {}", String::from_utf8_lossy(&head))));
        }
    }
    Ok(stream)
}

/// The time an event carries, as it stands in what streams are told.
const SENT: &[u8] = b"\"sent\": ";

/// Reads until told to stop; answers for each event how many microseconds after its time it was there.
async fn read(mut stream: TcpStream, heard: &Heard, mut done: tokio::sync::watch::Receiver<bool>) -> Outcome<Vec<u32>> {
    let mut latencies = Vec::new();
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let read = tokio::select! {
            read = stream.read_buf(&mut buffer) => read.context("cannot read")?,
            _ = done.wait_for(|done| *done) => return Ok(latencies),
        };
        if read == 0 {
            return Err(Failure::new("the gateway ended a stream"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("no time")?.as_micros();
        let mut rest = &buffer[..];
        // What ends within a number is left for the next time.
        while let Some(at) = rest.windows(SENT.len()).position(|part| part == SENT) {
            let digits = &rest[at + SENT.len()..];
            let Some(end) = digits.iter().position(|byte| !byte.is_ascii_digit()) else { break };
            let sent: u128 =
                str::from_utf8(&digits[..end]).unwrap_or_default().parse().context("no time in an event")?;
            latencies.push(u32::try_from(now.saturating_sub(sent)).unwrap_or(u32::MAX));
            heard.messages.fetch_add(1, Ordering::Relaxed);
            rest = &digits[end..];
        }
        let keep = rest.len().min(4096 / 2);
        let from = buffer.len() - keep;
        buffer.drain(..from);
    }
}

fn report(found: &Found, organizations: usize, options: &Options, machine: &str) -> (String, bool) {
    let Found { busy, others, idle_kb, loaded_kb, committed, heard, cpu } = found;
    let mut text = format!(
        "Machine: {machine}. {} streams of {organizations} organizations in one gateway; {} s of {} events/s into one \
         organization and one event/s into each of the others, by pgbench as the superuser (what a check-in writes, in one \
         transaction; the clock is read before its commit). Load, gateway, worker, PostgreSQL (stock durability) and Redis \
         share the machine.\n\n\
         | | events | messages | p50 ms | p99 ms | slowest ms |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
        organizations * STREAMS_EACH,
        options.seconds,
        options.events,
    );
    for (name, latencies, place) in [("the busy organization", busy, 0), ("the others", others, 1)] {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {:.1} | {:.1} | {:.1} |",
            committed[place],
            latencies.0.len(),
            latencies.at_ms(0.5),
            latencies.at_ms(0.99),
            latencies.at_ms(1.0),
        );
    }
    let percent = cpu.map(|share| share * 100.0);
    let _ = write!(
        text,
        "\n- memory a stream: {idle_kb:.1} kB when it is open, {loaded_kb:.1} kB under load\n\
         - of a processor: gateway {:.0} %, worker {:.0} %, PostgreSQL {:.0} %, Redis {:.0} %, load {:.0} %\n",
        percent[0], percent[1], percent[2], percent[3], percent[4],
    );
    let expected = committed.map(|events| events * STREAMS_EACH as u64);
    let p99 = busy.at_ms(0.99).max(others.at_ms(0.99));
    let aims = [
        (format!("p99 from commit to client {p99:.1} ms (aim under {P99_MS:.0} ms)"), p99 < P99_MS),
        (format!("{loaded_kb:.1} kB a stream (aim under {STREAM_KB:.0} kB)"), *loaded_kb < STREAM_KB),
        (
            format!(
                "every event is heard by each stream of its organization: {} of {}",
                heard[0] + heard[1],
                expected[0] + expected[1]
            ),
            *heard == expected,
        ),
    ];
    for (aim, met) in &aims {
        let _ = writeln!(text, "- {aim}: {}", if *met { "met" } else { "NOT met" });
    }
    (text.trim_end().to_owned(), aims.iter().all(|(_, met)| *met))
}
