//! `PATCH /admin/organization`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::{self, Entry};
use garde::Validate;
use serde::Deserialize;

use super::show::{NOT_FOUND, Organization};
use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Sets the time zone of the organization's days. Days that were counted before follow with the next reconciliation,
/// within five minutes.
pub struct Update;

impl Endpoint for Update {
    const METHOD: Method = Method::PATCH;
    const PATH: &'static str = "/admin/organization";
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        About::new("admin", "updateOrganization", "Set the time zone of the organization's days")
            .note(
                "An IANA name such as `Europe/Rome`. It decides which day a session or a claim belongs to and when a week \
                 begins. Days that were counted before are counted anew within five minutes.",
            )
            .ok::<Organization>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let now = call.state.clock.now();
        let Wanted(zone) = &call.input;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let before = db::organizations::own(&mut tx).await?.ok_or(NOT_FOUND)?;
        if !db::organizations::set_time_zone(&mut tx, zone, now).await? {
            let message = "time_zone must be an IANA time zone such as Europe/Rome".to_owned();
            return Err(ApiError::RefusedField { message, field: "time_zone" });
        }
        let own = db::organizations::own(&mut tx).await?.ok_or(NOT_FOUND)?;
        if own.time_zone != before.time_zone {
            let entry = Entry::new("ORGANIZATION_UPDATED", caller.actor())
                .on("organization", own.id)
                .with("time_zone", own.time_zone.as_str())
                .with("previous_time_zone", before.time_zone);
            audit::record(&mut tx, &entry, now).await?;
        }
        tx.commit().await?;
        Ok(reply::ok(Organization::from(own)))
    }
}

/// The time zone to be.
pub struct Wanted(String);

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(
        custom(rules::required),
        custom(rules::storable),
        custom(rules::text_at_least(1)),
        custom(rules::text_at_most(64))
    )]
    time_zone: Field<String>,
}

object!(Body: time_zone);

impl Input for Wanted {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let body: Body = parts.body()?;
        Ok(Self(body.time_zone.into_value().unwrap_or_default()))
    }
}
