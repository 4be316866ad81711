//! Copies of jobs that failed for good, for operators: `{originalData, failedAt, reason}` on the queue that the kind
//! names.
//!
//! The failed record is the truth; copies are made from it, so a worker that dies anywhere in between loses none, and
//! a copy's id says of which failure it is, so none is made twice. Jobs that took their worker down are found here too.

use std::sync::Arc;

use chrono::DateTime;
use domain::clock::Replied;
use domain::job::{DEAD_LETTER, Payload};
use queue::{Dead, FailedJobs, NewJob, Producer, QueueError, Redis};
use serde_json::{Value, json};

use crate::jobs::Mourner;

/// Copies made in one go.
const BATCH: usize = 200;

/// Dead letters a queue holds at most: beyond that nobody reads them, and Redis has better use for its memory.
const MOST: u64 = 10_000;

/// How the queue says that a job was lost with its worker once too often.
const LOST: &str = "job stalled more than allowable limit";

/// The dead letters of one kind.
#[derive(Clone)]
pub struct DeadLetters {
    queue: &'static str,
    failed: FailedJobs,
    letters: Option<Producer>,
    mourner: Arc<dyn Mourner>,
}

impl DeadLetters {
    /// Those of one kind's jobs. Starts on the current runtime.
    #[must_use]
    pub fn of<P: Payload>(redis: &Redis, mourner: Arc<dyn Mourner>) -> Self {
        Self {
            queue: P::QUEUE,
            failed: FailedJobs::of(redis.clone(), P::QUEUE),
            letters: P::DEAD_LETTERS.map(|letters| Producer::bounded(redis.clone(), letters, MOST)),
            mourner,
        }
    }

    /// Copies every failed job that was not copied yet; answers how many.
    pub async fn collect(&self) -> Result<usize, QueueError> {
        let mut copied = 0;
        loop {
            let dead = self.failed.not_noted(BATCH).await?;
            if dead.is_empty() {
                return Ok(copied);
            }
            for dead in dead.iter().filter(|dead| dead.reason == LOST) {
                self.mourner.lost(&dead.name, &dead.data).await;
            }
            if let Some(letters) = &self.letters {
                match letters.enqueue_many(dead.iter().map(letter).collect()).await {
                    Ok(_) => {}
                    Err(QueueError::Overloaded { queue, depth }) => {
                        tracing::warn!(queue, depth, "dead letters beyond the limit are not copied");
                    }
                    Err(error) => return Err(error),
                }
            }
            self.failed.noted(&dead).await?;
            copied += dead.len();
            tracing::warn!(queue = self.queue, jobs = dead.len(), "jobs were given up");
        }
    }
}

fn letter(dead: &Dead) -> NewJob {
    let original = serde_json::from_str(&dead.data).unwrap_or_else(|_| Value::from(dead.data.as_str()));
    let failed_at = i64::try_from(dead.failed_ms).ok().and_then(DateTime::from_timestamp_millis);
    let data = json!({ "originalData": original, "failedAt": failed_at.map(Replied), "reason": dead.reason });
    NewJob { id: Some(dead.copy_id()), attempts: 1, ..NewJob::new(DEAD_LETTER, data.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_holds_what_came_and_why_it_failed() {
        let mut dead = Dead {
            id: "17".into(),
            failed_ms: 1_773_129_600_123,
            name: "recalculate".into(),
            data: r#"{"sessionId":"x"}"#.into(),
            reason: "there is no session x".into(),
        };
        let new = letter(&dead);
        assert_eq!((new.id.as_deref(), new.name.as_str()), (Some("17-1773129600123"), "dead-letter"));
        assert_eq!(
            serde_json::from_str::<Value>(&new.data).unwrap(),
            json!({
                "originalData": { "sessionId": "x" },
                "failedAt": "2026-03-10T08:00:00.123Z",
                "reason": "there is no session x",
            })
        );
        dead.data = "{".into();
        assert_eq!(serde_json::from_str::<Value>(&letter(&dead).data).unwrap()["originalData"], "{");
    }
}
