//! `GET /admin/monitoring-history`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::monitoring::MonitoringSession;
use domain::page::{PageRequest, Pagination};
use garde::Validate;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, page_request};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// When the caller watched; for an API key, when anybody of the organization did.
pub struct History;

impl Endpoint for History {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/monitoring-history";
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        About::new("admin", "listMonitoringHistory", "Monitoring sessions, newest first")
            .note("The caller's own; with an API key, all of the organization.")
            .page::<MonitoringSession>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Wanted(page) = call.input;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let (sessions, total) = db::monitoring::history(&mut tx, caller.user(), page).await?;
        tx.commit().await?;
        Ok(reply::page(sessions, Pagination::new(page, total)))
    }
}

/// Which page.
pub struct Wanted(PageRequest);

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)))]
    page: Field<f64>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(100.0)))]
    limit: Field<f64>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query { page: query.number("page"), limit: query.number("limit") };
        parts.judge("querystring", &query, &["page", "limit"])?;
        Ok(Self(page_request(&query.page, &query.limit, 20)))
    }
}
