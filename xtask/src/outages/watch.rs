//! Prometheus with the product's rules, what it scrapes, and Alertmanager with the product's configuration.

use std::{fs, path::Path, time::Instant};

use reqwest::Client;
use serde_json::Value;

use super::{disk::Disk, pager, pager::Pager, quickened};
use crate::{
    beside::{self, Beside, put, until},
    failure::{Context, Failure, Outcome},
    stack::Stack,
    state::free_port,
    workspace,
};

/// Everything that watches.
pub struct Watch {
    http: Client,
    prometheus: String,
    alertmanager: String,
    /// Prometheus, Alertmanager and the exporters.
    pub programs: Beside,
    /// Whom Alertmanager tells.
    pub pager: Pager,
}

/// An alert of one outage: how many seconds after its begin it fired, and somebody was told.
pub struct Fired {
    pub alert: &'static str,
    pub fired_s: f64,
    pub told_s: f64,
}

impl Watch {
    /// Starts all of it around a running stack. Of disks, only this one is looked at.
    pub async fn start(stack: &Stack, token: &str, worker_port: u16, disk: Option<&Disk>) -> Outcome<Self> {
        let mut programs = Beside::new(&stack.folder.join("watch"))?;
        let [textfiles, rules] = ["textfiles", "rules"].map(|name| programs.file(name));
        for folder in [&textfiles, &rules] {
            fs::create_dir_all(folder).context("cannot make a folder")?;
        }
        put_textfile(&programs, false)?;
        let source = workspace::root().join("monitoring/prometheus/rules/alerts.yml");
        let source = fs::read_to_string(source).context("cannot read the rules")?;
        put(&rules.join("alerts.yml"), &quickened(&source)?)?;
        let pager = Pager::listen().await?;
        put(&programs.file("alertmanager.yml"), &pager.configuration(&pager::source()?)?)?;
        let [prometheus, alertmanager, redis, postgres, blackbox, node] =
            [free_port()?, free_port()?, free_port()?, free_port()?, free_port()?, free_port()?];
        let target =
            |port: u16| format!("static_configs: [{{targets: [\"127.0.0.1:{port}\"], labels: {{slot: blue}}}}]");
        // Of the machine's own disks nothing is known here: how full they are is nobody's rehearsal.
        let kept = format!(
            "(active_slot|deploy_.*|backup_.*);.*|node_filesystem_(avail|size)_bytes;{}",
            disk.map_or_else(String::new, |disk| disk.place().display().to_string())
        );
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{rules}/*.yml]\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: [\"127.0.0.1:{alertmanager}\"]}}]}}]}}\n\
             scrape_configs:\n\
             - {{job_name: fieldtrack-api, authorization: {{credentials: {token}}}, {api}}}\n\
             - {{job_name: fieldtrack-worker, authorization: {{credentials: {token}}}, {worker}}}\n\
             - {{job_name: redis, {redis_target}}}\n\
             - {{job_name: postgres, {postgres_target}}}\n\
             - job_name: node\n  \
               {node_target}\n  \
               metric_relabel_configs: [{{source_labels: [__name__, mountpoint], regex: \"{kept}\", action: keep}}]\n\
             - job_name: blackbox-ready\n  \
               metrics_path: /probe\n  \
               params: {{module: [ready]}}\n  \
               static_configs: [{{targets: [\"http://127.0.0.1:{gateway}/ready\"], labels: {{slot: blue}}}}]\n  \
               relabel_configs:\n  \
               - {{source_labels: [__address__], target_label: __param_target}}\n  \
               - {{target_label: __address__, replacement: \"127.0.0.1:{blackbox}\"}}\n",
            rules = rules.display(),
            api = target(stack.port()),
            worker = target(worker_port),
            redis_target = target(redis),
            postgres_target = target(postgres),
            node_target = target(node),
            gateway = stack.port(),
        );
        put(&programs.file("prometheus.yml"), &config)?;
        let at = |port: u16| format!("--web.listen-address=127.0.0.1:{port}");
        let named = |word: &str, path: &Path| format!("--{word}={}", path.display());
        let redis_words = [format!("--redis.addr={}", stack.redis.url()), at(redis)];
        programs.start(Path::new("prometheus-redis-exporter"), &redis_words, &[])?;
        let database = format!("{}?sslmode=disable", stack.cluster.superuser_url("postgres"));
        let source = [("DATA_SOURCE_NAME", &*database)];
        programs.start(Path::new("prometheus-postgres-exporter"), &[at(postgres)], &source)?;
        let modules = workspace::root().join("monitoring/blackbox/blackbox.yml");
        let words = [named("config.file", &modules), at(blackbox)];
        programs.start(Path::new("prometheus-blackbox-exporter"), &words, &[])?;
        let words = [
            "--collector.disable-defaults".to_owned(),
            "--collector.filesystem".to_owned(),
            "--collector.textfile".to_owned(),
            named("collector.textfile.directory", &textfiles),
            at(node),
        ];
        programs.start(Path::new("prometheus-node-exporter"), &words, &[])?;
        let words = [
            named("config.file", &programs.file("alertmanager.yml")),
            named("storage.path", &programs.file("alertmanager")),
            "--cluster.listen-address=".to_owned(),
            at(alertmanager),
        ];
        programs.start(Path::new("prometheus-alertmanager"), &words, &[])?;
        let words = [
            named("config.file", &programs.file("prometheus.yml")),
            named("storage.tsdb.path", &programs.file("data")),
            at(prometheus),
        ];
        programs.start(Path::new("prometheus"), &words, &[])?;
        Ok(Self {
            http: beside::client()?,
            prometheus: format!("http://127.0.0.1:{prometheus}/api/v1"),
            alertmanager: format!("http://127.0.0.1:{alertmanager}/api/v2"),
            programs,
            pager,
        })
    }

    /// Says, as deploy.sh does, whether a deployment runs.
    pub fn deployment_runs(&self, runs: bool) -> Outcome {
        put_textfile(&self.programs, runs)
    }

    /// The value of a query that has one.
    pub async fn value(&self, query: &str) -> Outcome<Option<f64>> {
        let url = reqwest::Url::parse_with_params(&format!("{}/query", self.prometheus), [("query", query)]);
        let answer = beside::ask(&self.http, url.context("no address")?.as_str()).await?;
        Ok(answer["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok()))
    }

    /// Names of the alerts that fire.
    pub async fn firing(&self) -> Outcome<Vec<String>> {
        let answer = beside::ask(&self.http, &format!("{}/alerts", self.prometheus)).await?;
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        Ok(firing.filter_map(|alert| alert["labels"]["alertname"].as_str().map(str::to_owned)).collect())
    }

    /// Whether Alertmanager keeps this alert to itself because of another.
    async fn is_silenced(&self, name: &str) -> Outcome<bool> {
        let answer = beside::ask(&self.http, &format!("{}/alerts", self.alertmanager)).await?;
        let alerts: Vec<&Value> = answer.as_array().map(|alerts| alerts.iter().collect()).unwrap_or_default();
        let mut named = alerts.into_iter().filter(|alert| alert["labels"]["alertname"] == name).peekable();
        let silent = |alert: &Value| alert["status"]["inhibitedBy"].as_array().is_some_and(|by| !by.is_empty());
        Ok(named.peek().is_some() && named.all(silent))
    }

    /// Waits until each of them fires and somebody was told.
    pub async fn all_fire(&self, alerts: &[&'static str], begun: Instant) -> Outcome<Vec<Fired>> {
        let times = self.all_are(alerts, true, begun).await?;
        let mut fired = Vec::new();
        for (alert, fired_s) in alerts.iter().copied().zip(times) {
            let told_s = self.told_s(alert, "firing", begun).await?;
            say!("  {alert:<20} fires after {fired_s:.0} s, somebody is told after {told_s:.0} s");
            fired.push(Fired { alert, fired_s, told_s });
        }
        Ok(fired)
    }

    /// Waits until each of them fires, or until none does any more; how many seconds after `since` each did so first.
    pub async fn all_are(&self, alerts: &[&'static str], firing: bool, since: Instant) -> Outcome<Vec<f64>> {
        let mut seen: Vec<Option<f64>> = vec![None; alerts.len()];
        let all = until(if firing { "they fire" } else { "they end" }, async || {
            let now = self.firing().await?;
            for (alert, seen) in alerts.iter().zip(&mut seen) {
                if seen.is_none() && now.iter().any(|it| it == alert) == firing {
                    *seen = Some(since.elapsed().as_secs_f64());
                }
            }
            Ok(seen.iter().all(Option::is_some))
        })
        .await;
        let missing: Vec<&str> =
            alerts.iter().zip(&seen).filter(|(_, seen)| seen.is_none()).map(|(it, _)| *it).collect();
        all.map_err(|failure| Failure::new(format!("{failure}; {} did not", missing.join(", "))))?;
        Ok(seen.into_iter().flatten().collect())
    }

    /// Waits until somebody was told that this alert fires, or is `resolved`; how many seconds after `since`.
    pub async fn told_s(&self, alert: &str, status: &str, since: Instant) -> Outcome<f64> {
        let mut told = None;
        until(&format!("somebody is told that {alert} is {status}"), async || {
            told = self.pager.told(alert, status, since);
            Ok(told.is_some())
        })
        .await?;
        Ok(told.unwrap_or(since).duration_since(since).as_secs_f64())
    }

    /// Waits until this alert fires and Alertmanager keeps it to itself, and makes sure that nobody was told.
    pub async fn is_no_news(&self, alert: &'static str, since: Instant) -> Outcome {
        until(&format!("{alert} fires and is kept back"), async || {
            let fires = self.firing().await?.iter().any(|it| it == alert);
            Ok(fires && self.is_silenced(alert).await?)
        })
        .await?;
        match self.pager.told(alert, "firing", since) {
            Some(_) => Err(Failure::new(format!("somebody was told of {alert}, which is no news"))),
            None => {
                say!("  {alert:<20} fires, and nobody is told");
                Ok(())
            }
        }
    }
}

/// What deploy.sh and backup.sh write for the node exporter.
fn put_textfile(programs: &Beside, deploying: bool) -> Outcome {
    let now = chrono::Utc::now().timestamp();
    let text = format!(
        "active_slot{{slot=\"blue\"}} 1\ndeploy_running {}\n\
         backup_last_success_timestamp_seconds{{kind=\"base\"}} {now}\n\
         backup_last_success_timestamp_seconds{{kind=\"wal\"}} {now}\n",
        u8::from(deploying)
    );
    let (new, file) = (programs.file("textfiles/fieldtrack.new"), programs.file("textfiles/fieldtrack.prom"));
    put(&new, &text)?;
    fs::rename(&new, &file).context("cannot replace a file")
}
