//! Redis behind encryption: `rediss://`, trusted by the system's authorities.

use std::process::{Child, Command, Stdio};

use testkit::tls::{Greeting, TlsDoor};

use crate::support::{QUEUE, TestQueue, eventually};

/// A worker program that reaches Redis at `url` and trusts `authority`, as an operator would configure it.
fn worker(url: &str, authority: &std::path::Path) -> Child {
    // Cargo builds the examples of a package with its tests.
    let program = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/obedient");
    Command::new(program)
        .args([url, QUEUE])
        .env("SSL_CERT_FILE", authority)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_travel_encrypted_and_only_to_whom_is_trusted() {
    let queue = TestQueue::start().await;
    let server = ([127, 0, 0, 1], queue.server.port()).into();
    let right = TlsDoor::open(server, "localhost", Greeting::None).await.unwrap();
    let misnamed = TlsDoor::open(server, "redis.example", Greeting::None).await.unwrap();
    queue.producer.enqueue(TestQueue::job(1)).await.unwrap();

    for (url, authority) in [
        (format!("rediss://localhost:{}", right.port()), misnamed.authority()),
        (format!("rediss://localhost:{}", misnamed.port()), misnamed.authority()),
        (format!("redis://localhost:{}", right.port()), right.authority()),
    ] {
        let mut stranger = worker(&url, &authority);
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert_eq!(queue.admin.counts().await.unwrap().waiting, 1, "{url} was trusted");
        assert_eq!(stranger.try_wait().unwrap(), None, "it keeps trying");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    let mut trusted = worker(&format!("rediss://localhost:{}", right.port()), &right.authority());
    eventually("the job is done", async || queue.admin.counts().await.unwrap().completed == 1).await;
    drop(trusted.stdin.take());
    assert!(trusted.wait().unwrap().success());
}
