//! `cargo xtask chaos`: people work while gateway, workers, PostgreSQL and Redis are killed at random; in the end every
//! acknowledged point is there once, and every session has the kilometres of its points.

mod jobs;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use testkit::track::{SplitMix, TrackPoint, reference_km};
use tokio::sync::Mutex;

use crate::{
    failure::{Context, Failure, Outcome},
    stack::{Person, Stack},
};

/// Options of a chaos run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Seconds of work and trouble
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Chooses the troubles; the same seed brings the same ones in the same order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// People at work
    #[arg(long, default_value_t = 20)]
    people: usize,
    /// Use release builds
    #[arg(long)]
    release: bool,
    /// Instead of people at work: so many sessions that wait to be measured
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// With --jobs: a worker of another release that takes every other place
    #[arg(long, value_name = "PROGRAM", requires = "jobs")]
    other_worker: Option<PathBuf>,
}

/// What can go wrong.
const TROUBLES: [&str; 5] = ["gateway killed", "worker killed", "PostgreSQL crashed", "Redis killed", "Redis lost"];

/// How long one request may take before a phone gives it up and tries again.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long everything may take to be right again in the end.
const HEALING: Duration = Duration::from_secs(180);

/// Runs it.
pub async fn run(options: &Options) -> Outcome<ExitCode> {
    let settings = [("RATE_LIMIT_MULTIPLIER", "100000"), ("LOG_LEVEL", "warn"), ("WORKER_CONCURRENCY", "4")];
    let mut stack = Stack::start("chaos", options.release, &settings).await?;
    let told = match options.jobs {
        Some(sessions) => jobs::trouble(&mut stack, sessions, options).await,
        None => trouble(&mut stack, options).await,
    };
    match told {
        Ok(true) => {
            stack.end()?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(false) => {
            say!("the servers are left running, and the logs in {}", stack.folder.join("logs").display());
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error),
    }
}

/// What a phone was told is stored, by time: Unix microseconds to latitude and longitude.
type Acknowledged = HashMap<i64, (f64, f64)>;

async fn trouble(stack: &mut Stack, options: &Options) -> Outcome<bool> {
    let mut gateway = stack.gateway(&[]).await?;
    let mut workers = vec![stack.worker()?, stack.worker()?];
    let people = stack.people(4, options.people).await?;
    let base = stack.api()?.address().to_owned();
    let working = Arc::new(AtomicBool::new(true));
    let longest_ms = Arc::new(AtomicU64::new(0));
    let phones: Vec<_> = people
        .iter()
        .enumerate()
        .map(|(number, person)| {
            let phone = Phone {
                http: Client::builder().no_proxy().timeout(PATIENCE).build().context("no HTTP client")?,
                base: base.clone(),
                person: person.clone(),
                acknowledged: Mutex::default(),
                longest_ms: Arc::clone(&longest_ms),
            };
            let (phone, working) = (Arc::new(phone), Arc::clone(&working));
            let task = tokio::spawn({
                let phone = Arc::clone(&phone);
                let seed = options.seed.wrapping_mul(1000) + number as u64;
                async move { phone.work(seed, &working).await }
            });
            Ok((phone, task))
        })
        .collect::<Outcome<_>>()?;

    let mut random = SplitMix(options.seed);
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let begun = Instant::now();
    // Once in every run Redis is away for ten whole seconds.
    let mut long_outage = Some(begun + Duration::from_secs(options.seconds / 2));
    while begun.elapsed() < Duration::from_secs(options.seconds) {
        tokio::time::sleep(Duration::from_millis(500 + random.next_u64() % 2500)).await;
        if long_outage.is_some_and(|at| Instant::now() >= at) {
            long_outage = None;
            say!("{:>6.1} s  Redis stopped for 10 s", begun.elapsed().as_secs_f64());
            tokio::task::block_in_place(|| stack.redis.stop())?;
            tokio::time::sleep(Duration::from_secs(10)).await;
            tokio::task::block_in_place(|| stack.redis.start())?;
            *counts.entry("Redis stopped for 10 s").or_default() += 1;
            continue;
        }
        let what = TROUBLES[(random.next_u64() % TROUBLES.len() as u64) as usize];
        say!("{:>6.1} s  {what}", begun.elapsed().as_secs_f64());
        *counts.entry(what).or_default() += 1;
        match what {
            "gateway killed" => {
                gateway.kill().await?;
                gateway = stack.gateway_unready()?;
            }
            "worker killed" => {
                let which = (random.next_u64() % workers.len() as u64) as usize;
                workers[which].kill().await?;
                workers[which] = stack.worker()?;
            }
            "PostgreSQL crashed" => {
                tokio::task::block_in_place(|| stack.cluster.crash())?;
                tokio::time::sleep(Duration::from_millis(random.next_u64() % 1500)).await;
                tokio::task::block_in_place(|| stack.cluster.start())?;
            }
            lost => {
                tokio::task::block_in_place(|| stack.redis.kill(lost == "Redis lost"))?;
                tokio::time::sleep(Duration::from_millis(random.next_u64() % 1500)).await;
                tokio::task::block_in_place(|| stack.redis.start())?;
            }
        }
    }
    working.store(false, Ordering::Relaxed);
    say!("{:>6.1} s  the trouble is over", begun.elapsed().as_secs_f64());
    let mut finished = Vec::new();
    for (phone, task) in phones {
        task.await.context("a phone ended badly")??;
        finished.push(phone);
    }
    gateway.ready().await?;
    let all_well = audit(stack, &finished, &counts, longest_ms.load(Ordering::Relaxed)).await?;
    let mut interrupt = stack.interrupt.clone();
    gateway.stop(&mut interrupt).await;
    for mut worker in workers {
        worker.stop(&mut interrupt).await;
    }
    Ok(all_well)
}

/// Somebody who never gives up.
struct Phone {
    http: Client,
    base: String,
    person: Person,
    acknowledged: Mutex<Acknowledged>,
    longest_ms: Arc<AtomicU64>,
}

impl Phone {
    async fn work(&self, seed: u64, working: &AtomicBool) -> Outcome {
        let mut random = SplitMix(seed);
        let mut at_us = self.person.since_us;
        let (mut latitude, mut longitude) = (45.0 + random.between(-1.0, 1.0), 13.0 + random.between(-1.0, 1.0));
        while working.load(Ordering::Relaxed) {
            let single = random.next_u64().is_multiple_of(2);
            let count = if single { 1 } else { 1 + random.next_u64() % 100 };
            let mut points: Vec<(i64, f64, f64)> = Vec::new();
            for _ in 0..count {
                at_us += 1 + (random.next_u64() % 400) as i64;
                latitude += random.between(-2e-4, 2e-4);
                longitude += random.between(-2e-4, 2e-4);
                points.push((at_us, latitude, longitude));
            }
            if random.next_u64().is_multiple_of(3) {
                random.shuffle(&mut points);
            }
            let bodies: Vec<Value> =
                points.iter().map(|(at, latitude, longitude)| point(*at, *latitude, *longitude)).collect();
            let (path, body) = if single {
                let mut body = bodies[0].clone();
                body["session_id"] = json!(self.person.session);
                ("/locations", body)
            } else {
                ("/locations/batch", json!({ "session_id": self.person.session, "points": bodies }))
            };
            self.insist(path, &body).await?;
            // One in ten is sent again, as after an answer that was lost.
            if random.next_u64().is_multiple_of(10) {
                self.insist(path, &body).await?;
            }
            let mut acknowledged = self.acknowledged.lock().await;
            acknowledged.extend(points.into_iter().map(|(at, latitude, longitude)| (at, (latitude, longitude))));
            drop(acknowledged);
            tokio::time::sleep(Duration::from_millis(random.next_u64() % 60)).await;
        }
        self.insist("/attendance/check-out", &json!({})).await
    }

    /// Sends until it is acknowledged. A refusal that trying again cannot mend is an error.
    async fn insist(&self, path: &str, body: &Value) -> Outcome {
        let begun = Instant::now();
        let mut wait = Duration::from_millis(20);
        loop {
            let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(&self.person.token).json(body);
            match request.send().await {
                Ok(answer) if answer.status().is_success() => {
                    // The acknowledgement counts when it has arrived whole.
                    if answer.bytes().await.is_ok() {
                        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                        self.longest_ms.fetch_max(took, Ordering::Relaxed);
                        return Ok(());
                    }
                }
                Ok(answer) if answer.status().is_server_error() || answer.status() == StatusCode::TOO_MANY_REQUESTS => {
                }
                Ok(answer) => {
                    let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
                    // The first check-out was done and its answer lost: the second finds no open session.
                    if path.ends_with("check-out") && text.contains("no active session") {
                        return Ok(());
                    }
                    return Err(Failure::new(format!("{path} was refused for good: {status} {text}")));
                }
                Err(_) => {}
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(1));
        }
    }
}

fn point(at_us: i64, latitude: f64, longitude: f64) -> Value {
    let at = DateTime::<Utc>::from_timestamp_micros(at_us).unwrap_or_default();
    json!({
        "latitude": latitude, "longitude": longitude, "accuracy": 5,
        "recorded_at": at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
    })
}

/// Compares what was acknowledged with what is stored, and kilometres with points.
async fn audit(stack: &Stack, phones: &[Arc<Phone>], counts: &BTreeMap<&str, u32>, longest_ms: u64) -> Outcome<bool> {
    let (mut acknowledged, mut found, mut missing, mut doubled, mut wrong, mut unmeasured) = (0, 0, 0, 0, 0, 0);
    let deadline = Instant::now() + HEALING;
    let healing = Instant::now();
    for phone in phones {
        let session = loop {
            let session = phone.person.signed_in.session(&phone.person.session).await;
            let done = session
                .ok()
                .flatten()
                .filter(|session| session.distance_recalculation_status.as_deref() == Some("done"));
            if done.is_some() || Instant::now() > deadline {
                break done;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let rows = stack.cluster.sql(
            "fieldtrack",
            &format!(
                "SELECT (extract(epoch FROM recorded_at) * 1000000)::bigint, latitude, longitude FROM gps_locations \
                 WHERE session_id = '{}' ORDER BY recorded_at",
                phone.person.session
            ),
        )?;
        let mut stored: Vec<(i64, f64, f64)> = Vec::new();
        for row in rows.lines() {
            let mut columns = row.split('|');
            let mut next = || columns.next().ok_or_else(|| Failure::new(format!("a strange row: {row}")));
            let at = next()?.parse().context("no time")?;
            stored.push((at, next()?.parse().context("no latitude")?, next()?.parse().context("no longitude")?));
        }
        let known = phone.acknowledged.lock().await;
        let mut times: HashMap<i64, u32> = HashMap::new();
        for (at, ..) in &stored {
            *times.entry(*at).or_default() += 1;
        }
        acknowledged += known.len();
        found += known.keys().filter(|at| times.contains_key(at)).count();
        missing += known.keys().filter(|at| !times.contains_key(at)).count();
        doubled += times.values().filter(|count| **count > 1).count();
        let points: Vec<TrackPoint> = stored
            .iter()
            .map(|(at, latitude, longitude)| TrackPoint {
                latitude: *latitude,
                longitude: *longitude,
                recorded_at: DateTime::UNIX_EPOCH + TimeDelta::microseconds(*at),
                accuracy_m: Some(5.0),
            })
            .collect();
        match session.and_then(|session| session.total_distance_km) {
            None => unmeasured += 1,
            #[expect(clippy::float_cmp, reason = "both are rounded to the same two decimals")]
            Some(kilometres) if kilometres != reference_km(&points) => wrong += 1,
            Some(_) => {}
        }
    }
    say!(
        "\ntroubles: {}",
        counts.iter().map(|(what, times)| format!("{times} × {what}")).collect::<Vec<_>>().join(", ")
    );
    say!("points acknowledged {acknowledged}, found {found}, missing {missing}, doubled {doubled}");
    say!(
        "sessions {}, not measured {unmeasured}, with other kilometres than their points {wrong}; all measured {:.1} s after the end",
        phones.len(),
        healing.elapsed().as_secs_f64()
    );
    say!("the longest a phone had to wait for an acknowledgement: {:.1} s", longest_ms as f64 / 1000.0);
    Ok(missing == 0 && doubled == 0 && wrong == 0 && unmeasured == 0 && acknowledged > 0)
}
