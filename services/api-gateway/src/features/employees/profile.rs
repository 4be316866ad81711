//! `GET /admin/employees/{employeeId}/profile`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::api_key::Scope;
use domain::attendance::{DistanceStatus, Session};
use domain::clock::Stored;
use domain::expense::{Expense, ExpenseStatus};
use domain::money::Money;
use domain::{EmployeeId, ExpenseId, SessionId};
use serde::Serialize;
use utoipa::ToSchema;

use super::NOT_FOUND;
use super::wire::Row;
use crate::error::ApiResult;
use crate::features::profile::Stats;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Input, Parts};
use crate::http::openapi::About;
use crate::http::reply;

/// An employee's sheet: who they are, what they did in all, and lately. The totals are added up from the rows (D22).
pub struct Profile;

/// Rows of each list.
const LATEST: i64 = 10;

impl Endpoint for Profile {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/employees/{employeeId}/profile";
    const ACCESS: Access = Access::Admins;
    const KEYS: KeyAccess = KeyAccess::Scope(Scope::ReadEmployees);
    type Input = WhichEmployee;

    fn about() -> About {
        About::new(
            "employees",
            "getEmployeeProfile",
            "Employee sheet: record, totals, ten latest sessions and expenses",
        )
        .note("All-time totals; distance to 2 decimals, duration in whole seconds.")
        .ok::<Sheet>()
        .refuses(404, "There is no such employee.")
    }

    async fn handle(call: Call<WhichEmployee>) -> ApiResult<HttpResponse> {
        let WhichEmployee(id) = call.input;
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let state = db::employees::state_of(&mut tx, id).await?.ok_or(NOT_FOUND)?;
        let summary = Stats::of(&mut tx, id).await?;
        let sessions = db::attendance::latest_of(&mut tx, id, LATEST).await?;
        let expenses = db::expenses::after(&mut tx, Some(id), None, LATEST).await?;
        tx.commit().await?;
        Ok(reply::ok(Sheet {
            employee: state.into(),
            summary,
            recent_sessions: sessions.into_iter().map(RecentSession::from).collect(),
            expenses: expenses.into_iter().map(|claimed| claimed.expense.into()).collect(),
        }))
    }
}

/// Somebody's sheet.
#[derive(Serialize, ToSchema)]
#[schema(as = EmployeeProfileDetail)]
#[serde(rename_all = "camelCase")]
struct Sheet {
    employee: Row,
    summary: Stats,
    recent_sessions: Vec<RecentSession>,
    expenses: Vec<RecentExpense>,
}

/// A session on a sheet.
#[derive(Serialize, ToSchema)]
struct RecentSession {
    id: SessionId,
    checkin_at: Stored,
    checkout_at: Option<Stored>,
    total_distance_km: Option<f64>,
    total_duration_seconds: Option<i32>,
    distance_recalculation_status: DistanceStatus,
    created_at: Stored,
}

impl From<Session> for RecentSession {
    fn from(session: Session) -> Self {
        Self {
            id: session.id,
            checkin_at: Stored(session.checkin_at),
            checkout_at: session.checkout_at.map(Stored),
            total_distance_km: session.total_distance_km,
            total_duration_seconds: session.total_duration_seconds,
            distance_recalculation_status: session.distance_status,
            created_at: Stored(session.created_at),
        }
    }
}

/// A claim on a sheet.
#[derive(Serialize, ToSchema)]
struct RecentExpense {
    id: ExpenseId,
    amount: Money,
    description: String,
    status: ExpenseStatus,
    submitted_at: Stored,
    reviewed_at: Option<Stored>,
}

impl From<Expense> for RecentExpense {
    fn from(expense: Expense) -> Self {
        Self {
            id: expense.id,
            amount: expense.amount,
            description: expense.description,
            status: expense.status,
            submitted_at: Stored(expense.submitted_at),
            reviewed_at: expense.reviewed_at.map(Stored),
        }
    }
}

/// The employee in the path.
pub struct WhichEmployee(EmployeeId);

impl Input for WhichEmployee {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        Ok(Self(parts.path_id("employeeId")?.into()))
    }
}
