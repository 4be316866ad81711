//! `GET /attendance/my-sessions`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::attendance::ActivityFilter;
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

/// The caller's own sessions, newest first; whoever is no employee has none.
pub struct MySessions;

impl Endpoint for MySessions {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/attendance/my-sessions";
    const ACCESS: Access = Access::Everyone;
    const KEYS: KeyAccess = KeyAccess::Scope(Scope::ReadSessions);
    type Input = Wanted;

    fn about() -> About {
        About::new("attendance", "listMySessions", "The caller's own sessions, newest check-in first")
            .note("Whoever is no employee has none.")
            .means("status", "active: open; recent: closed less than 24 hours ago; inactive: closed before that.")
            .page::<ListItem>()
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
        let rows = sessions.into_iter().map(|session| ListItem::own(session, now)).collect();
        Ok(reply::page(rows, Pagination::new(page, total)))
    }
}

/// Which page of which sessions.
pub struct Wanted {
    page: PageRequest,
    filter: ActivityFilter,
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
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query { page: query.number("page"), limit: query.number("limit"), status: query.text("status") };
        parts.judge("querystring", &query, &["page", "limit", "status"])?;
        let filter = ActivityFilter::parse(query.status.value().map_or("all", String::as_str));
        Ok(Self { page: page_request(&query.page, &query.limit, 20), filter })
    }
}
