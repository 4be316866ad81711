//! Jobs that make no sense: each ends at once, with a reason a person understands, and troubles nobody else.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::TestWorker;

#[tokio::test]
async fn each_fails_at_once_and_says_why() {
    let worker = TestWorker::start(&[]).await;
    let (tenant, session) = worker.session().await;
    let (other, _) = worker.session().await;
    let nobody = Uuid::now_v7();
    let cases = [
        ("reticulate", json!({ "sessionId": session }).to_string(), "unknown job \"reticulate\""),
        ("recalculate", "{".to_owned(), "the payload is not {sessionId, organizationId}"),
        ("recalculate", "[]".to_owned(), "the payload is not {sessionId, organizationId}"),
        ("recalculate", json!({ "sessionId": 7 }).to_string(), "the payload is not {sessionId, organizationId}"),
        ("recalculate", json!({ "sessionId": nobody }).to_string(), "there is no session"),
        (
            "recalculate",
            json!({ "sessionId": nobody, "organizationId": tenant.organization() }).to_string(),
            "there is no session",
        ),
        ("recalculate", json!({ "sessionId": session, "organizationId": nobody }).to_string(), "there is no session"),
        (
            "recalculate",
            json!({ "sessionId": session, "organizationId": other.organization() }).to_string(),
            "there is no session",
        ),
    ];
    for (name, data, reason) in cases {
        let job = worker.enqueue(name, &data).await;
        let failed = worker.ended(&job, "failedReason").await;
        assert!(failed.starts_with(reason), "{name} {data}: {failed}");
        assert_eq!(worker.field(&job, "atm"), "1", "{name} {data} was tried again");
    }

    // A foreign producer may leave the organization out.
    let job = worker.enqueue("recalculate", &json!({ "sessionId": session }).to_string()).await;
    let result: Value = serde_json::from_str(&worker.ended(&job, "returnvalue").await).unwrap();
    assert_eq!(result["sessionId"], json!(session));
    assert_eq!(result["totalDistanceKm"], 0.0);
    worker.stop().await;
}

#[tokio::test]
async fn so_do_those_of_every_other_queue() {
    let worker = TestWorker::start(&[]).await;
    let (tenant, session) = worker.session().await;
    let organization = tenant.organization();
    let nobody = Uuid::now_v7();
    let analytics = |session: Uuid| json!({ "sessionId": session, "organizationId": organization }).to_string();
    let snapshot = |occasion: &str, more: Value| {
        let mut data = json!({ "type": occasion, "organizationId": organization });
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        data.to_string()
    };
    let of_nobody = json!({ "type": "RECONCILE", "organizationId": nobody }).to_string();
    let cases = [
        ("analytics", "reticulate", "{}".to_owned(), "unknown job \"reticulate\" on analytics"),
        ("analytics", "update-metrics", "[]".to_owned(), "the payload is not {sessionId, organizationId, employeeId}"),
        ("analytics", "update-metrics", json!({ "sessionId": nobody }).to_string(), "there is no session"),
        ("analytics", "update-metrics", analytics(nobody), "there is no session"),
        ("analytics", "update-metrics", analytics(session.uuid()), "session"),
        ("snapshot-engine", "recalculate", "{}".to_owned(), "unknown job \"recalculate\" on snapshot-engine"),
        ("snapshot-engine", "snapshot", "{".to_owned(), "the payload is not {type, employeeId, organizationId, …}"),
        ("snapshot-engine", "snapshot", snapshot("PARTY", json!({})), "the payload is not"),
        ("snapshot-engine", "snapshot", snapshot("CHECK_IN", json!({})), "the job names no employee"),
        ("snapshot-engine", "snapshot", snapshot("CHECK_OUT", json!({ "employeeId": nobody })), "there is no employee"),
        (
            "snapshot-engine",
            "snapshot",
            snapshot("EXPENSE_CREATED", json!({ "employeeId": nobody })),
            "the job names no expense",
        ),
        (
            "snapshot-engine",
            "snapshot",
            snapshot("EXPENSE_APPROVED", json!({ "employeeId": nobody, "expenseId": nobody })),
            "there is no expense",
        ),
        ("snapshot-engine", "snapshot", of_nobody, "there is no organization"),
    ];
    for (queue, name, data, reason) in cases {
        let job = worker.enqueue_on(queue, name, &data).await;
        let failed = worker.ended_on(queue, &job, "failedReason").await;
        assert!(failed.starts_with(reason), "{queue} {name} {data}: {failed}");
    }
    let still_open = worker.enqueue_on("analytics", "update-metrics", &analytics(session.uuid())).await;
    let failed = worker.ended_on("analytics", &still_open, "failedReason").await;
    assert_eq!(failed, format!("session {session} is still open"));

    // Those that make sense are done, also without an organization.
    worker.close(tenant, session).await;
    let measured = worker.enqueue("recalculate", &json!({ "sessionId": session }).to_string()).await;
    worker.ended(&measured, "returnvalue").await;
    let job = worker.enqueue_on("analytics", "update-metrics", &json!({ "sessionId": session }).to_string()).await;
    let result: Value = serde_json::from_str(&worker.ended_on("analytics", &job, "returnvalue").await).unwrap();
    assert_eq!(result["sessionId"], json!(session));
    let reconcile = snapshot("RECONCILE", json!({}));
    let job = worker.enqueue_on("snapshot-engine", "snapshot", &reconcile).await;
    let result: Value = serde_json::from_str(&worker.ended_on("snapshot-engine", &job, "returnvalue").await).unwrap();
    assert_eq!(result["organizationId"], json!(organization));
    worker.stop().await;
}
