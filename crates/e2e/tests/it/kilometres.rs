//! Whatever happens on the way, the kilometres are those of the track.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::redis::Memory;
use testkit::track::{SplitMix, Track, reference_km};

use crate::support::{Phone, Product, eventually};

const TRACKS: [&str; 3] = ["car-visnjan.gpx", "run-4835m.fit", "walk-30m-haicom.nmea"];

fn tracks() -> Vec<Track> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/traces");
    TRACKS.iter().map(|name| Track::read(folder.join(name)).unwrap()).collect()
}

/// Uploads in so many parts.
fn parts(points: &[Value], parts: usize) -> Vec<Vec<Value>> {
    points.chunks(points.len().div_ceil(parts).min(100)).map(<[Value]>::to_vec).collect()
}

async fn upload_all(phone: &Phone, uploads: Vec<Vec<Value>>) {
    for upload in uploads {
        phone.upload(&upload).await;
    }
}

#[tokio::test]
async fn in_order_shuffled_doubled_split_and_late_it_is_the_same_way() {
    let product = Product::start(1, &[]).await;
    let mut random = SplitMix(7);
    for track in tracks() {
        let reference = reference_km(&track.points);
        for manner in ["in order", "shuffled", "doubled", "split over 7 uploads", "one upload after 50 others"] {
            let phone = product.phone().await;
            let mut points = phone.points(&track.points);
            match manner {
                "shuffled" => {
                    random.shuffle(&mut points);
                    upload_all(&phone, parts(&points, 1)).await;
                }
                "doubled" => {
                    let uploads = parts(&points, 3);
                    upload_all(&phone, uploads.iter().flat_map(|upload| [upload.clone(), upload.clone()]).collect())
                        .await;
                }
                "split over 7 uploads" => upload_all(&phone, parts(&points, 7)).await,
                "one upload after 50 others" => {
                    let mut uploads = parts(&points, 51);
                    let late = uploads.remove(1);
                    uploads.push(late);
                    upload_all(&phone, uploads).await;
                }
                _ => upload_all(&phone, parts(&points, 1)).await,
            }
            phone.check_out().await;
            assert_eq!(phone.kilometres().await, reference, "{manner}");
        }
    }
}

#[tokio::test]
async fn a_worker_killed_in_the_middle_changes_nothing() {
    let mut product = Product::start(1, &[]).await;
    let track = &tracks()[1];
    let phone = product.phone().await;
    let uploads = parts(&phone.points(&track.points), 8);
    upload_all(&phone, uploads[..4].to_vec()).await;
    phone.kilometres().await;
    // Somebody holds the session, so the worker is caught in the middle of its job. The job comes from a foreign
    // producer, which does not say whose session it is.
    let mut superuser = product.database.superuser().await;
    let holder = superuser.transaction().await.unwrap();
    holder.execute("SELECT FROM attendance_sessions FOR UPDATE", &[]).await.unwrap();
    let data = json!({ "sessionId": phone.session }).to_string();
    let job =
        ["HSET", "bull:distance-engine:foreign", "name", "recalculate", "data", &data, "opts", "{}", "timestamp", "1"];
    product.redis.call(&job).unwrap();
    product.redis.call(&["LPUSH", "bull:distance-engine:wait", "foreign"]).unwrap();
    product.redis.call(&["ZADD", "bull:distance-engine:marker", "0", "0"]).unwrap();
    eventually("the worker has the job", async || {
        product.redis.call(&["LLEN", "bull:distance-engine:active"]).unwrap().to_string() == "1"
    })
    .await;
    product.workers[0].kill();
    holder.rollback().await.unwrap();
    product.add_worker();
    upload_all(&phone, uploads[4..].to_vec()).await;
    phone.check_out().await;
    assert_eq!(phone.kilometres().await, reference_km(&track.points));
    // The lease ends, another worker does the job again, and nothing changes.
    eventually("the job is done", async || {
        !product.redis.call(&["HGET", "bull:distance-engine:foreign", "returnvalue"]).unwrap().to_string().is_empty()
    })
    .await;
    assert_eq!(product.redis.call(&["HGET", "bull:distance-engine:foreign", "stc"]).unwrap().to_string(), "1");
    assert_eq!(phone.kilometres().await, reference_km(&track.points));
}

#[tokio::test]
async fn redis_gone_for_ten_seconds_changes_nothing() {
    let mut product = Product::start(1, &[]).await;
    let track = &tracks()[1];
    let phone = product.phone().await;
    let uploads = parts(&phone.points(&track.points), 20);
    upload_all(&phone, uploads[..5].to_vec()).await;
    product.redis.kill();
    for upload in &uploads[5..15] {
        phone.upload(upload).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    product.redis.start_again(Memory::Lost).unwrap();
    upload_all(&phone, uploads[15..].to_vec()).await;
    phone.check_out().await;
    assert_eq!(phone.kilometres().await, reference_km(&track.points));
}

#[tokio::test]
async fn a_gateway_killed_and_started_again_has_lost_nothing_it_acknowledged() {
    let mut product = Product::start(1, &[]).await;
    let track = &tracks()[0];
    let phone = product.phone().await;
    let uploads = parts(&phone.points(&track.points), 6);
    upload_all(&phone, uploads[..3].to_vec()).await;
    product.gateway.kill();
    product.restart_gateway();
    product.ready(product.gateway.port).await;
    let phone = Phone { api: product.api(), ..phone };
    upload_all(&phone, uploads[3..].to_vec()).await;
    phone.check_out().await;
    assert_eq!(phone.kilometres().await, reference_km(&track.points));
}
