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
