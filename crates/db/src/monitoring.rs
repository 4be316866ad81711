//! Administrators who watch, and the map they look at.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Double, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use domain::attendance::RECENT;
use domain::monitoring::{MapMarker, MarkerStatus, MonitoringSession};
use domain::page::PageRequest;
use domain::{MonitoringSessionId, UserId};
use uuid::Uuid;

use crate::schema::admin_sessions as sessions;
use crate::{DbResult, TenantTx};

#[derive(Queryable, Selectable)]
#[diesel(table_name = sessions)]
struct Row {
    organization_id: Uuid,
    id: Uuid,
    admin_id: Uuid,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl From<Row> for MonitoringSession {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.into(),
            admin: row.admin_id.into(),
            organization: row.organization_id.into(),
            started_at: row.started_at,
            ended_at: row.ended_at,
            created_at: row.created_at,
        }
    }
}

/// Opens a monitoring session of an administrator, unless one is open already; answers the open one. `None`: it was
/// closed at this very moment, and asking again opens a new one.
#[tracing::instrument(name = "db start monitoring", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn start(tx: &mut TenantTx, admin: UserId, now: DateTime<Utc>) -> DbResult<Option<MonitoringSession>> {
    let organization = tx.organization();
    let made: Option<Row> = diesel::insert_into(sessions::table)
        .values((
            sessions::organization_id.eq(organization),
            sessions::id.eq(MonitoringSessionId::generate().uuid()),
            sessions::admin_id.eq(admin.uuid()),
            sessions::started_at.eq(now),
            sessions::created_at.eq(now),
        ))
        .on_conflict_do_nothing()
        .returning(Row::as_returning())
        .get_result(tx.connection())
        .await
        .optional()?;
    let found = match made {
        Some(made) => Some(made),
        None => sessions::table
            .filter(sessions::organization_id.eq(organization))
            .filter(sessions::admin_id.eq(admin.uuid()))
            .filter(sessions::ended_at.is_null())
            .select(Row::as_select())
            .first(tx.connection())
            .await
            .optional()?,
    };
    Ok(found.map(MonitoringSession::from))
}

/// Closes the open monitoring session of an administrator; `None` when there is none.
#[tracing::instrument(name = "db stop monitoring", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn stop(tx: &mut TenantTx, admin: UserId, now: DateTime<Utc>) -> DbResult<Option<MonitoringSession>> {
    let organization = tx.organization();
    let open = sessions::table
        .filter(sessions::organization_id.eq(organization))
        .filter(sessions::admin_id.eq(admin.uuid()))
        .filter(sessions::ended_at.is_null());
    // A clock that was set back must not end a session before it began.
    let ended = diesel::dsl::sql::<diesel::sql_types::Nullable<Timestamptz>>("greatest(started_at, ")
        .bind::<Timestamptz, _>(now)
        .sql(")");
    let row: Option<Row> = diesel::update(open)
        .set(sessions::ended_at.eq(ended))
        .returning(Row::as_returning())
        .get_result(tx.connection())
        .await
        .optional()?;
    Ok(row.map(MonitoringSession::from))
}

/// One page of monitoring sessions, newest first, and how many there are in all: those of one administrator, or the
/// organization's.
#[tracing::instrument(name = "db list monitoring", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn history(
    tx: &mut TenantTx,
    admin: Option<UserId>,
    page: PageRequest,
) -> DbResult<(Vec<MonitoringSession>, i64)> {
    let organization = tx.organization();
    let wanted = || {
        let mut query = sessions::table.filter(sessions::organization_id.eq(organization)).into_boxed();
        if let Some(admin) = admin {
            query = query.filter(sessions::admin_id.eq(admin.uuid()));
        }
        query
    };
    let total = wanted().count().get_result(tx.connection()).await?;
    let rows: Vec<Row> = wanted()
        .order((sessions::started_at.desc(), sessions::id.desc()))
        .limit(page.limit)
        .offset(page.offset())
        .select(Row::as_select())
        .load(tx.connection())
        .await?;
    Ok((rows.into_iter().map(MonitoringSession::from).collect(), total))
}

#[derive(QueryableByName)]
struct MarkerRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    employee_code: String,
    #[diesel(sql_type = Bool)]
    is_open: bool,
    #[diesel(sql_type = SqlUuid)]
    session_id: Uuid,
    #[diesel(sql_type = Double)]
    latitude: f64,
    #[diesel(sql_type = Double)]
    longitude: f64,
    #[diesel(sql_type = Timestamptz)]
    recorded_at: DateTime<Utc>,
}

/// The last place of everybody who is at work or was within a day, by employee id, at most `most`. Whoever was never
/// seen is left out.
#[tracing::instrument(name = "db read map", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn map(tx: &mut TenantTx, now: DateTime<Utc>, most: i64) -> DbResult<Vec<MapMarker>> {
    // LATERAL, so that places are looked up for those who are shown and for nobody else.
    let rows: Vec<MarkerRow> = diesel::sql_query(
        "SELECT state.id, state.name, state.employee_code, state.checkout_at IS NULL AS is_open, state.session_id,
                place.latitude, place.longitude, place.recorded_at
         FROM app.employee_states AS state
         CROSS JOIN LATERAL (
             SELECT latitude, longitude, recorded_at FROM app.employee_places AS places
             WHERE places.organization_id = state.organization_id AND places.employee_id = state.id) AS place
         WHERE state.organization_id = $1 AND state.session_id IS NOT NULL
             AND (state.checkout_at IS NULL OR state.checkout_at > $2)
         ORDER BY state.id LIMIT $3",
    )
    .bind::<SqlUuid, _>(tx.organization())
    .bind::<Timestamptz, _>(now - RECENT)
    .bind::<BigInt, _>(most)
    .load(tx.connection())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| MapMarker {
            employee: row.id.into(),
            name: row.name,
            code: row.employee_code,
            status: if row.is_open { MarkerStatus::Active } else { MarkerStatus::Recent },
            session: row.session_id.into(),
            latitude: row.latitude,
            longitude: row.longitude,
            recorded_at: row.recorded_at,
        })
        .collect())
}
