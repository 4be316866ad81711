//! `GET /admin/search`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::expense::ExpenseStatus;
use domain::money::Money;
use domain::{EmployeeId, ExpenseId};
use garde::Validate;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Finds employees by name or code and expenses by description; what is asked for is taken letter for letter (D15).
pub struct Search;

impl Endpoint for Search {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/search";
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        About::new("employees", "search", "Search employees and expenses")
            .note(
                "Employees whose name or code contains q, by name; expenses whose description does, newest first. In any \
                 letter case, letter for letter. `limit` applies to each list.",
            )
            .ok::<Hits>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let Wanted { text, limit } = &call.input;
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let employees = db::employees::search(&mut tx, text, *limit).await?;
        let expenses = db::expenses::search(&mut tx, text, *limit).await?;
        tx.commit().await?;
        let employees = employees
            .into_iter()
            .map(|employee| Person {
                id: employee.id,
                name: employee.name,
                employee_code: employee.employee_code,
                is_active: employee.is_active,
            })
            .collect();
        let expenses = expenses
            .into_iter()
            .map(|found| Claim {
                id: found.expense.id,
                description: found.expense.description,
                amount: found.expense.amount,
                status: found.expense.status,
                employee_name: found.employee_name,
            })
            .collect();
        Ok(reply::ok(Hits { employees, expenses }))
    }
}

/// What a search finds.
#[derive(Serialize, ToSchema)]
#[schema(as = SearchHits)]
struct Hits {
    employees: Vec<Person>,
    expenses: Vec<Claim>,
}

/// An employee that was found.
#[derive(Serialize, ToSchema)]
#[schema(as = EmployeeHit)]
struct Person {
    id: EmployeeId,
    name: String,
    employee_code: String,
    is_active: bool,
}

/// An expense that was found.
#[derive(Serialize, ToSchema)]
#[schema(as = ExpenseHit)]
struct Claim {
    id: ExpenseId,
    description: String,
    amount: Money,
    status: ExpenseStatus,
    employee_name: String,
}

/// What to look for, and how many of each kind.
pub struct Wanted {
    text: String,
    limit: i64,
}

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(
        custom(rules::required),
        custom(rules::text_at_least(1)),
        custom(rules::text_at_most(200)),
        custom(rules::storable)
    )]
    q: Field<String>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(50.0)))]
    limit: Field<f64>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query { q: query.text("q"), limit: query.number("limit") };
        parts.judge("querystring", &query, &["q", "limit"])?;
        Ok(Self { limit: query.limit.whole_or(10), text: query.q.into_value().unwrap_or_default() })
    }
}
