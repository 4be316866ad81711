//! Sessions: opened, closed, listed, measured.

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Double, Nullable, Timestamptz};
use diesel_async::RunQueryDsl;
use domain::attendance::{DistanceStatus, RECENT, Session};
use domain::job::RecalculateDistance;
use domain::location::{Coordinate, Odometer};
use domain::page::PageRequest;
use domain::{EmployeeId, SessionId};
use uuid::Uuid;

use crate::schema::{attendance_sessions as sessions, session_summaries as summaries};
use crate::{DbError, DbResult, SystemTx, TenantTx};

#[diesel::declare_sql_function]
extern "SQL" {
    /// The first that is not null.
    fn coalesce(value: Nullable<Timestamptz>, otherwise: Nullable<Timestamptz>) -> Nullable<Timestamptz>;
    /// The later one.
    fn greatest(one: Nullable<Timestamptz>, other: Nullable<Timestamptz>) -> Nullable<Timestamptz>;
}

/// The rule that an employee has at most one open session.
pub const ALREADY_OPEN: &str = "attendance_sessions_open";

#[derive(Queryable, Selectable)]
#[diesel(table_name = sessions)]
struct Row {
    organization_id: Uuid,
    id: Uuid,
    employee_id: Uuid,
    checkin_at: DateTime<Utc>,
    checkout_at: Option<DateTime<Utc>>,
    distance_recalculation_status: String,
    total_distance_km: Option<f64>,
    total_duration_seconds: Option<i32>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Session {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        Ok(Self {
            id: row.id.into(),
            employee: row.employee_id.into(),
            organization: row.organization_id.into(),
            checkin_at: row.checkin_at,
            checkout_at: row.checkout_at,
            total_distance_km: row.total_distance_km,
            total_duration_seconds: row.total_duration_seconds,
            distance_status: status(&row.distance_recalculation_status)?,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

pub(crate) fn status(text: &str) -> DbResult<DistanceStatus> {
    DistanceStatus::parse(text).ok_or_else(|| DbError::Broken(format!("unknown distance status {text:?}")))
}

/// Opens a session. Conflicts with [`ALREADY_OPEN`] when there is one: of two simultaneous check-ins one wins.
#[tracing::instrument(name = "db open session", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn open(tx: &mut TenantTx, id: SessionId, employee: EmployeeId, now: DateTime<Utc>) -> DbResult<Session> {
    let organization = tx.organization();
    diesel::insert_into(sessions::table)
        .values((
            sessions::organization_id.eq(organization),
            sessions::id.eq(id.uuid()),
            sessions::employee_id.eq(employee.uuid()),
            sessions::checkin_at.eq(now),
            sessions::created_at.eq(now),
            sessions::updated_at.eq(now),
        ))
        .returning(Row::as_returning())
        .get_result(tx.connection())
        .await?
        .try_into()
}

/// Closes the employee's open session and marks it for measurement; `None` when there is none, also for the second of
/// two simultaneous check-outs.
#[tracing::instrument(name = "db close session", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn close(tx: &mut TenantTx, employee: EmployeeId, now: DateTime<Utc>) -> DbResult<Option<Session>> {
    let organization = tx.organization();
    let open = sessions::table
        .filter(sessions::organization_id.eq(organization))
        .filter(sessions::employee_id.eq(employee.uuid()))
        .filter(sessions::checkout_at.is_null());
    diesel::update(open)
        .set((
            // A clock that was set back must not close a session before it began.
            sessions::checkout_at.eq(greatest(sessions::checkin_at.nullable(), now)),
            sessions::dirty_from.eq(coalesce(sessions::dirty_from, now)),
            sessions::dirty_since.eq(coalesce(sessions::dirty_since, now)),
            sessions::distance_recalculation_status.eq(DistanceStatus::Pending.as_str()),
            sessions::updated_at.eq(now),
        ))
        .returning(Row::as_returning())
        .get_result(tx.connection())
        .await
        .optional()?
        .map(Session::try_from)
        .transpose()
}

/// One session of the organization.
#[tracing::instrument(name = "db find session", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn find(tx: &mut TenantTx, id: SessionId) -> DbResult<Option<Session>> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    sessions::table
        .find(key)
        .select(Row::as_select())
        .first(tx.connection())
        .await
        .optional()?
        .map(Session::try_from)
        .transpose()
}

/// Which of these sessions are the organization's.
#[tracing::instrument(name = "db know sessions", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn known(tx: &mut TenantTx, ids: &[SessionId]) -> DbResult<Vec<SessionId>> {
    let organization = tx.organization();
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let known: Vec<Uuid> = sessions::table
        .filter(sessions::organization_id.eq(organization))
        .filter(sessions::id.eq_any(ids))
        .select(sessions::id)
        .load(tx.connection())
        .await?;
    Ok(known.into_iter().map(SessionId::from).collect())
}

/// Which sessions a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivityFilter {
    /// Every one.
    All,
    /// Open ones.
    Active,
    /// Closed less than 24 hours ago.
    Recent,
    /// Closed earlier.
    Inactive,
}

impl ActivityFilter {
    /// Reads it as queries spell it; any other word means all.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "active" => Self::Active,
            "recent" => Self::Recent,
            "inactive" => Self::Inactive,
            _ => Self::All,
        }
    }
}

/// One page of an employee's sessions, newest check-in first, and how many there are in all.
#[tracing::instrument(name = "db list sessions", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn of_employee(
    tx: &mut TenantTx,
    employee: EmployeeId,
    filter: ActivityFilter,
    page: PageRequest,
    now: DateTime<Utc>,
) -> DbResult<(Vec<Session>, i64)> {
    let organization = tx.organization();
    let wanted = || {
        let query = sessions::table
            .filter(sessions::organization_id.eq(organization))
            .filter(sessions::employee_id.eq(employee.uuid()))
            .into_boxed();
        match filter {
            ActivityFilter::All => query,
            ActivityFilter::Active => query.filter(sessions::checkout_at.is_null()),
            ActivityFilter::Recent => query.filter(sessions::checkout_at.gt(now - RECENT)),
            ActivityFilter::Inactive => query.filter(sessions::checkout_at.le(now - RECENT)),
        }
    };
    let total = wanted().count().get_result(tx.connection()).await?;
    let rows: Vec<Row> = wanted()
        .order((sessions::checkin_at.desc(), sessions::id.desc()))
        .limit(page.limit)
        .offset(page.offset())
        .select(Row::as_select())
        .load(tx.connection())
        .await?;
    Ok((rows.into_iter().map(Session::try_from).collect::<DbResult<_>>()?, total))
}

/// The latest sessions of an employee, newest check-in first, at most `most`.
pub async fn latest_of(tx: &mut TenantTx, employee: EmployeeId, most: i64) -> DbResult<Vec<Session>> {
    let organization = tx.organization();
    let rows: Vec<Row> = sessions::table
        .filter(sessions::organization_id.eq(organization))
        .filter(sessions::employee_id.eq(employee.uuid()))
        .order((sessions::checkin_at.desc(), sessions::id.desc()))
        .limit(most)
        .select(Row::as_select())
        .load(tx.connection())
        .await?;
    rows.into_iter().map(Session::try_from).collect()
}

/// All sessions of an employee, added up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SessionTotals {
    /// How many there are, the open one included.
    pub sessions: i64,
    /// Kilometres measured so far, not rounded.
    pub distance_km: f64,
    /// Seconds: of closed sessions from check-in to check-out, whole for each; of the open one what is measured so far.
    pub duration_s: i64,
}

/// Adds an employee's sessions up.
#[tracing::instrument(name = "db session totals", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn totals_of(tx: &mut TenantTx, employee: EmployeeId) -> DbResult<SessionTotals> {
    let organization = tx.organization();
    let (sessions, distance_km, duration_s): (i64, f64, i64) = sessions::table
        .filter(sessions::organization_id.eq(organization))
        .filter(sessions::employee_id.eq(employee.uuid()))
        .select((
            sql::<BigInt>("count(*)"),
            sql::<Double>("coalesce(sum(total_distance_km), 0)"),
            // By the clock, not by the measurement: a closed session counts in full before any job has looked at it.
            sql::<BigInt>(
                "coalesce(sum(CASE WHEN checkout_at IS NULL THEN coalesce(total_duration_seconds, 0) \
                 ELSE floor(extract(epoch FROM checkout_at - checkin_at)) END), 0)::bigint",
            ),
        ))
        .first(tx.connection())
        .await?;
    Ok(SessionTotals { sessions, distance_km, duration_s })
}

/// A session locked for measurement: what is known, and from where on it is not.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// The session.
    pub session: Session,
    /// The least time of a point not yet measured; `None` when nothing is new.
    pub dirty_from: Option<DateTime<Utc>>,
    /// The measurement up to the checkpoint.
    checkpoint: Odometer,
}

impl Measurement {
    /// How many points the last measurement found.
    #[must_use]
    pub const fn measured_points(&self) -> i64 {
        self.checkpoint.points()
    }

    /// Where measuring goes on: the checkpoint when everything new lies after it, else the very beginning.
    #[must_use]
    pub fn start(&self) -> Odometer {
        match (self.checkpoint.last_at(), self.dirty_from) {
            (Some(measured_to), Some(dirty_from)) if dirty_from <= measured_to => Odometer::default(),
            _ => self.checkpoint,
        }
    }
}

/// Locks a session until the transaction ends, so that no point is stored and no check-out happens between reading its
/// points and saying what they add up to.
#[tracing::instrument(name = "db lock session", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn lock_for_measurement(tx: &mut TenantTx, id: SessionId) -> DbResult<Option<Measurement>> {
    type Marks = (Option<DateTime<Utc>>, f64, i64, Option<DateTime<Utc>>, Option<f64>, Option<f64>);
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    let found: Option<(Row, Marks)> = sessions::table
        .find(key)
        .select((
            Row::as_select(),
            (
                sessions::dirty_from,
                sessions::measured_m,
                sessions::measured_points,
                sessions::measured_to,
                sessions::measured_latitude,
                sessions::measured_longitude,
            ),
        ))
        .for_no_key_update()
        .first(tx.connection())
        .await
        .optional()?;
    let Some((row, (dirty_from, metres, points, measured_to, latitude, longitude))) = found else { return Ok(None) };
    let place = latitude.zip(longitude).and_then(|(latitude, longitude)| Coordinate::new(latitude, longitude));
    let checkpoint = match (measured_to, place) {
        (Some(at), Some(place)) => Odometer::resume(metres, points, place, at),
        _ => Odometer::default(),
    };
    Ok(Some(Measurement { session: row.try_into()?, dirty_from, checkpoint }))
}

/// What a measurement found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Kilometres to 2 decimals.
    pub distance_km: f64,
    /// Whole seconds from check-in to check-out, or to now.
    pub duration_s: i32,
    /// Average speed in km/h to 2 decimals.
    pub average_kmh: f64,
}

/// Writes the result and the checkpoint, makes the summary, and clears the mark. The session must be locked.
#[tracing::instrument(name = "db save measurement", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn save_measurement(
    tx: &mut TenantTx,
    id: SessionId,
    measured: Measured,
    odometer: &Odometer,
    now: DateTime<Utc>,
) -> DbResult<()> {
    let organization = tx.organization();
    let last = odometer.last();
    diesel::update(sessions::table.find((organization, id.uuid())))
        .set((
            sessions::total_distance_km.eq(measured.distance_km),
            sessions::total_duration_seconds.eq(measured.duration_s),
            sessions::distance_recalculation_status.eq(DistanceStatus::Done.as_str()),
            sessions::dirty_from.eq(None::<DateTime<Utc>>),
            sessions::dirty_since.eq(None::<DateTime<Utc>>),
            sessions::measured_m.eq(odometer.metres()),
            sessions::measured_points.eq(odometer.points()),
            sessions::measured_to.eq(last.map(|(_, at)| at)),
            sessions::measured_latitude.eq(last.map(|(place, _)| place.latitude())),
            sessions::measured_longitude.eq(last.map(|(place, _)| place.longitude())),
            sessions::updated_at.eq(now),
        ))
        .execute(tx.connection())
        .await?;
    let figures = (
        summaries::total_distance_km.eq(measured.distance_km),
        summaries::total_duration_seconds.eq(measured.duration_s),
        summaries::avg_speed_kmh.eq(measured.average_kmh),
        summaries::computed_at.eq(now),
        summaries::updated_at.eq(now),
    );
    diesel::insert_into(summaries::table)
        .values((
            summaries::organization_id.eq(organization),
            summaries::session_id.eq(id.uuid()),
            summaries::id.eq(Uuid::now_v7()),
            summaries::created_at.eq(now),
            figures,
        ))
        .on_conflict((summaries::organization_id, summaries::session_id))
        .do_update()
        .set(figures)
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// Notes that the measurement gave up. The mark stays: new points, a recalculation or the next start try again.
pub async fn mark_failed(tx: &mut TenantTx, id: SessionId, now: DateTime<Utc>) -> DbResult<()> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    diesel::update(sessions::table.find(key))
        .set((
            sessions::distance_recalculation_status.eq(DistanceStatus::Failed.as_str()),
            sessions::updated_at.eq(now),
        ))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// Notes that the measurement gave up, if the session still waits for it. Answers whether it did.
pub async fn mark_failed_if_due(tx: &mut TenantTx, id: SessionId, now: DateTime<Utc>) -> DbResult<bool> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    let marked = diesel::update(sessions::table.find(key).filter(sessions::dirty_from.is_not_null()))
        .set((
            sessions::distance_recalculation_status.eq(DistanceStatus::Failed.as_str()),
            sessions::updated_at.eq(now),
        ))
        .execute(tx.connection())
        .await?;
    Ok(marked == 1)
}

/// Sessions marked before `before` and still not measured, oldest mark first, at most `most`. `failed` says whether to
/// look at those that were given up. By the system role: the sweep works for all organizations.
#[tracing::instrument(name = "db overdue sessions", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn overdue(
    tx: &mut SystemTx,
    before: DateTime<Utc>,
    failed: bool,
    most: i64,
) -> DbResult<Vec<RecalculateDistance>> {
    let mut query = sessions::table
        .filter(sessions::dirty_from.is_not_null())
        .filter(sessions::dirty_since.le(before))
        .into_boxed();
    if !failed {
        query = query.filter(sessions::distance_recalculation_status.ne(DistanceStatus::Failed.as_str()));
    }
    let rows: Vec<(Uuid, Uuid)> = query
        .order(sessions::dirty_since.asc())
        .limit(most)
        .select((sessions::organization_id, sessions::id))
        .load(tx.connection())
        .await?;
    Ok(rows
        .into_iter()
        .map(|(organization, session)| RecalculateDistance {
            session: session.into(),
            organization: Some(organization.into()),
        })
        .collect())
}

/// The job with its organization filled in; `None` when there is no such session. By the system role: a foreign
/// producer's job names a session and no organization.
pub async fn locate(tx: &mut SystemTx, session: SessionId) -> DbResult<Option<RecalculateDistance>> {
    let organization: Option<Uuid> = sessions::table
        .filter(sessions::id.eq(session.uuid()))
        .select(sessions::organization_id)
        .first(tx.connection())
        .await
        .optional()?;
    Ok(organization.map(|organization| RecalculateDistance { session, organization: Some(organization.into()) }))
}

/// How many sessions wait for their measurement, and since when the oldest does. By the system role, for metrics.
pub async fn waiting(tx: &mut SystemTx) -> DbResult<(i64, Option<DateTime<Utc>>)> {
    Ok(sessions::table
        .filter(sessions::dirty_from.is_not_null())
        .select((sql::<BigInt>("count(*)"), diesel::dsl::min(sessions::dirty_since)))
        .first(tx.connection())
        .await?)
}
