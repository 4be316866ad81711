//! A property of generated tracks: whatever the order, the doubles, the parts and the moments of measurement, the
//! metres are those of the track, to the bit.

use chrono::TimeDelta;
use db::locations::{PointToRecord, record_batch_of, record_points_of};
use db::measurement::{From, measure};
use domain::location::{Coordinate, Fix, Odometer};
use domain::{Clock, FixId, SystemClock};
use testkit::database::TestDatabase;
use testkit::track::{SplitMix, walk};

use crate::support::Field;

/// Tracks tried; each run of the test tries the same.
const TRACKS: u64 = 24;

#[tokio::test]
async fn any_way_of_uploading_a_track_gives_its_metres_to_the_bit() {
    let database = TestDatabase::create().await;
    let db = database.open();
    for seed in 0..TRACKS {
        let mut random = SplitMix(seed);
        let field = Field::new(&database, &db).await;
        let track = walk(seed, 2 + (random.next_u64() % 400) as usize);
        let begun = track.points[0].recorded_at;
        let fixes: Vec<Fix> = track
            .points
            .iter()
            .map(|point| Fix {
                at: Coordinate::new(point.latitude, point.longitude).unwrap(),
                recorded_at: field.checkin_at + (point.recorded_at - begun) / 100 + TimeDelta::milliseconds(1),
                accuracy_m: point.accuracy_m,
                sequence_number: None,
            })
            .collect();
        let mut whole = Odometer::default();
        for fix in &fixes {
            whole.advance(fix.at, fix.recorded_at);
        }

        // Everything at least once, some of it twice, in any order.
        let mut sent = fixes.clone();
        sent.extend(fixes.iter().filter(|_| random.next_u64().is_multiple_of(4)));
        if !random.next_u64().is_multiple_of(4) {
            random.shuffle(&mut sent);
        }
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let (part, later) = rest.split_at((1 + random.next_u64() as usize % 100).min(rest.len()));
            rest = later;
            let now = SystemClock.now();
            if random.next_u64().is_multiple_of(3) {
                let points: Vec<PointToRecord> = part
                    .iter()
                    .map(|fix| PointToRecord {
                        tenant: field.tenant,
                        session: field.session,
                        employee: field.employee,
                        id: FixId::generate(),
                        fix: *fix,
                    })
                    .collect();
                record_points_of(&db, &points, now).await.unwrap();
            } else {
                record_batch_of(&db, field.tenant, field.session, field.employee, part, now).await.unwrap();
            }
            // A job may run at any moment, and be cut off before it commits.
            if random.next_u64().is_multiple_of(2) {
                let mut tx = db.tenant(field.tenant).await.unwrap();
                measure(&mut tx, field.session, From::Checkpoint, i64::MAX, now).await.unwrap();
                if !random.next_u64().is_multiple_of(4) {
                    tx.commit().await.unwrap();
                }
            }
        }
        let mut tx = db.tenant(field.tenant).await.unwrap();
        measure(&mut tx, field.session, From::Checkpoint, i64::MAX, SystemClock.now()).await.unwrap();
        tx.commit().await.unwrap();
        let stored: f64 = database
            .superuser()
            .await
            .query_one("SELECT measured_m FROM attendance_sessions WHERE id = $1", &[&field.session.uuid()])
            .await
            .unwrap()
            .get(0);
        assert_eq!(stored.to_bits(), whole.metres().to_bits(), "seed {seed}");
    }
}
