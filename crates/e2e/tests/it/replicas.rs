//! Two gateways and two workers: they are one product, whichever of them dies.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::redis::Memory;
use testkit::track::{reference_km, walk};

use crate::support::{ADMIN, Phone, Product, eventually};

const SETTINGS: &[(&str, &str)] = &[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")];

/// Two gateways and two workers, all ready.
async fn two_of_each() -> Product {
    let mut product = Product::start(2, SETTINGS).await;
    product.add_gateway().await;
    for worker in &product.workers {
        product.ready(worker.port).await;
    }
    product
}

/// A receiver of webhooks that takes its time; it knows each attempt by path and delivery.
struct Receiver {
    address: String,
    got: Arc<Mutex<Vec<(String, String, Value)>>>,
}

impl Receiver {
    fn start(pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let got = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&got);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let heard = Arc::clone(&heard);
                std::thread::spawn(move || receive(stream, &heard, pause));
            }
        });
        Self { address, got }
    }

    /// How often each delivery came, by path and delivery id.
    fn counted(&self) -> BTreeMap<(String, String), usize> {
        let mut counted = BTreeMap::new();
        for (path, delivery, _) in self.got.lock().unwrap().iter() {
            *counted.entry((path.clone(), delivery.clone())).or_default() += 1;
        }
        counted
    }

    fn attempts(&self) -> usize {
        self.got.lock().unwrap().len()
    }
}

fn receive(mut stream: TcpStream, heard: &Mutex<Vec<(String, String, Value)>>, pause: Duration) {
    let mut read = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        let count = stream.read(&mut chunk).unwrap_or(0);
        if count == 0 {
            return;
        }
        read.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        if body.len() < header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0) {
            continue;
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let delivery = header("x-fieldtrack-delivery-id").unwrap_or_default();
        let envelope = serde_json::from_str(body).unwrap_or_default();
        heard.lock().unwrap().push((path, delivery, envelope));
        std::thread::sleep(pause);
        // Whoever asked may be dead by now.
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
        return;
    }
}

/// Registers webhooks at these paths of the receiver for check-ins and check-outs.
async fn webhooks(product: &Product, admin: &str, receiver: &Receiver, paths: &[&str]) {
    for path in paths {
        let webhook = json!({
            "url": format!("{}{path}", receiver.address),
            "secret": "a-secret-of-16-or-more",
            "events": ["session.checkin", "session.checkout"],
        });
        let (status, made) = product.api().post(admin, "/admin/webhooks", &webhook).await;
        assert_eq!(status, 201, "{made}");
    }
}

/// Every delivery there is: where to, its id, event, and how it stands.
async fn deliveries(product: &Product) -> Vec<(String, String, String, String)> {
    let superuser = product.database.superuser().await;
    superuser
        .query(
            "SELECT url, d.id::text, d.event_id::text, d.status FROM webhook_deliveries d
             JOIN webhooks w ON w.id = d.webhook_id ORDER BY 1, 2",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .collect()
}

/// Waits until every event has exactly one delivery to each endpoint, each a success, and checks that each receiver got
/// each of them under that one id. Answers how often one came again.
async fn delivered_once_each(product: &Product, receiver: &Receiver, paths: &[&str], events: usize) -> usize {
    let mut all = Vec::new();
    eventually("everything is delivered", async || {
        all = deliveries(product).await;
        all.len() >= events * paths.len() && all.iter().all(|(.., status)| status == "success")
    })
    .await;
    assert_eq!(all.len(), events * paths.len());
    let pairs: BTreeSet<(&str, &str)> = all.iter().map(|(url, _, event, _)| (url.as_str(), event.as_str())).collect();
    assert_eq!(pairs.len(), all.len(), "one delivery an endpoint and event");
    let expected: BTreeSet<(String, String)> =
        all.iter().map(|(url, id, ..)| (url.strip_prefix(&receiver.address).unwrap().to_owned(), id.clone())).collect();
    let counted = receiver.counted();
    assert_eq!(counted.keys().cloned().collect::<BTreeSet<_>>(), expected, "every id at its endpoint, and no other");
    // A receiver that counts by the event's id sees each once, too.
    let got = receiver.got.lock().unwrap();
    for path in paths {
        let seen: BTreeSet<&str> =
            got.iter().filter(|(at, ..)| at == path).map(|(_, _, envelope)| envelope["id"].as_str().unwrap()).collect();
        assert_eq!(seen.len(), events, "{path}");
    }
    got.len() - all.len()
}

#[tokio::test]
async fn an_event_made_through_one_gateway_is_heard_on_the_other_in_the_same_order() {
    let product = two_of_each().await;
    let (one, other) = (product.api(), product.api_of(&product.replicas[0]));
    let admin = one.sign_in(ADMIN).await;
    let (mut here, mut there) = (one.events(&admin, None).await, other.events(&admin, None).await);
    let phone = product.phone().await;
    let abroad = Phone { api: other.clone(), ..product.phone().await };
    abroad.check_out().await;
    phone.check_out().await;
    let mut heard = [Vec::new(), Vec::new()];
    for (stream, heard) in [&mut here, &mut there].into_iter().zip(&mut heard) {
        while heard.len() < 4 {
            let (id, name, data) = stream.next().await.unwrap();
            if name != "location.updated" {
                heard.push((id.unwrap(), name, data["payload"]["sessionId"].as_str().unwrap().to_owned()));
            }
        }
    }
    assert_eq!(heard[0], heard[1]);
    assert!(heard[0].is_sorted_by_key(|(id, ..)| *id));
    let told: Vec<(&str, &str)> = heard[0].iter().map(|(_, name, session)| (name.as_str(), session.as_str())).collect();
    assert_eq!(
        told,
        [
            ("session.checkin", &*phone.session),
            ("session.checkin", &abroad.session),
            ("session.checkout", &abroad.session),
            ("session.checkout", &phone.session),
        ]
    );

    // Both gateways see both workers, and what they do.
    for api in [&one, &other] {
        eventually("workers have worked", async || {
            let deep = api.get(&admin, "/internal/ready-deep").await;
            deep["data"]["status"] == "healthy" && deep["data"]["checks"]["workers"]["lastProcessedAt"].is_string()
        })
        .await;
        let health = api.get(&admin, "/admin/system-health").await;
        assert_eq!(health["workers"], json!({ "active": 4, "expected": 4, "healthy": true }));
    }
}

#[tokio::test]
async fn a_webhook_is_delivered_once_an_endpoint_though_the_relay_is_killed_in_the_middle() {
    const PATHS: [&str; 3] = ["/first", "/second", "/third"];
    let mut product = two_of_each().await;
    let admin = product.api().sign_in(ADMIN).await;
    let receiver = Receiver::start(Duration::from_millis(300));
    webhooks(&product, &admin, &receiver, &PATHS).await;

    // In the middle of the transaction that numbers events and makes their deliveries: somebody holds these.
    let (mut superuser, observer) = (product.database.superuser().await, product.database.superuser().await);
    let phone = product.phone().await;
    assert_eq!(delivered_once_each(&product, &receiver, &PATHS, 1).await, 0);
    let holder = superuser.transaction().await.unwrap();
    holder.batch_execute("LOCK TABLE webhook_deliveries IN SHARE MODE").await.unwrap();
    let api = product.api();
    phone.check_out().await;
    eventually("the relay is in the middle", async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'webhook_deliveries'::regclass AND NOT granted";
        observer.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    for worker in &mut product.workers {
        worker.kill();
    }
    holder.rollback().await.unwrap();
    product.workers.clear();
    product.add_worker();
    product.add_worker();

    // In the middle of an attempt: the receiver has it, and nobody hears the answer.
    let before = receiver.attempts();
    let phone = product.phone().await;
    eventually("an attempt is under way", async || receiver.attempts() > before).await;
    for worker in &mut product.workers {
        worker.kill();
    }
    product.workers.clear();
    phone.check_out().await;

    // Between the commit of the deliveries and their jobs: Redis does not answer, and the relay dies waiting for it.
    product.add_worker();
    product.ready(product.workers[0].port).await;
    product.redis.freeze().unwrap();
    let phone = product.phone().await;
    eventually("the last event is handed on", async || deliveries(&product).await.len() == 5 * PATHS.len()).await;
    product.workers[0].kill();
    product.redis.thaw().unwrap();
    product.workers.clear();
    product.add_worker();
    product.add_worker();
    phone.check_out().await;

    let again = delivered_once_each(&product, &receiver, &PATHS, 6).await;
    // Two attempts at an address are under way at once, and three times somebody was killed.
    assert!((1..=18).contains(&again), "{again} attempts were made again");
    println!("{again} attempts were made again");
    assert!(api.get(&admin, "/admin/webhook-dlq").await["data"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_lost_when_redis_starts_again_empty() {
    const PATHS: [&str; 2] = ["/first", "/second"];
    let mut product = two_of_each().await;
    let admin = product.api().sign_in(ADMIN).await;
    let receiver = Receiver::start(Duration::ZERO);
    webhooks(&product, &admin, &receiver, &PATHS).await;
    let other = product.api_of(&product.replicas[0]);
    let mut stream = other.events(&admin, None).await;
    let first = product.phone().await;
    let (last, name, _) = stream.next().await.unwrap();
    assert_eq!(name, "session.checkin");

    // Jobs are held back, so that they are lost and not merely late.
    let track = walk(3, 40);
    let phones = [first, product.phone().await, product.phone().await];
    for queue in ["distance-engine", "webhook-delivery", "analytics", "snapshot-engine"] {
        product.redis.call(&["HSET", &format!("bull:{queue}:meta"), "paused", "1"]).unwrap();
    }
    for phone in &phones {
        phone.upload(&phone.points(&track.points)).await;
    }
    phones[0].check_out().await;
    eventually("jobs wait", async || {
        let counts = product.api().get(&admin, "/admin/queues").await["queues"]["distance"].clone();
        counts["waiting"].as_u64().is_some_and(|waiting| waiting >= 3)
            && deliveries(&product).await.len() >= 4 * PATHS.len()
    })
    .await;
    product.redis.start_again(Memory::Lost).unwrap();
    phones[1].check_out().await;

    // And once more, with a check-out while it is away: that one is written down as well.
    product.redis.kill();
    phones[2].check_out().await;
    let api = product.api();
    let intents = async |query: &str| api.get(&admin, &format!("/admin/retry-intents{query}")).await;
    eventually("the check-out is written down", async || {
        let page = intents("?status=all").await;
        page["data"].as_array().unwrap().iter().any(|intent| intent["job_key"] == json!(phones[2].session))
    })
    .await;
    product.redis.start_again(Memory::Lost).unwrap();

    let expected = reference_km(&track.points);
    for phone in &phones {
        assert_eq!(phone.kilometres().await, expected);
    }
    delivered_once_each(&product, &receiver, &PATHS, 6).await;
    eventually("no intent is left", async || intents("").await["pagination"]["total"] == 0).await;
    let resolved = intents("?status=all").await;
    assert!(resolved["data"].as_array().unwrap().iter().all(|intent| intent["status"] == "resolved"), "{resolved}");

    // The stream ended when Redis did. Whoever comes back is told of everything since, in order, once.
    let rest = async { while stream.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(90), rest).await.unwrap();
    let mut told = Vec::new();
    eventually("the stream catches up", async || {
        let mut stream = other.events(&admin, last).await;
        told.clear();
        while told.len() < 5 {
            match tokio::time::timeout(Duration::from_secs(2), stream.next()).await {
                Ok(Some((Some(id), name, _))) => told.push((id, name)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        told.len() == 5
    })
    .await;
    assert!(told.windows(2).all(|pair| pair[0].0 < pair[1].0), "{told:?}");
    let names: Vec<&str> = told.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(
        names,
        ["session.checkin", "session.checkin", "session.checkout", "session.checkout", "session.checkout"]
    );
}
