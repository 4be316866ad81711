//! Rows as they are told to whoever follows their table.

use chrono::DateTime;
use db::locations::record_batch_of;
use domain::change::{Record, Table};
use domain::{Clock, SessionId, SystemClock};
use testkit::database::TestDatabase;

use crate::support::Field;

#[tokio::test]
async fn the_columns_that_are_told_are_of_the_types_that_are_told() {
    let database = TestDatabase::create().await;
    let client = database.superuser().await;
    for table in Table::ALL {
        for column in table.columns() {
            let row = client
                .query_one(
                    "SELECT typname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
                     WHERE attrelid = $1::text::regclass AND attname = $2",
                    &[&table.name(), &column.name],
                )
                .await
                .unwrap();
            assert_eq!(row.get::<_, String>(0), column.kind, "{}.{}", table.name(), column.name);
        }
    }
}

#[tokio::test]
async fn rows_of_another_organization_are_not_there() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let (ours, theirs) = (Field::new(&database, &db).await, Field::new(&database, &db).await);
    for field in [&ours, &theirs] {
        let fixes = [field.fix(1), field.fix(2)];
        record_batch_of(&db, field.tenant, field.session, field.employee, &fixes, SystemClock.now()).await.unwrap();
    }
    let mut tx = db.tenant(ours.tenant).await.unwrap();
    let sessions = [ours.session, theirs.session, SessionId::generate()];
    let rows = db::changes::sessions(&mut tx, &sessions).await.unwrap();
    assert_eq!(rows.len(), 1);
    let record = Record::parse(rows[0].clone()).unwrap();
    assert_eq!(record.id("id"), Some(ours.session.uuid()));
    let at: DateTime<chrono::Utc> = serde_json::from_str(record.value("checkin_at").unwrap()).unwrap();
    assert_eq!(at, ours.checkin_at);
    assert!(record.value("checkin_at").unwrap().ends_with("+00:00\""), "{record:?}");

    let keys = [
        (ours.session, ours.fix(1).recorded_at),
        (ours.session, ours.fix(3).recorded_at),
        (theirs.session, theirs.fix(1).recorded_at),
    ];
    let rows = db::changes::locations(&mut tx, &keys).await.unwrap();
    assert_eq!(rows.len(), 1);
    let record = Record::parse(rows[0].clone()).unwrap();
    assert_eq!((record.id("session_id"), record.value("latitude")), (Some(ours.session.uuid()), Some("45.00001")));
    assert!(db::changes::expenses(&mut tx, &[]).await.unwrap().is_empty());
}
