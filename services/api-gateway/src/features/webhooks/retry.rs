//! `POST /admin/webhook-deliveries/{id}/retry`, by its older names under `webhooks/logs`, and for dead letters
//! `POST /admin/webhook-dlq/{id}/retry`

use actix_web::HttpResponse;
use actix_web::http::Method;
use chrono::{DateTime, Utc};
use db::audit::Entry;
use db::webhooks::Again;
use domain::DeliveryId;
use domain::clock::stored_or_null;
use domain::webhook::Delivery;
use serde::Serialize;
use utoipa::ToSchema;

use super::deliveries::{DELIVERIES, LOGS, OLD_LOGS};
use super::{ask, may_be_queued};
use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Input, Parts};
use crate::http::openapi::About;
use crate::http::reply;

/// `/admin/webhook-dlq/{id}/retry`
pub const DEAD_LETTER: u8 = 3;

/// Sends a delivery that is over once more, at once, with the webhook's present address and secret.
pub struct Retry<const PLACE: u8>;

impl<const PLACE: u8> Endpoint for Retry<PLACE> {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = match PLACE {
        DELIVERIES => "/admin/webhook-deliveries/{id}/retry",
        LOGS => "/admin/webhooks/logs/{id}/retry",
        OLD_LOGS => "/webhooks/logs/{id}/retry",
        _ => "/admin/webhook-dlq/{id}/retry",
    };
    const ACCESS: Access = Access::Admins;
    type Input = Which;

    fn about() -> About {
        let id = match PLACE {
            DELIVERIES => "retryDelivery",
            LOGS => "retryWebhookLog",
            OLD_LOGS => "retryWebhookLogAlias",
            _ => "retryWebhookDlq",
        };
        let about = About::new("webhooks", id, "Send a delivery again at once").note(
            "The attempt has the next number; past the last one of the schedule there is no further automatic one.",
        );
        let about = if PLACE == DEAD_LETTER { about.ok::<State>() } else { about.ok::<Delivery>() };
        about
            .refuses(404, "There is no such delivery.")
            .refuses(503, "Workers are disabled, or the queue is full or away; the delivery is unchanged.")
    }

    async fn handle(call: Call<Which>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Which(id) = call.input;
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let again = db::webhooks::again(&mut tx, id, now).await?;
        let (delivery, job) = match again {
            Again::NoSuchDelivery => return Err(ApiError::NotFound("Delivery not found")),
            Again::Pending => {
                return Err(ApiError::Refused("Delivery is already pending — retry not needed".to_owned()));
            }
            Again::Asked(delivery, job) => (delivery, job),
        };
        // Whether it can be queued is found out outside of any transaction; this one is begun anew.
        drop(tx);
        may_be_queued(&call.state).await?;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        if !matches!(db::webhooks::again(&mut tx, id, now).await?, Again::Asked(..)) {
            return Err(ApiError::Refused("Delivery is already pending — retry not needed".to_owned()));
        }
        let entry = Entry::new("WEBHOOK_DELIVERY_RETRIED", caller.actor()).on("webhook_delivery", id);
        db::audit::record(&mut tx, &entry, now).await?;
        tx.commit().await?;
        ask(&call.state, &job, &call.request_id).await;
        Ok(if PLACE == DEAD_LETTER {
            reply::ok(State {
                id,
                status: delivery.status,
                attempt_count: delivery.attempt_count,
                next_retry_at: delivery.next_retry_at,
            })
        } else {
            reply::ok(delivery)
        })
    }
}

/// Where a delivery stands.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookDeliveryState)]
struct State {
    id: DeliveryId,
    #[schema(value_type = domain::webhook::DeliveryStatus)]
    status: String,
    attempt_count: i32,
    #[serde(serialize_with = "stored_or_null")]
    next_retry_at: Option<DateTime<Utc>>,
}

/// The delivery in the path.
pub struct Which(DeliveryId);

impl Input for Which {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        Ok(Self(parts.path_id("id")?.into()))
    }
}
