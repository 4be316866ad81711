//! Employees.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;
use domain::attendance::{RECENT, Session};
use domain::employee::{Employee, EmployeeState, code_from_number, number_from_code};
use domain::location::Coordinate;
use domain::page::PageRequest;
use domain::{EmployeeId, UserId};
use uuid::Uuid;

use crate::attendance::ActivityFilter;
use crate::pattern::containing;
use crate::schema::{employee_places as places, employee_states as states, employees, organizations};
use crate::{DbError, DbResult, TenantTx};

/// The rule that a code is unique in its organization.
pub const CODE_TAKEN: &str = "employees_code_key";
/// The rule that a user is at most one employee.
pub const USER_TAKEN: &str = "employees_user_key";
/// The rule that an employee's user exists in the same organization.
pub const NO_SUCH_USER: &str = "employees_user_fkey";

/// An employee to be.
#[derive(Debug, Clone)]
pub struct NewEmployee {
    /// Their id.
    pub id: EmployeeId,
    /// The account they sign in with.
    pub user: Option<UserId>,
    /// Their name.
    pub name: String,
    /// Their code; the next free `EMP` number when absent.
    pub employee_code: Option<String>,
    /// Their phone number.
    pub phone: Option<String>,
}

/// Makes an employee. Conflicts with [`CODE_TAKEN`], [`USER_TAKEN`] or [`NO_SUCH_USER`].
#[tracing::instrument(name = "db create employee", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn create(tx: &mut TenantTx, new: NewEmployee, now: DateTime<Utc>) -> DbResult<Employee> {
    let organization = tx.organization();
    let code = match new.employee_code {
        Some(code) => code,
        None => next_code(tx).await?,
    };
    diesel::insert_into(employees::table)
        .values((
            employees::organization_id.eq(organization),
            employees::id.eq(new.id.uuid()),
            employees::user_id.eq(new.user.map(UserId::uuid)),
            employees::name.eq(&new.name),
            employees::phone.eq(&new.phone),
            employees::employee_code.eq(&code),
            employees::employee_number.eq(number_from_code(&code)),
            employees::created_at.eq(now),
            employees::updated_at.eq(now),
        ))
        .execute(tx.connection())
        .await?;
    Ok(Employee {
        id: new.id,
        organization: organization.into(),
        user: new.user,
        name: new.name,
        employee_code: code,
        phone: new.phone,
        is_active: true,
        created_at: now,
        updated_at: now,
    })
}

/// The next code nobody has. The counter's row stays locked until the transaction ends, so two administrators cannot
/// get the same; codes that were typed in by hand are passed over.
async fn next_code(tx: &mut TenantTx) -> DbResult<String> {
    let organization = tx.organization();
    loop {
        let number: i64 = diesel::update(organizations::table.find(organization))
            .set(organizations::employee_counter.eq(organizations::employee_counter + 1))
            .returning(organizations::employee_counter)
            .get_result(tx.connection())
            .await?;
        let code = code_from_number(number);
        let taken: bool = diesel::select(diesel::dsl::exists(
            employees::table
                .filter(employees::organization_id.eq(organization))
                .filter(employees::employee_code.eq(&code)),
        ))
        .get_result(tx.connection())
        .await?;
        if !taken {
            return Ok(code);
        }
    }
}

/// Whether the organization has this employee and they may work.
#[tracing::instrument(name = "db employee is active", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn is_active(tx: &mut TenantTx, employee: EmployeeId) -> DbResult<bool> {
    let organization = tx.organization();
    Ok(employees::table
        .find((organization, employee.uuid()))
        .select(employees::is_active)
        .first(tx.connection())
        .await
        .optional()?
        .unwrap_or(false))
}

/// Notes that they did something just now.
pub async fn touch(tx: &mut TenantTx, employee: EmployeeId, now: DateTime<Utc>) -> DbResult<()> {
    let key: (Uuid, Uuid) = (tx.organization(), employee.uuid());
    diesel::update(employees::table.find(key))
        .set(employees::last_activity_at.eq(now))
        .execute(tx.connection())
        .await?;
    Ok(())
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = employees)]
struct Row {
    organization_id: Uuid,
    id: Uuid,
    user_id: Option<Uuid>,
    name: String,
    employee_code: String,
    phone: Option<String>,
    is_active: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Row> for Employee {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.into(),
            organization: row.organization_id.into(),
            user: row.user_id.map(Into::into),
            name: row.name,
            employee_code: row.employee_code,
            phone: row.phone,
            is_active: row.is_active,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// One employee of the organization.
#[tracing::instrument(name = "db find employee", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn find(tx: &mut TenantTx, id: EmployeeId) -> DbResult<Option<Employee>> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    let row = employees::table.find(key).select(Row::as_select()).first(tx.connection()).await.optional()?;
    Ok(row.map(Into::into))
}

/// Changes a name or a phone number; what is `None` stays. `None` when there is no such employee.
#[tracing::instrument(name = "db update employee", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn update(
    tx: &mut TenantTx,
    id: EmployeeId,
    name: Option<&str>,
    phone: Option<Option<&str>>,
    now: DateTime<Utc>,
) -> DbResult<Option<Employee>> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    let row = diesel::update(employees::table.find(key))
        .set((
            name.map(|name| employees::name.eq(name)),
            phone.map(|phone| employees::phone.eq(phone)),
            employees::updated_at.eq(now),
        ))
        .returning(Row::as_returning())
        .get_result(tx.connection())
        .await
        .optional()?;
    Ok(row.map(Into::into))
}

/// Says whether an employee may work; answers the employee and whether they might before. `None` when there is no such
/// employee. The row stays locked until the transaction ends: whoever checks in at the same moment waits.
#[tracing::instrument(name = "db set employee active", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn set_active(
    tx: &mut TenantTx,
    id: EmployeeId,
    active: bool,
    now: DateTime<Utc>,
) -> DbResult<Option<(Employee, bool)>> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    let before: Option<bool> = employees::table
        .find(key)
        .select(employees::is_active)
        .for_no_key_update()
        .first(tx.connection())
        .await
        .optional()?;
    let Some(before) = before else { return Ok(None) };
    let row: Row = diesel::update(employees::table.find(key))
        .set((employees::is_active.eq(active), employees::updated_at.eq(now)))
        .returning(Row::as_returning())
        .get_result(tx.connection())
        .await?;
    Ok(Some((row.into(), before)))
}

/// Notes that an employee does something just now, if they may; answers whether they may. Their row stays locked until
/// the transaction ends, so that nobody is deactivated in the middle of it.
pub async fn touch_if_active(tx: &mut TenantTx, employee: EmployeeId, now: DateTime<Utc>) -> DbResult<bool> {
    let key: (Uuid, Uuid) = (tx.organization(), employee.uuid());
    let touched = diesel::update(employees::table.find(key).filter(employees::is_active))
        .set(employees::last_activity_at.eq(now))
        .execute(tx.connection())
        .await?;
    Ok(touched > 0)
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = states)]
struct StateRow {
    #[diesel(embed)]
    employee: StateEmployee,
    employee_number: Option<i64>,
    last_activity_at: Option<DateTime<Utc>>,
    session_id: Option<Uuid>,
    checkin_at: Option<DateTime<Utc>>,
    checkout_at: Option<DateTime<Utc>>,
    distance_recalculation_status: Option<String>,
    total_distance_km: Option<f64>,
    total_duration_seconds: Option<i32>,
    session_updated_at: Option<DateTime<Utc>>,
    last_checkout_at: Option<DateTime<Utc>>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = states)]
struct StateEmployee {
    organization_id: Uuid,
    id: Uuid,
    user_id: Option<Uuid>,
    name: String,
    employee_code: String,
    phone: Option<String>,
    is_active: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<StateRow> for EmployeeState {
    type Error = DbError;

    fn try_from(row: StateRow) -> DbResult<Self> {
        let employee = Employee {
            id: row.employee.id.into(),
            organization: row.employee.organization_id.into(),
            user: row.employee.user_id.map(Into::into),
            name: row.employee.name,
            employee_code: row.employee.employee_code,
            phone: row.employee.phone,
            is_active: row.employee.is_active,
            created_at: row.employee.created_at,
            updated_at: row.employee.updated_at,
        };
        let latest_session = match (row.session_id, row.checkin_at) {
            (Some(id), Some(checkin_at)) => Some(Session {
                id: id.into(),
                employee: employee.id,
                organization: employee.organization,
                checkin_at,
                checkout_at: row.checkout_at,
                total_distance_km: row.total_distance_km,
                total_duration_seconds: row.total_duration_seconds,
                distance_status: crate::attendance::status(row.distance_recalculation_status.as_deref().unwrap_or(""))?,
                // What the contract shows here is the check-in, and a session is made by one.
                created_at: checkin_at,
                updated_at: row.session_updated_at.unwrap_or(checkin_at),
            }),
            _ => None,
        };
        Ok(Self {
            employee,
            employee_number: row.employee_number,
            last_activity_at: row.last_activity_at,
            latest_session,
            last_checkout_at: row.last_checkout_at,
        })
    }
}

/// One employee and where they stand.
#[tracing::instrument(name = "db employee state", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn state_of(tx: &mut TenantTx, id: EmployeeId) -> DbResult<Option<EmployeeState>> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    states::table
        .find(key)
        .select(StateRow::as_select())
        .first(tx.connection())
        .await
        .optional()?
        .map(EmployeeState::try_from)
        .transpose()
}

/// Which employees a list shows.
#[derive(Debug, Clone, Copy)]
pub struct EmployeeFilter<'a> {
    /// Those who may work, or those who may not.
    pub active: Option<bool>,
    /// Those whose name contains this, letter for letter but for their case.
    pub search: Option<&'a str>,
    /// By where they stand. Who never checked in is inactive.
    pub segment: ActivityFilter,
}

/// One page of employees, and how many there are in all: in the order of their codes, and those at work or lately at
/// work by their last check-in, newest first.
#[tracing::instrument(name = "db list employees", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn list(
    tx: &mut TenantTx,
    filter: EmployeeFilter<'_>,
    page: PageRequest,
    now: DateTime<Utc>,
) -> DbResult<(Vec<EmployeeState>, i64)> {
    let organization = tx.organization();
    let pattern = filter.search.map(containing);
    let rows = in_segment(organization, filter, pattern.as_deref(), now).limit(page.limit).offset(page.offset());
    match filter.segment {
        // Counted without a look at anybody's sessions; the page is read in the order of an index.
        ActivityFilter::All => {
            let mut everybody = employees::table.filter(employees::organization_id.eq(organization)).into_boxed();
            if let Some(active) = filter.active {
                everybody = everybody.filter(employees::is_active.eq(active));
            }
            if let Some(pattern) = &pattern {
                everybody = everybody.filter(employees::name.ilike(pattern));
            }
            let total = everybody.count().get_result(tx.connection()).await?;
            let rows: Vec<StateRow> = rows
                .order((states::employee_number.asc(), states::employee_code.asc(), states::id.asc()))
                .select(StateRow::as_select())
                .load(tx.connection())
                .await?;
            Ok((rows.into_iter().map(EmployeeState::try_from).collect::<DbResult<_>>()?, total))
        }
        ActivityFilter::Inactive => {
            let rows = rows
                .order((states::employee_number.asc(), states::employee_code.asc(), states::id.asc()))
                .select((StateRow::as_select(), of_all()))
                .load(tx.connection())
                .await?;
            counted(tx, rows, in_segment(organization, filter, pattern.as_deref(), now)).await
        }
        ActivityFilter::Active | ActivityFilter::Recent => {
            let rows = rows
                .order((states::checkin_at.desc(), states::id.asc()))
                .select((StateRow::as_select(), of_all()))
                .load(tx.connection())
                .await?;
            counted(tx, rows, in_segment(organization, filter, pattern.as_deref(), now)).await
        }
    }
}

/// How many rows there are on all pages, told with each row: everybody's sessions have been looked at anyhow.
fn of_all() -> SqlLiteral<BigInt> {
    sql("count(*) OVER ()")
}

/// The page and the total that its rows tell. A page past the end has none, and `wanted` is counted.
async fn counted(
    tx: &mut TenantTx,
    rows: Vec<(StateRow, i64)>,
    wanted: states::BoxedQuery<'_, Pg>,
) -> DbResult<(Vec<EmployeeState>, i64)> {
    let total = match rows.as_slice() {
        [(_, total), ..] => *total,
        [] => wanted.count().get_result(tx.connection()).await?,
    };
    Ok((rows.into_iter().map(|(row, _)| row.try_into()).collect::<DbResult<_>>()?, total))
}

fn in_segment<'a>(
    organization: Uuid,
    filter: EmployeeFilter<'_>,
    pattern: Option<&'a str>,
    now: DateTime<Utc>,
) -> states::BoxedQuery<'a, Pg> {
    let mut query = states::table.filter(states::organization_id.eq(organization)).into_boxed();
    if let Some(active) = filter.active {
        query = query.filter(states::is_active.eq(active));
    }
    if let Some(pattern) = pattern {
        query = query.filter(states::name.ilike(pattern));
    }
    match filter.segment {
        ActivityFilter::All => query,
        ActivityFilter::Active => query.filter(states::session_id.is_not_null()).filter(states::checkout_at.is_null()),
        ActivityFilter::Recent => query.filter(states::checkout_at.gt(now - RECENT)),
        ActivityFilter::Inactive => query.filter(states::session_id.is_null().or(states::checkout_at.le(now - RECENT))),
    }
}

/// One page of the latest sessions of everybody who ever checked in, and how many there are in all: those at work
/// first, then those lately at work, then the others; among these, what changed last comes first.
#[tracing::instrument(name = "db latest sessions", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn latest_sessions(
    tx: &mut TenantTx,
    filter: ActivityFilter,
    page: PageRequest,
    now: DateTime<Utc>,
) -> DbResult<(Vec<EmployeeState>, i64)> {
    let organization = tx.organization();
    let wanted = || {
        let everybody = EmployeeFilter { active: None, search: None, segment: filter };
        in_segment(organization, everybody, None, now).filter(states::session_id.is_not_null())
    };
    let rows = wanted()
        .order((
            states::checkout_at.is_null().desc(),
            states::checkout_at.gt(now - RECENT).desc(),
            states::session_updated_at.desc(),
            states::id.asc(),
        ))
        .limit(page.limit)
        .offset(page.offset())
        .select((StateRow::as_select(), of_all()))
        .load(tx.connection())
        .await?;
    counted(tx, rows, wanted()).await
}

/// Where these employees were seen last, and when; whoever was never seen is absent.
#[tracing::instrument(name = "db last places", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn last_places(
    tx: &mut TenantTx,
    of: &[EmployeeId],
) -> DbResult<HashMap<EmployeeId, (Coordinate, DateTime<Utc>)>> {
    if of.is_empty() {
        return Ok(HashMap::new());
    }
    let organization = tx.organization();
    let ids: Vec<Uuid> = of.iter().map(|id| id.uuid()).collect();
    let rows: Vec<(Uuid, f64, f64, DateTime<Utc>)> = places::table
        .filter(places::organization_id.eq(organization))
        .filter(places::employee_id.eq_any(ids))
        .select((places::employee_id, places::latitude, places::longitude, places::recorded_at))
        .load(tx.connection())
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(id, latitude, longitude, at)| Some((id.into(), (Coordinate::new(latitude, longitude)?, at))))
        .collect())
}

/// Employees whose name or code contains `text`, by name, at most `most`.
#[tracing::instrument(name = "db search employees", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn search(tx: &mut TenantTx, text: &str, most: i64) -> DbResult<Vec<Employee>> {
    let organization = tx.organization();
    let pattern = containing(text);
    let rows: Vec<Row> = employees::table
        .filter(employees::organization_id.eq(organization))
        .filter(employees::name.ilike(&pattern).or(employees::employee_code.ilike(&pattern)))
        .order((employees::name.asc(), employees::id.asc()))
        .limit(most)
        .select(Row::as_select())
        .load(tx.connection())
        .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}
