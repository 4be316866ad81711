//! `cargo xtask bench`: figures as ratios against a baseline in the same run, never as promises.

mod ingest;
mod live;
mod queue;
mod reads;

use std::{fs, process::ExitCode};

use clap::Subcommand;

use crate::{
    failure::{Context, Failure, Outcome},
    workspace,
};

/// Which benchmark.
#[derive(Subcommand, Clone, Debug)]
pub enum Bench {
    /// Ingestion over HTTP against what the database itself can take
    Ingest(ingest::Options),
    /// Thousands of open streams, and how soon they hear
    Live(live::Options),
    /// The job queue against BullMQ, its Rust port, and a bare stream
    Queue(queue::Options),
    /// Dashboards, rankings and lists of an organization with years of history
    Reads(reads::Options),
}

/// Runs a benchmark.
pub async fn run(bench: Bench) -> Outcome<ExitCode> {
    match bench {
        Bench::Ingest(options) => ingest::run(&options).await,
        Bench::Live(options) => live::run(&options).await,
        Bench::Queue(options) => queue::run(&options),
        Bench::Reads(options) => reads::run(&options).await,
    }
}

/// Puts a benchmark's table into its place in docs/benchmarks.md.
pub fn write(name: &str, text: &str) -> Outcome {
    let (begin, end) = (format!("<!-- bench:{name} -->"), format!("<!-- /bench:{name} -->"));
    let path = workspace::root().join("docs/benchmarks.md");
    let page = fs::read_to_string(&path).context("cannot read docs/benchmarks.md")?;
    let no_place = || Failure::new(format!("docs/benchmarks.md has no place for {name}"));
    let (head, rest) = page.split_once(&begin).ok_or_else(no_place)?;
    let (_, tail) = rest.split_once(&end).ok_or_else(no_place)?;
    fs::write(&path, format!("{head}{begin}\n{text}\n{end}{tail}")).context("cannot write docs/benchmarks.md")
}
