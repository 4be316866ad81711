//! This queue's side of `cargo xtask bench queue`.
//!
//! `bench work URL QUEUE SLOTS` does jobs that are nothing until its standard input ends. `bench add URL QUEUE JOBS`
//! adds that many once it is told to. `bench latency URL QUEUE SAMPLES` adds one job at a time and tells how long each
//! took to reach its handler. `bench stream URL QUEUE JOBS SLOTS` moves bare entries through a stream, with nothing
//! around them: the ceiling. All say `ready` when they are.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::{Handler, Job, JobError, NewJob, Producer, Redis, RedisConfig, Runner, RunnerOptions};
use redis::streams::StreamReadReply;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

/// Jobs in one call of a producer.
const BULK: usize = 200;

/// What a job of the product looks like.
const DATA: &str =
    r#"{"sessionId":"01890000-0000-7000-9000-000000000001","organizationId":"01890000-0000-7000-8000-000000000001"}"#;

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Nothing;

impl Handler for Nothing {
    async fn handle(&self, _: Job) -> Result<Value, JobError> {
        Ok(Value::Null)
    }
}

/// Tells when a job arrived.
struct Bell(mpsc::UnboundedSender<Instant>);

impl Handler for Bell {
    async fn handle(&self, _: Job) -> Result<Value, JobError> {
        // Whoever measures may have gone.
        let _ = self.0.send(Instant::now());
        Ok(Value::Null)
    }
}

fn say(text: &str) {
    // Nobody is left to tell.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Waits for a line of standard input, or for its end.
fn wait_for_a_line() {
    let _ = std::io::stdin().read_line(&mut String::new());
}

async fn work(redis: Redis, queue: &str, slots: usize) -> Result<(), Failure> {
    let (stop, stopped) = watch::channel(false);
    let options = RunnerOptions { concurrency: slots, ..RunnerOptions::default() };
    let running = tokio::spawn(Runner::new(redis, queue, options).run(Arc::new(Nothing), stopped));
    say("ready");
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
    stop.send(true)?;
    Ok(running.await?)
}

fn job() -> NewJob {
    NewJob::new("recalculate", DATA.to_owned())
}

async fn add(redis: Redis, queue: &str, jobs: usize) -> Result<(), Failure> {
    let producer = Producer::start(redis.clone(), queue);
    redis.ping().await?;
    say("ready");
    tokio::task::spawn_blocking(wait_for_a_line).await?;
    let mut left = jobs;
    while left > 0 {
        let some = left.min(BULK);
        producer.enqueue_many((0..some).map(|_| job()).collect()).await?;
        left -= some;
    }
    Ok(())
}

async fn latency(redis: Redis, queue: &str, samples: usize) -> Result<(), Failure> {
    let (ring, mut rung) = mpsc::unbounded_channel();
    let (stop, stopped) = watch::channel(false);
    let running =
        tokio::spawn(Runner::new(redis.clone(), queue, RunnerOptions::default()).run(Arc::new(Bell(ring)), stopped));
    let producer = Producer::start(redis, queue);
    let mut took_us = Vec::new();
    for sample in 0..samples + 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let begun = Instant::now();
        producer.enqueue(job()).await?;
        let arrived = rung.recv().await.ok_or("the worker has ended")?;
        // The first ones load scripts and warm caches.
        if sample >= 50 {
            took_us.push(arrived.saturating_duration_since(begun).as_micros());
        }
    }
    took_us.sort_unstable();
    let at = |share: f64| {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small"
        )]
        let place = ((took_us.len() as f64 * share) as usize).min(took_us.len() - 1);
        took_us[place]
    };
    say(&format!("{} {}", at(0.5), at(0.99)));
    stop.send(true)?;
    Ok(running.await?)
}

/// Adds, reads and acknowledges entries of a stream, as many a call as the queue would.
async fn stream(url: &str, key: &str, jobs: usize, slots: usize) -> Result<(), Failure> {
    let client = redis::Client::open(url)?;
    let mut producer = client.get_multiplexed_async_connection().await?;
    let mut consumer = client.get_multiplexed_async_connection().await?;
    let _: () =
        redis::cmd("XGROUP").arg(&["CREATE", key, "workers", "0", "MKSTREAM"]).query_async(&mut consumer).await?;
    say("ready");
    tokio::task::spawn_blocking(wait_for_a_line).await?;
    let stream = key.to_owned();
    let adding = tokio::spawn(async move {
        let mut left = jobs;
        while left > 0 {
            let some = left.min(BULK);
            let mut call = redis::pipe();
            for _ in 0..some {
                call.cmd("XADD").arg(&[&stream, "*", "name", "recalculate", "data", DATA]).ignore();
            }
            call.query_async::<()>(&mut producer).await?;
            left -= some;
        }
        Ok::<(), redis::RedisError>(())
    });
    let mut done = Vec::new();
    let mut read = 0;
    while read < jobs {
        let mut call = redis::pipe();
        if !done.is_empty() {
            call.cmd("XACK").arg(key).arg("workers").arg(&done).ignore();
        }
        call.cmd("XREADGROUP").arg(&["GROUP", "workers", "one", "COUNT"]).arg(slots).arg(&["STREAMS", key, ">"]);
        let (fresh,): (Option<StreamReadReply>,) = call.query_async(&mut consumer).await?;
        done = fresh.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).map(|entry| entry.id).collect();
        read += done.len();
    }
    let _: () = redis::cmd("XACK").arg(key).arg("workers").arg(&done).query_async(&mut consumer).await?;
    adding.await??;
    Ok(())
}

async fn run(words: &[String]) -> Result<(), Failure> {
    let number =
        |place: usize| -> Result<usize, Failure> { Ok(words.get(place).ok_or("a number is missing")?.parse()?) };
    let [what, url, queue, ..] = words else { return Err("say what, where and on which queue".into()) };
    let redis = Redis::open(&RedisConfig::new(url.clone().into()))?;
    match what.as_str() {
        "work" => work(redis, queue, number(3)?).await,
        "add" => add(redis, queue, number(3)?).await,
        "latency" => latency(redis, queue, number(3)?).await,
        "stream" => stream(url, queue, number(3)?, number(4)?).await,
        _ => Err("it is work, add, latency or stream".into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
