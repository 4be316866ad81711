//! Natural batching: calls that arrive while one is under way share the next one.
//!
//! There is no timer and no task of its own. A lone call is a flush of one, in the caller's own task, and pays nothing;
//! under load each flush carries everything that came meanwhile, so the cost of a round trip, a commit or a script is
//! shared by all who waited for it anyway.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

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
    shared: Arc<Shared<T, R>>,
}

impl<T, R> Clone for Gather<T, R> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<T, R> {
    pace: Pace,
    flush: Box<dyn Fn(Vec<T>) -> BoxFuture<'static, Vec<R>> + Send + Sync>,
    line: Mutex<Line<T, R>>,
    runtime: Handle,
}

/// Who waits for a flush, and how many are under way.
struct Line<T, R> {
    waiting: Vec<Waiting<T, R>>,
    running: usize,
}

struct Waiting<T, R> {
    item: T,
    answer: oneshot::Sender<R>,
}

impl<T: Send + 'static, R: Send + 'static> Gather<T, R> {
    /// Makes a gatherer. Flushes of what had to wait run on the current tokio runtime.
    ///
    /// `flush` gets between 1 and [`Pace::most`] items and answers them in the same order. A flush that returns too few
    /// answers leaves the rest [`Unanswered`]. The line itself is not bounded: whoever calls is bounded by the
    /// connections it serves.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start<F, Fut>(pace: Pace, flush: F) -> Self
    where
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<R>> + Send + 'static,
    {
        let most = pace.most.max(1);
        let pace = Pace { most, in_flight: pace.in_flight.max(1), worthwhile: pace.worthwhile.clamp(1, most) };
        Self {
            shared: Arc::new(Shared {
                pace,
                flush: Box::new(move |items| flush(items).boxed()),
                line: Mutex::new(Line { waiting: Vec::new(), running: 0 }),
                runtime: Handle::current(),
            }),
        }
    }

    /// Flushes `item`, with others if it has to wait, and answers what became of it.
    ///
    /// Dropping the returned future once it was polled does not take the item back.
    pub async fn call(&self, item: T) -> Result<R, Unanswered> {
        let (item, flight) = match self.shared.admit(item) {
            Admitted::Alone(item, flight) => (item, flight),
            Admitted::Waits(result) => return result.await.map_err(|_| Unanswered),
        };
        let run = async move { flight.flush(vec![item]).await.pop() }.boxed();
        ToItsEnd { run: Some(run), runtime: self.shared.runtime.clone() }.await.ok_or(Unanswered)
    }
}

/// How an item goes on.
enum Admitted<T: Send + 'static, R: Send + 'static> {
    /// At once, in a flush of its own.
    Alone(T, Flight<T, R>),
    /// With others; its answer comes here.
    Waits(oneshot::Receiver<R>),
}

impl<T, R> Line<T, R> {
    /// Whether so many items may leave now.
    fn may_start(&self, items: usize, pace: Pace) -> bool {
        items > 0 && (self.running == 0 || (self.running < pace.in_flight && items >= pace.worthwhile))
    }
}

impl<T: Send + 'static, R: Send + 'static> Shared<T, R> {
    fn line(&self) -> MutexGuard<'_, Line<T, R>> {
        // Nothing that could panic is done under the lock.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, item: T) -> Admitted<T, R> {
        let mut line = self.line();
        if line.waiting.is_empty() && line.may_start(1, self.pace) {
            line.running += 1;
            return Admitted::Alone(item, Flight(Arc::clone(self)));
        }
        let (answer, result) = oneshot::channel();
        line.waiting.push(Waiting { item, answer });
        self.set_off(line);
        Admitted::Waits(result)
    }

    /// Sets off with those who wait, as far as the pace allows.
    fn set_off(self: &Arc<Self>, mut line: MutexGuard<'_, Line<T, R>>) {
        let mut flights = Vec::new();
        while line.may_start(line.waiting.len(), self.pace) {
            line.running += 1;
            let some = line.waiting.len().min(self.pace.most);
            let (items, answers): (Vec<T>, Vec<oneshot::Sender<R>>) =
                line.waiting.drain(..some).map(|one| (one.item, one.answer)).unzip();
            flights.push((items, answers));
        }
        drop(line);
        for (items, answers) in flights {
            let flight = Flight(Arc::clone(self));
            self.runtime.spawn(async move {
                for (answer, result) in answers.into_iter().zip(flight.flush(items).await) {
                    // A caller that went away does not want its answer.
                    let _ = answer.send(result);
                }
            });
        }
    }
}

/// A flush under way. When it is over, or given up, those who wait may set off.
struct Flight<T: Send + 'static, R: Send + 'static>(Arc<Shared<T, R>>);

impl<T: Send + 'static, R: Send + 'static> Flight<T, R> {
    /// The answers; none when it panics.
    async fn flush(self, items: Vec<T>) -> Vec<R> {
        AssertUnwindSafe(async { (self.0.flush)(items).await }).catch_unwind().await.unwrap_or_default()
    }
}

impl<T: Send + 'static, R: Send + 'static> Drop for Flight<T, R> {
    fn drop(&mut self) {
        let mut line = self.0.line();
        line.running -= 1;
        self.0.set_off(line);
    }
}

/// A flush in its caller's task; it goes on without the caller if that goes away.
struct ToItsEnd<R: Send + 'static> {
    run: Option<BoxFuture<'static, Option<R>>>,
    runtime: Handle,
}

impl<R: Send + 'static> Future for ToItsEnd<R> {
    type Output = Option<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(run) = &mut self.run else { return Poll::Ready(None) };
        let answer = std::task::ready!(run.poll_unpin(context));
        self.run = None;
        Poll::Ready(answer)
    }
}

impl<R: Send + 'static> Drop for ToItsEnd<R> {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            self.runtime.spawn(run);
        }
    }
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
    async fn a_lone_call_is_flushed_where_it_is_made() {
        let task = || async { tokio::task::try_id() };
        let gather = Gather::start(pace(8, 1, 1), move |_: Vec<()>| async move { vec![task().await] });
        let (flushed, called) = tokio::spawn(async move { (gather.call(()).await, task().await) }).await.unwrap();
        assert_eq!(flushed, Ok(called));
        assert!(called.is_some());
    }

    #[tokio::test]
    async fn a_lone_flush_goes_on_without_its_caller_and_those_who_wait_for_it_are_served() {
        let flushed = Arc::new(Mutex::new(Vec::<u32>::new()));
        let gate = Arc::new(Notify::new());
        let gather = Gather::start(pace(8, 1, 1), {
            let (flushed, gate) = (Arc::clone(&flushed), Arc::clone(&gate));
            move |items: Vec<u32>| {
                let (flushed, gate) = (Arc::clone(&flushed), Arc::clone(&gate));
                async move {
                    gate.notified().await;
                    flushed.lock().unwrap().extend(&items);
                    items
                }
            }
        });
        let mut gone = Box::pin(gather.call(1));
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        let next = tokio::spawn(async move { gather.call(2).await });
        gate.notify_one();
        while flushed.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        assert_eq!(next.await.unwrap(), Ok(2));
        assert_eq!(*flushed.lock().unwrap(), [1, 2]);
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
