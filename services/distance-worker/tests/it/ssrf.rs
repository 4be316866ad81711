//! Attempts go nowhere but to addresses that were judged, whatever the row, the name or the receiver says.

use std::collections::BTreeSet;

use crate::support::TestWorker;
use crate::webhooks::{LOOPBACK, Receiver, attempted, check_in, webhook};

const REFUSED: &str = "Loopback, private, and link-local addresses are not permitted";

#[tokio::test(flavor = "multi_thread")]
async fn a_reserved_address_that_got_past_registration_is_never_called() {
    let worker = TestWorker::start(&[]).await;
    let receiver = Receiver::start().await;
    let (tenant, session) = worker.session().await;
    let port = receiver.address.rsplit_once(':').unwrap().1;
    let mut urls: BTreeSet<String> = [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.0.1",
        "198.18.0.1",
        "203.0.113.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::1]",
        "[fd00::1]",
        "[fe80::1]",
        "[ff02::1]",
        // However it is spelt.
        "2130706433",
        "0x7f.1",
        "localhost",
        "localhost.",
    ]
    .iter()
    .map(|host| format!("https://{host}:{port}/reserved"))
    .collect();
    urls.insert(format!("http://8.8.8.8:{port}/without-encryption"));
    for url in &urls {
        webhook(&worker, tenant, url, &["session.checkin"]).await;
    }
    check_in(&worker, tenant, session).await;
    for delivery in attempted(&worker, tenant, urls.len()).await {
        let why = delivery.response_body.unwrap();
        assert!(why == REFUSED || why.starts_with("Only HTTPS URLs are permitted"), "{why}");
        assert_eq!(delivery.response_status, None);
    }
    assert!(receiver.got("/reserved").is_empty() && receiver.got("/without-encryption").is_empty());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_a_failure_and_nobody_goes_where_it_points() {
    let worker = TestWorker::start(LOOPBACK).await;
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    let (tenant, session) = worker.session().await;
    // To an allowed address, and to one that is not.
    let astray = elsewhere.address.trim_start_matches("http://").to_owned();
    for target in [astray.as_str(), "169.254.169.254"] {
        webhook(&worker, tenant, &format!("{}/to/{target}", receiver.address), &["session.checkin"]).await;
    }
    check_in(&worker, tenant, session).await;
    for delivery in attempted(&worker, tenant, 2).await {
        assert_eq!((delivery.status.as_str(), delivery.response_status), ("pending", Some(307)));
    }
    assert_eq!(receiver.got(&format!("/to/{astray}")).len(), 1);
    assert!(elsewhere.got("/astray").is_empty(), "redirects are not followed");
    worker.stop().await;
}
