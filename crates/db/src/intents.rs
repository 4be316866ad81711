//! Jobs of a check-out that could not be queued.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Timestamptz};
use diesel_async::RunQueryDsl;
use domain::RetryIntentId;
use domain::intent::{IntendedJob, RetryIntent};
use domain::page::PageRequest;
use uuid::Uuid;

use crate::json::JsonText;
use crate::schema::queue_retry_intents as intents;
use crate::{DbError, DbResult, SystemTx, TenantTx};

/// Notes a job that could not be queued. When the same job could not be queued before, its intent begins anew.
#[tracing::instrument(name = "db note intent", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn note(
    tx: &mut TenantTx,
    job: &IntendedJob,
    trace: Option<&str>,
    error: &str,
    next_try: DateTime<Utc>,
    now: DateTime<Utc>,
) -> DbResult<()> {
    let organization = tx.organization();
    let payload = job.payload().map_err(|error| DbError::Broken(error.to_string()))?;
    let state = (
        intents::payload.eq(JsonText(payload)),
        intents::status.eq("pending"),
        intents::retry_count.eq(0),
        intents::next_retry_at.eq(next_try),
        intents::error_message.eq(error),
        intents::trace.eq(trace),
        intents::updated_at.eq(now),
    );
    diesel::insert_into(intents::table)
        .values((
            intents::organization_id.eq(organization),
            intents::id.eq(RetryIntentId::generate().uuid()),
            intents::queue_name.eq(job.queue()),
            intents::job_key.eq(job.key()),
            intents::created_at.eq(now),
            state.clone(),
        ))
        .on_conflict((intents::organization_id, intents::queue_name, intents::job_key))
        .do_update()
        .set(state)
        .execute(tx.connection())
        .await?;
    Ok(())
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = intents)]
struct Row {
    id: Uuid,
    queue_name: String,
    job_key: String,
    payload: JsonText,
    status: String,
    retry_count: i32,
    next_retry_at: DateTime<Utc>,
    error_message: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for RetryIntent {
    type Error = DbError;

    fn try_from(row: Row) -> DbResult<Self> {
        Ok(Self {
            id: row.id.into(),
            queue_name: row.queue_name,
            job_key: row.job_key,
            payload: serde_json::from_str(&row.payload.0).map_err(|error| DbError::Broken(error.to_string()))?,
            status: row.status,
            retry_count: row.retry_count,
            error_message: row.error_message,
            next_retry_at: row.next_retry_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// One page of intents, last changed first, and how many there are in all; of one status, or of any.
#[tracing::instrument(name = "db list intents", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn list(tx: &mut TenantTx, status: Option<&str>, page: PageRequest) -> DbResult<(Vec<RetryIntent>, i64)> {
    let organization = tx.organization();
    let wanted = || {
        let mut query = intents::table.filter(intents::organization_id.eq(organization)).into_boxed();
        if let Some(status) = status {
            query = query.filter(intents::status.eq(status.to_owned()));
        }
        query
    };
    let total = wanted().count().get_result(tx.connection()).await?;
    let rows: Vec<Row> = wanted()
        .order((intents::updated_at.desc(), intents::id.desc()))
        .limit(page.limit)
        .offset(page.offset())
        .select(Row::as_select())
        .load(tx.connection())
        .await?;
    Ok((rows.into_iter().map(RetryIntent::try_from).collect::<DbResult<_>>()?, total))
}

/// An intent that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    organization: Uuid,
    id: Uuid,
    /// How often it was tried again in vain.
    pub failures: i32,
    /// The job; `None` when what is written down is none of ours.
    pub job: Option<IntendedJob>,
    /// The trace and the request it belongs to.
    pub trace: Option<String>,
}

/// Intents that are due, the longest waiting first, at most `most`. By the system role: the schedule works for all
/// organizations.
#[tracing::instrument(name = "db due intents", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn due(tx: &mut SystemTx, now: DateTime<Utc>, most: i64) -> DbResult<Vec<Due>> {
    let rows: Vec<(Uuid, Uuid, String, JsonText, i32, Option<String>)> = intents::table
        .filter(intents::status.eq("pending"))
        .filter(intents::next_retry_at.le(now))
        .order(intents::next_retry_at.asc())
        .limit(most)
        .select((
            intents::organization_id,
            intents::id,
            intents::queue_name,
            intents::payload,
            intents::retry_count,
            intents::trace,
        ))
        .load(tx.connection())
        .await?;
    Ok(rows
        .into_iter()
        .map(|(organization, id, queue, payload, failures, trace)| Due {
            organization,
            id,
            failures,
            job: IntendedJob::parse(&queue, &payload.0),
            trace,
        })
        .collect())
}

/// Notes that the job of an intent is queued. By the system role, as above.
pub async fn resolve(tx: &mut SystemTx, due: &Due, now: DateTime<Utc>) -> DbResult<()> {
    diesel::update(intents::table.find((due.organization, due.id)))
        .set((intents::status.eq("resolved"), intents::updated_at.eq(now)))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// Notes that a try failed; without a next one the intent is dead. By the system role, as above.
pub async fn failed(
    tx: &mut SystemTx,
    due: &Due,
    error: &str,
    next_try: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> DbResult<()> {
    diesel::update(intents::table.find((due.organization, due.id)))
        .set((
            intents::status.eq(if next_try.is_some() { "pending" } else { "dead" }),
            intents::retry_count.eq(due.failures.saturating_add(1)),
            next_try.map(|at| intents::next_retry_at.eq(at)),
            intents::error_message.eq(error),
            intents::updated_at.eq(now),
        ))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// Removes intents that are over and did not change since `horizon`, at most `most`; answers how many. By the system
/// role, as above.
#[tracing::instrument(name = "db expire intents", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn expire(tx: &mut SystemTx, horizon: DateTime<Utc>, most: i64) -> DbResult<usize> {
    Ok(diesel::sql_query(
        "DELETE FROM queue_retry_intents WHERE (organization_id, id) IN (
             SELECT organization_id, id FROM queue_retry_intents
             WHERE status <> 'pending' AND updated_at < $1 LIMIT $2)",
    )
    .bind::<Timestamptz, _>(horizon)
    .bind::<BigInt, _>(most)
    .execute(tx.connection())
    .await?)
}

/// How many intents wait, and how many were given up. By the system role, for metrics.
pub async fn count(tx: &mut SystemTx) -> DbResult<(i64, i64)> {
    Ok(intents::table
        .select((
            diesel::dsl::sql::<BigInt>("count(*) FILTER (WHERE status = 'pending')"),
            diesel::dsl::sql::<BigInt>("count(*) FILTER (WHERE status = 'dead')"),
        ))
        .first(tx.connection())
        .await?)
}
