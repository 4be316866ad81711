//! Storing fixes, marking sessions, measuring them.

use chrono::{NaiveDate, TimeDelta};
use db::Db;
use db::locations::{PointToRecord, Recorded, record_batch_of, record_points_of};
use db::measurement::{From, Outcome, measure};
use domain::location::{Coordinate, Fix, Odometer};
use domain::{Clock, FixId, SystemClock};
use testkit::database::TestDatabase;

use crate::support::Field;

async fn batch(db: &Db, field: &Field, fixes: &[Fix]) -> Recorded {
    record_batch_of(db, field.tenant, field.session, field.employee, fixes, SystemClock.now()).await.unwrap()
}

async fn kilometres(db: &Db, field: &Field, from: From) -> f64 {
    let mut tx = db.tenant(field.tenant).await.unwrap();
    let outcome = measure(&mut tx, field.session, from, 1_000_000, SystemClock.now()).await.unwrap();
    tx.commit().await.unwrap();
    match outcome {
        Outcome::Measured(_, measured) => measured.distance_km,
        other => panic!("{other:?}"),
    }
}

fn reference_km(fixes: &[Fix]) -> f64 {
    let mut fixes = fixes.to_vec();
    fixes.sort_by_key(|fix| fix.recorded_at);
    let mut odometer = Odometer::default();
    for fix in fixes {
        odometer.advance(fix.at, fix.recorded_at);
    }
    odometer.kilometres()
}

#[tokio::test]
async fn the_first_upload_of_a_clean_session_asks_for_its_measurement() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let fixes: Vec<Fix> = (1..=100).map(|second| field.fix(second)).collect();
    assert_eq!(batch(&db, &field, &fixes[..60]).await, Recorded::Stored { inserted: 60, measure: true });
    assert_eq!(batch(&db, &field, &fixes[50..]).await, Recorded::Stored { inserted: 40, measure: false });
    assert_eq!(kilometres(&db, &field, From::Checkpoint).await, reference_km(&fixes));
    assert_eq!(batch(&db, &field, &fixes).await, Recorded::Stored { inserted: 0, measure: false });
    assert_eq!(batch(&db, &field, &[field.fix(101)]).await, Recorded::Stored { inserted: 1, measure: true });
}

#[tokio::test]
async fn late_points_make_the_measurement_start_over_and_new_ones_make_it_go_on() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let mut fixes: Vec<Fix> = (1..=200).map(|second| field.fix(second * 2)).collect();
    batch(&db, &field, &fixes[..100]).await;
    kilometres(&db, &field, From::Checkpoint).await;
    batch(&db, &field, &fixes[100..]).await;
    assert_eq!(kilometres(&db, &field, From::Checkpoint).await, reference_km(&fixes));
    // A detour to Trieste and back, remembered late.
    let late = Fix { at: Coordinate::new(45.65, 13.77).unwrap(), ..field.fix(99) };
    batch(&db, &field, &[late]).await;
    fixes.push(late);
    let measured = kilometres(&db, &field, From::Checkpoint).await;
    assert_eq!(measured, reference_km(&fixes));
    assert!(measured > 150.0);
    assert_eq!(kilometres(&db, &field, From::Beginning).await, measured);
}

#[tokio::test]
async fn the_first_of_two_fixes_of_one_moment_stays() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let first = field.fix(1);
    let second = Fix { at: Coordinate::new(-1.0, -1.0).unwrap(), ..first };
    assert_eq!(batch(&db, &field, &[first, second]).await, Recorded::Stored { inserted: 1, measure: true });
    let mut tx = db.tenant(field.tenant).await.unwrap();
    let stored = db::locations::find_at(&mut tx, field.session, first.recorded_at).await.unwrap().unwrap();
    assert_eq!(stored.fix, first);
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    assert_eq!(batch(&db, &field, &[field.fix(1), field.fix(-1)]).await, Recorded::BeforeSession);
    let mut tx = db.tenant(field.tenant).await.unwrap();
    assert_eq!(db::locations::route_of(&mut tx, field.employee, field.session, 10).await.unwrap(), []);
    db::attendance::close(&mut tx, field.employee, SystemClock.now()).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert_eq!(batch(&db, &field, &[field.fix(1)]).await, Recorded::NoOpenSession);
}

#[tokio::test]
async fn single_fixes_of_many_organizations_share_a_statement_and_get_their_own_answers() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let mut fields = Vec::new();
    for _ in 0..3 {
        fields.push(Field::new(&database, &db).await);
    }
    let point = |field: &Field, owner: &Field, seconds| PointToRecord {
        tenant: field.tenant,
        session: field.session,
        employee: owner.employee,
        id: FixId::generate(),
        fix: field.fix(seconds),
    };
    let points = [
        point(&fields[2], &fields[2], 5),
        point(&fields[0], &fields[0], 1),
        point(&fields[1], &fields[0], 1),
        point(&fields[0], &fields[0], 1),
        point(&fields[0], &fields[0], 2),
        point(&fields[1], &fields[1], -1),
    ];
    let answers = record_points_of(&db, &points, SystemClock.now()).await.unwrap();
    let stored = |inserted, measure| Recorded::Stored { inserted, measure };
    assert_eq!(
        answers,
        [
            stored(1, true),
            stored(1, true),
            Recorded::NoOpenSession,
            stored(0, false),
            stored(1, true),
            Recorded::BeforeSession
        ]
    );
    let again = record_points_of(&db, &[point(&fields[2], &fields[2], 6)], SystemClock.now()).await.unwrap();
    assert_eq!(again, [stored(1, false)]);
}

#[tokio::test]
async fn uploads_and_measurements_at_the_same_time_lose_nothing() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = std::sync::Arc::new(Field::new(&database, &db).await);
    let fixes: Vec<Fix> = (1..=600).map(|second| field.fix(second)).collect();
    let uploads = fixes.chunks(20).map(|chunk| {
        let (db, field, chunk) = (db.clone(), field.clone(), chunk.to_vec());
        tokio::spawn(async move {
            batch(&db, &field, &chunk).await;
            kilometres(&db, &field, From::Checkpoint).await;
        })
    });
    for upload in uploads.collect::<Vec<_>>() {
        upload.await.unwrap();
    }
    let mut tx = db.tenant(field.tenant).await.unwrap();
    let session = db::attendance::find(&mut tx, field.session).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    // Whoever measured last saw every point: nobody has to ask again.
    assert_eq!(session.total_distance_km, Some(reference_km(&fixes)));
    let mut tx = db.system().await.unwrap();
    let overdue = db::attendance::overdue(&mut tx, SystemClock.now() + TimeDelta::hours(1), true, 10).await.unwrap();
    assert_eq!(overdue, []);
}

#[tokio::test]
async fn a_session_far_over_fifty_thousand_points_is_measured_when_allowed() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let superuser = database.superuser().await;
    superuser
        .execute(
            "INSERT INTO gps_locations (organization_id, session_id, recorded_at, id, employee_id, latitude, longitude)
             SELECT $1, $2, $3::timestamptz + n * interval '50 ms', gen_random_uuid(), $4, 45 + n * 1e-6, 13 FROM generate_series(1, 60000) AS n",
            &[&field.tenant.organization().uuid(), &field.session.uuid(), &field.checkin_at, &field.employee.uuid()],
        )
        .await
        .unwrap();
    let mut tx = db.tenant(field.tenant).await.unwrap();
    let now = SystemClock.now();
    assert_eq!(measure(&mut tx, field.session, From::Beginning, 50_000, now).await.unwrap(), Outcome::TooManyPoints);
    drop(tx);
    let mut odometer = Odometer::default();
    for n in 1..=60_000 {
        odometer.advance(Coordinate::new(45.0 + f64::from(n) * 1e-6, 13.0).unwrap(), now);
    }
    assert_eq!(kilometres(&db, &field, From::Beginning).await, odometer.kilometres());
}

#[tokio::test]
async fn points_that_the_default_partition_caught_move_when_their_month_is_made() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let superuser = database.superuser().await;
    for when in ["2031-05-31T23:59:59Z", "2031-06-01T00:00:00Z", "2031-06-30T23:59:59.999999Z", "2031-07-01T00:00:00Z"]
    {
        superuser
            .execute(
                &format!(
                    "INSERT INTO gps_locations (organization_id, session_id, recorded_at, id, employee_id, latitude, longitude)
                     VALUES ($1, $2, '{when}', gen_random_uuid(), $3, 1, 1)"
                ),
                &[&field.tenant.organization().uuid(), &field.session.uuid(), &field.employee.uuid()],
            )
            .await
            .unwrap();
    }
    let june = NaiveDate::from_ymd_opt(2031, 6, 17).unwrap();
    for made in [1, 0] {
        let mut tx = db.system().await.unwrap();
        assert_eq!(db::locations::ensure_partitions_ahead(&mut tx, june, 0).await.unwrap(), made);
        tx.commit().await.unwrap();
    }
    let count = async |table: &str| -> i64 {
        superuser.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
    };
    assert_eq!(count("gps_locations_2031_06").await, 2);
    assert_eq!(count("gps_locations_default").await, 2);
    assert_eq!(count("gps_locations").await, 4);
}

#[tokio::test]
async fn kilometres_outlive_the_points_they_were_measured_from() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let fixes: Vec<Fix> = (1..=100).map(|second| field.fix(second)).collect();
    batch(&db, &field, &fixes).await;
    let measured = kilometres(&db, &field, From::Checkpoint).await;
    let drop_before = async |horizon: NaiveDate| {
        let mut tx = db.system().await.unwrap();
        let dropped = db::locations::drop_partitions_before(&mut tx, horizon).await.unwrap();
        tx.commit().await.unwrap();
        dropped
    };
    let today = SystemClock.now().date_naive();
    assert_eq!(drop_before(today).await, 0, "this month has not ended");
    assert!(drop_before(today + TimeDelta::days(35)).await >= 1);

    let mut tx = db.tenant(field.tenant).await.unwrap();
    let outcome = measure(&mut tx, field.session, From::Beginning, 1_000_000, SystemClock.now()).await.unwrap();
    assert_eq!(outcome, Outcome::PointsGone);
    let session = db::attendance::find(&mut tx, field.session).await.unwrap().unwrap();
    assert_eq!(session.total_distance_km, Some(measured));
    drop(tx);
    assert_eq!(kilometres(&db, &field, From::Checkpoint).await, measured, "what was measured can be gone on from");
}
