//! `PATCH /admin/webhooks/{id}`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::Entry;
use db::webhooks::Change;
use domain::WebhookId;
use domain::webhook::{RetrySchedule, Webhook};
use garde::Validate;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{EventItems, NOT_FOUND, SECRET, ScheduleWords, judge, named, seal};
use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, IfThere, Input, Moment, Parts, Word, invalid, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Changes a webhook. A new address or secret holds for attempts that are still to be made.
pub struct Update<const OLD: bool>;

impl<const OLD: bool> Endpoint for Update<OLD> {
    const METHOD: Method = Method::PATCH;
    const PATH: &'static str = if OLD { "/webhooks/{id}" } else { "/admin/webhooks/{id}" };
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        let id = if OLD { "updateWebhookAlias" } else { "updateWebhook" };
        About::new("webhooks", id, "Change a webhook").ok::<Webhook>().refuses(404, "There is no such webhook.")
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Wanted { id, url, events, secret, is_active, retry_schedule } = &call.input;
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        if !db::webhooks::exists(&mut tx, *id).await? {
            return Err(NOT_FOUND);
        }
        if let Some(url) = url {
            judge(&call.state, url)?;
        }
        let sealed = secret.as_ref().map(|secret| seal(&call.state, *id, secret.expose_secret())).transpose()?;
        let change = Change {
            url: url.as_deref(),
            sealed_secret: sealed.as_deref(),
            events: events.as_deref(),
            is_active: *is_active,
            retry_schedule: *retry_schedule,
        };
        let webhook = db::webhooks::update(&mut tx, *id, &change, now).await?.ok_or(NOT_FOUND)?;
        let mut entry = Entry::new("WEBHOOK_UPDATED", caller.actor()).on("webhook", id);
        if let Some(url) = url {
            entry = entry.with("url", url.as_str());
        }
        if let Some(events) = events {
            entry = entry.with("events", events.clone());
        }
        if let Some(active) = is_active {
            entry = entry.with("is_active", *active);
        }
        if let Some(schedule) = retry_schedule {
            entry = entry.with("retry_schedule", schedule.as_str());
        }
        if secret.is_some() {
            entry = entry.with("secret_changed", true);
        }
        db::audit::record(&mut tx, &entry, now).await?;
        tx.commit().await?;
        Ok(reply::ok(webhook))
    }
}

/// What to change of which webhook.
pub struct Wanted {
    id: WebhookId,
    url: Option<String>,
    events: Option<Vec<String>>,
    secret: Option<SecretString>,
    is_active: Option<bool>,
    retry_schedule: Option<RetrySchedule>,
}

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(custom(rules::optional), custom(rules::url("url must be a valid URL")), custom(rules::storable))]
    url: Field<String>,
    #[serde(default)]
    #[garde(
        custom(|list: &IfThere<EventItems>, moment: &Moment| {
            rules::some_items("events must contain at least one event type")(&list.0, moment)
        }),
        dive
    )]
    events: IfThere<EventItems>,
    #[serde(default)]
    #[garde(custom(rules::optional))]
    is_active: Field<bool>,
    #[serde(default)]
    #[garde(
        custom(rules::optional),
        custom(rules::not_shorter(SECRET.0, "secret must be at least 16 characters")),
        custom(rules::not_longer(SECRET.1, "secret must be at most 256 characters"))
    )]
    secret: Field<String>,
    #[serde(default)]
    #[garde(custom(rules::optional))]
    retry_schedule: Field<Word<ScheduleWords>>,
}

object!(Body: url, events, is_active, secret, retry_schedule);

impl Input for Wanted {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let id = parts.path_id("id")?.into();
        let body: Body = parts.body()?;
        let events = body.events.0.value().is_some().then(|| named(body.events.0));
        let wanted = Self {
            id,
            url: body.url.into_value(),
            events,
            secret: body.secret.into_value().map(SecretString::from),
            is_active: body.is_active.into_value(),
            retry_schedule: body.retry_schedule.value().and_then(|word| RetrySchedule::parse(&word.0)),
        };
        let given = wanted.url.is_some()
            || wanted.events.is_some()
            || wanted.secret.is_some()
            || wanted.is_active.is_some()
            || wanted.retry_schedule.is_some();
        if given { Ok(wanted) } else { Err(invalid("body", "", "At least one field must be provided for update")) }
    }
}
