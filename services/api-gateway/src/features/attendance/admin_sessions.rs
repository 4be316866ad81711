//! `GET /admin/sessions`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::attendance::ActivityFilter;
use domain::EmployeeId;
use domain::api_key::Scope;
use domain::page::{PageRequest, Pagination};
use garde::Validate;

use super::wire::ListItem;
use crate::error::ApiResult;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, UuidText, page_request};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// The latest session of everybody who ever checked in, or all sessions of one employee, whose name stands beside each
/// (D21). Nothing here waits for a job: how live somebody is follows from the sessions at the moment of asking.
pub struct AdminSessions;

impl Endpoint for AdminSessions {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/sessions";
    const ACCESS: Access = Access::Admins;
    const KEYS: KeyAccess = KeyAccess::Scope(Scope::ReadSessions);
    type Input = Wanted;

    fn about() -> About {
        About::new("admin", "listAdminSessions", "Latest session of every employee, or the history of one")
            .note(
                "Without `employee_id`: those at work first, then those who checked out in the last 24 hours, then the \
                 others, and among these what changed last. With it: all sessions of that employee, newest first.",
            )
            .page::<ListItem>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let Wanted { page, filter, employee } = call.input;
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let (rows, total) = match employee {
            None => {
                let (states, total) = db::employees::latest_sessions(&mut tx, filter, page, now).await?;
                let rows = states.into_iter().filter_map(|state| {
                    let (code, name) = (state.employee.employee_code, state.employee.name);
                    state.latest_session.map(|session| ListItem::of(session, code, name, now))
                });
                (rows.collect(), total)
            }
            // An employee of another organization is nobody here, and has no sessions.
            Some(employee) => match db::employees::find(&mut tx, employee).await? {
                None => (Vec::new(), 0),
                Some(employee) => {
                    let (sessions, total) =
                        db::attendance::of_employee(&mut tx, employee.id, filter, page, now).await?;
                    let row =
                        |session| ListItem::of(session, employee.employee_code.clone(), employee.name.clone(), now);
                    (sessions.into_iter().map(row).collect(), total)
                }
            },
        };
        tx.commit().await?;
        Ok(reply::page(rows, Pagination::new(page, total)))
    }
}

/// Which page of which sessions, maybe of one employee.
pub struct Wanted {
    page: PageRequest,
    filter: ActivityFilter,
    employee: Option<EmployeeId>,
}

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)))]
    page: Field<f64>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(100.0)))]
    limit: Field<f64>,
    #[garde(custom(rules::one_of(super::FILTERS)))]
    status: Field<String>,
    #[garde(custom(rules::optional), custom(rules::uuid("Invalid UUID")))]
    employee_id: Field<UuidText>,
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
        };
        parts.judge("querystring", &query, &["page", "limit", "status", "employee_id"])?;
        Ok(Self {
            page: page_request(&query.page, &query.limit, 50),
            filter: ActivityFilter::parse(query.status.value().map_or("all", String::as_str)),
            employee: query.employee_id.value().and_then(|id| id.0).map(Into::into),
        })
    }
}
