//! With several workers exactly one runs a turn.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use distance_worker::metrics::Metrics;
use distance_worker::schedule::{Schedule, Task};
use domain::ManualClock;
use queue::{Producer, Redis, RedisConfig};
use testkit::database::TestDatabase;

fn schedule(database: &TestDatabase, clock: &Arc<ManualClock>) -> Schedule {
    // Nobody is there: taking turns needs the database alone.
    let redis = Redis::open(&RedisConfig::new("redis://127.0.0.1:1".to_owned().into())).unwrap();
    Schedule {
        db: database.open(),
        producer: Producer::start(redis.clone(), "distance-engine"),
        snapshots: Producer::start(redis.clone(), "snapshot-engine"),
        totals: Producer::start(redis.clone(), "analytics"),
        deliveries: Producer::start(redis, "webhook-delivery"),
        dead_letters_most: 10_000,
        dead_letters_kept: TimeDelta::days(30),
        events_kept: TimeDelta::days(90),
        provider: None,
        dead_letters: Vec::new(),
        keep_months: None,
        clock: clock.clone(),
        metrics: Arc::new(Metrics::new(telemetry::metrics::Registry::new())),
    }
}

#[tokio::test]
async fn of_many_workers_exactly_one_takes_each_turn() {
    let database = TestDatabase::create().await;
    let clock = Arc::new(ManualClock::at(DateTime::from_timestamp(1_790_000_000, 0).unwrap()));
    let workers: Vec<Schedule> = (0..4).map(|_| schedule(&database, &clock)).collect();
    let mut turns: HashMap<Task, usize> = HashMap::new();
    // Two minutes, second by second; all four look at the same moment.
    for _ in 0..120 {
        let looks = workers.iter().map(|worker| {
            let worker = worker.clone();
            tokio::spawn(async move { worker.take_turns().await.unwrap() })
        });
        for look in looks.collect::<Vec<_>>() {
            for task in look.await.unwrap() {
                *turns.entry(task).or_default() += 1;
            }
        }
        clock.advance(TimeDelta::seconds(1));
    }
    assert_eq!(turns[&Task::Sweep], 24, "every 5 s");
    assert_eq!(turns[&Task::DeadLetters], 24, "every 5 s");
    assert_eq!(turns[&Task::Reconcile], 1, "every 5 min");
    assert_eq!(turns[&Task::Partitions], 1, "every 6 h");
    assert_eq!(turns[&Task::Retention], 1, "every hour");
    assert_eq!(turns[&Task::Intents], 4, "every 30 s");
    assert_eq!(turns[&Task::OldIntents], 1, "every 15 min");
    assert_eq!(turns[&Task::SignIn], 24, "every 5 s");

    // The one that took a turn may die in it: the next turn is anybody's.
    clock.advance(TimeDelta::hours(6));
    assert!(workers[3].take_turns().await.unwrap().contains(&Task::Partitions));
    assert!(workers[0].take_turns().await.unwrap().is_empty());

    // A clock that was a year ahead does not stop the schedule for a year.
    clock.advance(TimeDelta::days(-365));
    assert!(workers[1].take_turns().await.unwrap().contains(&Task::Partitions));
}

#[tokio::test]
async fn a_turn_that_failed_is_tried_again_soon() {
    let database = TestDatabase::create().await;
    let clock = Arc::new(ManualClock::at(DateTime::from_timestamp(1_790_000_000, 0).unwrap()));
    let worker = schedule(&database, &clock);
    assert!(worker.take_turns().await.unwrap().contains(&Task::Partitions));
    let owner = database.superuser().await;
    owner
        .batch_execute("REVOKE EXECUTE ON FUNCTION app.ensure_partitions(date, integer) FROM fieldtrack_system")
        .await
        .unwrap();
    worker.turn(Task::Partitions).await;
    owner
        .batch_execute("GRANT EXECUTE ON FUNCTION app.ensure_partitions(date, integer) TO fieldtrack_system")
        .await
        .unwrap();
    assert!(!worker.take_turns().await.unwrap().contains(&Task::Partitions), "not at once");
    clock.advance(TimeDelta::seconds(30));
    assert!(worker.take_turns().await.unwrap().contains(&Task::Partitions), "and not in six hours");
    worker.turn(Task::Partitions).await;
    clock.advance(TimeDelta::minutes(5));
    assert!(!worker.take_turns().await.unwrap().contains(&Task::Partitions), "it is done");
}
