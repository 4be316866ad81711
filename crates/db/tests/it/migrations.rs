//! Every step goes up, down and up again.

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
