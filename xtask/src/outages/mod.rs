//! `cargo xtask outages`: the alerts, rehearsed. A real Prometheus with the product's own rules scrapes both services and
//! Debian's exporters, and a real Alertmanager with the product's own configuration tells a receiver of ours, while one
//! thing after another goes away. Told is how long it took until each alert fired and somebody heard of it, and until both
//! were over.
//!
//! Only time is changed: what a rule averages over, how long it has to be so, and how long Alertmanager waits is seconds
//! here instead of minutes.

mod disk;
mod pager;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use crate::{
    api::SignedIn,
    bench::write,
    beside::until,
    failure::{Context, Failure, Outcome},
    packages::{self, Wanted},
    stack::Stack,
    state::{free_port, random_hex},
};
use disk::Disk;
use watch::{Fired, Watch};

/// Options of `outages`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// Write the table to docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

/// What a rule averages over here.
const WINDOW: &str = "20s";

/// What a minute of waiting is here.
const MINUTE: Duration = Duration::from_secs(2);

/// The longest that something has to be so before it is an alert here.
const LONGEST: Duration = Duration::from_secs(20);

/// Jobs that may wait in Redis here, a few more than make a backlog.
const MAX_QUEUE_DEPTH: &str = "520";

/// Shares of the queue's memory and disk that are taken before its first job: little more makes the alerts fire.
const MEMORY_TAKEN: f64 = 0.79;
const DISK_TAKEN: f64 = 0.84;

/// One alert of one outage.
struct Heard {
    outage: &'static str,
    fired: Fired,
    ended_s: f64,
    told_s: f64,
}

/// What is found out.
struct Rehearsed {
    heard: Vec<Heard>,
    /// Alerts that fired and were kept back, and because of what.
    kept_back: Vec<(&'static str, &'static str)>,
    heartbeats: usize,
    took: Duration,
    has_disk: bool,
}

/// Runs the rehearsal.
pub async fn run(options: Options) -> Outcome<ExitCode> {
    packages::ensure(Wanted { operations: true, exporters: true, ..Wanted::default() })?;
    let token = random_hex(16)?;
    let settings = [
        ("METRICS_SCRAPE_TOKEN", &*token),
        ("RATE_LIMIT_MULTIPLIER", "100000"),
        ("MAX_QUEUE_DEPTH", MAX_QUEUE_DEPTH),
        ("SLOT", "blue"),
    ];
    let mut stack = Stack::start("outages", false, &settings).await?;
    // Redis gets a disk of its own, which can be filled.
    stack.redis.stop()?;
    let disk = Disk::mount(&stack.folder.join("disk.img"), &stack.folder.join("redis"))?;
    stack.redis.start()?;
    let rehearsed = rehearse(&mut stack, &token, disk.as_ref()).await;
    stack.redis.stop()?;
    drop(disk);
    let text = table(&stack.end_as(rehearsed)?);
    say!("\n{text}");
    if options.write {
        write("outages", &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn rehearse(stack: &mut Stack, token: &str, disk: Option<&Disk>) -> Outcome<Rehearsed> {
    let mut interrupt = stack.interrupt.clone();
    let mut gateway = stack.gateway(&[]).await?;
    let worker_port = free_port()?;
    let mut worker = stack.worker_at(worker_port)?;
    worker.ready().await?;
    let admin = stack.organization(0).await?;
    let password = random_hex(10)?;
    admin.create_employee("Asha", "asha@field.example", &password).await?;
    let asha = stack.api()?.sign_in("asha@field.example", &password).await?;
    let mut watch = Watch::start(stack, token, worker_port, disk).await?;
    let scraped = async || {
        let up = watch.value("sum(up{job=~\"fieldtrack-.*\"})").await?;
        Ok(up.is_some_and(|up| up > 1.5))
    };
    until("both services are scraped", scraped).await?;
    // Before its first answer everything is absent to Prometheus.
    let quiet = async || Ok(watch.firing().await? == ["Watchdog"]);
    until("nothing that is rehearsed fires yet", quiet).await?;
    let started = Instant::now();
    let traffic = Traffic::start(asha.clone());
    let (mut heard, mut kept_back) = (Vec::new(), Vec::new());

    let outage = "PostgreSQL is away, requests go on";
    let begun = Instant::now();
    stack.cluster.crash()?;
    let fired = watch.all_fire(&["PostgresDown", "HighErrorRate", "ReadinessFailing"], begun).await?;
    stack.cluster.start()?;
    all_end(&watch, outage, fired, &mut heard).await?;

    let outage = "Redis is away";
    let begun = Instant::now();
    stack.redis.stop()?;
    let fired = watch.all_fire(&["RedisDown", "ReadinessFailing"], begun).await?;
    stack.redis.start()?;
    all_end(&watch, outage, fired, &mut heard).await?;

    let outage = "one table cannot be read, all else works";
    let begun = Instant::now();
    stack.cluster.sql("fieldtrack", "REVOKE SELECT ON attendance_sessions FROM fieldtrack_app")?;
    let fired = watch.all_fire(&["HighErrorRate"], begun).await?;
    if let Some(alert) = watch.firing().await?.iter().find(|it| *it == "PostgresDown" || *it == "ReadinessFailing") {
        return Err(Failure::new(format!("{alert} fires, and nothing is away")));
    }
    stack.cluster.sql("fieldtrack", "GRANT SELECT ON attendance_sessions TO fieldtrack_app")?;
    all_end(&watch, outage, fired, &mut heard).await?;

    let outage = "no worker runs, work goes on: the queue, its memory and its disk grow";
    worker.stop(&mut interrupt).await;
    take_memory(stack)?;
    if let Some(disk) = disk {
        disk.fill(DISK_TAKEN)?;
    }
    let begun = Instant::now();
    let flooding = Arc::new(AtomicBool::new(true));
    let flood = tokio::spawn(flood(asha, Arc::clone(&flooding)));
    let mut expected = vec!["NoWorker", "QueueBacklog", "QueueOverload", "RedisMemory"];
    expected.extend(disk.map(|_| "DiskFull"));
    let fired = watch.all_fire(&expected, begun).await?;
    flooding.store(false, Ordering::Relaxed);
    flood.await.context("the flood ended badly")??;
    let mut worker = stack.worker_at(worker_port)?;
    // What the runbook says of both.
    stack.redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    if let Some(disk) = disk {
        disk.free()?;
    }
    all_end(&watch, outage, fired, &mut heard).await?;

    let outage = "the gateway is killed";
    let begun = Instant::now();
    gateway.kill().await?;
    let fired = watch.all_fire(&["ApiDown"], begun).await?;
    watch.is_no_news("ReadinessFailing", begun).await?;
    kept_back.push(("ReadinessFailing", "ApiDown"));
    let mut gateway = stack.gateway(&[]).await?;
    all_end(&watch, outage, fired, &mut heard).await?;

    // Two exporters end while a deployment runs, and stay away after it.
    watch.deployment_runs(true)?;
    let running = async || Ok(watch.firing().await?.iter().any(|it| it == "DeployRunning"));
    until("the deployment is known", running).await?;
    let begun = Instant::now();
    for exporter in ["prometheus-redis-exporter", "prometheus-postgres-exporter"] {
        watch.programs.end(exporter)?;
    }
    watch.is_no_news("TargetMissing", begun).await?;
    kept_back.push(("TargetMissing", "DeployRunning"));
    watch.deployment_runs(false)?;
    let begun = Instant::now();
    watch.all_fire(&["TargetMissing"], begun).await?;
    let together = watch.pager.together("TargetMissing", begun);
    if together != 2 {
        return Err(Failure::new(format!("{together} alerts came together, not those of both exporters")));
    }

    traffic.stop();
    worker.stop(&mut interrupt).await;
    gateway.stop(&mut interrupt).await;
    if let Some(said) = watch.pager.nonsense(started) {
        return Err(Failure::new(format!("this should have been told to nobody: {said}")));
    }
    let heartbeats = watch.pager.heartbeats(started);
    if heartbeats < 3 {
        return Err(Failure::new(format!("the heartbeat came {heartbeats} times")));
    }
    Ok(Rehearsed { heard, kept_back, heartbeats, took: started.elapsed(), has_disk: disk.is_some() })
}

/// Waits until none of them fires any more, and somebody was told so.
async fn all_end(watch: &Watch, outage: &'static str, fired: Vec<Fired>, heard: &mut Vec<Heard>) -> Outcome {
    let mended = Instant::now();
    let alerts: Vec<&str> = fired.iter().map(|it| it.alert).collect();
    let times = watch.all_are(&alerts, false, mended).await?;
    for (fired, ended_s) in fired.into_iter().zip(times) {
        let told_s = watch.told_s(fired.alert, "resolved", mended).await?;
        heard.push(Heard { outage, fired, ended_s, told_s });
    }
    say!("{outage}: all over {:.0} s after it was mended", mended.elapsed().as_secs_f64());
    Ok(())
}

/// Lets Redis have only little more memory than it has taken already.
fn take_memory(stack: &Stack) -> Outcome {
    // Beside eight megabytes, what clients take for a moment weighs little.
    stack.redis.ask(&["SETRANGE", "ballast", "8388607", "x"]);
    let about = stack.redis.ask(&["INFO", "memory"]);
    let used = about.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap_or_default();
    let used: f64 = used.trim().parse().context("Redis does not say what it uses")?;
    stack.redis.ask(&["CONFIG", "SET", "maxmemory", &format!("{:.0}", used / MEMORY_TAKEN)]);
    Ok(())
}

/// Sessions begun and ended, each of which wants to be measured.
async fn flood(somebody: SignedIn, goes_on: Arc<AtomicBool>) -> Outcome {
    while goes_on.load(Ordering::Relaxed) {
        somebody.check_in().await.context("a check-in was refused")?;
        somebody.check_out().await.context("a check-out was refused")?;
        // A queue that grows, not a contest.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Somebody who looks at their sessions ten times a second, whatever comes back.
struct Traffic(tokio::task::JoinHandle<()>);

impl Traffic {
    fn start(somebody: SignedIn) -> Self {
        Self(tokio::spawn(async move {
            loop {
                // Refusals are what is rehearsed.
                let _ = somebody.open_session().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }))
    }

    fn stop(self) {
        self.0.abort();
    }
}

/// A time of minutes in as many of our short ones: `5m`, `30s`, `12h`.
fn shortened(time: &str) -> Option<Duration> {
    let (number, unit) = time.split_at_checked(time.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let seconds: u32 = number.parse::<u32>().ok()?.checked_mul(seconds)?;
    Some(MINUTE * seconds / 60)
}

/// The same rules in a shorter time: every range is [`WINDOW`], every `for` has short minutes.
fn quickened(rules: &str) -> Outcome<String> {
    let mut quick = String::with_capacity(rules.len());
    for line in rules.lines() {
        if let Some((before, time)) = line.split_once("for: ").filter(|(before, _)| before.trim().is_empty()) {
            let time = shortened(time.trim()).ok_or_else(|| Failure::new(format!("what time is {time}?")))?;
            quick.push_str(&format!("{before}for: {}ms", time.min(LONGEST).as_millis()));
        } else {
            let mut rest = line;
            while let Some(begin) = rest.find('[') {
                quick.push_str(&rest[..=begin]);
                rest = &rest[begin + 1..];
                if let Some(end) = rest.find(']').filter(|end| shortened(&rest[..*end]).is_some()) {
                    quick.push_str(WINDOW);
                    rest = &rest[end..];
                }
            }
            quick.push_str(rest);
        }
        quick.push('\n');
    }
    Ok(quick)
}

fn table(rehearsed: &Rehearsed) -> String {
    let mut text = format!(
        "Rules average over {WINDOW}, and a minute of waiting is {} s here (the longest `for` {} s); on {}.\n\n\
         | outage | alert | fired after s | told after s | ended s after it was mended | told after s |\n\
         | --- | --- | ---: | ---: | ---: | ---: |",
        MINUTE.as_secs(),
        LONGEST.as_secs(),
        chrono::Utc::now().format("%Y-%m-%d")
    );
    for Heard { outage, fired: Fired { alert, fired_s, told_s: told_begun_s }, ended_s, told_s } in &rehearsed.heard {
        text.push_str(&format!(
            "\n| {outage} | {alert} | {fired_s:.0} | {told_begun_s:.0} | {ended_s:.0} | {told_s:.0} |"
        ));
    }
    text.push_str("\n\n- two exporters that ended together were told of in one notification");
    for (alert, because) in &rehearsed.kept_back {
        text.push_str(&format!("\n- {alert} fired while {because} did, and nobody was told"));
    }
    text.push_str(&format!("\n- the heartbeat came {} times in {} s", rehearsed.heartbeats, rehearsed.took.as_secs()));
    if !rehearsed.has_disk {
        text.push_str("\n- a disk that fills was not rehearsed: mounting one takes the superuser");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_quickened_and_nothing_else_is_changed() {
        let rules =
            "rule_files: [a/*.yml]\n  expr: \"rate(x{a=~\\\"[bc]\\\"}[5m]) > 5 and y[1h]\"\n  for: 2m\n  for: 1h\n";
        assert_eq!(
            quickened(rules).unwrap(),
            "rule_files: [a/*.yml]\n  expr: \"rate(x{a=~\\\"[bc]\\\"}[20s]) > 5 and y[20s]\"\n  for: 4000ms\n  for: 20000ms\n"
        );
        assert!(quickened("  for: ever\n").is_err());
        assert_eq!(shortened("30s"), Some(Duration::from_secs(1)));
        assert_eq!((shortened("0s"), shortened(""), shortened("bc")), (Some(Duration::ZERO), None, None));
    }
}
