//! `cargo xtask bench queue`: jobs that are nothing, through this queue, BullMQ, its Rust port, and a bare stream.
//!
//! Each side brings a program with the same words: one process adds, another works, both on the same Redis.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    bench::write,
    failure::{Context, Failure, Outcome},
    packages::{self, Wanted},
    redis::Redis,
    stack::machine,
    state::Folder,
    usage, workspace,
};

/// Options of `bench queue`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How often everything is measured; medians are reported
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Jobs of each measurement at 50 slots; fewer slots get fewer
    #[arg(long, default_value_t = 40_000)]
    jobs: usize,
    /// Only this queue, not those it is compared with
    #[arg(long)]
    alone: bool,
    /// Write the table to docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

/// Slots of a worker, and how many parts of `--jobs` suffice for them.
const SLOTS: [(usize, usize); 3] = [(1, 5), (10, 2), (50, 1)];

/// Jobs of which the way to the handler is timed.
const SAMPLES: usize = 400;

/// How long one measurement may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Ours,
    Node,
    Port,
}

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "FieldTrack",
            Self::Node => "npm bullmq 6.7.0",
            Self::Port => "bullmq-official 1.4.4",
        }
    }
}

/// What one measurement found, a job.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    jobs_s: f64,
    redis_us: f64,
    worker_us: f64,
    producer_us: f64,
    commands: f64,
    /// Bytes of a finished job that is kept.
    kept_bytes: f64,
}

/// Runs it.
pub fn run(options: &Options) -> Outcome<ExitCode> {
    packages::ensure(Wanted { redis: true, node: !options.alone, ..Wanted::default() })?;
    let programs = Programs::build(options.alone)?;
    let folder = Folder::dev(Some(&workspace::target().join("bench-queue")));
    folder.create()?;
    let mut redis = Redis::of(&folder)?;
    redis.kill(folder.join("redis").exists())?;
    redis.start()?;
    let measured = measure_all(&programs, &redis, options);
    redis.stop()?;
    fs::remove_dir_all(folder.path()).context("cannot delete the folder of the benchmark")?;
    let (text, met) = measured?;
    say!("\n{text}");
    if options.write {
        write("queue", &text)?;
    }
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The sides' programs.
struct Programs {
    of: BTreeMap<Side, Vec<String>>,
}

impl Programs {
    fn build(alone: bool) -> Outcome<Self> {
        cargo(&workspace::root(), &["build", "--release", "-p", "queue", "--example", "bench"], None)?;
        let ours = workspace::target().join("release/examples/bench");
        let mut of = BTreeMap::from([(Side::Ours, vec![ours.display().to_string()])]);
        if !alone {
            let folder = workspace::root().join("crates/queue/tests/node");
            packages::npm_ci(&folder)?;
            of.insert(Side::Node, vec!["node".to_owned(), folder.join("bench.mjs").display().to_string()]);
            let folder = workspace::root().join("bench/bullmq-official");
            let target = workspace::target().join("bench-bullmq-official");
            cargo(&folder, &["build", "--release", "--locked"], Some(&target))?;
            of.insert(Side::Port, vec![target.join("release/bench-bullmq-official").display().to_string()]);
        }
        Ok(Self { of })
    }

    fn start(&self, side: Side, words: &[&str]) -> Outcome<Program> {
        let program = self.of.get(&side).ok_or_else(|| Failure::new("it was not built"))?;
        Program::start(program, words)
    }

    fn sides(&self) -> Vec<Side> {
        self.of.keys().copied().collect()
    }
}

fn cargo(folder: &Path, words: &[&str], target: Option<&Path>) -> Outcome {
    let mut command = workspace::cargo();
    command.args(words).current_dir(folder);
    if let Some(target) = target {
        command.env("CARGO_TARGET_DIR", target);
    }
    match command.status().context("cannot run cargo")?.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("cargo {} failed", words.join(" ")))),
    }
}

/// A running program that was heard to be ready. Killed when dropped.
struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(program: &[String], words: &[&str]) -> Outcome<Self> {
        let [name, first @ ..] = program else { return Err(Failure::new("no program")) };
        let mut child = Command::new(name)
            .args(first)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(format!("cannot run {name}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| Failure::new("no output"))?;
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("a program of the benchmark said nothing")?;
        Ok(line.trim().to_owned())
    }

    fn ready(mut self) -> Outcome<Self> {
        match self.line()?.as_str() {
            "ready" => Ok(self),
            other => Err(Failure::new(format!("a program of the benchmark failed: {other}"))),
        }
    }

    fn go(&mut self) -> Outcome {
        let input = self.input.as_mut().ok_or_else(|| Failure::new("no input"))?;
        input.write_all(b"go\n").context("a program of the benchmark has ended")
    }

    /// Says that it may end, and waits until it has.
    fn end(mut self) -> Outcome {
        drop(self.input.take());
        match self.child.wait().context("cannot wait for a program")?.success() {
            true => Ok(()),
            false => Err(Failure::new("a program of the benchmark failed")),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Refused means ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn measure_all(programs: &Programs, redis: &Redis, options: &Options) -> Outcome<(String, bool)> {
    let mut samples: BTreeMap<(usize, Side), Vec<Sample>> = BTreeMap::new();
    let mut streams: BTreeMap<usize, Vec<Sample>> = BTreeMap::new();
    let mut latencies: BTreeMap<Side, Vec<(f64, f64)>> = BTreeMap::new();
    let mut sides = programs.sides();
    for round in 0..options.rounds {
        say!("round {} of {}", round + 1, options.rounds);
        for (slots, part) in SLOTS {
            let jobs = options.jobs / part;
            for side in &sides {
                let sample = throughput(programs, *side, redis, slots, jobs)?;
                say!(
                    "  {slots:>2} slots  {:<22} {:>7.0} jobs/s  Redis {:>5.1} µs a job",
                    side.name(),
                    sample.jobs_s,
                    sample.redis_us
                );
                samples.entry((slots, *side)).or_default().push(sample);
            }
            let sample = ceiling(programs, redis, slots, jobs)?;
            say!(
                "  {slots:>2} slots  {:<22} {:>7.0} jobs/s  Redis {:>5.1} µs a job",
                "a bare stream",
                sample.jobs_s,
                sample.redis_us
            );
            streams.entry(slots).or_default().push(sample);
        }
        for side in &sides {
            let (p50, p99) = latency(programs, *side, redis)?;
            say!("  low load  {:<22} p50 {p50:.0} µs, p99 {p99:.0} µs", side.name());
            latencies.entry(*side).or_default().push((p50, p99));
        }
        // Nobody is always first.
        sides.rotate_left(1);
    }
    Ok(report(&samples, &streams, &latencies, &programs.sides(), &machine(None, redis), options))
}

const QUEUE: &str = "bench";

fn throughput(programs: &Programs, side: Side, redis: &Redis, slots: usize, jobs: usize) -> Outcome<Sample> {
    redis.ask(&["FLUSHALL"]);
    let url = redis.url();
    let worker = programs.start(side, &["work", &url, QUEUE, &slots.to_string()])?.ready()?;
    let mut producer = programs.start(side, &["add", &url, QUEUE, &jobs.to_string()])?.ready()?;
    let (redis_pid, worker_pid) = (redis_pid(redis)?, worker.child.id());
    redis.ask(&["CONFIG", "RESETSTAT"]);
    let cpu = [usage::cpu_s(redis_pid), usage::cpu_s(worker_pid), usage::ended_children_s()];
    let begun = Instant::now();
    producer.go()?;
    let mut asked = 0.0;
    while !finished(redis, jobs)? {
        asked += 1.0;
        if begun.elapsed() > PATIENCE {
            return Err(Failure::new(format!("{} did not finish {jobs} jobs in time", side.name())));
        }
        thread::sleep(Duration::from_millis(10));
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let used = [usage::cpu_s(redis_pid) - cpu[0], usage::cpu_s(worker_pid) - cpu[1]];
    let commands = commands(redis) - 5.0 * (asked + 1.0);
    let kept_bytes = kept_bytes(redis)?;
    producer.end()?;
    let produced = usage::ended_children_s() - cpu[2];
    worker.end()?;
    let jobs = jobs as f64;
    Ok(Sample {
        jobs_s: jobs / elapsed,
        redis_us: used[0] * 1e6 / jobs,
        worker_us: used[1] * 1e6 / jobs,
        producer_us: produced * 1e6 / jobs,
        commands: commands / jobs,
        kept_bytes,
    })
}

/// The same number of entries through a bare stream.
fn ceiling(programs: &Programs, redis: &Redis, slots: usize, jobs: usize) -> Outcome<Sample> {
    redis.ask(&["FLUSHALL"]);
    let words = ["stream", &redis.url(), QUEUE, &jobs.to_string(), &slots.to_string()];
    let mut program = programs.start(Side::Ours, &words)?.ready()?;
    let redis_pid = redis_pid(redis)?;
    redis.ask(&["CONFIG", "RESETSTAT"]);
    let cpu = usage::cpu_s(redis_pid);
    let begun = Instant::now();
    program.go()?;
    program.end()?;
    let jobs = jobs as f64;
    Ok(Sample {
        jobs_s: jobs / begun.elapsed().as_secs_f64(),
        redis_us: (usage::cpu_s(redis_pid) - cpu) * 1e6 / jobs,
        commands: commands(redis) / jobs,
        ..Sample::default()
    })
}

/// Median and 99th percentile of the time from a request to its handler, one job at a time, in microseconds.
fn latency(programs: &Programs, side: Side, redis: &Redis) -> Outcome<(f64, f64)> {
    redis.ask(&["FLUSHALL"]);
    let mut program = programs.start(side, &["latency", &redis.url(), QUEUE, &SAMPLES.to_string()])?;
    let line = program.line()?;
    let wrong = || Failure::new(format!("{} told no latency: {line}", side.name()));
    let (p50, p99) = line.split_once(' ').ok_or_else(wrong)?;
    let told = (p50.parse().map_err(|_| wrong())?, p99.parse().map_err(|_| wrong())?);
    program.end()?;
    Ok(told)
}

/// Whether all jobs were added and none waits or runs.
fn finished(redis: &Redis, jobs: usize) -> Outcome<bool> {
    let script = "local b = 'bull:' .. ARGV[1] .. ':'
        local left = redis.call('LLEN', b .. 'wait') + redis.call('LLEN', b .. 'active') +
            redis.call('ZCARD', b .. 'prioritized')
        return tostring(left) .. ' ' .. tostring(redis.call('GET', b .. 'id') or 0)";
    let answer = redis.ask(&["EVAL", script, "0", QUEUE]);
    let (left, added) = answer.trim().split_once(' ').ok_or_else(|| Failure::new(format!("Redis says {answer}")))?;
    Ok(left == "0" && added.parse::<usize>().is_ok_and(|added| added >= jobs))
}

/// Commands Redis ran since its statistics were reset, those within scripts included.
fn commands(redis: &Redis) -> f64 {
    let about = redis.ask(&["INFO", "commandstats"]);
    let calls = |line: &str| line.split_once(":calls=")?.1.split(',').next()?.parse::<f64>().ok();
    about.lines().filter_map(calls).sum()
}

fn kept_bytes(redis: &Redis) -> Outcome<f64> {
    let script = "local b = 'bull:' .. ARGV[1] .. ':'
        local kept, sum = redis.call('ZRANGE', b .. 'completed', 0, -1), 0
        for _, id in ipairs(kept) do sum = sum + (redis.call('MEMORY', 'USAGE', b .. id) or 0) end
        sum = sum + (redis.call('MEMORY', 'USAGE', b .. 'completed', 'SAMPLES', 0) or 0)
        return tostring(sum / math.max(#kept, 1))";
    redis.ask(&["EVAL", script, "0", QUEUE]).trim().parse().context("Redis does not say what jobs cost")
}

fn redis_pid(redis: &Redis) -> Outcome<u32> {
    let about = redis.ask(&["INFO", "server"]);
    let pid = about.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap_or_default();
    pid.trim().parse().context("Redis does not say who it is")
}

fn median<T>(samples: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    let mut figures: Vec<f64> = samples.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

fn report(
    samples: &BTreeMap<(usize, Side), Vec<Sample>>,
    streams: &BTreeMap<usize, Vec<Sample>>,
    latencies: &BTreeMap<Side, Vec<(f64, f64)>>,
    sides: &[Side],
    machine: &str,
    options: &Options,
) -> (String, bool) {
    let of = |slots: usize, side: Side| samples.get(&(slots, side)).map_or(&[][..], Vec::as_slice);
    let rate = |slots: usize, side: Side| median(of(slots, side), |sample| sample.jobs_s);
    let mut text = format!(
        "Machine: {machine}. Producer, worker and Redis (append-only file, fsync each second) share it. Medians of {} \
         rounds, interleaved.\n\n",
        options.rounds
    );
    text.push_str(
        "| slots | | jobs/s | ours to it | CPU µs a job: Redis, worker, producer | Redis commands a job | bytes a kept \
         job |\n| ---: | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    // Writing to a string does not fail.
    for (slots, _) in SLOTS {
        for side in sides {
            let all = of(slots, *side);
            let figure = |pick: fn(&Sample) -> f64| median(all, pick);
            let ratio = match side {
                Side::Ours => "–".to_owned(),
                other => format!("{:.2}", rate(slots, Side::Ours) / rate(slots, *other)),
            };
            let _ = writeln!(
                text,
                "| {slots} | {} | {:.0} | {ratio} | {:.0}, {:.0}, {:.0} | {:.1} | {:.0} |",
                side.name(),
                figure(|sample| sample.jobs_s),
                figure(|sample| sample.redis_us),
                figure(|sample| sample.worker_us),
                figure(|sample| sample.producer_us),
                figure(|sample| sample.commands),
                figure(|sample| sample.kept_bytes),
            );
        }
        let stream = streams.get(&slots).map_or(&[][..], Vec::as_slice);
        let ceiling = median(stream, |sample| sample.jobs_s);
        let _ = writeln!(
            text,
            "| {slots} | a bare stream | {ceiling:.0} | {:.2} | {:.0}, –, – | {:.1} | – |",
            rate(slots, Side::Ours) / ceiling,
            median(stream, |sample| sample.redis_us),
            median(stream, |sample| sample.commands),
        );
    }
    text.push_str("\n| low load, one job at a time | p50 µs | p99 µs |\n| --- | ---: | ---: |\n");
    let p50 = |side: Side| latencies.get(&side).map_or(0.0, |all| median(all, |(p50, _)| *p50));
    for side in sides {
        let p99 = latencies.get(side).map_or(0.0, |all| median(all, |(_, p99)| *p99));
        let _ = writeln!(text, "| {} | {:.0} | {p99:.0} |", side.name(), p50(*side));
    }
    let redis_us = median(of(50, Side::Ours), |sample| sample.redis_us);
    let mut aims = vec![(format!("{redis_us:.0} µs of Redis a job at 50 slots (aim at most 34)"), redis_us <= 34.0)];
    for (side, at_least) in [(Side::Node, 3.0), (Side::Port, 2.5)] {
        if sides.contains(&side) {
            let ratio = |slots: usize| rate(slots, Side::Ours) / rate(slots, side);
            let name = side.name();
            aims.push((format!("{:.2} times {name} at 1 slot (aim 1)", ratio(1)), ratio(1) >= 1.0));
            aims.push((format!("{:.2} times {name} at 10 slots (aim above 1)", ratio(10)), ratio(10) > 1.0));
            aims.push((format!("{:.2} times {name} at 50 slots (aim {at_least})", ratio(50)), ratio(50) >= at_least));
            let sooner = p50(side) / p50(Side::Ours);
            aims.push((format!("a job reaches its handler {sooner:.1} times sooner than with {name}"), sooner > 1.0));
        }
    }
    text.push('\n');
    for (aim, met) in &aims {
        let _ = writeln!(text, "- {aim}: {}", if *met { "met" } else { "NOT met" });
    }
    (text.trim_end().to_owned(), aims.iter().all(|(_, met)| *met))
}
