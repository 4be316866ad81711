//! Jobs: taken once, ended once, never lost.

use std::sync::atomic::Ordering;
use std::time::Duration;

use queue::{Enqueued, JobError, NewJob, Producer, QueueError, RunnerOptions};
use serde_json::json;
use testkit::redis::{Memory, RedisServer};

use crate::support::{Script, TestQueue, eventually, hasty};

fn slots(concurrency: usize) -> RunnerOptions {
    RunnerOptions { concurrency, ..RunnerOptions::default() }
}

async fn added(queue: &TestQueue, job: NewJob) -> String {
    match queue.producer.enqueue(job).await.unwrap() {
        Enqueued::Added(id) => id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_once_and_leaves_its_record() {
    let queue = TestQueue::start().await;
    let script = Script::of(|job, _| Ok(json!({ "saw": job.data, "carrier": job.carrier })));
    let mut job = TestQueue::job(7);
    job.carrier = Some(r#"{"traceparent":"00-x"}"#.into());
    let id = added(&queue, job).await;
    let worker = queue.worker(&script, slots(1));
    eventually("it is done", async || queue.admin.counts().await.unwrap().completed == 1).await;
    assert_eq!(script.runs_of(&id), 1);
    let record = queue.call(&["HGETALL", &TestQueue::key(&id)]);
    for part in ["returnvalue", "finishedOn", "processedOn", "number", "traceparent"] {
        assert!(record.contains(part), "{part} in {record}");
    }
    let events = queue.call(&["XRANGE", &TestQueue::key("events"), "-", "+"]);
    let seen: Vec<&str> =
        events.lines().collect::<Vec<_>>().windows(2).filter(|pair| pair[0] == "event").map(|pair| pair[1]).collect();
    assert_eq!(seen, ["added", "waiting", "active", "completed", "drained"]);
    worker.stop().await;
    queue.assert_settled(1, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_runs_to_its_end_and_never_more_at_once_than_there_are_slots() {
    let queue = TestQueue::start().await;
    let script = Script::easy();
    let workers = [queue.worker(&script, slots(10)), queue.worker(&script, slots(10))];
    let jobs = (0..5000).map(TestQueue::job).collect();
    assert_eq!(queue.producer.enqueue_many(jobs).await.unwrap().len(), 5000);
    eventually("all have run", async || script.total() >= 5000).await;
    eventually("nothing is in hand", async || queue.admin.counts().await.unwrap().active == 0).await;
    assert_eq!(script.total(), 5000, "none ran twice");
    assert!(script.most_at_once.load(Ordering::SeqCst) <= 20);
    for worker in workers {
        worker.stop().await;
    }
    // The newest thousand are kept, exactly.
    queue.assert_settled(1000, 0).await;
    assert_eq!(
        queue.call(&["EVAL", "return #redis.call('KEYS', ARGV[1])", "0", &TestQueue::key("[0-9]*")]).trim(),
        "1000"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_in_the_order_they_came_and_then_by_priority() {
    let queue = TestQueue::start().await;
    let mut ids = Vec::new();
    for (number, priority) in [(1, 0), (2, 5), (3, 2), (4, 0), (5, 2)] {
        let mut job = TestQueue::job(number);
        job.priority = priority;
        ids.push(added(&queue, job).await);
    }
    let script = Script::easy();
    let worker = queue.worker(&script, slots(1));
    eventually("all have run", async || script.total() == 5).await;
    let expected: Vec<String> = [0, 3, 2, 4, 1].map(|place: usize| ids[place].clone()).into();
    assert_eq!(*script.order.lock().unwrap(), expected);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_tried_again_and_given_up_in_the_end() {
    let queue = TestQueue::start().await;
    let script = Script::of(|job, before| match job.data.as_str() {
        data if data.contains("\"number\":1") && before >= 2 => Ok(json!("at last")),
        data if data.contains("\"number\":3") => Err(JobError::GiveUp("makes no sense".into())),
        _ => Err(JobError::Retry("not yet".into())),
    });
    let mut ids = Vec::new();
    for number in 1..=3 {
        let mut job = TestQueue::job(number);
        job.attempts = 3;
        job.backoff = Duration::from_millis(20);
        ids.push(added(&queue, job).await);
    }
    let worker = queue.worker(&script, slots(3));
    eventually("all have ended", async || {
        let counts = queue.admin.counts().await.unwrap();
        (counts.completed, counts.failed) == (1, 2)
    })
    .await;
    assert_eq!([0, 1, 2].map(|place: usize| script.runs_of(&ids[place])), [3, 3, 1]);
    let reason = |place: usize| queue.call(&["HGET", &TestQueue::key(&ids[place]), "failedReason"]);
    assert!(reason(1).contains("not yet") && reason(2).contains("makes no sense"));
    let events = queue.call(&["XRANGE", &TestQueue::key("events"), "-", "+"]);
    assert_eq!(events.matches("retries-exhausted").count(), 1, "given up at once is not exhausted: {events}");
    worker.stop().await;
    queue.assert_settled(1, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_a_failure_with_a_reason_and_harms_nobody() {
    let queue = TestQueue::start().await;
    let script =
        Script::of(|job, _| if job.data.contains("\"number\":1") { panic!("on purpose") } else { Ok(json!(1)) });
    let mut bad = TestQueue::job(1);
    bad.attempts = 1;
    let bad = added(&queue, bad).await;
    let worker = queue.worker(&script, slots(1));
    added(&queue, TestQueue::job(2)).await;
    eventually("both have ended", async || {
        let counts = queue.admin.counts().await.unwrap();
        (counts.completed, counts.failed) == (1, 1)
    })
    .await;
    assert!(queue.call(&["HGET", &TestQueue::key(&bad), "failedReason"]).contains("the handler panicked: on purpose"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_job_runs_when_it_is_due_and_not_before() {
    let queue = TestQueue::start().await;
    let script = Script::easy();
    let worker = queue.worker(&script, slots(1));
    let mut job = TestQueue::job(1);
    job.delay = Duration::from_millis(700);
    let asked = std::time::Instant::now();
    added(&queue, job).await;
    assert_eq!(queue.admin.counts().await.unwrap().delayed, 1);
    eventually("it has run", async || script.total() == 1).await;
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(700) && took < Duration::from_millis(2700), "{took:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_for_the_same_thing_collapse_and_the_last_one_runs_after_the_present() {
    let queue = TestQueue::start().await;
    let script = Script::gated();
    let same = |number| {
        let mut job = TestQueue::job(number);
        job.deduplicate("session-1".into());
        job
    };
    let first = added(&queue, same(1)).await;
    assert_eq!(queue.producer.enqueue(same(2)).await.unwrap(), Enqueued::Deduplicated(first.clone()));
    let worker = queue.worker(&script, slots(2));
    eventually("the first runs", async || script.runs_of(&first) == 1).await;
    // While it runs, two more are asked for: one run must follow, with what the last one said.
    for number in [3, 4] {
        assert_eq!(queue.producer.enqueue(same(number)).await.unwrap(), Enqueued::Deduplicated(first.clone()));
    }
    script.gate.add_permits(10);
    eventually("the second has run", async || script.total() == 2).await;
    eventually("both are done", async || queue.admin.counts().await.unwrap().completed == 2).await;
    let second = script.order.lock().unwrap()[1].clone();
    assert!(queue.call(&["HGET", &TestQueue::key(&second), "data"]).contains('4'));
    // Nothing is claimed any more: the next one is simply added.
    added(&queue, same(5)).await;
    eventually("the third has run", async || script.total() == 3).await;
    worker.stop().await;
    queue.assert_settled(3, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_job_gives_its_claim_back() {
    let queue = TestQueue::start().await;
    let same = || {
        let mut job = TestQueue::job(1);
        job.deduplicate("session-1".into());
        job
    };
    let first = added(&queue, same()).await;
    queue.call(&["DEL", &TestQueue::key(&first)]);
    queue.call(&["DEL", &TestQueue::key("wait")]);
    assert_ne!(added(&queue, same()).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_id_that_exists_in_any_state_wins() {
    let queue = TestQueue::start().await;
    let named = || NewJob { id: Some("mine".into()), ..TestQueue::job(1) };
    assert_eq!(queue.producer.enqueue(named()).await.unwrap(), Enqueued::Added("mine".into()));
    assert_eq!(queue.producer.enqueue(named()).await.unwrap(), Enqueued::Duplicate("mine".into()));
    let worker = queue.worker(&Script::easy(), slots(1));
    eventually("it is done", async || queue.admin.counts().await.unwrap().completed == 1).await;
    assert_eq!(queue.producer.enqueue(named()).await.unwrap(), Enqueued::Duplicate("mine".into()));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_more_but_not_what_it_holds_already() {
    let queue = TestQueue::start().await;
    let bounded = Producer::bounded(queue.redis.clone(), "tests", 2);
    let mut same = TestQueue::job(1);
    same.deduplicate("session-1".into());
    bounded.enqueue(same.clone()).await.unwrap();
    bounded.enqueue(TestQueue::job(2)).await.unwrap();
    assert!(matches!(bounded.enqueue(TestQueue::job(3)).await, Err(QueueError::Overloaded { depth: 2, .. })));
    assert!(matches!(bounded.enqueue(same).await, Ok(Enqueued::Deduplicated(_))));
    assert_eq!(queue.admin.counts().await.unwrap().waiting, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_while_paused_and_all_of_it_soon_after() {
    let queue = TestQueue::start().await;
    let script = Script::easy();
    let worker = queue.worker(&script, slots(2));
    queue.admin.pause().await.unwrap();
    for number in 0..5 {
        added(&queue, TestQueue::job(number)).await;
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(script.total(), 0);
    assert!(queue.admin.counts().await.unwrap().paused);
    queue.admin.resume().await.unwrap();
    eventually("all have run", async || script.total() == 5).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_worker_that_was_killed_run_again_on_another() {
    let queue = TestQueue::start().await;
    let stuck = Script::gated();
    let victim = queue.worker(&stuck, hasty(3));
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(added(&queue, TestQueue::job(number)).await);
    }
    eventually("all run", async || stuck.running.load(Ordering::SeqCst) == 3).await;
    victim.kill();
    let script = Script::easy();
    let worker = queue.worker(&script, hasty(3));
    eventually("all have run again", async || queue.admin.counts().await.unwrap().completed == 3).await;
    for id in &ids {
        assert_eq!(script.runs_of(id), 1);
        assert_eq!(queue.call(&["HGET", &TestQueue::key(id), "stc"]).trim(), "1");
        assert_eq!(queue.call(&["HGET", &TestQueue::key(id), "atm"]).trim(), "1");
    }
    worker.stop().await;
    queue.assert_settled(3, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_taken_together_share_a_lease_and_come_back_together() {
    let queue = TestQueue::start().await;
    let jobs = (0..5).map(TestQueue::job).collect();
    queue.producer.enqueue_many(jobs).await.unwrap();
    let stuck = Script::gated();
    let victim = queue.worker(&stuck, hasty(5));
    eventually("all run", async || stuck.running.load(Ordering::SeqCst) == 5).await;
    let lease = queue.call(&["HGET", &TestQueue::key("1"), "tk"]);
    for id in ["2", "3", "4", "5"] {
        assert_eq!(queue.call(&["HGET", &TestQueue::key(id), "tk"]), lease);
    }
    assert!(queue.call(&["XPENDING", &TestQueue::key("x:stream"), "workers"]).starts_with("1\n"));
    // Three end; the lease stays for the other two.
    stuck.gate.add_permits(3);
    eventually("three are done", async || queue.admin.counts().await.unwrap().completed == 3).await;
    assert!(queue.call(&["XPENDING", &TestQueue::key("x:stream"), "workers"]).starts_with("1\n"));
    victim.kill();
    let script = Script::easy();
    let worker = queue.worker(&script, hasty(1));
    eventually("the others have run again", async || queue.admin.counts().await.unwrap().completed == 5).await;
    assert_eq!(script.total(), 2);
    queue.assert_settled(5, 0).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_of_a_producer_brings_every_idle_worker() {
    let queue = TestQueue::start().await;
    let stuck = Script::gated();
    let workers: Vec<_> = (0..4).map(|_| queue.worker(&stuck, RunnerOptions::default())).collect();
    eventually("all wait", async || queue.admin.workers().await.unwrap() == 4).await;
    let jobs = (0..9).map(TestQueue::job).collect();
    queue.producer.enqueue_many(jobs).await.unwrap();
    // A worker has one slot, so four jobs run only when each worker was called.
    eventually("four run at once", async || stuck.running.load(Ordering::SeqCst) == 4).await;
    stuck.gate.add_permits(9);
    eventually("all are done", async || queue.admin.counts().await.unwrap().completed == 9).await;
    for worker in workers {
        worker.stop().await;
    }
    queue.assert_settled(9, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_every_worker_is_given_up() {
    let queue = TestQueue::start().await;
    let id = added(&queue, TestQueue::job(1)).await;
    for round in 0..2 {
        let stuck = Script::gated();
        let victim = queue.worker(&stuck, hasty(1));
        eventually("it runs", async || stuck.runs_of(&id) == 1).await;
        victim.kill();
        assert!(round < 2);
    }
    let script = Script::easy();
    let worker = queue.worker(&script, hasty(1));
    eventually("it is given up", async || queue.admin.counts().await.unwrap().failed == 1).await;
    assert!(queue.call(&["HGET", &TestQueue::key(&id), "failedReason"]).contains("stalled more than allowable"));
    assert_eq!(script.total(), 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_longer_than_its_lease_stays_with_its_worker() {
    let queue = TestQueue::start().await;
    let script = Script::gated();
    let workers = [queue.worker(&script, hasty(1)), queue.worker(&script, hasty(1))];
    let id = added(&queue, TestQueue::job(1)).await;
    eventually("it runs", async || script.runs_of(&id) == 1).await;
    tokio::time::sleep(Duration::from_millis(2000)).await;
    script.gate.add_permits(1);
    eventually("it is done", async || queue.admin.counts().await.unwrap().completed == 1).await;
    assert_eq!(script.total(), 1);
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_after_the_lease_has_no_effect() {
    let queue = TestQueue::start().await;
    let late = Script::gated();
    // Its signs of life never arrive: somebody took the lease away.
    let slow = queue.worker(&late, RunnerOptions { concurrency: 1, ..RunnerOptions::default() });
    let id = added(&queue, TestQueue::job(1)).await;
    eventually("it runs", async || late.runs_of(&id) == 1).await;
    queue.call(&["DEL", &TestQueue::key(&format!("{id}:lock"))]);
    queue.call(&["DEL", &TestQueue::key("stalled-check")]);
    let script = Script::gated();
    let other = queue.worker(&script, slots(1));
    eventually("another has it", async || script.runs_of(&id) == 1).await;
    late.gate.add_permits(1);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let counts = queue.admin.counts().await.unwrap();
    assert_eq!((counts.active, counts.completed), (1, 0), "the late result changed something");
    script.gate.add_permits(1);
    eventually("it is done", async || queue.admin.counts().await.unwrap().completed == 1).await;
    slow.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_stop_finishes_what_it_can_and_gives_back_the_rest() {
    let queue = TestQueue::start().await;
    let script = Script::gated();
    let options =
        RunnerOptions { concurrency: 2, drain_timeout: Duration::from_millis(500), ..RunnerOptions::default() };
    let worker = queue.worker(&script, options);
    for number in 0..4 {
        added(&queue, TestQueue::job(number)).await;
    }
    eventually("two run", async || script.running.load(Ordering::SeqCst) == 2).await;
    script.gate.add_permits(1);
    eventually("one is done", async || queue.admin.counts().await.unwrap().completed == 1).await;
    eventually("two run", async || script.running.load(Ordering::SeqCst) == 2).await;
    worker.stop().await;
    let counts = queue.admin.counts().await.unwrap();
    assert_eq!((counts.waiting, counts.active, counts.completed), (3, 0, 1));
    // Given back is no attempt and no stall, and whoever comes next has it at once.
    script.gate.add_permits(100);
    let next = queue.worker(&script, slots(1));
    eventually("all are done", async || queue.admin.counts().await.unwrap().completed == 4).await;
    next.stop().await;
    let consumers = queue.call(&["XINFO", "CONSUMERS", &TestQueue::key("x:stream"), "workers"]);
    assert!(!consumers.contains("worker-"), "{consumers}");
    queue.assert_settled(4, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_come_to_a_worker_while_it_is_told_to_stop_are_run_or_given_back() {
    const ROUNDS: usize = 40;
    let queue = TestQueue::start().await;
    let script = Script::easy();
    for number in 0..ROUNDS {
        let worker = queue.worker(&script, slots(2));
        eventually("the worker waits", async || queue.call(&["CLIENT", "LIST"]).contains("cmd=xreadgroup")).await;
        let (id, ()) = tokio::join!(added(&queue, TestQueue::job(number)), worker.stop());
        let state = queue.call(&["HMGET", &TestQueue::key(&id), "tk", "finishedOn"]);
        let counts = queue.admin.counts().await.unwrap();
        assert_eq!(counts.active, 0, "round {number}: {state}");
    }
    let worker = queue.worker(&script, slots(2));
    eventually("all are done", async || queue.admin.counts().await.unwrap().completed == ROUNDS as u64).await;
    worker.stop().await;
    assert_eq!(script.total(), ROUNDS, "none ran twice");
    queue.assert_settled(ROUNDS as u64, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_worker_whose_script_was_forgotten_gets_its_jobs_all_the_same() {
    let queue = TestQueue::start().await;
    let script = Script::easy();
    let worker = queue.worker(&script, slots(1));
    for number in 0..5 {
        eventually("the worker waits", async || queue.call(&["CLIENT", "LIST"]).contains("cmd=xreadgroup")).await;
        queue.call(&["SCRIPT", "FLUSH"]);
        added(&queue, TestQueue::job(number)).await;
        eventually("it has run", async || script.total() == number + 1).await;
    }
    worker.stop().await;
    queue.assert_settled(5, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_under_a_global_limit_is_used_when_it_is_made() {
    // One at a time; with a tick of either worker for each they would take a minute.
    const JOBS: usize = 200;
    let queue = TestQueue::start().await;
    queue.call(&["HSET", &TestQueue::key("meta"), "concurrency", "1"]);
    // Long enough for a worker to find nothing more to do meanwhile.
    let script = Script::lasting(Duration::from_millis(20));
    let workers = [queue.worker(&script, slots(4)), queue.worker(&script, slots(4))];
    eventually("both wait", async || queue.admin.workers().await.unwrap() == 2).await;
    queue.producer.enqueue_many((0..JOBS).map(TestQueue::job).collect()).await.unwrap();
    eventually("all are done", async || queue.admin.counts().await.unwrap().completed == JOBS as u64).await;
    assert_eq!(script.most_at_once.load(Ordering::SeqCst), 1);
    for worker in workers {
        worker.stop().await;
    }
    queue.assert_settled(JOBS as u64, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_holds_back_what_starts_and_not_what_ends() {
    let queue = TestQueue::start().await;
    queue.call(&["HSET", &TestQueue::key("meta"), "max", "2", "duration", "60000"]);
    let script = Script::gated();
    let worker = queue.worker(&script, slots(2));
    for number in 0..3 {
        added(&queue, TestQueue::job(number)).await;
    }
    eventually("two run", async || script.running.load(Ordering::SeqCst) == 2).await;
    script.gate.add_permits(1);
    eventually("one is done", async || queue.admin.counts().await.unwrap().completed == 1).await;
    // Now it has been told to wait for a minute.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    script.gate.add_permits(1);
    eventually("the other is done", async || queue.admin.counts().await.unwrap().completed == 2).await;
    assert_eq!(queue.admin.counts().await.unwrap().waiting, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_whose_slots_are_all_taken_sleeps_while_others_wait() {
    let queue = TestQueue::start().await;
    let script = Script::gated();
    let worker = queue.worker(&script, slots(1));
    queue.producer.enqueue_many((0..3).map(TestQueue::job).collect()).await.unwrap();
    eventually("one runs", async || script.running.load(Ordering::SeqCst) == 1).await;
    let busy = || tokio::runtime::Handle::current().metrics().worker_total_busy_duration(0);
    let before = busy();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(busy() - before < Duration::from_secs(1), "busy for {:?} of 2 s", busy() - before);
    script.gate.add_permits(3);
    eventually("all are done", async || queue.admin.counts().await.unwrap().completed == 3).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_were_added_without_tickets_run_too() {
    let queue = TestQueue::start().await;
    let script = Script::easy();
    let worker = queue.worker(&script, slots(2));
    eventually("the worker listens", async || queue.admin.workers().await.unwrap() == 1).await;
    // As BullMQ's own client does it: hash, list, doorbell.
    for id in ["a", "b"] {
        queue.call(&["HSET", &TestQueue::key(id), "name", "work", "data", "{}", "opts", "{}", "timestamp", "1"]);
        queue.call(&["LPUSH", &TestQueue::key("wait"), id]);
    }
    queue.call(&["ZADD", &TestQueue::key("marker"), "0", "0"]);
    eventually("both have run", async || script.runs_of("a") == 1 && script.runs_of("b") == 1).await;
    // Ids without a job, and tickets without a job, do no harm.
    queue.call(&["LPUSH", &TestQueue::key("wait"), "ghost"]);
    queue.call(&["XADD", &TestQueue::key("x:stream"), "*", "jobId", "ghost"]);
    added(&queue, TestQueue::job(3)).await;
    eventually("the third has run", async || script.total() == 3).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_and_rate_that_bullmqs_tools_set_are_obeyed_by_all_workers() {
    let queue = TestQueue::start().await;
    let script = Script::gated();
    queue.call(&["HSET", &TestQueue::key("meta"), "concurrency", "2"]);
    let workers = [queue.worker(&script, slots(5)), queue.worker(&script, slots(5))];
    for number in 0..6 {
        added(&queue, TestQueue::job(number)).await;
    }
    eventually("two run", async || script.running.load(Ordering::SeqCst) == 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(script.running.load(Ordering::SeqCst), 2);
    script.gate.add_permits(100);
    eventually("all have run", async || script.total() == 6).await;
    assert_eq!(script.most_at_once.load(Ordering::SeqCst), 2);
    eventually("all are done", async || queue.admin.counts().await.unwrap().completed == 6).await;
    queue.call(&["HDEL", &TestQueue::key("meta"), "concurrency"]);
    queue.call(&["HSET", &TestQueue::key("meta"), "max", "2", "duration", "400"]);
    let begun = std::time::Instant::now();
    for number in 0..6 {
        added(&queue, TestQueue::job(number)).await;
    }
    eventually("all have run", async || script.total() == 12).await;
    assert!(begun.elapsed() >= Duration::from_millis(800), "{:?}", begun.elapsed());
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_survives_redis_going_and_coming_back_empty() {
    let mut queue = TestQueue::start().await;
    let script = Script::easy();
    let worker = queue.worker(&script, slots(2));
    added(&queue, TestQueue::job(1)).await;
    eventually("it has run", async || script.total() == 1).await;
    for _ in 0..2 {
        queue.server.kill();
        let before = script.total();
        assert!(matches!(queue.producer.enqueue(TestQueue::job(2)).await, Err(QueueError::Unavailable(_))));
        queue.server.start_again(Memory::Lost).unwrap();
        eventually("a job can be asked for again", async || queue.producer.enqueue(TestQueue::job(3)).await.is_ok())
            .await;
        eventually("it has run", async || script.total() > before).await;
    }
    // The stream alone is deleted, as somebody tidying up might do.
    queue.call(&["DEL", &TestQueue::key("x:stream")]);
    let before = script.total();
    added(&queue, TestQueue::job(4)).await;
    eventually("it has run", async || script.total() > before).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_records_and_a_replica_the_events_too() {
    let mut queue = TestQueue::on(RedisServer::persistent().unwrap());
    let replica = RedisServer::start().unwrap();
    // Or it waits five seconds for further replicas.
    queue.call(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    replica.call(&["REPLICAOF", "127.0.0.1", &queue.server.port().to_string()]).unwrap();
    eventually("the replica follows", async || {
        replica.call(&["INFO", "replication"]).unwrap().to_string().contains("master_link_status:up")
    })
    .await;
    let script = Script::of(|job, _| match job.data.contains("21") {
        true => Err(JobError::GiveUp("it is the last".into())),
        false => Ok(json!(null)),
    });
    queue.producer.enqueue_many((1..=21).map(TestQueue::job).collect()).await.unwrap();
    queue.call(&["HSET", &TestQueue::key("20"), "opts", r#"{"removeOnComplete":true}"#]);
    let worker = queue.worker(&script, slots(5));
    eventually("all are done", async || queue.admin.counts().await.unwrap().completed == 19).await;
    eventually("the last has failed", async || queue.admin.counts().await.unwrap().failed == 1).await;
    let told = |events: &str, what: &str| events.lines().filter(|line| *line == what).count();
    let events = queue.call(&["XRANGE", &TestQueue::key("events"), "-", "+"]);
    assert_eq!((told(&events, "completed"), told(&events, "failed")), (20, 1), "{events}");
    eventually("the replica has heard everything", async || {
        replica.call(&["XRANGE", &TestQueue::key("events"), "-", "+"]).unwrap().to_string() == events
    })
    .await;
    let records = |queue: &TestQueue| -> Vec<String> {
        (1..=21).map(|id| queue.call(&["HGETALL", &TestQueue::key(&id.to_string())])).collect()
    };
    let before = records(&queue);

    queue.server.kill();
    queue.server.start_again(Memory::Kept).unwrap();
    assert_eq!(records(&queue), before, "what became of the jobs is known");
    // Only what no record tells, and failures, are in the file.
    let kept = queue.call(&["XRANGE", &TestQueue::key("events"), "-", "+"]);
    assert_eq!((told(&kept, "completed"), told(&kept, "failed"), told(&kept, "added")), (1, 1, 0), "{kept}");
    // Who listened before hears what comes next: entries go on after the last one it has.
    let last = events.lines().rfind(|line| line.contains('-') && line.starts_with('1')).unwrap();
    eventually("the queue works again", async || queue.producer.enqueue(TestQueue::job(22)).await.is_ok()).await;
    eventually("it is heard", async || {
        queue.call(&["XRANGE", &TestQueue::key("events"), &format!("({last}"), "+"]).contains("completed")
    })
    .await;
    worker.stop().await;
    queue.assert_settled(20, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_colours_read_the_same_queue() {
    let queue = TestQueue::start().await;
    let script = Script::easy();
    let blue = queue.worker(&script, slots(2));
    let green = queue.worker(&script, slots(2));
    eventually("both listen", async || queue.admin.workers().await.unwrap() == 2).await;
    let jobs: Vec<_> = (0..200).map(TestQueue::job).collect();
    queue.producer.enqueue_many(jobs).await.unwrap();
    blue.stop().await;
    eventually("all have run", async || script.total() >= 200).await;
    eventually("all are done", async || queue.admin.counts().await.unwrap().completed == 200).await;
    green.stop().await;
    queue.assert_settled(200, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_organization_delays_the_others_by_little() {
    let queue = TestQueue::start().await;
    let (loud, quiet) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    let of = |organization, number| NewJob { organization: Some(organization), ..TestQueue::job(number) };
    queue.producer.enqueue_many((0..500).map(|number| of(loud, number)).collect()).await.unwrap();
    let theirs = queue.producer.enqueue_many((0..10).map(|number| of(quiet, number)).collect()).await.unwrap();
    let theirs: Vec<String> = theirs
        .into_iter()
        .map(|job| match job {
            Enqueued::Added(id) => id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(queue.admin.oldest_age_ms().await.unwrap() < 30_000);

    let script = Script::easy();
    let worker = queue.worker(&script, slots(1));
    eventually("all have run", async || script.total() >= 510).await;
    let order = script.order.lock().unwrap().clone();
    let last = order.iter().rposition(|id| theirs.contains(id)).unwrap();
    assert!(last < 16 + 10, "the last job of the quiet one was number {last} of 510");
    eventually("all are done", async || queue.admin.counts().await.unwrap().completed == 510).await;
    assert_eq!(queue.call(&["EXISTS", &TestQueue::key("x:share")]), "0", "nobody owes anything");

    // Their share is free again, also after failures and for the last one of those that came meanwhile.
    let again = queue.producer.enqueue_many((0..16).map(|number| of(loud, number)).collect()).await.unwrap();
    assert_eq!(again.len(), 16);
    eventually("all are done", async || queue.admin.counts().await.unwrap().completed == 526).await;
    assert_eq!(queue.call(&["EXISTS", &TestQueue::key("x:share")]), "0");
    worker.stop().await;
    queue.assert_settled(526, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_counted_and_timed_also_when_it_is_not_kept() {
    let queue = TestQueue::start().await;
    assert_eq!((queue.admin.done().await.unwrap(), queue.admin.last_done(10).await.unwrap()), (0, Vec::new()));
    let script =
        Script::of(
            |job, _| if job.data.contains("13") { Err(JobError::GiveUp("unlucky".into())) } else { Ok(json!(1)) },
        );
    let worker = queue.worker(&script, RunnerOptions { keep_completed: 5, ..slots(4) });
    queue.producer.enqueue_many((0..20).map(TestQueue::job).collect()).await.unwrap();
    eventually("all are done", async || queue.admin.done().await.unwrap() == 19).await;
    assert_eq!(queue.call(&["HGET", &TestQueue::key("metrics:failed"), "count"]), "1");
    let last = queue.admin.last_done(100).await.unwrap();
    assert_eq!(last.len(), 5);
    assert!(last.is_sorted_by_key(|done| std::cmp::Reverse(done.at_ms)));
    assert!(last.iter().all(|done| done.took_ms < 10_000), "{last:?}");
    assert_eq!(queue.admin.last_done(2).await.unwrap(), last[..2]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_removed_unless_they_run_or_were_repeated() {
    let queue = TestQueue::start().await;
    let (first, second) = (added(&queue, TestQueue::job(1)).await, added(&queue, TestQueue::job(2)).await);
    let waiting = queue.admin.waiting().await.unwrap();
    assert_eq!(waiting.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), [&*first, &*second], "the oldest first");
    assert_eq!(waiting[0].data, r#"{"number":1}"#);
    // One that runs is left alone.
    queue.call(&["SET", &TestQueue::key(&format!("{second}:lock")), "1-1"]);
    let ids = [first.clone(), second.clone(), "nobody".to_owned()];
    assert_eq!(queue.admin.discard_waiting(&ids).await.unwrap(), 1);
    assert_eq!(queue.call(&["EXISTS", &TestQueue::key(&first), &TestQueue::key(&second)]), "1");
    let events = queue.call(&["XRANGE", &TestQueue::key("events"), "-", "+"]);
    assert!(events.contains("removed"), "{events}");

    for (id, failed_ms) in [("a", "1000"), ("b", "2000")] {
        queue.call(&["HSET", &TestQueue::key(id), "name", "work"]);
        queue.call(&["ZADD", &TestQueue::key("failed"), failed_ms, id]);
    }
    // The second failed once more since.
    let jobs = [("a".to_owned(), 1000), ("b".to_owned(), 1999), ("c".to_owned(), 1000)];
    assert_eq!(queue.admin.discard_failed(&jobs).await.unwrap(), 1);
    assert_eq!(queue.call(&["ZRANGE", &TestQueue::key("failed"), "0", "-1"]), "b\n");
    assert_eq!(queue.call(&["EXISTS", &TestQueue::key("a"), &TestQueue::key("b")]), "1");
}
