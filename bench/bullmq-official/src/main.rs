//! The Rust port's side of `cargo xtask bench queue`; crates/queue/examples/bench.rs says what the words mean.

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bullmq::options::{JobOptions, QueueOptions, RedisConnectionOptions, WorkerOptions};
use bullmq::types::{BackoffStrategy, RemoveOnFinish};
use bullmq::worker::{CancellationToken, ProcessorFn};
use bullmq::{BulkJob, Job, Queue, Worker};
use serde_json::{Value, json};
use tokio::sync::mpsc;

const BULK: usize = 200;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn data() -> Value {
    json!({
        "sessionId": "01890000-0000-7000-9000-000000000001",
        "organizationId": "01890000-0000-7000-8000-000000000001",
    })
}

fn options() -> JobOptions {
    JobOptions { attempts: Some(5), backoff: Some(BackoffStrategy::Exponential(1000)), ..JobOptions::default() }
}

async fn queue(url: &str, name: &str) -> Result<Queue, Failure> {
    let connection = RedisConnectionOptions::new().url(url);
    Ok(Queue::with_options(name, QueueOptions::new().connection(connection)).await?)
}

async fn worker(url: &str, name: &str, slots: usize, processor: ProcessorFn) -> Result<Worker, Failure> {
    let options = WorkerOptions::new()
        .connection(RedisConnectionOptions::new().url(url))
        .concurrency(slots)
        .remove_on_complete(RemoveOnFinish::Count(1000))
        .remove_on_fail(RemoveOnFinish::Count(5000));
    Ok(Worker::with_options(name, processor, options).await?)
}

async fn work(url: &str, name: &str, slots: usize) -> Result<(), Failure> {
    let nothing: ProcessorFn = Arc::new(|_: Job, _: CancellationToken| Box::pin(async { Ok(Value::Null) }));
    let worker = worker(url, name, slots, nothing).await?;
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    worker.close(5000).await?;
    Ok(())
}

async fn add(url: &str, name: &str, jobs: usize) -> Result<(), Failure> {
    let queue = queue(url, name).await?;
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    let mut left = jobs;
    while left > 0 {
        let some = left.min(BULK);
        let bulk = (0..some).map(|_| BulkJob::with_options("recalculate", data(), options())).collect();
        queue.add_bulk(bulk).await?;
        left -= some;
    }
    Ok(())
}

async fn latency(url: &str, name: &str, samples: usize) -> Result<(), Failure> {
    let (ring, mut rung) = mpsc::unbounded_channel();
    let bell: ProcessorFn = Arc::new(move |_: Job, _: CancellationToken| {
        let _ = ring.send(Instant::now());
        Box::pin(async { Ok(Value::Null) })
    });
    let worker = worker(url, name, 1, bell).await?;
    let queue = queue(url, name).await?;
    let mut took_us = Vec::new();
    for sample in 0..samples + 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let begun = Instant::now();
        queue.add("recalculate", data()).options(options()).await?;
        let arrived = rung.recv().await.ok_or("the worker has ended")?;
        if sample >= 50 {
            took_us.push(arrived.saturating_duration_since(begun).as_micros());
        }
    }
    took_us.sort_unstable();
    let at = |share: f64| took_us[((took_us.len() as f64 * share) as usize).min(took_us.len() - 1)];
    println!("{} {}", at(0.5), at(0.99));
    worker.close(5000).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    // The client brings no cryptography of its own. An error would say that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, url, name, number] = words.as_slice() else { return ExitCode::from(64) };
    let Ok(number) = number.parse() else { return ExitCode::from(64) };
    let ended = match what.as_str() {
        "work" => work(url, name, number).await,
        "add" => add(url, name, number).await,
        "latency" => latency(url, name, number).await,
        _ => return ExitCode::from(64),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
