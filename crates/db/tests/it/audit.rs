//! The audit log: only ever longer, and whatever is done to it behind our back is found.

use db::Db;
use db::audit::{Entry, Fault, Verdict, record, verify};
use domain::auth::Actor;
use domain::{ApiKeyId, Clock, SystemClock, Tenant, UserId};
use testkit::database::TestDatabase;
use uuid::Uuid;

use crate::support::Field;

async fn write(db: &Db, tenant: Tenant, event: &'static str) {
    let mut tx = db.tenant(tenant).await.unwrap();
    let entry = Entry::new(event, Actor::User(UserId::generate())).on("employee", 7).with("name", "Ãsha \"A\"\n");
    record(&mut tx, &entry, SystemClock.now()).await.unwrap();
    tx.commit().await.unwrap();
}

async fn judge(db: &Db, tenant: Tenant) -> Verdict {
    verify(&mut db.tenant(tenant).await.unwrap()).await.unwrap()
}

/// Six entries of one organization, two of another, by hands that write at once.
async fn written(database: &TestDatabase, db: &Db) -> (Tenant, Tenant) {
    let (one, other) = (Field::new(database, db).await.tenant, Field::new(database, db).await.tenant);
    let writers: Vec<_> = [one, one, one, other, one, one, other, one]
        .into_iter()
        .map(|tenant| {
            let db = db.clone();
            tokio::spawn(async move { write(&db, tenant, "EMPLOYEE_CREATED").await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    (one, other)
}

#[tokio::test]
async fn entries_written_at_once_form_one_chain_an_organization() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let empty = Field::new(&database, &db).await.tenant;
    let (one, other) = written(&database, &db).await;
    for (tenant, expected) in [(one, 6), (other, 2), (empty, 0)] {
        match judge(&db, tenant).await {
            Verdict::Intact { entries, hash } => {
                assert_eq!((entries, hash.map(|hash| hash.len())), (expected, (expected > 0).then_some(32)));
            }
            broken => panic!("{broken:?}"),
        }
    }
}

#[tokio::test]
async fn several_entries_of_one_transaction_follow_each_other() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let tenant = Field::new(&database, &db).await.tenant;
    let mut tx = db.tenant(tenant).await.unwrap();
    for event in ["WEBHOOK_CREATED", "WEBHOOK_UPDATED", "WEBHOOK_DELETED"] {
        record(&mut tx, &Entry::new(event, Actor::ApiKey(ApiKeyId::generate())), SystemClock.now()).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert!(matches!(judge(&db, tenant).await, Verdict::Intact { entries: 3, .. }));
    let rows = database
        .superuser()
        .await
        .query("SELECT event, payload ? 'api_key_id' AND actor_id IS NULL FROM admin_audit_log ORDER BY position", &[])
        .await
        .unwrap();
    let rows: Vec<(&str, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows, [("WEBHOOK_CREATED", true), ("WEBHOOK_UPDATED", true), ("WEBHOOK_DELETED", true)]);
}

#[tokio::test]
async fn every_kind_of_tampering_is_found_and_named() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let (tenant, _) = written(&database, &db).await;
    let organization = tenant.organization().uuid();
    let superuser = database.superuser().await;
    let id_at = async |position: i64| -> Uuid {
        let query = "SELECT id FROM admin_audit_log WHERE organization_id = $1 AND position = $2";
        superuser.query_one(query, &[&organization, &position]).await.unwrap().get(0)
    };
    let ids = [id_at(1).await, id_at(2).await, id_at(3).await, id_at(4).await, id_at(5).await, id_at(6).await];
    let broken = |fault, position, id| Verdict::Broken { fault, position, id };
    for (tampering, verdict) in [
        ("UPDATE admin_audit_log SET payload = '{}' WHERE position = 3", broken(Fault::Changed, Some(3), Some(ids[2]))),
        ("UPDATE admin_audit_log SET actor_id = NULL WHERE position = 1", broken(Fault::Changed, Some(1), Some(ids[0]))),
        (
            "UPDATE admin_audit_log SET created_at = created_at - interval '1 microsecond' WHERE position = 6",
            broken(Fault::Changed, Some(6), Some(ids[5])),
        ),
        ("DELETE FROM admin_audit_log WHERE position = 4", broken(Fault::Missing, Some(4), Some(ids[4]))),
        ("DELETE FROM admin_audit_log WHERE position = 1", broken(Fault::Missing, Some(1), Some(ids[1]))),
        ("DELETE FROM admin_audit_log WHERE position >= 5", broken(Fault::Missing, Some(5), None)),
        ("DELETE FROM admin_audit_log", broken(Fault::Missing, Some(1), None)),
        // Whoever changes a row and mends its hash is found out by the next one, or by the end of the chain.
        (
            "UPDATE admin_audit_log e SET event = 'NOTHING', hash = app.audit_hash(
                (SELECT hash FROM admin_audit_log b WHERE b.organization_id = e.organization_id AND b.position = 1),
                ROW(e.organization_id, e.id, 'NOTHING', e.actor_id, e.resource_type, e.resource_id, e.payload,
                    e.created_at, e.position, NULL)::admin_audit_log)
             WHERE position = 2",
            broken(Fault::Changed, Some(3), Some(ids[2])),
        ),
        (
            "ALTER TABLE admin_audit_log DISABLE TRIGGER chained;
             INSERT INTO admin_audit_log SELECT organization_id, '00000000-0000-4000-8000-000000000000', event, actor_id,
                resource_type, resource_id, payload, created_at FROM admin_audit_log WHERE position = 6",
            broken(Fault::Unchained, None, Some(Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0000))),
        ),
        (
            "DELETE FROM admin_audit_log WHERE position = 6; UPDATE audit_chains SET position = 5",
            broken(Fault::Changed, Some(5), None),
        ),
        ("DELETE FROM audit_chains", broken(Fault::Missing, Some(1), None)),
    ] {
        // Seen and undone within one transaction of the superuser, who looks with the same function.
        superuser.batch_execute(&format!("BEGIN; {tampering}")).await.unwrap();
        let found = superuser.query_one("SELECT * FROM app.verify_audit($1)", &[&organization]).await.unwrap();
        let (problem, position, id): (String, Option<i64>, Option<Uuid>) = (found.get(0), found.get(1), found.get(2));
        let fault = [Fault::Changed, Fault::Missing, Fault::Unchained].into_iter().find(|f| f.as_str() == problem);
        assert_eq!(broken(fault.unwrap(), position, id), verdict, "{tampering}");
        superuser.batch_execute("ROLLBACK").await.unwrap();
    }
    superuser.batch_execute("DELETE FROM admin_audit_log WHERE position = 2").await.unwrap();
    assert_eq!(judge(&db, tenant).await, broken(Fault::Missing, Some(2), Some(ids[2])));
}

#[tokio::test]
async fn a_request_can_only_add_entries_and_never_choose_their_place() {
    let database = TestDatabase::create().await;
    let db = database.open();
    let (tenant, _) = written(&database, &db).await;
    let app = database.as_app().await;
    let set = format!("SET app.organization_id = '{}'", tenant.organization());
    app.batch_execute(&set).await.unwrap();
    for forbidden in [
        "UPDATE admin_audit_log SET event = 'NOTHING'",
        "DELETE FROM admin_audit_log",
        "TRUNCATE admin_audit_log",
        "INSERT INTO admin_audit_log (organization_id, id, event, payload, created_at, position, hash)
         VALUES (gen_random_uuid(), gen_random_uuid(), 'X', '{}', now(), 1, NULL)",
        "ALTER TABLE admin_audit_log DISABLE TRIGGER chained",
        "SET session_replication_role = replica",
        "UPDATE audit_chains SET position = 0",
        "DELETE FROM audit_chains",
    ] {
        let error = app.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{forbidden}");
    }
    assert!(matches!(judge(&db, tenant).await, Verdict::Intact { entries: 6, .. }));
}

#[tokio::test]
async fn the_hash_is_the_one_the_documentation_describes() {
    let database = TestDatabase::create().await;
    let row = database
        .superuser()
        .await
        .query_one(
            "SELECT encode(app.audit_hash(NULL, ROW('9b2b7f7e-7c1d-4c58-8a35-2f4f2f4f9e02',
                '3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11', 'EMPLOYEE_CREATED', NULL, 'employee', '7', '{\"name\":\"Asha\"}',
                '2026-03-10T08:00:00.123456Z', 1, NULL)::admin_audit_log), 'hex')",
            &[],
        )
        .await
        .unwrap();
    // printf '\0%.0s' {1..32} followed by the text of the array, through sha256sum.
    assert_eq!(row.get::<_, String>(0), EXAMPLE);
}

const EXAMPLE: &str = "16d76eded670ea369e8fbae42e5941eef757a8bd593a40d0c2ffc7226204cfe2";
