//! `GET /admin/webhooks`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::webhook::Webhook;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// Every webhook, newest first.
pub struct List<const OLD: bool>;

impl<const OLD: bool> Endpoint for List<OLD> {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = if OLD { "/webhooks" } else { "/admin/webhooks" };
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        let id = if OLD { "listWebhooksAlias" } else { "listWebhooks" };
        About::new("webhooks", id, "Webhooks, newest first").list::<Webhook>()
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let webhooks = db::webhooks::list(&mut tx).await?;
        tx.commit().await?;
        Ok(reply::ok(webhooks))
    }
}
