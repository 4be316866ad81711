//! Unmodified BullMQ clients against a live worker of ours: runs the tests of `tests/node` on a Redis of their own.

use std::path::Path;
use std::process::Command;

use testkit::redis::RedisServer;

#[test]
fn bullmq_and_bull_board_find_everything_as_they_expect_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
    assert!(
        folder.join("node_modules/bullmq").exists(),
        "the packages of {} are not installed; run `cargo xtask test`, or `npm ci` there",
        folder.display()
    );
    // Cargo builds the examples of a package with its tests.
    let worker = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/obedient");
    assert!(worker.exists(), "{} is not built", worker.display());
    let redis = RedisServer::start().unwrap();
    let answer = Command::new("node")
        .args(["--test", "--test-reporter=spec", "table.test.mjs", "board.test.mjs"])
        .current_dir(&folder)
        .env("REDIS_URL", redis.url())
        .env("WORKER", worker)
        .output()
        .unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    assert!(answer.status.success(), "{told}");
}
