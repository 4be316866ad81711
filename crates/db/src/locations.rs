//! Positions: stored on the hot path, read along a route.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use domain::attendance::Session;
use domain::location::{Coordinate, Fix, Odometer};
use domain::{EmployeeId, FixId, OrganizationId, SessionId, Tenant};
use futures_util::TryStreamExt;
use uuid::Uuid;

use crate::pool::{Connection, discard};
use crate::schema::gps_locations as fixes;
use crate::{Db, DbError, DbResult, TenantTx};

use sql::{drop_partitions, ensure_partitions, record_batches, record_points};

/// The functions of the database that hold the hot path.
mod sql {
    #![expect(clippy::too_many_arguments, reason = "a column of an upload each")]

    use diesel::sql_types::{Array, BigInt, Double, Integer, Nullable, Timestamptz};

    #[diesel::declare_sql_function]
    extern "SQL" {
        /// Uploads of many sessions.
        #[sql_name = "app.record_batches"]
        fn record_batches(
            organizations: Array<diesel::sql_types::Uuid>,
            sessions: Array<diesel::sql_types::Uuid>,
            employees: Array<diesel::sql_types::Uuid>,
            sizes: Array<Integer>,
            ids: Array<diesel::sql_types::Uuid>,
            times: Array<Timestamptz>,
            latitudes: Array<Double>,
            longitudes: Array<Double>,
            accuracies: Array<Nullable<Double>>,
            sequences: Array<Nullable<BigInt>>,
            accepted_at: Timestamptz,
        ) -> Array<Integer>;

        /// Single points of many sessions.
        #[sql_name = "app.record_points"]
        fn record_points(
            organizations: Array<diesel::sql_types::Uuid>,
            sessions: Array<diesel::sql_types::Uuid>,
            employees: Array<diesel::sql_types::Uuid>,
            ids: Array<diesel::sql_types::Uuid>,
            times: Array<Timestamptz>,
            latitudes: Array<Double>,
            longitudes: Array<Double>,
            accuracies: Array<Nullable<Double>>,
            sequences: Array<Nullable<BigInt>>,
            accepted_at: Timestamptz,
        ) -> Array<SmallInt>;

        /// Months ahead.
        #[sql_name = "app.ensure_partitions"]
        fn ensure_partitions(first: diesel::sql_types::Date, ahead: Integer) -> Integer;

        /// Drops the months that ended before a day.
        #[sql_name = "app.drop_partitions"]
        fn drop_partitions(horizon: diesel::sql_types::Date) -> Integer;
    }
}

/// Runs a statement that may be repeated, once more on another connection when the first had died. Storing a fix twice
/// stores it once, so a lost answer costs nothing but a count. (A macro, since a closure over a borrowed connection
/// makes a future that cannot be sent between threads.)
macro_rules! once_more {
    ($db:expr, |$connection:ident| $statement:expr) => {{
        let mut object: Connection = $db.app().await?;
        let $connection = &mut *object;
        match $statement.await.map_err(DbError::from) {
            Err(DbError::Unavailable(_)) => {
                discard(object);
                let mut object: Connection = $db.app().await?;
                let $connection = &mut *object;
                $statement.await?
            }
            answer => answer?,
        }
    }};
}

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// Stored. Points that were there already are not counted.
    Stored {
        /// Rows written.
        inserted: u32,
        /// Whether the session had nothing to measure before, so that its measurement has to be asked for now.
        measure: bool,
    },
    /// The employee has no such open session. Nothing was stored.
    NoOpenSession,
    /// A point is older than the session. Nothing was stored.
    BeforeSession,
}

/// One upload on its way into a gathered statement.
#[derive(Debug, Clone)]
pub struct BatchToRecord {
    /// Whose session.
    pub tenant: Tenant,
    /// Which session.
    pub session: SessionId,
    /// Whose.
    pub employee: EmployeeId,
    /// The fixes.
    pub fixes: Vec<Fix>,
}

/// Stores uploads of any number of sessions and organizations in one statement and one commit; answers one outcome
/// each, in order. An upload is stored whole or not at all; repeated fixes are passed over, the first one stored stays.
///
/// The statement sets the tenant itself, anew for each upload.
#[tracing::instrument(name = "db record_batches", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn record_batches_of(db: &Db, uploads: &[BatchToRecord], now: DateTime<Utc>) -> DbResult<Vec<Recorded>> {
    // Sessions are locked in one order everywhere, so two gathered statements never wait for each other in a circle.
    let mut order: Vec<usize> = (0..uploads.len()).collect();
    order.sort_by_key(|place| (uploads[*place].tenant.organization(), uploads[*place].session));
    let mut columns = Columns::with_capacity(uploads.iter().map(|upload| upload.fixes.len()).sum());
    let mut owners = Owners::with_capacity(uploads.len());
    let mut sizes = Vec::with_capacity(uploads.len());
    for upload in order.iter().map(|place| &uploads[*place]) {
        owners.push(upload.tenant, upload.session, upload.employee);
        sizes.push(i32::try_from(upload.fixes.len()).unwrap_or(i32::MAX));
        for fix in &upload.fixes {
            columns.push(FixId::generate(), fix);
        }
    }
    let answer: Vec<i32> = once_more!(db, |connection| diesel::select(record_batches(
        &owners.organizations,
        &owners.sessions,
        &owners.employees,
        &sizes,
        &columns.ids,
        &columns.times,
        &columns.latitudes,
        &columns.longitudes,
        &columns.accuracies,
        &columns.sequences,
        now,
    ))
    .get_result(connection));
    if answer.len() != 2 * uploads.len() {
        return Err(DbError::Broken("app.record_batches answered something else".to_owned()));
    }
    let mut outcomes = vec![Recorded::NoOpenSession; uploads.len()];
    for (place, answer) in order.into_iter().zip(answer.chunks_exact(2)) {
        outcomes[place] = match answer[0] {
            -1 => Recorded::NoOpenSession,
            -2 => Recorded::BeforeSession,
            outcome => Recorded::Stored { inserted: answer[1].unsigned_abs(), measure: outcome == 1 },
        };
    }
    Ok(outcomes)
}

/// Stores the fixes of one upload.
pub async fn record_batch_of(
    db: &Db,
    tenant: Tenant,
    session: SessionId,
    employee: EmployeeId,
    fixes: &[Fix],
    now: DateTime<Utc>,
) -> DbResult<Recorded> {
    let upload = BatchToRecord { tenant, session, employee, fixes: fixes.to_vec() };
    let outcomes = record_batches_of(db, std::slice::from_ref(&upload), now).await?;
    outcomes.into_iter().next().ok_or_else(|| DbError::Broken("an upload got no answer".to_owned()))
}

/// One fix on its way into a gathered statement.
#[derive(Debug, Clone)]
pub struct PointToRecord {
    /// Whose session.
    pub tenant: Tenant,
    /// Which session.
    pub session: SessionId,
    /// Whose.
    pub employee: EmployeeId,
    /// The fix's id.
    pub id: FixId,
    /// The fix.
    pub fix: Fix,
}

/// Stores single fixes of any number of sessions and organizations in one statement and one commit; answers one
/// outcome each, in order (`inserted` is 0 or 1).
///
/// The statement sets the organizations of these very points itself, so row-level security lets no others through.
#[tracing::instrument(name = "db record_points", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn record_points_of(db: &Db, points: &[PointToRecord], now: DateTime<Utc>) -> DbResult<Vec<Recorded>> {
    let mut columns = Columns::with_capacity(points.len());
    let mut owners = Owners::with_capacity(points.len());
    for point in points {
        owners.push(point.tenant, point.session, point.employee);
        columns.push(point.id, &point.fix);
    }
    let outcomes: Vec<i16> = once_more!(db, |connection| diesel::select(record_points(
        &owners.organizations,
        &owners.sessions,
        &owners.employees,
        &columns.ids,
        &columns.times,
        &columns.latitudes,
        &columns.longitudes,
        &columns.accuracies,
        &columns.sequences,
        now,
    ))
    .get_result(connection));
    Ok(outcomes
        .into_iter()
        .map(|outcome| match outcome {
            -1 => Recorded::NoOpenSession,
            -2 => Recorded::BeforeSession,
            kept => Recorded::Stored { inserted: u32::from(kept > 0), measure: kept == 2 },
        })
        .collect())
}

/// Whose uploads or points they are, as columns.
struct Owners {
    organizations: Vec<Uuid>,
    sessions: Vec<Uuid>,
    employees: Vec<Uuid>,
}

impl Owners {
    fn with_capacity(rows: usize) -> Self {
        Self {
            organizations: Vec::with_capacity(rows),
            sessions: Vec::with_capacity(rows),
            employees: Vec::with_capacity(rows),
        }
    }

    fn push(&mut self, tenant: Tenant, session: SessionId, employee: EmployeeId) {
        self.organizations.push(tenant.organization().uuid());
        self.sessions.push(session.uuid());
        self.employees.push(employee.uuid());
    }
}

/// Fixes as columns: arrays bind once, whatever their length, so the statement is prepared once.
#[derive(Default)]
struct Columns {
    ids: Vec<Uuid>,
    times: Vec<DateTime<Utc>>,
    latitudes: Vec<f64>,
    longitudes: Vec<f64>,
    accuracies: Vec<Option<f64>>,
    sequences: Vec<Option<i64>>,
}

impl Columns {
    fn with_capacity(rows: usize) -> Self {
        Self {
            ids: Vec::with_capacity(rows),
            times: Vec::with_capacity(rows),
            latitudes: Vec::with_capacity(rows),
            longitudes: Vec::with_capacity(rows),
            accuracies: Vec::with_capacity(rows),
            sequences: Vec::with_capacity(rows),
        }
    }

    fn push(&mut self, id: FixId, fix: &Fix) {
        self.ids.push(id.uuid());
        self.times.push(fix.recorded_at);
        self.latitudes.push(fix.at.latitude());
        self.longitudes.push(fix.at.longitude());
        self.accuracies.push(fix.accuracy_m);
        self.sequences.push(fix.sequence_number);
    }
}

/// A stored fix as clients see it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredFix {
    /// Its id.
    pub id: FixId,
    /// The session it belongs to.
    pub session: SessionId,
    /// The organization it belongs to.
    pub organization: OrganizationId,
    /// Whose it is.
    pub employee: EmployeeId,
    /// The position.
    pub fix: Fix,
    /// Kept for older clients; a repeated fix is not stored, so this is false.
    pub is_duplicate: bool,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = fixes)]
struct Row {
    organization_id: Uuid,
    session_id: Uuid,
    recorded_at: DateTime<Utc>,
    id: Uuid,
    employee_id: Uuid,
    latitude: f64,
    longitude: f64,
    accuracy: Option<f64>,
    sequence_number: Option<i64>,
    is_duplicate: bool,
}

impl TryFrom<Row> for StoredFix {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        Ok(Self {
            id: row.id.into(),
            session: row.session_id.into(),
            organization: row.organization_id.into(),
            employee: row.employee_id.into(),
            fix: Fix {
                at: place(row.latitude, row.longitude)?,
                recorded_at: row.recorded_at,
                accuracy_m: row.accuracy,
                sequence_number: row.sequence_number,
            },
            is_duplicate: row.is_duplicate,
        })
    }
}

fn place(latitude: f64, longitude: f64) -> DbResult<Coordinate> {
    Coordinate::new(latitude, longitude).ok_or_else(|| DbError::Broken("a stored fix is off the map".to_owned()))
}

/// The first fix of a session, stored with its check-in.
pub async fn insert_first(
    tx: &mut TenantTx,
    session: SessionId,
    employee: EmployeeId,
    at: Coordinate,
    now: DateTime<Utc>,
) -> DbResult<()> {
    let organization = tx.organization();
    diesel::insert_into(fixes::table)
        .values((
            fixes::organization_id.eq(organization),
            fixes::session_id.eq(session.uuid()),
            fixes::recorded_at.eq(now),
            fixes::id.eq(FixId::generate().uuid()),
            fixes::employee_id.eq(employee.uuid()),
            fixes::latitude.eq(at.latitude()),
            fixes::longitude.eq(at.longitude()),
        ))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// The stored fix of a session at that very moment.
#[tracing::instrument(name = "db find fix", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn find_at(tx: &mut TenantTx, session: SessionId, at: DateTime<Utc>) -> DbResult<Option<StoredFix>> {
    let key: (Uuid, Uuid, DateTime<Utc>) = (tx.organization(), session.uuid(), at);
    fixes::table
        .find(key)
        .select(Row::as_select())
        .first(tx.connection())
        .await
        .optional()?
        .map(StoredFix::try_from)
        .transpose()
}

/// The fixes of an employee's session, oldest first, at most `most`; empty for somebody else's session.
#[tracing::instrument(name = "db route", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn route_of(
    tx: &mut TenantTx,
    employee: EmployeeId,
    session: SessionId,
    most: i64,
) -> DbResult<Vec<StoredFix>> {
    let organization = tx.organization();
    let rows: Vec<Row> = fixes::table
        .filter(fixes::organization_id.eq(organization))
        .filter(fixes::session_id.eq(session.uuid()))
        .filter(fixes::employee_id.eq(employee.uuid()))
        .order(fixes::recorded_at.asc())
        .limit(most)
        .select(Row::as_select())
        .load(tx.connection())
        .await?;
    rows.into_iter().map(StoredFix::try_from).collect()
}

/// The fixes of a session, oldest first, at most `most`. None is older than the check-in, so older partitions are not
/// looked at.
#[tracing::instrument(name = "db session route", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn route_since(tx: &mut TenantTx, session: &Session, most: i64) -> DbResult<Vec<StoredFix>> {
    let organization = tx.organization();
    let rows: Vec<Row> = fixes::table
        .filter(fixes::organization_id.eq(organization))
        .filter(fixes::session_id.eq(session.id.uuid()))
        .filter(fixes::recorded_at.ge(session.checkin_at))
        .order(fixes::recorded_at.asc())
        .limit(most)
        .select(Row::as_select())
        .load(tx.connection())
        .await?;
    rows.into_iter().map(StoredFix::try_from).collect()
}

/// Moves `odometer` along the fixes of a session that lie after its last position, in constant memory; stops after the
/// odometer has counted `most` points. Answers whether it reached the end.
///
/// `since` is the session's check-in: no fix is older, so older partitions are not looked at.
#[tracing::instrument(name = "db read route", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn measure(
    tx: &mut TenantTx,
    session: SessionId,
    since: DateTime<Utc>,
    odometer: &mut Odometer,
    most: i64,
) -> DbResult<bool> {
    let organization = tx.organization();
    let after = odometer.last_at();
    let mut route = fixes::table
        .filter(fixes::organization_id.eq(organization))
        .filter(fixes::session_id.eq(session.uuid()))
        .filter(fixes::recorded_at.ge(since))
        .into_boxed();
    if let Some(after) = after {
        route = route.filter(fixes::recorded_at.gt(after));
    }
    let mut rows = route
        .order(fixes::recorded_at.asc())
        .select((fixes::latitude, fixes::longitude, fixes::recorded_at))
        .load_stream::<(f64, f64, DateTime<Utc>)>(tx.connection())
        .await?;
    while let Some((latitude, longitude, at)) = rows.try_next().await? {
        if odometer.points() >= most {
            return Ok(false);
        }
        odometer.advance(place(latitude, longitude)?, at);
    }
    Ok(true)
}

/// Makes the partitions of this month and of the `ahead` months after it; answers how many were missing. By the system
/// role: partitions belong to no organization.
pub async fn ensure_partitions_ahead(tx: &mut crate::SystemTx, today: chrono::NaiveDate, ahead: i32) -> DbResult<i32> {
    Ok(diesel::select(ensure_partitions(today, ahead)).get_result(tx.connection()).await?)
}

/// Drops the months of fixes that ended before `horizon`; answers how many. By the system role: partitions belong to no
/// organization.
pub async fn drop_partitions_before(tx: &mut crate::SystemTx, horizon: chrono::NaiveDate) -> DbResult<i32> {
    Ok(diesel::select(drop_partitions(horizon)).get_result(tx.connection()).await?)
}
