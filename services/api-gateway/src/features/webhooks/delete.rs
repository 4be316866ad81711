//! `DELETE /admin/webhooks/{id}`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::Entry;
use domain::WebhookId;

use super::NOT_FOUND;
use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Input, Parts};
use crate::http::openapi::About;

/// Removes a webhook and what was sent to it.
pub struct Delete<const OLD: bool>;

impl<const OLD: bool> Endpoint for Delete<OLD> {
    const METHOD: Method = Method::DELETE;
    const PATH: &'static str = if OLD { "/webhooks/{id}" } else { "/admin/webhooks/{id}" };
    const ACCESS: Access = Access::Admins;
    type Input = Which;

    fn about() -> About {
        let id = if OLD { "deleteWebhookAlias" } else { "deleteWebhook" };
        About::new("webhooks", id, "Remove a webhook and its delivery history")
            .no_content()
            .refuses(404, "There is no such webhook.")
    }

    async fn handle(call: Call<Which>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Which(id) = call.input;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        if !db::webhooks::delete(&mut tx, id).await? {
            return Err(NOT_FOUND);
        }
        let entry = Entry::new("WEBHOOK_DELETED", caller.actor()).on("webhook", id);
        db::audit::record(&mut tx, &entry, call.state.clock.now()).await?;
        tx.commit().await?;
        Ok(HttpResponse::NoContent().finish())
    }
}

/// The webhook in the path.
pub struct Which(pub WebhookId);

impl Input for Which {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        Ok(Self(parts.path_id("id")?.into()))
    }
}
