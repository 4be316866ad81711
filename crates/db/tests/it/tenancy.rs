//! One organization never sees another.

use chrono::TimeDelta;
use db::locations::{Recorded, record_batch_of};
use db::measurement::{From, Outcome, measure};
use domain::{Clock, SystemClock};
use testkit::database::TestDatabase;

use crate::support::Field;

const TABLES: [&str; 11] = [
    "organizations",
    "users",
    "employees",
    "user_credentials",
    "refresh_tokens",
    "signing_keys",
    "attendance_sessions",
    "session_summaries",
    "gps_locations",
    "expenses",
    "employee_expense_totals",
];

#[tokio::test]
async fn without_an_organization_no_row_is_seen() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    record_batch_of(&db, field.tenant, field.session, field.employee, &[field.fix(1)], SystemClock.now())
        .await
        .unwrap();
    let app = database.as_app().await;
    for table in TABLES {
        match app.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await {
            Ok(row) => assert_eq!(row.get::<_, i64>(0), 0, "{table}"),
            Err(error) => assert_eq!(error.code().unwrap().code(), "42501", "{table}: {error}"),
        }
    }
}

#[tokio::test]
async fn the_claims_that_supabase_sets_name_the_organization_too() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let other = Field::new(&database, &db).await;
    let mut app = database.as_app().await;
    let tx = app.transaction().await.unwrap();
    let claims = format!(r#"{{"org_id":"{}"}}"#, field.tenant.organization());
    tx.execute("SELECT set_config('request.jwt.claims', $1, true)", &[&claims]).await.unwrap();
    let rows = tx.query("SELECT id FROM attendance_sessions", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<uuid::Uuid>>(), [field.session.uuid()]);
    assert_ne!(field.session, other.session);
}

#[tokio::test]
async fn another_organization_can_neither_write_nor_measure() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let other = Field::new(&database, &db).await;
    let now = SystemClock.now();
    for (tenant, session, employee) in [
        (other.tenant, field.session, field.employee),
        (other.tenant, field.session, other.employee),
        (field.tenant, other.session, field.employee),
    ] {
        let outcome = record_batch_of(&db, tenant, session, employee, &[field.fix(1)], now).await.unwrap();
        assert_eq!(outcome, Recorded::NoOpenSession);
    }
    let mut tx = db.tenant(other.tenant).await.unwrap();
    assert_eq!(measure(&mut tx, field.session, From::Beginning, 100, now).await.unwrap(), Outcome::NoSuchSession);
    assert!(db::attendance::find(&mut tx, field.session).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_not_committed_never_happened() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let now = SystemClock.now();
    let mut tx = db.tenant(field.tenant).await.unwrap();
    db::attendance::close(&mut tx, field.employee, now).await.unwrap().unwrap();
    drop(tx);
    let mut tx = db.tenant(field.tenant).await.unwrap();
    assert!(db::attendance::find(&mut tx, field.session).await.unwrap().unwrap().is_open());
}

#[tokio::test]
async fn a_connection_that_died_in_the_pool_is_replaced() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let superuser = database.superuser().await;
    for _ in 0..3 {
        superuser
            .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'fieldtrack_app' AND datname = current_database()", &[])
            .await
            .unwrap();
        let mut tx = db.tenant(field.tenant).await.unwrap();
        assert!(db::attendance::find(&mut tx, field.session).await.unwrap().is_some());
        tx.commit().await.unwrap();
        superuser
            .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'fieldtrack_app' AND datname = current_database()", &[])
            .await
            .unwrap();
        let stored =
            record_batch_of(&db, field.tenant, field.session, field.employee, &[field.fix(1)], SystemClock.now()).await;
        assert!(matches!(stored, Ok(Recorded::Stored { .. })), "{stored:?}");
    }
}

#[tokio::test]
async fn of_two_simultaneous_check_ins_one_wins() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let now = SystemClock.now();
    let mut tx = db.tenant(field.tenant).await.unwrap();
    db::attendance::close(&mut tx, field.employee, now).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    let attempts = (0..8).map(|_| {
        let (db, tenant, employee) = (db.clone(), field.tenant, field.employee);
        tokio::spawn(async move {
            let mut tx = db.tenant(tenant).await?;
            let opened =
                db::attendance::open(&mut tx, domain::SessionId::generate(), employee, now + TimeDelta::seconds(1))
                    .await;
            match opened {
                Ok(_) => tx.commit().await.map(|()| true),
                Err(error) if error.is_conflict_with(db::attendance::ALREADY_OPEN) => Ok(false),
                Err(error) => Err(error),
            }
        })
    });
    let mut winners = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        winners += u32::from(attempt.await.unwrap().unwrap());
    }
    assert_eq!(winners, 1);
}
