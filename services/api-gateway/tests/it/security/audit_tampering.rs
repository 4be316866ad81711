//! Whoever can write to the database and changes the audit log is found out, by its own organization.

use serde_json::{Value, json};

use crate::support::{Organization, TestApp};

/// An organization with four entries, and the ids of these.
async fn with_entries(app: &TestApp) -> (Organization<'_>, Vec<String>) {
    let organization = app.organization().await;
    for _ in 0..4 {
        organization.admin.api_key(&["read:sessions"]).await;
    }
    let query = "SELECT id::text FROM admin_audit_log WHERE organization_id = $1 ORDER BY position";
    let rows = app.database.superuser().await.query(query, &[&organization.id]).await.unwrap();
    let ids = rows.iter().map(|row| row.get(0)).collect();
    (organization, ids)
}

async fn verified(organization: &Organization<'_>) -> Value {
    organization.admin.get("/admin/audit-log/verify").await.data(200)
}

#[tokio::test]
async fn a_changed_row_is_named() {
    let app = TestApp::start_with(&[("RATE_LIMIT_MULTIPLIER", "100")]).await;
    let (organization, ids) = with_entries(&app).await;
    let (other, _) = with_entries(&app).await;
    let superuser = app.database.superuser().await;
    assert_eq!(verified(&organization).await["intact"], true);
    for change in [
        "event = 'NOTHING'",
        "payload = payload || '{\"name\": \"other\"}'",
        "actor_id = NULL",
        "created_at = created_at + interval '1 microsecond'",
        "hash = sha256('x'::bytea)",
    ] {
        let change_it = format!("UPDATE admin_audit_log SET {change} WHERE id = '{}'", ids[1]);
        superuser.batch_execute(&change_it).await.unwrap();
        let broken = verified(&organization).await;
        let named = json!({ "intact": false, "fault": "changed", "position": 2, "entryId": ids[1] });
        assert_eq!(broken, named, "{change}");
        assert_eq!(verified(&other).await["intact"], true, "the others' chains are theirs");
        chain_anew(&organization).await;
    }
}

/// Writes the chain anew, as only the owner of the database could: the rows count as right as they are now.
async fn chain_anew(organization: &Organization<'_>) {
    let superuser = organization.app.database.superuser().await;
    superuser
        .batch_execute(&format!(
            "DO $$ DECLARE entry admin_audit_log; last bytea; BEGIN
                 FOR entry IN SELECT * FROM admin_audit_log WHERE organization_id = '{id}' ORDER BY position LOOP
                     last := app.audit_hash(last, entry);
                     UPDATE admin_audit_log SET hash = last WHERE organization_id = '{id}' AND id = entry.id;
                 END LOOP;
                 UPDATE audit_chains SET hash = last WHERE organization_id = '{id}';
             END $$",
            id = organization.id
        ))
        .await
        .unwrap();
    assert_eq!(verified(organization).await["intact"], true);
}

#[tokio::test]
async fn a_missing_row_is_named_wherever_it_was() {
    for (gone, position, next) in [(0, 1, Some(1_usize)), (2, 3, Some(3)), (3, 4, None)] {
        let app = TestApp::start_with(&[("RATE_LIMIT_MULTIPLIER", "100")]).await;
        let (organization, ids) = with_entries(&app).await;
        let remove_it = format!("DELETE FROM admin_audit_log WHERE id = '{}'", ids[gone]);
        app.database.superuser().await.batch_execute(&remove_it).await.unwrap();
        let mut named = json!({ "intact": false, "fault": "missing", "position": position });
        // Behind the last there is none to name.
        if let Some(place) = next {
            named["entryId"] = json!(ids[place]);
        }
        assert_eq!(verified(&organization).await, named, "row {gone}");
    }
}

#[tokio::test]
async fn a_row_that_was_put_in_is_named_and_the_application_can_do_none_of_it() {
    let app = TestApp::start_with(&[("RATE_LIMIT_MULTIPLIER", "100")]).await;
    let (organization, _) = with_entries(&app).await;
    let superuser = app.database.superuser().await;
    let application = app.database.as_app().await;
    application
        .batch_execute(&format!("SELECT set_config('app.organization_id', '{}', false)", organization.id))
        .await
        .unwrap();
    for forbidden in [
        "UPDATE admin_audit_log SET event = 'NOTHING'",
        "DELETE FROM admin_audit_log",
        "UPDATE audit_chains SET position = 1",
        "INSERT INTO admin_audit_log (organization_id, id, event, created_at, position) VALUES (gen_random_uuid(), gen_random_uuid(), 'x', now(), 9)",
    ] {
        let error = application.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{forbidden}");
    }
    assert_eq!(verified(&organization).await["intact"], true);
    superuser
        .batch_execute(&format!(
            "SET session_replication_role = replica;
             INSERT INTO admin_audit_log (organization_id, id, event, created_at)
                 VALUES ('{}', '{}', 'INVENTED', now())",
            organization.id,
            uuid::Uuid::nil()
        ))
        .await
        .unwrap();
    let broken = verified(&organization).await;
    assert_eq!((&broken["fault"], &broken["entryId"]), (&json!("unchained"), &json!(uuid::Uuid::nil())));
}
