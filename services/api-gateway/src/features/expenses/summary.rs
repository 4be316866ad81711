//! `GET /admin/expenses/summary`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::expenses::EmployeeTotals;
use domain::EmployeeId;
use domain::clock::Stored;
use domain::money::Money;
use domain::page::{PageRequest, Pagination};
use garde::Validate;
use serde::Serialize;
use utoipa::ToSchema;

use super::wanted::whole;
use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// What each employee has claimed, those with most to review first.
pub struct Summary;

impl Endpoint for Summary {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/expenses/summary";
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        About::new("expenses", "summariseExpenses", "What each employee has claimed")
            .note("Those with most to review first, then those who claimed last. Amounts are rounded to 2 decimals.")
            .page::<Row>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let page = call.input.0;
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let (rows, total) = db::expenses::by_employee(&mut tx, page).await?;
        tx.commit().await?;
        Ok(reply::page(rows.into_iter().map(Row::from).collect(), Pagination::new(page, total)))
    }
}

/// What one employee has claimed.
#[derive(Serialize, ToSchema)]
#[schema(as = EmployeeExpenseSummary)]
#[serde(rename_all = "camelCase")]
struct Row {
    employee_id: EmployeeId,
    employee_name: String,
    employee_code: String,
    pending_count: i64,
    pending_amount: Money,
    total_count: i64,
    total_amount: Money,
    latest_expense_date: Stored,
}

impl From<EmployeeTotals> for Row {
    fn from(row: EmployeeTotals) -> Self {
        let all = row.totals.all();
        Self {
            employee_id: row.employee,
            employee_name: row.name,
            employee_code: row.code,
            pending_count: row.totals.pending.count,
            pending_amount: row.totals.pending.amount.rounded(),
            total_count: all.count,
            total_amount: all.amount.rounded(),
            latest_expense_date: Stored(row.latest_submitted_at),
        }
    }
}

/// Which page.
pub struct Wanted(PageRequest);

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)))]
    page: Field<f64>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(1000.0)))]
    limit: Field<f64>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query { page: query.number("page"), limit: query.number("limit") };
        parts.judge("querystring", &query, &["page", "limit"])?;
        Ok(Self(PageRequest { page: whole(&query.page, 1), limit: whole(&query.limit, 50) }))
    }
}
