//! Expenses: claimed, listed, reviewed, added up.

use std::io::Write;

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::dsl::sql;
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::prelude::*;
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{BigInt, Numeric};
use diesel_async::RunQueryDsl;
use domain::expense::{Expense, ExpenseStatus};
use domain::money::Money;
use domain::page::PageRequest;
use domain::{EmployeeId, ExpenseId, UserId};
use uuid::Uuid;

use crate::pattern::containing;
use crate::schema::{employee_expense_totals as totals, employees, expenses, sql_types};
use crate::{DbResult, TenantTx};

/// The rule that an employee uses an idempotency key once.
pub const KEY_USED: &str = "expenses_idempotency";

#[derive(Debug, Clone, Copy, AsExpression, FromSqlRow)]
#[diesel(sql_type = sql_types::ExpenseStatus)]
struct StatusColumn(ExpenseStatus);

impl ToSql<sql_types::ExpenseStatus, Pg> for StatusColumn {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(self.0.as_str().as_bytes())?;
        Ok(IsNull::No)
    }
}

impl FromSql<sql_types::ExpenseStatus, Pg> for StatusColumn {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let text = std::str::from_utf8(value.as_bytes())?;
        ExpenseStatus::parse(text).map(Self).ok_or_else(|| format!("unknown expense status {text:?}").into())
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = expenses)]
struct Row {
    organization_id: Uuid,
    id: Uuid,
    employee_id: Uuid,
    amount: BigDecimal,
    description: String,
    status: StatusColumn,
    receipt_url: Option<String>,
    submitted_at: DateTime<Utc>,
    reviewed_at: Option<DateTime<Utc>>,
    reviewed_by: Option<Uuid>,
    rejection_comment: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Row> for Expense {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.into(),
            organization: row.organization_id.into(),
            employee: row.employee_id.into(),
            amount: row.amount.into(),
            description: row.description,
            status: row.status.0,
            receipt_url: row.receipt_url,
            submitted_at: row.submitted_at,
            reviewed_at: row.reviewed_at,
            reviewed_by: row.reviewed_by.map(UserId::from),
            rejection_comment: row.rejection_comment,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// A claim and whose it is, as administrators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The claim.
    pub expense: Expense,
    /// The employee's name.
    pub employee_name: String,
    /// The employee's code.
    pub employee_code: String,
}

impl From<(Row, String, String)> for Claimed {
    fn from((row, employee_name, employee_code): (Row, String, String)) -> Self {
        Self { expense: row.into(), employee_name, employee_code }
    }
}

/// A claim to be.
#[derive(Debug, Clone)]
pub struct NewExpense {
    /// Its id.
    pub id: ExpenseId,
    /// Who spent the money.
    pub employee: EmployeeId,
    /// How much; more than nothing.
    pub amount: Money,
    /// What for.
    pub description: String,
    /// The receipt.
    pub receipt_url: Option<String>,
    /// The mark of the receipt's file, when it was seen and could be replaced by another one.
    pub receipt_etag: Option<String>,
    /// The name the phone gave this claim, so that it can safely send it again.
    pub idempotency_key: Option<String>,
}

/// Stores a claim. Conflicts with [`KEY_USED`] when the employee has sent it before: of two simultaneous ones one wins.
#[tracing::instrument(name = "db submit expense", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn submit(tx: &mut TenantTx, new: NewExpense, now: DateTime<Utc>) -> DbResult<Expense> {
    let organization = tx.organization();
    let row: Row = diesel::insert_into(expenses::table)
        .values((
            expenses::organization_id.eq(organization),
            expenses::id.eq(new.id.uuid()),
            expenses::employee_id.eq(new.employee.uuid()),
            expenses::amount.eq(BigDecimal::from(new.amount)),
            expenses::description.eq(new.description),
            expenses::receipt_url.eq(new.receipt_url),
            expenses::receipt_etag.eq(new.receipt_etag),
            expenses::submitted_at.eq(now),
            expenses::idempotency_key.eq(new.idempotency_key),
            expenses::created_at.eq(now),
            expenses::updated_at.eq(now),
        ))
        .returning(Row::as_returning())
        .get_result(tx.connection())
        .await?;
    Ok(row.into())
}

/// Which claims a list shows, by where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusFilter {
    /// Every one.
    All,
    /// Those of one status.
    Only(ExpenseStatus),
    /// Approved and rejected ones.
    Processed,
}

/// Which claims a list shows.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Of this employee alone.
    pub employee: Option<EmployeeId>,
    /// By where they stand.
    pub status: StatusFilter,
    /// Whose description contains this text, in any letter case. Nothing in it is a wildcard.
    pub search: Option<String>,
}

/// The employee of a claim. A macro: the types of Diesel's queries are longer than the queries.
macro_rules! their_employee {
    () => {
        employees::table
            .on(employees::organization_id.eq(expenses::organization_id).and(employees::id.eq(expenses::employee_id)))
    };
}

/// A boxed query of claims, narrowed by a filter.
macro_rules! narrowed {
    ($query:expr, $filter:expr) => {{
        let mut query = $query;
        if let Some(employee) = $filter.employee {
            query = query.filter(expenses::employee_id.eq(employee.uuid()));
        }
        query = match $filter.status {
            StatusFilter::All => query,
            StatusFilter::Only(status) => query.filter(expenses::status.eq(StatusColumn(status))),
            StatusFilter::Processed => query.filter(expenses::status.ne(StatusColumn(ExpenseStatus::Pending))),
        };
        if let Some(text) = &$filter.search {
            query = query.filter(expenses::description.ilike(containing(text)));
        }
        query
    }};
}

/// One page of claims, newest first, and how many there are in all.
#[tracing::instrument(name = "db list expenses", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn list(tx: &mut TenantTx, filter: &Filter, page: PageRequest) -> DbResult<(Vec<Claimed>, i64)> {
    let organization = tx.organization();
    let total = match &filter.search {
        None => counted(tx, filter.employee, filter.status).await?,
        Some(_) => {
            let wanted = expenses::table.filter(expenses::organization_id.eq(organization)).into_boxed();
            narrowed!(wanted, filter).count().get_result(tx.connection()).await?
        }
    };
    let wanted =
        expenses::table.inner_join(their_employee!()).filter(expenses::organization_id.eq(organization)).into_boxed();
    let rows: Vec<(Row, String, String)> = narrowed!(wanted, filter)
        .order((expenses::submitted_at.desc(), expenses::id.desc()))
        .limit(page.limit)
        .offset(page.offset())
        .select((Row::as_select(), employees::name, employees::employee_code))
        .load(tx.connection())
        .await?;
    Ok((rows.into_iter().map(Claimed::from).collect(), total))
}

/// How many claims there are, from the totals: exact, and independent of how many there are.
async fn counted(tx: &mut TenantTx, employee: Option<EmployeeId>, status: StatusFilter) -> DbResult<i64> {
    let counts = match status {
        StatusFilter::All => "pending_count + approved_count + rejected_count",
        StatusFilter::Processed => "approved_count + rejected_count",
        StatusFilter::Only(ExpenseStatus::Pending) => "pending_count",
        StatusFilter::Only(ExpenseStatus::Approved) => "approved_count",
        StatusFilter::Only(ExpenseStatus::Rejected) => "rejected_count",
    };
    let mut query = totals::table
        .filter(totals::organization_id.eq(tx.organization()))
        .select(sql::<BigInt>(&format!("coalesce(sum({counts}), 0)::bigint")))
        .into_boxed();
    if let Some(employee) = employee {
        query = query.filter(totals::employee_id.eq(employee.uuid()));
    }
    Ok(query.get_result(tx.connection()).await?)
}

/// The next claims after `last`, newest first: what a long list is read by, piece by piece. Claims are never deleted and
/// keep their place, so a list read this way shows each claim that was there at its beginning once.
#[tracing::instrument(name = "db next expenses", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn after(
    tx: &mut TenantTx,
    employee: Option<EmployeeId>,
    last: Option<(DateTime<Utc>, ExpenseId)>,
    most: i64,
) -> DbResult<Vec<Claimed>> {
    let mut query = expenses::table
        .inner_join(their_employee!())
        .filter(expenses::organization_id.eq(tx.organization()))
        .into_boxed();
    if let Some(employee) = employee {
        query = query.filter(expenses::employee_id.eq(employee.uuid()));
    }
    if let Some((submitted_at, id)) = last {
        // The first condition is implied by the second, and is what the index understands.
        query = query.filter(expenses::submitted_at.le(submitted_at)).filter(
            expenses::submitted_at
                .lt(submitted_at)
                .or(expenses::submitted_at.eq(submitted_at).and(expenses::id.lt(id.uuid()))),
        );
    }
    let rows: Vec<(Row, String, String)> = query
        .order((expenses::submitted_at.desc(), expenses::id.desc()))
        .limit(most)
        .select((Row::as_select(), employees::name, employees::employee_code))
        .load(tx.connection())
        .await?;
    Ok(rows.into_iter().map(Claimed::from).collect())
}

/// The claims whose description contains `text`, newest first, at most `most`.
#[tracing::instrument(name = "db search expenses", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn search(tx: &mut TenantTx, text: &str, most: i64) -> DbResult<Vec<Claimed>> {
    let rows: Vec<(Row, String, String)> = expenses::table
        .inner_join(their_employee!())
        .filter(expenses::organization_id.eq(tx.organization()))
        .filter(expenses::description.ilike(containing(text)))
        .order((expenses::submitted_at.desc(), expenses::id.desc()))
        .limit(most)
        .select((Row::as_select(), employees::name, employees::employee_code))
        .load(tx.connection())
        .await?;
    Ok(rows.into_iter().map(Claimed::from).collect())
}

/// One claim of the organization.
#[tracing::instrument(name = "db find expense", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn find(tx: &mut TenantTx, id: ExpenseId) -> DbResult<Option<Expense>> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    let row: Option<Row> =
        expenses::table.find(key).select(Row::as_select()).first(tx.connection()).await.optional()?;
    Ok(row.map(Expense::from))
}

/// Whether the file with this mark is the one that was seen first as the receipt of a claim; it is when nobody has seen
/// one before.
#[tracing::instrument(name = "db first receipt", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn is_first_receipt(tx: &mut TenantTx, id: ExpenseId, etag: &str) -> DbResult<bool> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    let first = async |tx: &mut TenantTx| -> DbResult<Option<String>> {
        Ok(expenses::table.find(key).select(expenses::receipt_etag).first(tx.connection()).await?)
    };
    if let Some(first) = first(tx).await? {
        return Ok(first == etag);
    }
    // Of two that see different files at once, the second waits here and finds what the first one saw.
    let noted = diesel::update(expenses::table.find(key).filter(expenses::receipt_etag.is_null()))
        .set(expenses::receipt_etag.eq(etag))
        .execute(tx.connection())
        .await?;
    Ok(noted == 1 || first(tx).await?.as_deref() == Some(etag))
}

/// Locks a claim until the transaction ends: of two simultaneous reviews the second sees what the first decided.
#[tracing::instrument(name = "db lock expense", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn lock_for_review(tx: &mut TenantTx, id: ExpenseId) -> DbResult<Option<Claimed>> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    let row: Option<Row> = expenses::table
        .find(key)
        .select(Row::as_select())
        .for_no_key_update()
        .first(tx.connection())
        .await
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let (name, code): (String, String) = employees::table
        .find((row.organization_id, row.employee_id))
        .select((employees::name, employees::employee_code))
        .first(tx.connection())
        .await?;
    Ok(Some((row, name, code).into()))
}

/// Stores what a review changed. The claim must be locked.
#[tracing::instrument(name = "db save review", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn save_review(tx: &mut TenantTx, reviewed: &Expense) -> DbResult<()> {
    let key: (Uuid, Uuid) = (tx.organization(), reviewed.id.uuid());
    diesel::update(expenses::table.find(key))
        .set((
            expenses::status.eq(StatusColumn(reviewed.status)),
            expenses::reviewed_at.eq(reviewed.reviewed_at),
            expenses::reviewed_by.eq(reviewed.reviewed_by.map(UserId::uuid)),
            expenses::rejection_comment.eq(&reviewed.rejection_comment),
            expenses::updated_at.eq(reviewed.updated_at),
        ))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// How many claims, and how much they add up to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many.
    pub count: i64,
    /// How much, exactly.
    pub amount: Money,
}

/// What somebody has claimed, by where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Not reviewed yet.
    pub pending: Tally,
    /// To be paid.
    pub approved: Tally,
    /// Not to be paid.
    pub rejected: Tally,
}

impl Totals {
    /// All of it.
    #[must_use]
    pub fn all(&self) -> Tally {
        let parts = [&self.pending, &self.approved, &self.rejected];
        Tally { count: parts.iter().map(|part| part.count).sum(), amount: parts.iter().map(|part| &part.amount).sum() }
    }
}

/// What one employee has claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmployeeTotals {
    /// Who.
    pub employee: EmployeeId,
    /// Their name.
    pub name: String,
    /// Their code.
    pub code: String,
    /// What they claimed.
    pub totals: Totals,
    /// When they last claimed something.
    pub latest_submitted_at: DateTime<Utc>,
}

type Sums = (i64, BigDecimal, i64, BigDecimal, i64, BigDecimal);

impl From<Sums> for Totals {
    fn from((pending, pending_amount, approved, approved_amount, rejected, rejected_amount): Sums) -> Self {
        let tally = |count, amount: BigDecimal| Tally { count, amount: amount.into() };
        Self {
            pending: tally(pending, pending_amount),
            approved: tally(approved, approved_amount),
            rejected: tally(rejected, rejected_amount),
        }
    }
}

/// One page of what each employee has claimed, those with most to review first, and how many employees have claimed
/// anything.
#[tracing::instrument(name = "db summarise expenses", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn by_employee(tx: &mut TenantTx, page: PageRequest) -> DbResult<(Vec<EmployeeTotals>, i64)> {
    let organization = tx.organization();
    let total =
        totals::table.filter(totals::organization_id.eq(organization)).count().get_result(tx.connection()).await?;
    let rows: Vec<(Uuid, String, String, DateTime<Utc>, Sums)> = totals::table
        .inner_join(
            employees::table
                .on(employees::organization_id.eq(totals::organization_id).and(employees::id.eq(totals::employee_id))),
        )
        .filter(totals::organization_id.eq(organization))
        .order((totals::pending_count.desc(), totals::latest_submitted_at.desc(), totals::employee_id.asc()))
        .limit(page.limit)
        .offset(page.offset())
        .select((
            totals::employee_id,
            employees::name,
            employees::employee_code,
            totals::latest_submitted_at,
            (
                totals::pending_count,
                totals::pending_amount,
                totals::approved_count,
                totals::approved_amount,
                totals::rejected_count,
                totals::rejected_amount,
            ),
        ))
        .load(tx.connection())
        .await?;
    let rows = rows.into_iter().map(|(employee, name, code, latest_submitted_at, sums)| EmployeeTotals {
        employee: employee.into(),
        name,
        code,
        totals: sums.into(),
        latest_submitted_at,
    });
    Ok((rows.collect(), total))
}

/// What one employee, or the whole organization, has ever claimed.
#[tracing::instrument(name = "db expense totals", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn totals(tx: &mut TenantTx, employee: Option<EmployeeId>) -> DbResult<Totals> {
    let count = |column: &str| sql::<BigInt>(&format!("coalesce(sum({column}), 0)::bigint"));
    let amount = |column: &str| sql::<Numeric>(&format!("coalesce(sum({column}), 0)"));
    let mut query = totals::table
        .filter(totals::organization_id.eq(tx.organization()))
        .select((
            count("pending_count"),
            amount("pending_amount"),
            count("approved_count"),
            amount("approved_amount"),
            count("rejected_count"),
            amount("rejected_amount"),
        ))
        .into_boxed();
    if let Some(employee) = employee {
        query = query.filter(totals::employee_id.eq(employee.uuid()));
    }
    let sums: Sums = query.get_result(tx.connection()).await?;
    Ok(sums.into())
}
