//! `GET /attendance/my-sessions`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::attendance::ActivityFilter;
use domain::attendance::{ActivityStatus, Session};
use domain::page::{PageRequest, Pagination};
use garde::Validate;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// The caller's own sessions, newest first; whoever is no employee has none.
pub struct MySessions;

impl Endpoint for MySessions {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/attendance/my-sessions";
    const ACCESS: Access = Access::Everyone;
    type Input = Wanted;

    fn about() -> About {
        About::new("attendance", "listMySessions", "The caller's own sessions, newest check-in first")
            .note("Whoever is no employee has none.")
            .means("status", "active: open; recent: closed less than 24 hours ago; inactive: closed before that.")
            .page::<Row>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Wanted { page, filter } = call.input;
        let now = call.state.clock.now();
        let (sessions, total) = match caller.employee() {
            None => (Vec::new(), 0),
            Some(employee) => {
                let mut tx = call.state.db.tenant(caller.tenant()).await?;
                let found = db::attendance::of_employee(&mut tx, employee, filter, page, now).await?;
                tx.commit().await?;
                found
            }
        };
        let rows = sessions
            .into_iter()
            .map(|session| Row {
                activity_status: session.activity(now),
                session,
                employee_code: None,
                employee_name: None,
            })
            .collect();
        Ok(reply::page(rows, Pagination::new(page, total)))
    }
}

/// A session in a list.
#[derive(Serialize, ToSchema)]
#[schema(as = SessionListItem)]
struct Row {
    #[serde(flatten)]
    session: Session,
    employee_code: Option<String>,
    employee_name: Option<String>,
    #[serde(rename = "activityStatus")]
    activity_status: ActivityStatus,
}

/// Which page of which sessions.
pub struct Wanted {
    page: PageRequest,
    filter: ActivityFilter,
}

const FILTERS: &[&str] = &["all", "active", "recent", "inactive"];

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)))]
    page: Field<f64>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(100.0)))]
    limit: Field<f64>,
    #[garde(custom(rules::one_of(FILTERS)))]
    status: Field<String>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query { page: query.number("page"), limit: query.number("limit"), status: query.text("status") };
        parts.judge("querystring", &query, &["page", "limit", "status"])?;
        let whole = |field: &Field<f64>, default: i64| {
            #[expect(clippy::cast_possible_truncation, reason = "the rules keep it a whole number below 2^53")]
            field.value().map_or(default, |number| *number as i64)
        };
        let filter = match query.status.value().map(String::as_str) {
            Some("active") => ActivityFilter::Active,
            Some("recent") => ActivityFilter::Recent,
            Some("inactive") => ActivityFilter::Inactive,
            _ => ActivityFilter::All,
        };
        Ok(Self { page: PageRequest { page: whole(&query.page, 1), limit: whole(&query.limit, 20) }, filter })
    }
}
