//! Budgets.

use std::time::{Duration, Instant};

use queue::limits::{Charge, Kind, Limits};
use queue::{Redis, RedisConfig};
use testkit::redis::{Memory, RedisServer};

const PATIENCE: Duration = Duration::from_millis(250);

fn charge(key: &str, budget: u32, kind: Kind) -> Charge {
    Charge { key: key.to_owned(), budget, window_s: 60, kind }
}

fn limits(server: &RedisServer) -> Limits {
    Limits::start(Redis::open(&RedisConfig::new(server.url().into())).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_exact_however_many_ask_at_once() {
    let server = RedisServer::start().unwrap();
    let replicas = [limits(&server), limits(&server)];
    for kind in [Kind::Fixed, Kind::Sliding] {
        let key = format!("{kind:?}");
        let asked = (0..300).map(|number| {
            let (limits, charge) = (replicas[number % 2].clone(), charge(&key, 100, kind));
            tokio::spawn(async move { limits.check(vec![charge], Duration::from_secs(5)).await.unwrap()[0].allowed })
        });
        let mut allowed = 0;
        for one in asked.collect::<Vec<_>>() {
            allowed += u32::from(one.await.unwrap());
        }
        assert_eq!(allowed, 100, "{kind:?}");
    }
}

#[tokio::test]
async fn what_is_refused_by_one_budget_is_not_charged_to_the_next() {
    let server = RedisServer::start().unwrap();
    let limits = limits(&server);
    let both = || vec![charge("organization", 1, Kind::Sliding), charge("caller", 10, Kind::Fixed)];
    let first = limits.check(both(), PATIENCE).await.unwrap();
    assert_eq!((first[0].allowed, first[1].allowed, first[1].remaining), (true, true, 9));
    let second = limits.check(both(), PATIENCE).await.unwrap();
    assert_eq!((second[0].allowed, second[0].remaining), (false, 0));
    let alone = limits.check(vec![charge("caller", 10, Kind::Fixed)], PATIENCE).await.unwrap();
    assert_eq!(alone[0].remaining, 8);
    assert!((59..=60).contains(&alone[0].reset_s));
}

#[tokio::test]
async fn looking_costs_nothing_and_clearing_forgets() {
    let server = RedisServer::start().unwrap();
    let limits = limits(&server);
    let login = charge("login", 2, Kind::Fixed);
    for _ in 0..5 {
        assert!(limits.peek(&login, PATIENCE).await.unwrap().allowed);
    }
    for _ in 0..2 {
        limits.check(vec![login.clone()], PATIENCE).await.unwrap();
    }
    assert!(!limits.peek(&login, PATIENCE).await.unwrap().allowed);
    limits.clear(&login.key, PATIENCE).await.unwrap();
    assert!(limits.peek(&login, PATIENCE).await.unwrap().allowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_answer_comes_soon_and_with_it_again_soon_after() {
    let mut server = RedisServer::start().unwrap();
    let limits = limits(&server);
    let ask = || limits.check(vec![charge("caller", 10, Kind::Fixed)], PATIENCE);
    ask().await.unwrap();
    for frozen in [false, true] {
        if frozen {
            server.freeze().unwrap();
        } else {
            server.kill();
        }
        for _ in 0..3 {
            let begun = Instant::now();
            assert!(ask().await.is_err());
            assert!(begun.elapsed() < Duration::from_millis(350), "{:?}", begun.elapsed());
        }
        if frozen {
            server.thaw().unwrap();
        } else {
            server.start_again(Memory::Lost).unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while ask().await.is_err() {
            assert!(Instant::now() < deadline, "Redis is back, and nobody noticed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn one_takes_it_at_a_time_whichever_replica_asks() {
    let server = RedisServer::start().unwrap();
    let replicas = [limits(&server), limits(&server)];
    let lasting = Duration::from_secs(15);
    assert_eq!(replicas[0].take("replay:a", lasting).await.unwrap(), None);
    let left = replicas[1].take("replay:a", lasting).await.unwrap().unwrap();
    assert!(left <= lasting && left > Duration::from_secs(5), "{left:?}");
    assert_eq!(replicas[1].take("replay:b", lasting).await.unwrap(), None);
    replicas[1].clear("replay:a", PATIENCE).await.unwrap();
    assert_eq!(replicas[0].take("replay:a", lasting).await.unwrap(), None);
}
