//! Every step goes up, down and up again.

use std::time::Duration;

use testkit::database::TestDatabase;

/// How many steps there are: each is a folder.
fn steps() -> usize {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
    folder.read_dir().unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

#[tokio::test]
async fn every_migration_goes_up_down_and_up_again() {
    let database = TestDatabase::empty().await;
    let url = database.owner_url();
    let (up, down, again) = tokio::task::spawn_blocking(move || {
        let url = url.into();
        (db::migrate(&url).unwrap(), db::revert_all(&url).unwrap(), db::migrate(&url).unwrap())
    })
    .await
    .unwrap();
    assert_eq!(up.len(), steps());
    assert_eq!(down.len(), up.len());
    assert_eq!(again, up);
}

#[tokio::test]
async fn whoever_was_deactivated_before_there_were_notices_gets_one() {
    let database = TestDatabase::create().await;
    let client = database.superuser().await;
    client
        .batch_execute(
            "INSERT INTO organizations (id, name, slug)
                 SELECT gen_random_uuid(), 'Field Services', 'o' || n FROM generate_series(1, 2) AS n;
             INSERT INTO users (organization_id, id, email, role)
                 SELECT id, gen_random_uuid(), slug || n || '@people.example', 'EMPLOYEE'
                 FROM organizations, generate_series(1, 2) AS n;
             INSERT INTO employees (organization_id, id, user_id, name, employee_code, is_active)
                 SELECT organization_id, id, id, 'Asha', left(email, 3), email LIKE '__2@%' FROM users;
             INSERT INTO employees (organization_id, id, name, employee_code, is_active)
                 SELECT id, gen_random_uuid(), 'Ana', 'NOBODY', false FROM organizations;",
        )
        .await
        .unwrap();
    let [down, up] = [
        include_str!("../../../../migrations/2026-11-25-000016_sign_in/down.sql"),
        include_str!("../../../../migrations/2026-11-25-000016_sign_in/up.sql"),
    ];
    // As the owner, who sees no organization's rows.
    let step = format!("BEGIN; SET LOCAL ROLE fieldtrack_owner; {down}; {up}; COMMIT");
    client.batch_execute(&step).await.unwrap();
    let whose = "SELECT email FROM sign_in_notices JOIN users ON id = user_id WHERE due_at <= now() ORDER BY email";
    let whose: Vec<String> = client.query(whose, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(whose, ["o11@people.example", "o21@people.example"]);
    let forced = "SELECT relforcerowsecurity FROM pg_class WHERE oid = 'employees'::regclass";
    assert!(client.query_one(forced, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn two_processes_that_migrate_at_once_follow_each_other() {
    let database = TestDatabase::empty().await;
    let migrations = [(); 2].map(|()| {
        let url = database.owner_url();
        tokio::task::spawn_blocking(move || db::migrate(&url.into()).unwrap().len())
    });
    let mut done = Vec::new();
    for migration in migrations {
        done.push(migration.await.unwrap());
    }
    done.sort_unstable();
    assert_eq!(done, [0, steps()]);
}

#[tokio::test]
async fn a_step_that_meets_a_lock_is_tried_again() {
    let database = TestDatabase::empty().await;
    let url = database.owner_url();
    tokio::task::spawn_blocking(move || {
        let url = url.into();
        db::migrate(&url).and_then(|_| db::revert_all(&url)).unwrap()
    })
    .await
    .unwrap();
    let (mut blocking, watching) = (database.superuser().await, database.superuser().await);
    let lock = blocking.transaction().await.unwrap();
    // Reading goes on; the mark that a step leaves has to wait.
    lock.batch_execute("LOCK TABLE __diesel_schema_migrations IN SHARE MODE").await.unwrap();
    let url = database.owner_url();
    let migration = tokio::task::spawn_blocking(move || db::migrate(&url.into()));
    // It waits, gives up, and waits again: only then does the other let go.
    let (mut waits, mut waiting) = (0, false);
    while waits < 2 {
        let blocked = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND database = \
                       (SELECT oid FROM pg_database WHERE datname = current_database())";
        let row = watching.query_one(blocked, &[]).await.unwrap();
        let now: bool = row.get(0);
        waits += u32::from(now && !waiting);
        waiting = now;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lock.rollback().await.unwrap();
    assert_eq!(migration.await.unwrap().unwrap().len(), steps());
}

#[tokio::test]
async fn a_database_says_how_far_it_is() {
    let database = TestDatabase::empty().await;
    let url = database.owner_url().into();
    let (before, after) = tokio::task::spawn_blocking(move || {
        let before = db::schema(&url).unwrap();
        db::migrate(&url).unwrap();
        (before, db::schema(&url).unwrap())
    })
    .await
    .unwrap();
    assert_eq!((before.applied, before.floor), (None, None), "asking changes nothing");
    assert_eq!(after.applied, Some(db::built_in_head().unwrap()));
    assert!(after.floor <= after.applied && after.floor.is_some());
    assert!(before.now <= after.now);
}
