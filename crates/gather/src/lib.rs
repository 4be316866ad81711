//! Natural batching: calls that arrive while one is under way share the next one.
//!
//! There is no timer. A lone call leaves at once and pays nothing; under load each flush carries everything that
//! came meanwhile, so the cost of a round trip, a commit or a script is shared by all who waited for it anyway.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// The flush that would have answered ended without an answer: it panicked, or the process is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered;

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the batch this call was part of ended without an answer")
    }
}

impl std::error::Error for Unanswered {}

/// How large flushes get, and how many run beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Items in a flush at most.
    pub most: usize,
    /// Flushes that run at once at most.
    pub in_flight: usize,
    /// Items that are worth a flush beside a running one. With fewer, they wait for its end: two small flushes cost
    /// more than one of their size.
    pub worthwhile: usize,
}

/// A handle to one gatherer; clones share it.
pub struct Gather<T, R> {
    waiting: mpsc::UnboundedSender<Waiting<T, R>>,
}

struct Waiting<T, R> {
    item: T,
    answer: oneshot::Sender<R>,
}

impl<T, R> Clone for Gather<T, R> {
    fn clone(&self) -> Self {
        Self { waiting: self.waiting.clone() }
    }
}

impl<T: Send + 'static, R: Send + 'static> Gather<T, R> {
    /// Starts a gatherer on the current tokio runtime.
    ///
    /// `flush` gets between 1 and [`Pace::most`] items and answers them in the same order. A flush that returns too few
    /// answers leaves the rest [`Unanswered`]. The queue itself is not bounded: whoever calls is bounded by the
    /// connections it serves. It ends when the last handle is dropped and everything handed over is flushed.
    pub fn start<F, Fut>(pace: Pace, flush: F) -> Self
    where
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<R>> + Send + 'static,
    {
        let (waiting, arrivals) = mpsc::unbounded_channel();
        tokio::spawn(gather(pace, arrivals, flush));
        Self { waiting }
    }

    /// Hands `item` to the next flush and waits for its own answer.
    ///
    /// Dropping the returned future does not take the item back.
    pub async fn call(&self, item: T) -> Result<R, Unanswered> {
        let (answer, result) = oneshot::channel();
        self.waiting.send(Waiting { item, answer }).map_err(|_| Unanswered)?;
        result.await.map_err(|_| Unanswered)
    }
}

async fn gather<T, R, F, Fut>(pace: Pace, mut arrivals: mpsc::UnboundedReceiver<Waiting<T, R>>, flush: F)
where
    T: Send + 'static,
    R: Send + 'static,
    F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Vec<R>> + Send + 'static,
{
    let flush = Arc::new(flush);
    let (most, in_flight) = (pace.most.max(1), pace.in_flight.max(1));
    let mut batch: Vec<Waiting<T, R>> = Vec::new();
    let mut running = JoinSet::new();
    let mut open = true;
    while open || !batch.is_empty() {
        while running.try_join_next().is_some() {}
        let may_start =
            running.is_empty() || (running.len() < in_flight && batch.len() >= pace.worthwhile.clamp(1, most));
        if may_start && !batch.is_empty() {
            let (items, answers): (Vec<T>, Vec<oneshot::Sender<R>>) =
                batch.drain(..).map(|one| (one.item, one.answer)).unzip();
            let flush = Arc::clone(&flush);
            running.spawn(async move {
                for (answer, result) in answers.into_iter().zip(flush(items).await) {
                    // A caller that went away does not want its answer.
                    let _ = answer.send(result);
                }
            });
        }
        let room = most - batch.len();
        tokio::select! {
            got = arrivals.recv_many(&mut batch, room), if open && room > 0 => open = got > 0,
            Some(_) = running.join_next(), if !running.is_empty() => {}
            else => {}
        }
    }
    while running.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::sync::Notify;

    const fn pace(most: usize, in_flight: usize, worthwhile: usize) -> Pace {
        Pace { most, in_flight, worthwhile }
    }

    #[tokio::test]
    async fn everyone_gets_their_own_answer() {
        let double =
            Gather::start(pace(10, 2, 1), |items: Vec<u32>| async move { items.into_iter().map(|n| n * 2).collect() });
        let answers: Vec<_> = (0..100)
            .map(|n| {
                tokio::spawn({
                    let double = double.clone();
                    async move { double.call(n).await }
                })
            })
            .collect();
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap(), Ok(n as u32 * 2));
        }
    }

    #[tokio::test]
    async fn calls_that_arrive_during_a_flush_share_the_next_one() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(Notify::new());
        let gather = Gather::start(pace(8, 1, 1), {
            let (sizes, gate) = (Arc::clone(&sizes), Arc::clone(&gate));
            move |items: Vec<()>| {
                sizes.lock().unwrap().push(items.len());
                let gate = Arc::clone(&gate);
                async move {
                    gate.notified().await;
                    items
                }
            }
        });
        let first = tokio::spawn({
            let gather = gather.clone();
            async move { gather.call(()).await }
        });
        while sizes.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let later: Vec<_> = (0..10)
            .map(|_| {
                tokio::spawn({
                    let gather = gather.clone();
                    async move { gather.call(()).await }
                })
            })
            .collect();
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            gate.notify_one();
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        }
        first.await.unwrap().unwrap();
        for one in later {
            one.await.unwrap().unwrap();
        }
        assert_eq!(*sizes.lock().unwrap(), [1, 8, 2]);
    }

    #[tokio::test]
    async fn a_flush_beside_a_running_one_has_to_be_worthwhile() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(Notify::new());
        let gather = Gather::start(pace(8, 2, 3), {
            let (sizes, gate) = (Arc::clone(&sizes), Arc::clone(&gate));
            move |items: Vec<()>| {
                sizes.lock().unwrap().push(items.len());
                let gate = Arc::clone(&gate);
                async move {
                    gate.notified().await;
                    items
                }
            }
        });
        let settle = async || {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        };
        let mut calls = Vec::new();
        for expected in [&[1][..], &[1], &[1], &[1, 3], &[1, 3]] {
            let gather = gather.clone();
            calls.push(tokio::spawn(async move { gather.call(()).await }));
            settle().await;
            assert_eq!(*sizes.lock().unwrap(), expected);
        }
        gate.notify_one();
        gate.notify_one();
        settle().await;
        assert_eq!(*sizes.lock().unwrap(), [1, 3, 1], "with nothing under way, the last one need not wait");
        gate.notify_one();
        drop(gather);
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_flush_that_panics_leaves_its_callers_unanswered_and_the_next_ones_served() {
        let gather = Gather::start(pace(1, 1, 1), |items: Vec<bool>| async move {
            assert!(!items[0], "asked to panic");
            items
        });
        assert_eq!(gather.call(true).await, Err(Unanswered));
        assert_eq!(gather.call(false).await, Ok(false));
    }
}
