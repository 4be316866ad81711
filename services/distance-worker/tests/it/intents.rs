//! What could not be queued at a check-out is tried again, and given up in the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use distance_worker::schedule::Task;
use domain::intent::{IntendedJob, MOST_FAILURES};
use domain::page::PageRequest;
use domain::{Clock, EmployeeId, ManualClock, OrganizationId, SessionId, SystemClock, Tenant};
use queue::{Admin, Redis, RedisConfig};
use testkit::database::{TestDatabase, tenant};
use testkit::redis::RedisServer;
use uuid::Uuid;

use crate::support::{NO_REDIS, TestWorker, schedule};

const ALL: PageRequest = PageRequest { page: 1, limit: 100 };

async fn organization(database: &TestDatabase) -> (Tenant, OrganizationId) {
    let id = Uuid::now_v7();
    let db = database.open();
    let mut tx = db.system().await.unwrap();
    db::organizations::create(&mut tx, id.into(), "Field Services", &format!("o{}", id.simple())).await.unwrap();
    tx.commit().await.unwrap();
    (tenant(id), id.into())
}

async fn note(database: &TestDatabase, tenant: Tenant, job: &IntendedJob, clock: &ManualClock) {
    let now = clock.now();
    let mut tx = database.open().tenant(tenant).await.unwrap();
    db::intents::note(&mut tx, job, Some(r#"{"request_id":"r-1"}"#), "away", now + TimeDelta::seconds(5), now)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// Status and failures of every intent, by its key.
async fn intents(database: &TestDatabase, tenant: Tenant) -> Vec<(String, String, i32)> {
    let mut tx = database.open().tenant(tenant).await.unwrap();
    let (mut all, _) = db::intents::list(&mut tx, None, ALL).await.unwrap();
    all.sort_by(|one, other| one.job_key.cmp(&other.job_key));
    all.into_iter().map(|intent| (intent.job_key, intent.status, intent.retry_count)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_is_queued_when_the_queue_is_back_and_forgotten_three_days_later() {
    let (database, server) = (TestDatabase::create().await, RedisServer::start().unwrap());
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let worker = schedule(&database, &server.url(), &clock);
    let ((ours, organization_id), (theirs, other_id)) = (organization(&database).await, organization(&database).await);
    let session = SessionId::generate();
    let measure = IntendedJob::measure(organization_id, session);
    let total = IntendedJob::total(organization_id, session, EmployeeId::generate());
    note(&database, ours, &measure, &clock).await;
    note(&database, ours, &total, &clock).await;
    note(&database, theirs, &IntendedJob::measure(other_id, SessionId::generate()), &clock).await;

    worker.turn(Task::Intents).await;
    assert!(intents(&database, ours).await.iter().all(|(_, status, _)| status == "pending"), "not before its time");
    clock.advance(TimeDelta::seconds(6));
    worker.turn(Task::Intents).await;
    let expected = [(measure.key(), "resolved".to_owned(), 0), (total.key(), "resolved".to_owned(), 0)];
    assert_eq!(intents(&database, ours).await, expected);
    assert_eq!(intents(&database, theirs).await[0].1, "resolved");
    let redis = Redis::open(&RedisConfig::new(server.url().into())).unwrap();
    let distance = Admin::new(redis.clone(), "distance-engine");
    assert_eq!(distance.counts().await.unwrap().waiting, 2);
    assert_eq!(Admin::new(redis, "analytics").counts().await.unwrap().delayed, 1);
    let job = &distance.waiting().await.unwrap()[0];
    let options = server.call(&["HGET", &format!("bull:distance-engine:{}", job.id), "opts"]).unwrap().to_string();
    assert!(options.contains("r-1"), "the request goes on: {options}");

    // The same check-out cannot fail twice; but if something of its name does, it begins anew.
    note(&database, ours, &measure, &clock).await;
    assert_eq!(intents(&database, ours).await[0].1, "pending");
    clock.advance(TimeDelta::hours(73));
    worker.turn(Task::OldIntents).await;
    assert_eq!(intents(&database, ours).await.len(), 1, "what still waits is kept");
    assert_eq!(intents(&database, theirs).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_is_given_up_after_the_eighth_try() {
    let database = TestDatabase::create().await;
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    // Nobody is there.
    let worker = schedule(&database, NO_REDIS, &clock);
    let (ours, organization_id) = organization(&database).await;
    note(&database, ours, &IntendedJob::measure(organization_id, SessionId::generate()), &clock).await;
    for failures in 1..=MOST_FAILURES {
        // The longest wait is five minutes and a fifth.
        clock.advance(TimeDelta::minutes(6));
        worker.turn(Task::Intents).await;
        let status = if failures == MOST_FAILURES { "dead" } else { "pending" };
        let (_, found, count) = intents(&database, ours).await.remove(0);
        assert_eq!((found.as_str(), count), (status, failures));
    }
    clock.advance(TimeDelta::minutes(6));
    worker.turn(Task::Intents).await;
    assert_eq!(intents(&database, ours).await[0].2, MOST_FAILURES, "nobody tries any more");
    let mut tx = database.open().system().await.unwrap();
    assert_eq!(db::intents::count(&mut tx).await.unwrap(), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_that_cannot_be_asked_for_after_a_check_out_are_asked_for_later() {
    let mut worker = TestWorker::start(&[]).await;
    let (tenant, session) = worker.session().await;
    worker.redis.kill();
    let mut tx = worker.db.tenant(tenant).await.unwrap();
    let open = db::attendance::find(&mut tx, session).await.unwrap().unwrap();
    let closed = db::attendance::close(&mut tx, open.employee, SystemClock.now()).await.unwrap().unwrap();
    db::events::record(&mut tx, &domain::event::Event::CheckedOut(closed), SystemClock.now()).await.unwrap();
    tx.commit().await.unwrap();
    let key = format!("analytics:{session}");
    let status = async || {
        let mut tx = worker.db.tenant(tenant).await.unwrap();
        let (all, _) = db::intents::list(&mut tx, None, ALL).await.unwrap();
        all.into_iter().find(|intent| intent.job_key == key).map(|intent| intent.status)
    };
    let within = |seconds| Instant::now() + Duration::from_secs(seconds);
    let deadline = within(30);
    while status().await.is_none() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    worker.redis.start_again(testkit::redis::Memory::Lost).unwrap();
    // The first turn came when the worker started; the next is due half a minute later.
    let deadline = within(60);
    while status().await.as_deref() != Some("resolved") {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    worker.stop().await;
}
