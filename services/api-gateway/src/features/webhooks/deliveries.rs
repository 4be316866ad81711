//! `GET /admin/webhook-deliveries`, and by its older names `GET /admin/webhooks/logs` and `GET /webhooks/logs`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::WebhookId;
use domain::page::{PageRequest, Pagination};
use domain::webhook::Delivery;
use garde::Validate;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, UuidText};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// `/admin/webhook-deliveries`
pub const DELIVERIES: u8 = 0;
/// `/admin/webhooks/logs`
pub const LOGS: u8 = 1;
/// `/webhooks/logs`
pub const OLD_LOGS: u8 = 2;

/// What was sent, or is to be, newest first.
pub struct Deliveries<const PLACE: u8>;

impl<const PLACE: u8> Endpoint for Deliveries<PLACE> {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = match PLACE {
        DELIVERIES => "/admin/webhook-deliveries",
        LOGS => "/admin/webhooks/logs",
        _ => "/webhooks/logs",
    };
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        let id = match PLACE {
            DELIVERIES => "listWebhookDeliveries",
            LOGS => "listWebhookLogs",
            _ => "listWebhookLogsAlias",
        };
        About::new("webhooks", id, "Deliveries, newest first").page::<Delivery>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let Wanted { page, webhook, status } = &call.input;
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let (deliveries, total) = db::webhooks::deliveries(&mut tx, *webhook, status.as_deref(), *page).await?;
        tx.commit().await?;
        Ok(reply::page(deliveries, Pagination::new(*page, total)))
    }
}

/// Which page of which deliveries.
pub struct Wanted {
    page: PageRequest,
    webhook: Option<WebhookId>,
    status: Option<String>,
}

const STATES: &[&str] = &["pending", "success", "failed"];

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::above_zero))]
    page: Field<f64>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(100.0)))]
    limit: Field<f64>,
    #[garde(custom(rules::optional), custom(rules::uuid("Invalid UUID")))]
    webhook_id: Field<UuidText>,
    #[garde(custom(rules::one_of(STATES)))]
    status: Field<String>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query {
            page: query.number("page"),
            limit: query.number("limit"),
            webhook_id: query.id("webhook_id"),
            status: query.text("status"),
        };
        parts.judge("querystring", &query, &["page", "limit", "webhook_id", "status"])?;
        #[expect(clippy::cast_possible_truncation, reason = "the rules keep it a whole number below 2^53")]
        let whole = |field: &Field<f64>, default: i64| field.value().map_or(default, |number| *number as i64);
        Ok(Self {
            page: PageRequest { page: whole(&query.page, 1), limit: whole(&query.limit, 20) },
            webhook: query.webhook_id.value().and_then(|id| id.0).map(WebhookId::from),
            status: query.status.into_value(),
        })
    }
}
