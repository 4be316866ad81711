//! What a list of expenses is asked for by.

use db::expenses::{Filter, StatusFilter};
use domain::EmployeeId;
use domain::expense::ExpenseStatus;
use domain::page::PageRequest;
use garde::Validate;

use crate::error::ApiResult;
use crate::http::input::{Field, Input, Moment, Parts, UuidText};
use crate::http::rules;

/// Which page of which claims.
pub struct Wanted {
    pub page: PageRequest,
    pub filter: Filter,
}

const STATUSES: &[&str] = &["all", "PENDING", "APPROVED", "REJECTED", "processed"];
/// No description is longer, in UTF-16 code units: a longer text is contained in none.
const LONGEST_DESCRIPTION: usize = 500;

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)))]
    page: Field<f64>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(100.0)))]
    limit: Field<f64>,
    #[garde(custom(rules::one_of(STATUSES)))]
    status: Field<String>,
    #[garde(custom(rules::optional), custom(rules::uuid("Invalid UUID")))]
    employee_id: Field<UuidText>,
    #[garde(custom(rules::optional), custom(rules::text_at_most(LONGEST_DESCRIPTION)), custom(rules::storable))]
    search: Field<String>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query {
            page: query.number("page"),
            limit: query.number("limit"),
            status: query.text("status"),
            employee_id: query.id("employee_id"),
            search: query.text("search"),
        };
        parts.judge("querystring", &query, &["page", "limit", "status", "employee_id", "search"])?;
        let status = match query.status.value().map(String::as_str) {
            Some("processed") => StatusFilter::Processed,
            Some(word) => ExpenseStatus::parse(word).map_or(StatusFilter::All, StatusFilter::Only),
            None => StatusFilter::All,
        };
        Ok(Self {
            page: PageRequest { page: whole(&query.page, 1), limit: whole(&query.limit, 50) },
            filter: Filter {
                employee: query.employee_id.value().and_then(|id| id.0).map(EmployeeId::from),
                status,
                search: query.search.into_value().filter(|text| !text.is_empty()),
            },
        })
    }
}

/// A whole number that passed the rules.
pub fn whole(field: &Field<f64>, default: i64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "the rules keep it a whole number below 2^53")]
    field.value().map_or(default, |number| *number as i64)
}
