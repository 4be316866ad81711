//! `POST /admin/webhooks`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::Entry;
use db::webhooks::NewWebhook;
use domain::WebhookId;
use domain::webhook::{RetrySchedule, Webhook};
use garde::Validate;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{EventItems, SECRET, ScheduleWords, judge, named, seal};
use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, Word, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Registers an address.
pub struct Create<const OLD: bool>;

impl<const OLD: bool> Endpoint for Create<OLD> {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = if OLD { "/webhooks" } else { "/admin/webhooks" };
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        let id = if OLD { "createWebhookAlias" } else { "createWebhook" };
        About::new("webhooks", id, "Register a webhook")
            .note("The secret signs every request and is never shown. retry_schedule extended spreads ten attempts over three days.")
            .created::<Webhook>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Wanted { url, events, secret, retry_schedule } = &call.input;
        judge(&call.state, url)?;
        let id = WebhookId::generate();
        let sealed_secret = seal(&call.state, id, secret.expose_secret())?;
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let new = NewWebhook { id, url, sealed_secret: &sealed_secret, events, retry_schedule: *retry_schedule };
        let webhook = db::webhooks::create(&mut tx, &new, now).await?;
        let entry = Entry::new("WEBHOOK_CREATED", caller.actor())
            .on("webhook", id)
            .with("url", url.as_str())
            .with("events", events.clone());
        db::audit::record(&mut tx, &entry, now).await?;
        tx.commit().await?;
        Ok(reply::created(webhook))
    }
}

/// A webhook to be.
pub struct Wanted {
    url: String,
    events: Vec<String>,
    secret: SecretString,
    retry_schedule: RetrySchedule,
}

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(
        custom(rules::required),
        custom(rules::not_empty("url is required")),
        custom(rules::url("url must be a valid URL")),
        custom(rules::storable)
    )]
    url: Field<String>,
    #[serde(default)]
    #[garde(custom(rules::some_items("events must contain at least one event type")), dive)]
    events: Field<EventItems>,
    #[serde(default)]
    #[garde(
        custom(rules::required),
        custom(rules::not_shorter(SECRET.0, "secret must be at least 16 characters")),
        custom(rules::not_longer(SECRET.1, "secret must be at most 256 characters"))
    )]
    secret: Field<String>,
    #[serde(default)]
    #[garde(custom(rules::optional))]
    retry_schedule: Field<Word<ScheduleWords>>,
}

object!(Body: url, events, secret, retry_schedule);

impl Input for Wanted {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let body: Body = parts.body()?;
        let schedule = body.retry_schedule.value().and_then(|word| RetrySchedule::parse(&word.0));
        Ok(Self {
            url: body.url.into_value().unwrap_or_default(),
            events: named(body.events),
            secret: body.secret.into_value().unwrap_or_default().into(),
            retry_schedule: schedule.unwrap_or(RetrySchedule::Standard),
        })
    }
}
