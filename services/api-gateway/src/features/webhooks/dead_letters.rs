//! `GET /admin/webhook-dlq`

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use chrono::{DateTime, Utc};
use domain::clock::{stored, stored_or_null};
use domain::{DeliveryId, EventId, OrganizationId, WebhookId};
use garde::Validate;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, UuidText};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Deliveries that failed for good, latest attempt first.
pub struct DeadLetters;

impl Endpoint for DeadLetters {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/webhook-dlq";
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        About::new("webhooks", "listWebhookDlq", "Deliveries that failed for good, latest attempt first")
            .bare::<Letters>(200, "Entries.")
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let Wanted { limit, offset, event_type, webhook } = &call.input;
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let (letters, count) =
            db::webhooks::dead_letters(&mut tx, *webhook, event_type.as_deref(), *limit, *offset).await?;
        tx.commit().await?;
        let data = letters
            .into_iter()
            .map(|letter| Letter {
                id: letter.delivery.id,
                webhook_id: letter.delivery.webhook,
                organization_id: letter.delivery.organization,
                event_id: letter.delivery.event,
                event_type: letter.delivery.event_type,
                payload: letter.payload.and_then(|payload| RawValue::from_string(payload).ok()),
                status: "failed",
                attempts: letter.delivery.attempt_count,
                response_status: letter.delivery.response_status,
                response_body: letter.delivery.response_body,
                last_error: letter.last_error,
                next_retry_at: letter.delivery.next_retry_at,
                last_attempt_at: letter.delivery.last_attempt_at,
                created_at: letter.delivery.created_at,
            })
            .collect();
        let meta = Meta { limit: *limit, offset: *offset, count };
        Ok(reply::json(StatusCode::OK, &Letters { success: true, data, meta }))
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = WebhookDeadLetters)]
struct Letters {
    success: bool,
    data: Vec<Letter>,
    meta: Meta,
}

#[derive(Serialize, ToSchema)]
#[schema(as = WebhookDeadLettersMeta)]
struct Meta {
    limit: i64,
    offset: i64,
    /// Entries in all.
    count: i64,
}

/// A delivery that failed for good.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookDlqEntry)]
struct Letter {
    id: DeliveryId,
    webhook_id: WebhookId,
    organization_id: OrganizationId,
    event_id: EventId,
    event_type: Option<String>,
    /// The event's envelope, while it is kept.
    #[schema(value_type = Option<Object>)]
    payload: Option<Box<RawValue>>,
    status: &'static str,
    attempts: i32,
    response_status: Option<i32>,
    response_body: Option<String>,
    last_error: Option<String>,
    #[serde(serialize_with = "stored_or_null")]
    next_retry_at: Option<DateTime<Utc>>,
    #[serde(serialize_with = "stored_or_null")]
    last_attempt_at: Option<DateTime<Utc>>,
    #[serde(serialize_with = "stored")]
    created_at: DateTime<Utc>,
}

/// Which entries.
pub struct Wanted {
    limit: i64,
    offset: i64,
    event_type: Option<String>,
    webhook: Option<WebhookId>,
}

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(100.0)))]
    limit: Field<f64>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(0.0)))]
    offset: Field<f64>,
    #[garde(custom(rules::optional), custom(rules::text_at_least(1)), custom(rules::storable))]
    event_type: Field<String>,
    #[garde(custom(rules::optional), custom(rules::uuid("Invalid UUID")))]
    webhook_id: Field<UuidText>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query {
            limit: query.number("limit"),
            offset: query.number("offset"),
            event_type: query.text("event_type"),
            webhook_id: query.id("webhook_id"),
        };
        parts.judge("querystring", &query, &["limit", "offset", "event_type", "webhook_id"])?;
        #[expect(clippy::cast_possible_truncation, reason = "the rules keep it a whole number below 2^53")]
        let whole = |field: &Field<f64>, default: i64| field.value().map_or(default, |number| *number as i64);
        Ok(Self {
            limit: whole(&query.limit, 50),
            offset: whole(&query.offset, 0),
            event_type: query.event_type.into_value(),
            webhook: query.webhook_id.value().and_then(|id| id.0).map(WebhookId::from),
        })
    }
}
