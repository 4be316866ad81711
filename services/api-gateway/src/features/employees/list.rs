//! `GET /admin/employees`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::attendance::ActivityFilter;
use db::employees::EmployeeFilter;
use domain::api_key::Scope;
use domain::page::{PageRequest, Pagination};
use garde::Validate;

use super::wire::ListItem;
use crate::error::ApiResult;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, page_request};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Employees with their live state, which is read from their sessions and so needs no job to be right.
pub struct List;

impl Endpoint for List {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/employees";
    const ACCESS: Access = Access::Admins;
    const KEYS: KeyAccess = KeyAccess::Scope(Scope::ReadEmployees);
    type Input = Wanted;

    fn about() -> About {
        About::new("employees", "listEmployees", "Employees with their live state")
            .note(
                "In the order of their numbers, those without one last, then of their codes; with segment active or \
                 recent, newest check-in first. `search` is a part of the name in any letter case, taken letter for letter.",
            )
            .page::<ListItem>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let Wanted { page, active, search, segment } = &call.input;
        let now = call.state.clock.now();
        let filter = EmployeeFilter { active: *active, search: search.as_deref(), segment: *segment };
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let (states, total) = db::employees::list(&mut tx, filter, *page, now).await?;
        let ids: Vec<_> = states.iter().map(|state| state.employee.id).collect();
        let places = db::employees::last_places(&mut tx, &ids).await?;
        tx.commit().await?;
        let rows = states
            .into_iter()
            .map(|state| {
                let place = places.get(&state.employee.id).copied();
                ListItem::new(state, place, now)
            })
            .collect();
        Ok(reply::page(rows, Pagination::new(*page, total)))
    }
}

/// Which page of which employees.
pub struct Wanted {
    page: PageRequest,
    active: Option<bool>,
    search: Option<String>,
    segment: ActivityFilter,
}

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)))]
    page: Field<f64>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(200.0)))]
    limit: Field<f64>,
    #[garde(custom(rules::one_of(&["true", "false"])))]
    active: Field<String>,
    #[garde(custom(rules::optional), custom(rules::storable))]
    search: Field<String>,
    #[garde(custom(rules::one_of(&["active", "recent", "inactive"])))]
    segment: Field<String>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query {
            page: query.number("page"),
            limit: query.number("limit"),
            active: query.text("active"),
            search: query.text("search"),
            segment: query.text("segment"),
        };
        parts.judge("querystring", &query, &["page", "limit", "active", "search", "segment"])?;
        Ok(Self {
            page: page_request(&query.page, &query.limit, 50),
            active: query.active.value().map(|text| text == "true"),
            segment: ActivityFilter::parse(query.segment.value().map_or("all", String::as_str)),
            search: query.search.into_value(),
        })
    }
}
