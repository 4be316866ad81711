//! `GET /admin/retry-intents`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::intent::RetryIntent;
use domain::page::{PageRequest, Pagination};
use garde::Validate;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, page_request};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Jobs of check-outs that could not be queued.
pub struct RetryIntents;

/// What may be asked for; nothing is stored as `failed`.
const STATUSES: &[&str] = &["pending", "failed", "dead", "all"];

impl Endpoint for RetryIntents {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/retry-intents";
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        About::new("admin", "listRetryIntents", "Jobs that could not be queued")
            .note("Last changed first. Those that were queued later are among `all` for three days.")
            .page::<RetryIntent>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let Wanted { page, status } = &call.input;
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let (intents, total) = db::intents::list(&mut tx, status.as_deref(), *page).await?;
        tx.commit().await?;
        Ok(reply::page(intents, Pagination::new(*page, total)))
    }
}

/// Which page of which intents.
pub struct Wanted {
    page: PageRequest,
    status: Option<String>,
}

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::one_of(STATUSES)))]
    status: Field<String>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)))]
    page: Field<f64>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(10.0)), custom(rules::at_most(200.0)))]
    limit: Field<f64>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query { status: query.text("status"), page: query.number("page"), limit: query.number("limit") };
        parts.judge("querystring", &query, &["status", "page", "limit"])?;
        let page = page_request(&query.page, &query.limit, 50);
        let status = query.status.into_value().unwrap_or_else(|| "pending".to_owned());
        Ok(Self { page, status: (status != "all").then_some(status) })
    }
}
