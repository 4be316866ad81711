//! Handing events on: none left out, none twice, in one order.

use chrono::{DateTime, TimeDelta, Utc};
use db::relay::{HELD_FOR, Told, release, told, turn, untold};
use db::{Db, TenantTx};
use domain::event::Event;
use domain::{Clock, SystemClock};
use testkit::database::TestDatabase;
use uuid::Uuid;

use crate::support::Field;

async fn open(db: &Db, field: &Field, now: DateTime<Utc>) -> TenantTx {
    let mut tx = db.tenant(field.tenant).await.unwrap();
    let session = db::attendance::find(&mut tx, field.session).await.unwrap().unwrap();
    db::events::record(&mut tx, &Event::CheckedIn(session), now).await.unwrap();
    tx
}

async fn relay(db: &Db, me: Uuid, now: DateTime<Utc>) -> Option<db::relay::Turn> {
    let mut tx = db.system().await.unwrap();
    let turn = turn(&mut tx, me, 100, now).await.unwrap();
    tx.commit().await.unwrap();
    turn
}

async fn tell(db: &Db) -> Vec<Told> {
    let mut tx = db.system().await.unwrap();
    let messages = untold(&mut tx, 100).await.unwrap();
    if let Some(last) = messages.last() {
        told(&mut tx, last.number).await.unwrap();
    }
    tx.commit().await.unwrap();
    messages
}

async fn webhook(database: &TestDatabase, field: &Field, events: &str, active: bool) -> Uuid {
    let id = Uuid::now_v7();
    let organization = field.tenant.organization().uuid();
    database
        .superuser()
        .await
        .execute(
            &format!(
                "INSERT INTO webhooks (organization_id, id, url, sealed_secret, events, is_active, created_at, updated_at)
                 VALUES ($1, $2, 'https://hooks.example/', '', '{{{events}}}', {active}, now(), now())"
            ),
            &[&organization, &id],
        )
        .await
        .unwrap();
    id
}

#[tokio::test]
async fn an_event_that_commits_late_with_a_small_number_is_not_left_out() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let (slow, quick) = (Field::new(&database, &db).await, Field::new(&database, &db).await);
    let (now, me) = (SystemClock.now(), Uuid::new_v4());
    // The slow one has the smaller numbers and commits after the relay has passed.
    let late = open(&db, &slow, now).await;
    open(&db, &quick, now).await.commit().await.unwrap();
    assert_eq!(relay(&db, me, now).await.unwrap().events.len(), 2);
    let first = tell(&db).await;
    late.commit().await.unwrap();
    assert_eq!(relay(&db, me, now).await.unwrap().events.len(), 2);
    let second = tell(&db).await;
    assert_eq!([first.len(), second.len()], [1, 1]);
    assert_eq!(first[0].organization, quick.tenant.organization());
    assert_eq!(second[0].organization, slow.tenant.organization());
    assert!(second[0].number > first[0].number);
    assert_eq!(relay(&db, me, now).await.unwrap().events.len(), 0);
    assert_eq!(tell(&db).await, []);
}

#[tokio::test]
async fn every_active_webhook_that_wants_an_event_gets_one_delivery() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let (field, other) = (Field::new(&database, &db).await, Field::new(&database, &db).await);
    let (now, me) = (SystemClock.now(), Uuid::new_v4());
    let both = webhook(&database, &field, "employee.checked_in,session.checkin", true).await;
    let one = webhook(&database, &field, "session.checkin,expense.created", true).await;
    webhook(&database, &field, "session.checkin", false).await;
    webhook(&database, &field, "expense.created", true).await;
    webhook(&database, &other, "session.checkin", true).await;
    open(&db, &field, now).await.commit().await.unwrap();
    let turn = relay(&db, me, now).await.unwrap();
    let mut to: Vec<Uuid> = turn.deliveries.iter().map(|(job, _)| job.webhook.uuid()).collect();
    to.sort_unstable();
    let mut expected = [both, both, one];
    expected.sort_unstable();
    assert_eq!(to, expected);
    for (job, _) in &turn.deliveries {
        assert_eq!((job.attempt, job.organization), (1, Some(field.tenant.organization())));
    }
    // The older name first.
    assert_eq!(turn.deliveries[0].0.webhook.uuid(), both);
    assert!(relay(&db, me, now).await.unwrap().deliveries.is_empty());
}

#[tokio::test]
async fn one_relay_at_a_time_and_another_takes_over_when_it_dies_or_leaves() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let now = SystemClock.now();
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    assert!(relay(&db, one, now).await.is_some());
    assert!(relay(&db, two, now + TimeDelta::seconds(5)).await.is_none());
    assert!(relay(&db, one, now + TimeDelta::seconds(5)).await.is_some());
    assert!(relay(&db, two, now + HELD_FOR).await.is_none());
    assert!(relay(&db, two, now + TimeDelta::seconds(5) + HELD_FOR).await.is_some());
    assert!(relay(&db, one, now + TimeDelta::seconds(6) + HELD_FOR).await.is_none());
    let mut tx = db.system().await.unwrap();
    release(&mut tx, two).await.unwrap();
    tx.commit().await.unwrap();
    assert!(relay(&db, one, now + TimeDelta::seconds(6) + HELD_FOR).await.is_some());
}

#[tokio::test]
async fn many_writers_and_two_relays_hand_every_event_on_once() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let now = SystemClock.now();
    let mut fields = Vec::new();
    for _ in 0..4 {
        fields.push(Field::new(&database, &db).await);
    }
    let writers: Vec<_> = fields
        .into_iter()
        .map(|field| {
            let db = db.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    open(&db, &field, now).await.commit().await.unwrap();
                }
            })
        })
        .collect();
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let (mut handed, mut heard, mut turns) = (0, Vec::new(), 0);
    while handed < 200 {
        // They take the relay from each other all the time.
        turns += 1;
        let me = if turns % 2 == 0 { one } else { two };
        let at = now + TimeDelta::seconds(turns * 20);
        handed += relay(&db, me, at).await.map_or(0, |turn| turn.events.len());
        heard.extend(tell(&db).await.into_iter().map(|told| told.number));
        assert!(turns < 100_000);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    heard.extend(tell(&db).await.into_iter().map(|told| told.number));
    assert_eq!((handed, heard.len()), (200, 100));
    assert!(heard.is_sorted_by(|one, next| one < next));
}

#[tokio::test]
async fn old_events_go_once_they_are_handed_on_and_nothing_waits_for_them() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let field = Field::new(&database, &db).await;
    let (now, me) = (SystemClock.now(), Uuid::new_v4());
    webhook(&database, &field, "session.checkin", true).await;
    open(&db, &field, now).await.commit().await.unwrap();
    let expire = async || {
        let mut tx = db.system().await.unwrap();
        let gone = db::relay::expire(&mut tx, now + TimeDelta::days(1), 100).await.unwrap();
        tx.commit().await.unwrap();
        gone
    };
    assert_eq!(expire().await, 0, "not handed on yet");
    relay(&db, me, now).await.unwrap();
    assert_eq!(expire().await, 1, "the older name has no delivery");
    let superuser = database.superuser().await;
    superuser.execute("UPDATE webhook_deliveries SET status = 'failed', dead_at = now()", &[]).await.unwrap();
    assert_eq!(expire().await, 0, "a dead letter");
    superuser.execute("UPDATE webhook_deliveries SET dead_at = NULL", &[]).await.unwrap();
    assert_eq!(expire().await, 1);
}
