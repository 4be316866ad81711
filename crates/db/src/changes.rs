//! Rows that have changed, as whoever follows their table is told of them: JSON as PostgreSQL writes it, every digit kept.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use domain::change::Table;
use domain::{ExpenseId, SessionId};
use uuid::Uuid;

use crate::{DbResult, TenantTx};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    record: String,
}

/// The columns of a table that are told, between commas. Names of ours, and nobody else's.
fn columns(table: Table) -> String {
    table.columns().iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// Sessions, in no order; those that are not there are left out.
pub async fn sessions(tx: &mut TenantTx, ids: &[SessionId]) -> DbResult<Vec<String>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    by_id(tx, Table::Sessions, &ids).await
}

/// Claims, in no order; those that are not there are left out.
pub async fn expenses(tx: &mut TenantTx, ids: &[ExpenseId]) -> DbResult<Vec<String>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    by_id(tx, Table::Expenses, &ids).await
}

#[tracing::instrument(name = "db changed rows", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
async fn by_id(tx: &mut TenantTx, table: Table, ids: &[Uuid]) -> DbResult<Vec<String>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let organization = tx.organization();
    let rows: Vec<Row> = diesel::sql_query(format!(
        "SELECT row_to_json(changed)::text AS record FROM (
             SELECT {} FROM {} WHERE organization_id = $1 AND id = ANY ($2)) AS changed",
        columns(table),
        table.name(),
    ))
    .bind::<SqlUuid, _>(organization)
    .bind::<Array<SqlUuid>, _>(ids)
    .load(tx.connection())
    .await?;
    Ok(rows.into_iter().map(|row| row.record).collect())
}

/// Fixes, each named by its session and its time, in no order; those that are not there are left out.
#[tracing::instrument(name = "db changed fixes", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn locations(tx: &mut TenantTx, keys: &[(SessionId, DateTime<Utc>)]) -> DbResult<Vec<String>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let organization = tx.organization();
    let (sessions, times): (Vec<Uuid>, Vec<DateTime<Utc>>) = keys.iter().map(|(id, at)| (id.uuid(), *at)).unzip();
    let rows: Vec<Row> = diesel::sql_query(format!(
        "SELECT row_to_json(changed)::text AS record FROM (
             SELECT {} FROM gps_locations
             WHERE organization_id = $1 AND (session_id, recorded_at) IN (SELECT * FROM unnest($2, $3))) AS changed",
        columns(Table::Locations),
    ))
    .bind::<SqlUuid, _>(organization)
    .bind::<Array<SqlUuid>, _>(sessions)
    .bind::<Array<Timestamptz>, _>(times)
    .load(tx.connection())
    .await?;
    Ok(rows.into_iter().map(|row| row.record).collect())
}
