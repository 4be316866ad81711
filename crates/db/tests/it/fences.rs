//! What nobody remembers to check.

use std::collections::BTreeSet;

use testkit::database::TestDatabase;

#[tokio::test]
async fn every_tenant_table_forces_row_level_security_and_leads_every_key_with_its_organization() {
    let database = TestDatabase::create().await;
    let client = database.superuser().await;
    let tables = client
        .query(
            "SELECT relname, relrowsecurity AND relforcerowsecurity AS forced, relispartition,
                    EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'organization_id') AS owned,
                    EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polname = 'tenant') AS policed
             FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
                AND relname <> '__diesel_schema_migrations'",
            &[],
        )
        .await
        .unwrap();
    assert!(tables.len() >= 9);
    for table in tables {
        let (name, forced): (String, bool) = (table.get(0), table.get(1));
        let (partition, owned, policed): (bool, bool, bool) = (table.get(2), table.get(3), table.get(4));
        assert!(forced, "{name} does not force row-level security");
        // A partition is reached through its parent; on its own, having no policy, it shows nothing to anybody.
        assert!(!owned || partition || policed, "{name} has no policy `tenant`");
    }
    let keys = client
        .query(
            "SELECT indexrelid::regclass::text, (SELECT attname FROM pg_attribute WHERE attrelid = indrelid AND attnum = indkey[0])
             FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
             WHERE relnamespace = 'public'::regnamespace AND indisunique
                AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = indrelid AND attname = 'organization_id')",
            &[],
        )
        .await
        .unwrap();
    for key in keys {
        let (name, first): (String, String) = (key.get(0), key.get(1));
        // An address signs in before its organization is known, so it is unique everywhere.
        assert!(first == "organization_id" || name == "users_email_key", "{name} begins with {first}");
    }
}

#[tokio::test]
async fn the_roles_own_nothing_and_cannot_bypass_anything() {
    let database = TestDatabase::create().await;
    database.open().check_roles().await.unwrap();
    let owner = db::DatabaseConfig::new(database.owner_url().into());
    let as_owner = db::Db::open(&owner, &owner).unwrap();
    assert!(matches!(as_owner.check_roles().await, Err(db::DbError::Broken(_))));
}

#[tokio::test]
async fn the_system_role_may_do_what_its_policies_explain_and_no_more() {
    let database = TestDatabase::create().await;
    let client = database.superuser().await;
    let granted: BTreeSet<String> = client
        .query(
            "SELECT table_name || ' ' || privilege_type FROM information_schema.role_table_grants
             WHERE grantee = 'fieldtrack_system' AND table_schema = 'public'",
            &[],
        )
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.get(0))
        .collect();
    let expected = [
        "admin_audit_log SELECT",
        "audit_chains SELECT",
        "organizations INSERT",
        "queue_retry_intents DELETE",
        "refresh_tokens DELETE",
        "refresh_tokens INSERT",
        "refresh_tokens SELECT",
        "schedule_turns INSERT",
        "schedule_turns SELECT",
        "schedule_turns UPDATE",
        "relay_state SELECT",
        "sign_in_notices DELETE",
        "sign_in_notices SELECT",
        "signing_keys DELETE",
        "signing_keys INSERT",
        "signing_keys SELECT",
        "user_credentials INSERT",
        "user_credentials SELECT",
        "users INSERT",
        "users SELECT",
        "webhook_deliveries DELETE",
        "webhook_deliveries INSERT",
        "webhook_events DELETE",
        "webhook_events SELECT",
    ];
    assert_eq!(granted, expected.map(str::to_owned).into());
    let system = database.as_system().await;
    for forbidden in [
        "SELECT * FROM gps_locations",
        "SELECT * FROM attendance_sessions",
        "SELECT * FROM session_summaries",
        "SELECT * FROM expenses",
        "SELECT * FROM employee_expense_totals",
        "SELECT name FROM employees",
        "SELECT * FROM admin_sessions",
        "SELECT organization_id FROM org_dashboard_snapshot",
        "SELECT job_key FROM queue_retry_intents",
        "UPDATE users SET role = 'ADMIN'",
        "DELETE FROM organizations",
        "UPDATE webhook_events SET payload = '{}'",
        "DELETE FROM admin_audit_log",
    ] {
        let error = system.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{forbidden}");
    }
}

#[tokio::test]
async fn the_schema_in_code_is_the_schema_in_the_database() {
    let database = TestDatabase::create().await;
    let client = database.superuser().await;
    let real: BTreeSet<String> = client
        .query(
            // PostgreSQL calls every column of a view nullable; what they can be is known from the tables below.
            "SELECT CASE table_schema WHEN 'app' THEN 'app.' ELSE '' END || table_name || '.' || column_name || ' ' || udt_name
                || CASE WHEN table_schema = 'public' AND is_nullable = 'YES' THEN ' null' ELSE '' END
             FROM information_schema.columns WHERE table_schema IN ('public', 'app')
                AND table_name NOT LIKE 'gps\\_locations\\_%' AND table_name <> '__diesel_schema_migrations'",
            &[],
        )
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(in_code(), real);
}

/// Reads `table!` blocks as text: names, columns, types.
fn in_code() -> BTreeSet<String> {
    let mut table = String::new();
    let mut columns = BTreeSet::new();
    for line in include_str!("../../src/schema.rs").lines().map(str::trim) {
        if let Some((name, _)) = line.split_once(" (").filter(|_| line.ends_with(") {")) {
            table = name.to_owned();
        } else if let Some((column, kind)) = line.strip_suffix(',').and_then(|line| line.split_once(" -> ")) {
            let (kind, null) =
                kind.strip_prefix("Nullable<").map_or((kind, ""), |inner| (inner.trim_end_matches('>'), " null"));
            let kind = match kind {
                "Uuid" => "uuid",
                "Text" => "text",
                "Bool" => "bool",
                "BigInt" => "int8",
                "Integer" => "int4",
                "Double" => "float8",
                "Bytea" => "bytea",
                "Array<Text>" => "_text",
                "Jsonb" => "jsonb",
                "Timestamptz" => "timestamptz",
                "Date" => "date",
                "UserRole" => "user_role",
                "Numeric" => "numeric",
                "ExpenseStatus" => "expense_status",
                other => panic!("unknown type {other}"),
            };
            let null = if table.starts_with("app.") { "" } else { null };
            columns.insert(format!("{table}.{column} {kind}{null}"));
        }
    }
    columns
}
