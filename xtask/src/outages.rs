//! `cargo xtask outages`: the alerts, rehearsed. A real Prometheus with the product's own rules scrapes both services and
//! Debian's exporters, while one thing after another goes away; told is how long each alert took to fire and to end.
//!
//! Only time is changed: what a rule averages over, and how long it has to be so, is seconds here instead of minutes.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use reqwest::Client;
use serde_json::Value;

use crate::{
    api::SignedIn,
    bench::write,
    failure::{Context, Failure, Outcome},
    packages::{self, Wanted},
    services::Running,
    stack::Stack,
    state::{free_port, random_hex},
    workspace,
};

/// Options of `outages`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// Write the table to docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

/// What a rule averages over here, and how long it has to be so.
const WINDOW: &str = "20s";
const HOLDS: &str = "3s";

/// How long an alert may take to fire, or to end.
const PATIENCE: Duration = Duration::from_secs(90);

/// Jobs that may wait in Redis here, a few more than make a backlog.
const MAX_QUEUE_DEPTH: &str = "520";

/// What fires in a copy of the product without backups, and what always fires.
const UNREHEARSED: [&str; 2] = ["BackupStale", "Watchdog"];

/// One outage: what it is, and what has to be heard of it.
struct Heard {
    outage: &'static str,
    alert: &'static str,
    fired_s: f64,
    ended_s: f64,
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
    let heard = rehearse(&mut stack, &token).await;
    stack.end()?;
    let text = table(&heard?);
    say!("\n{text}");
    if options.write {
        write("outages", &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn rehearse(stack: &mut Stack, token: &str) -> Outcome<Vec<Heard>> {
    let mut interrupt = stack.interrupt.clone();
    let mut gateway = stack.gateway(&[]).await?;
    let (mut worker, worker_port) = worker(stack)?;
    worker.ready().await?;
    let admin = stack.organization(0).await?;
    let password = random_hex(10)?;
    admin.create_employee("Asha", "asha@field.example", &password).await?;
    let asha = stack.api()?.sign_in("asha@field.example", &password).await?;
    let watch = Watch::start(stack, token, worker_port)?;
    watch
        .until("both services are scraped", async |watch| {
            let up = watch.ask("query?query=sum(up{job%3D~%22fieldtrack-.*%22})").await?;
            Ok(up["data"]["result"][0]["value"][1] == "2")
        })
        .await?;
    // Before its first answer everything is absent to Prometheus.
    watch
        .until("nothing that is rehearsed fires yet", async |watch| {
            Ok(watch.firing().await?.iter().all(|alert| UNREHEARSED.contains(&&**alert)))
        })
        .await?;
    let traffic = Traffic::start(asha.clone());
    let mut heard = Vec::new();

    let begun = Instant::now();
    stack.cluster.crash()?;
    let fired = watch.all_fire(&["PostgresDown", "HighErrorRate", "ReadinessFailing"], begun).await?;
    stack.cluster.start()?;
    watch.all_end("PostgreSQL is away, requests go on", fired, &mut heard).await?;

    let begun = Instant::now();
    stack.redis.stop()?;
    let fired = watch.all_fire(&["RedisDown", "ReadinessFailing"], begun).await?;
    stack.redis.start()?;
    watch.all_end("Redis is away", fired, &mut heard).await?;

    worker.stop(&mut interrupt).await;
    let begun = Instant::now();
    let flooding = Arc::new(AtomicBool::new(true));
    let flood = tokio::spawn(flood(asha, Arc::clone(&flooding)));
    let fired = watch.all_fire(&["NoWorker", "QueueBacklog", "QueueOverload"], begun).await?;
    flooding.store(false, Ordering::Relaxed);
    flood.await.context("the flood ended badly")??;
    let mut worker = stack.worker_at(worker_port)?;
    watch.all_end("no worker runs, work goes on", fired, &mut heard).await?;

    let begun = Instant::now();
    gateway.kill().await?;
    let fired = watch.all_fire(&["ApiDown"], begun).await?;
    let mut gateway = stack.gateway(&[]).await?;
    watch.all_end("the gateway is killed", fired, &mut heard).await?;

    traffic.stop();
    if let Some(alert) = watch.firing().await?.iter().find(|alert| !UNREHEARSED.contains(&&***alert)) {
        return Err(Failure::new(format!("{alert} still fires in the end")));
    }
    worker.stop(&mut interrupt).await;
    gateway.stop(&mut interrupt).await;
    Ok(heard)
}

fn worker(stack: &Stack) -> Outcome<(Running, u16)> {
    let port = free_port()?;
    Ok((stack.worker_at(port)?, port))
}

/// Sessions begun and ended, each of which wants to be measured.
async fn flood(somebody: SignedIn, goes_on: Arc<AtomicBool>) -> Outcome {
    while goes_on.load(Ordering::Relaxed) {
        somebody.check_in().await.context("a check-in was refused")?;
        somebody.check_out().await.context("a check-out was refused")?;
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

/// Prometheus and what it scrapes beside the services; all end with it.
struct Watch {
    http: Client,
    base: String,
    children: Vec<Child>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An alert and the seconds it took to fire.
type Fired = Vec<(&'static str, f64)>;

impl Watch {
    fn start(stack: &Stack, token: &str, worker_port: u16) -> Outcome<Self> {
        let folder = stack.folder.join("watch");
        let [textfiles, rules] = ["textfiles", "rules"].map(|name| folder.join(name));
        for folder in [&textfiles, &rules] {
            fs::create_dir_all(folder).context("cannot make a folder")?;
        }
        // What deploy.sh writes for the node exporter.
        put(&textfiles.join("deploy.prom"), "active_slot{slot=\"blue\"} 1\n")?;
        let source = workspace::root().join("monitoring/prometheus/rules/alerts.yml");
        let source = fs::read_to_string(source).context("cannot read the rules")?;
        put(&rules.join("alerts.yml"), &quickened(&source))?;
        let [prometheus, redis, postgres, blackbox, node] =
            [free_port()?, free_port()?, free_port()?, free_port()?, free_port()?];
        let gateway = stack.port();
        let target =
            |port: u16| format!("static_configs: [{{targets: [\"127.0.0.1:{port}\"], labels: {{slot: blue}}}}]");
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{rules}/*.yml]\n\
             scrape_configs:\n\
             - {{job_name: fieldtrack-api, authorization: {{credentials: {token}}}, {api}}}\n\
             - {{job_name: fieldtrack-worker, authorization: {{credentials: {token}}}, {worker}}}\n\
             - {{job_name: redis, {redis_target}}}\n\
             - {{job_name: postgres, {postgres_target}}}\n\
             - {{job_name: node, {node_target}}}\n\
             - job_name: blackbox-ready\n  \
               metrics_path: /probe\n  \
               params: {{module: [ready]}}\n  \
               static_configs: [{{targets: [\"http://127.0.0.1:{gateway}/ready\"], labels: {{slot: blue}}}}]\n  \
               relabel_configs:\n  \
               - {{source_labels: [__address__], target_label: __param_target}}\n  \
               - {{target_label: __address__, replacement: \"127.0.0.1:{blackbox}\"}}\n",
            rules = rules.display(),
            api = target(gateway),
            worker = target(worker_port),
            redis_target = target(redis),
            postgres_target = target(postgres),
            node_target = target(node),
        );
        let config_file = folder.join("prometheus.yml");
        put(&config_file, &config)?;
        let modules = workspace::root().join("monitoring/blackbox/blackbox.yml");
        let at = |port: u16| format!("--web.listen-address=127.0.0.1:{port}");
        let mut watch = Self {
            http: Client::builder().no_proxy().build().context("no HTTP client")?,
            base: format!("http://127.0.0.1:{prometheus}/api/v1"),
            children: Vec::new(),
        };
        let database = format!("{}?sslmode=disable", stack.cluster.superuser_url("postgres"));
        let file = |path: &Path| path.display().to_string();
        watch.child(
            &folder,
            "prometheus-redis-exporter",
            &[format!("--redis.addr={}", stack.redis.url()), at(redis)],
            &[],
        )?;
        watch.child(&folder, "prometheus-postgres-exporter", &[at(postgres)], &[("DATA_SOURCE_NAME", &database)])?;
        watch.child(
            &folder,
            "prometheus-blackbox-exporter",
            &[format!("--config.file={}", file(&modules)), at(blackbox)],
            &[],
        )?;
        watch.child(
            &folder,
            "prometheus-node-exporter",
            &[
                "--collector.disable-defaults".to_owned(),
                "--collector.textfile".to_owned(),
                format!("--collector.textfile.directory={}", file(&textfiles)),
                at(node),
            ],
            &[],
        )?;
        watch.child(
            &folder,
            "prometheus",
            &[
                format!("--config.file={}", file(&config_file)),
                format!("--storage.tsdb.path={}", file(&folder.join("data"))),
                at(prometheus),
            ],
            &[],
        )?;
        Ok(watch)
    }

    fn child(&mut self, folder: &Path, name: &str, words: &[String], variables: &[(&str, &str)]) -> Outcome {
        let log = fs::File::create(folder.join(format!("{name}.log"))).context("cannot make a log")?;
        let copy = log.try_clone().context("cannot share a file")?;
        let program = packages::find(name).unwrap_or_else(|| Path::new("/usr/sbin").join(name));
        let mut command = Command::new(program);
        command.args(words).envs(variables.iter().copied()).current_dir(folder);
        let child = command.stdin(Stdio::null()).stdout(log).stderr(copy).spawn();
        self.children.push(child.context(format!("cannot run {name}"))?);
        Ok(())
    }

    async fn ask(&self, path: &str) -> Outcome<Value> {
        let answer = self.http.get(format!("{}/{path}", self.base)).timeout(Duration::from_secs(5)).send().await;
        answer.context("Prometheus does not answer")?.json().await.context("Prometheus answers no JSON")
    }

    /// Names of the alerts that fire.
    async fn firing(&self) -> Outcome<Vec<String>> {
        let answer = self.ask("alerts").await?;
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        Ok(firing.filter_map(|alert| alert["labels"]["alertname"].as_str().map(str::to_owned)).collect())
    }

    async fn until(&self, what: &str, so: impl AsyncFn(&Self) -> Outcome<bool>) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = so(self).await;
            if matches!(now, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                now?;
                return Err(Failure::new(format!("not within {} s: {what}", PATIENCE.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Waits until each of them fires; answers after how many seconds since `begun` it did.
    async fn all_fire(&self, alerts: &[&'static str], begun: Instant) -> Outcome<Fired> {
        let mut fired = Vec::new();
        for alert in alerts {
            self.until(&format!("{alert} fires"), async |watch| Ok(watch.firing().await?.iter().any(|it| it == alert)))
                .await?;
            fired.push((*alert, begun.elapsed().as_secs_f64()));
            say!("  {alert:<20} fires after {:.0} s", begun.elapsed().as_secs_f64());
        }
        Ok(fired)
    }

    /// Waits until none of them fires any more.
    async fn all_end(&self, outage: &'static str, fired: Fired, heard: &mut Vec<Heard>) -> Outcome {
        let mended = Instant::now();
        for (alert, fired_s) in fired {
            self.until(&format!("{alert} ends"), async |watch| Ok(!watch.firing().await?.iter().any(|it| it == alert)))
                .await?;
            heard.push(Heard { outage, alert, fired_s, ended_s: mended.elapsed().as_secs_f64() });
        }
        say!("{outage}: heard of, and ended {:.0} s after it was mended", mended.elapsed().as_secs_f64());
        Ok(())
    }
}

fn put(path: &Path, text: &str) -> Outcome {
    fs::write(path, text).context(format!("cannot write {}", path.display()))
}

/// The same rules in a shorter time: every range and every `for` becomes seconds.
fn quickened(rules: &str) -> String {
    let mut quick = String::with_capacity(rules.len());
    for line in rules.lines() {
        if line.trim_start().starts_with("for: ") {
            quick.push_str(&line[..line.len() - line.trim_start().len()]);
            quick.push_str("for: ");
            quick.push_str(HOLDS);
        } else {
            let mut rest = line;
            while let Some(begin) = rest.find('[') {
                quick.push_str(&rest[..=begin]);
                rest = &rest[begin + 1..];
                if let Some(end) = rest.find(']').filter(|end| is_duration(&rest[..*end])) {
                    quick.push_str(WINDOW);
                    rest = &rest[end..];
                }
            }
            quick.push_str(rest);
        }
        quick.push('\n');
    }
    quick
}

/// A number and a unit, as in `[5m]`.
fn is_duration(text: &str) -> bool {
    text.strip_suffix(['s', 'm', 'h', 'd'])
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn table(heard: &[Heard]) -> String {
    let mut text = format!(
        "Rules average over {WINDOW} and hold for {HOLDS} here; on {}.\n\n\
         | outage | alert | fired after s | ended s after it was mended |\n| --- | --- | ---: | ---: |",
        chrono::Utc::now().format("%Y-%m-%d")
    );
    for Heard { outage, alert, fired_s, ended_s } in heard {
        text.push_str(&format!("\n| {outage} | {alert} | {fired_s:.0} | {ended_s:.0} |"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_quickened_and_nothing_else_is_changed() {
        let rules = "rule_files: [a/*.yml]\n  expr: \"rate(x{a=~\\\"[bc]\\\"}[5m]) > 5 and y[1h]\"\n  for: 10m\n";
        assert_eq!(
            quickened(rules),
            "rule_files: [a/*.yml]\n  expr: \"rate(x{a=~\\\"[bc]\\\"}[20s]) > 5 and y[20s]\"\n  for: 3s\n"
        );
    }
}
