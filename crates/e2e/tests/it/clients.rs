//! Unmodified clients of the protocols the product speaks: runs the tests of `tests/node` against a product of their own.

use std::path::Path;
use std::process::Command;

use crate::support::{ADMIN, PASSWORD, Product, SECRETS_KEY, program};

const OTHER_ADMIN: &str = "admin@elsewhere.example";

#[tokio::test(flavor = "multi_thread")]
async fn supabase_and_standard_webhooks_clients_find_everything_as_they_expect_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
    assert!(
        folder.join("node_modules/@supabase/supabase-js").exists(),
        "the packages of {} are not installed; run `cargo xtask test`, or `npm ci` there",
        folder.display()
    );
    let product = Product::start(1, &[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")]).await;
    // The second organization, whose changes the first must never hear of.
    let made = Command::new(program("api-gateway"))
        .args(["organization", "create", "--name", "Elsewhere", "--slug", "elsewhere", "--admin-email", OTHER_ADMIN])
        .env_clear()
        .env("APP_ENV", "test")
        .env("DATABASE_URL", product.database.app_url())
        .env("SYSTEM_DATABASE_URL", product.database.system_url())
        .env("REDIS_URL", product.redis.url())
        .env("SECRETS_KEY", SECRETS_KEY)
        .env("ADMIN_PASSWORD", PASSWORD)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = Command::new("node");
    command
        .args(["--test", "--test-reporter=spec", "realtime.test.mjs", "webhooks.test.mjs"])
        .current_dir(&folder)
        .env("API_URL", format!("http://127.0.0.1:{}", product.gateway.port))
        .env("ADMIN", ADMIN)
        .env("OTHER_ADMIN", OTHER_ADMIN)
        .env("PASSWORD", PASSWORD);
    let answer = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    assert!(answer.status.success(), "{told}");
}
