//! A worker whose jobs do as their data says: what a handler looks like, and what the compatibility tests command.
//!
//! `obedient REDIS_URL QUEUE [SLOTS] [LEASE_MS]` works until its standard input ends. A job's data may say
//! `{"sleepMs": 50, "result": …, "fail": "reason", "failTimes": 2, "giveUp": "reason"}`; of failures, `failTimes` says
//! how many runs fail before one succeeds, all of them when it is absent.

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use queue::{Handler, Job, JobError, Redis, RedisConfig, Runner, RunnerOptions};
use serde_json::{Value, json};
use tokio::sync::watch;

struct Obedient;

impl Handler for Obedient {
    async fn handle(&self, job: Job) -> Result<Value, JobError> {
        let order: Value = serde_json::from_str(&job.data).map_err(|error| JobError::GiveUp(error.to_string()))?;
        if let Some(ms) = order["sleepMs"].as_u64() {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        if let Some(reason) = order["giveUp"].as_str() {
            return Err(JobError::GiveUp(reason.to_owned()));
        }
        if let Some(reason) = order["fail"].as_str()
            && u64::from(job.attempts_made) < order["failTimes"].as_u64().unwrap_or(u64::MAX)
        {
            return Err(JobError::Retry(reason.to_owned()));
        }
        Ok(order.get("result").cloned().unwrap_or_else(|| json!({ "done": job.name })))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [url, queue, rest @ ..] = words.as_slice() else { return ExitCode::from(64) };
    let number = |place: usize, default: u64| rest.get(place).and_then(|word| word.parse().ok()).unwrap_or(default);
    let Ok(redis) = Redis::open(&RedisConfig::new(url.clone().into())) else { return ExitCode::from(64) };
    let options = RunnerOptions {
        concurrency: usize::try_from(number(0, 1)).unwrap_or(1),
        lease: Duration::from_millis(number(1, 30_000)),
        ..RunnerOptions::default()
    };
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(Runner::new(redis, queue, options).run(Arc::new(Obedient), stopped));
    // However it ends, that is the sign to stop.
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
    let _ = stop.send(true);
    match running.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
