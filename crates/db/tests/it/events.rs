//! Events commit with the change they tell of.

use domain::event::Event;
use domain::{Clock, SystemClock};
use testkit::database::TestDatabase;

use crate::support::Field;

async fn count(database: &TestDatabase) -> i64 {
    database.superuser().await.query_one("SELECT count(*) FROM webhook_events", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn an_event_that_is_not_committed_never_happened() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let now = SystemClock.now();
    for commits in [false, true] {
        let mut tx = db.tenant(field.tenant).await.unwrap();
        let session = db::attendance::find(&mut tx, field.session).await.unwrap().unwrap();
        db::events::record(&mut tx, &Event::CheckedIn(session), now).await.unwrap();
        if commits {
            tx.commit().await.unwrap();
        } else {
            drop(tx);
        }
        assert_eq!(count(&database).await, if commits { 2 } else { 0 });
    }
}

#[tokio::test]
async fn an_event_remembers_what_caused_it() {
    let database = TestDatabase::create().await;
    let db = database.open().traced_by(|| Some(r#"{"traceparent":"00-x"}"#.to_owned()));
    let field = Field::new(&database, &db).await;
    let mut tx = db.tenant(field.tenant).await.unwrap();
    let session = db::attendance::find(&mut tx, field.session).await.unwrap().unwrap();
    db::events::record(&mut tx, &Event::CheckedOut(session), SystemClock.now()).await.unwrap();
    tx.commit().await.unwrap();
    let rows = database
        .superuser()
        .await
        .query(
            "SELECT event_type, trace, live IS NOT NULL, relayed_at IS NULL FROM webhook_events ORDER BY position",
            &[],
        )
        .await
        .unwrap();
    let rows: Vec<(String, String, bool, bool)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    let trace = r#"{"traceparent":"00-x"}"#.to_owned();
    assert_eq!(
        rows,
        [
            ("employee.checked_out".to_owned(), trace.clone(), false, true),
            ("session.checkout".to_owned(), trace, true, true)
        ]
    );
}

#[tokio::test]
async fn a_request_can_neither_mark_nor_change_nor_remove_an_event() {
    let database = TestDatabase::create().await;
    let app = database.as_app().await;
    for forbidden in [
        "UPDATE webhook_events SET relayed_at = now()",
        "UPDATE webhook_events SET payload = '{}'",
        "DELETE FROM webhook_events",
        "INSERT INTO webhook_events (organization_id, id, event_type, payload, created_at, relayed_at)
         VALUES (gen_random_uuid(), gen_random_uuid(), 'x', '{}', now(), now())",
    ] {
        let error = app.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{forbidden}");
    }
}
