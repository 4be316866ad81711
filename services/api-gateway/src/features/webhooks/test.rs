//! `POST /admin/webhooks/{id}/test`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::clock::Replied;
use domain::webhook::TEST_EVENT;
use domain::{DeliveryId, EventId};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::delete::Which;
use super::{NOT_FOUND, ask, may_be_queued};
use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// Sends a webhook an event that means nothing.
pub struct Test<const OLD: bool>;

impl<const OLD: bool> Endpoint for Test<OLD> {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = if OLD { "/webhooks/{id}/test" } else { "/admin/webhooks/{id}/test" };
    const ACCESS: Access = Access::Admins;
    type Input = Which;

    fn about() -> About {
        let id = if OLD { "testWebhookAlias" } else { "testWebhook" };
        About::new("webhooks", id, "Send a webhook.test event")
            .accepted::<Queued>()
            .refuses(404, "There is no such webhook.")
            .refuses(503, "Workers are disabled, or the queue is full or away.")
    }

    async fn handle(call: Call<Which>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Which(id) = call.input;
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let there = db::webhooks::exists(&mut tx, id).await?;
        tx.commit().await?;
        if !there {
            return Err(NOT_FOUND);
        }
        may_be_queued(&call.state).await?;
        let event = EventId::generate();
        let envelope = json!({
            "id": event,
            "type": TEST_EVENT,
            "version": 1,
            "occurred_at": Replied(now),
            "organization_id": caller.tenant().organization(),
            "data": { "webhook_id": id, "test": true, "message": "FieldTrack test webhook delivery" },
        });
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        if !db::webhooks::exists(&mut tx, id).await? {
            return Err(NOT_FOUND);
        }
        let job = db::webhooks::test(&mut tx, id, event, envelope.to_string(), now).await?;
        tx.commit().await?;
        ask(&call.state, &job, &call.request_id).await;
        let data = Queued { delivery_id: job.delivery, event_id: event, status: "pending" };
        Ok(reply::accepted(data))
    }
}

/// A delivery that is on its way.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookTestQueued)]
struct Queued {
    delivery_id: DeliveryId,
    event_id: EventId,
    status: &'static str,
}
