//! Employees.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use domain::employee::{Employee, code_from_number, number_from_code};
use domain::{EmployeeId, UserId};
use uuid::Uuid;

use crate::schema::{employees, organizations};
use crate::{DbResult, TenantTx};

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
