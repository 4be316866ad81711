//! Jobs that were given up leave a copy for operators, once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::TestWorker;

/// The dead letters on `queue`, once there are so many.
async fn letters(worker: &TestWorker, queue: &str, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let ids = worker.redis.call(&["LRANGE", &format!("bull:{queue}:wait"), "0", "-1"]).unwrap().to_string();
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if ids.len() >= count {
            let read = |id: &&str| {
                let key = format!("bull:{queue}:{id}");
                assert_eq!(worker.redis.call(&["HGET", &key, "name"]).unwrap().to_string(), "dead-letter");
                serde_json::from_str(&worker.redis.call(&["HGET", &key, "data"]).unwrap().to_string()).unwrap()
            };
            return ids.iter().map(read).collect();
        }
        assert!(Instant::now() < deadline, "{count} dead letters on {queue} within 30 s, not {}", ids.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_job_that_was_given_up_is_copied_once_with_what_came_and_why() {
    let worker = TestWorker::start(&[]).await;
    let nobody = Uuid::now_v7();
    let data = json!({ "sessionId": nobody, "organizationId": nobody });
    let job = worker.enqueue("recalculate", &data.to_string()).await;
    worker.ended(&job, "failedReason").await;
    let found = letters(&worker, "distance-failed", 1).await;
    assert_eq!(found[0]["originalData"], data);
    assert!(found[0]["reason"].as_str().unwrap().starts_with("there is no session"), "{}", found[0]);
    assert!(found[0]["failedAt"].as_str().unwrap().ends_with('Z'), "{}", found[0]);

    // A later failure is another letter; the first one is not copied again meanwhile, even when an operator has
    // removed its copy.
    worker.redis.call(&["DEL", "bull:distance-failed:wait"]).unwrap();
    let job = worker.enqueue("recalculate", "{").await;
    worker.ended(&job, "failedReason").await;
    let found = letters(&worker, "distance-failed", 1).await;
    assert_eq!((found.len(), &found[0]["originalData"]), (1, &json!("{")));
    worker.stop().await;
}

#[tokio::test]
async fn a_session_that_takes_its_workers_down_is_failed_and_not_asked_for_again() {
    let worker = TestWorker::start(&[]).await;
    let (tenant, session) = worker.session().await;
    // Nobody asks for its measurement here: the record of a job that was lost once too often is all there is.
    worker.redis.call(&["HSET", "bull:distance-engine:meta", "paused", "1"]).unwrap();
    worker.close(tenant, session).await;
    let data = json!({ "sessionId": session, "organizationId": tenant.organization() }).to_string();
    let reason = "job stalled more than allowable limit";
    let fields = ["name", "recalculate", "data", &data, "failedReason", reason, "finishedOn", "1773129600000"];
    worker.redis.call(&[&["HSET", "bull:distance-engine:poison"], &fields[..]].concat()).unwrap();
    worker.redis.call(&["ZADD", "bull:distance-engine:failed", "1773129600000", "poison"]).unwrap();
    assert_eq!(letters(&worker, "distance-failed", 1).await[0]["reason"], reason);
    let mut tx = worker.db.tenant(tenant).await.unwrap();
    let found = db::attendance::find(&mut tx, session).await.unwrap().unwrap();
    assert_eq!(found.distance_status, domain::attendance::DistanceStatus::Failed);
    worker.stop().await;
}
