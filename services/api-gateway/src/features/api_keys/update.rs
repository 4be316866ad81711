//! `PATCH /admin/api-keys/{id}`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::Entry;
use domain::ApiKeyId;
use domain::api_key::{ApiKey, Scope, Scopes};
use garde::Validate;
use serde::Deserialize;

use super::{NOT_FOUND, ScopeItems, named, together};
use crate::error::ApiResult;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, IfThere, Input, Moment, Parts, invalid, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Renames, rescopes, disables or enables a key. It takes effect with the next request.
pub struct Update;

impl Endpoint for Update {
    const METHOD: Method = Method::PATCH;
    const PATH: &'static str = "/admin/api-keys/{id}";
    const ACCESS: Access = Access::Admins;
    const KEYS: KeyAccess = KeyAccess::People;
    type Input = Change;

    fn about() -> About {
        About::new("api-keys", "updateApiKey", "Rename, rescope, disable or enable a key")
            .ok::<ApiKey>()
            .refuses(404, "There is no such key.")
    }

    async fn handle(call: Call<Change>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Change { id, name, scopes, active } = &call.input;
        let (id, active) = (*id, *active);
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        if !db::api_keys::exists(&mut tx, id).await? {
            return Err(NOT_FOUND);
        }
        let scopes = scopes.as_deref().map(together).transpose()?;
        let key =
            db::api_keys::update(&mut tx, id, name.as_deref(), scopes.as_ref(), active, now).await?.ok_or(NOT_FOUND)?;
        let mut entry = Entry::new("API_KEY_UPDATED", caller.actor()).on("api_key", id);
        if let Some(name) = name {
            entry = entry.with("name", name.as_str());
        }
        if let Some(scopes) = scopes.as_ref().map(Scopes::words) {
            entry = entry.with("scopes", scopes);
        }
        if let Some(active) = active {
            entry = entry.with("active", active);
        }
        db::audit::record(&mut tx, &entry, now).await?;
        tx.commit().await?;
        Ok(reply::ok(key))
    }
}

/// What to change of which key.
pub struct Change {
    id: ApiKeyId,
    name: Option<String>,
    scopes: Option<Vec<Scope>>,
    active: Option<bool>,
}

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(
        custom(rules::optional),
        custom(rules::text_at_least(3)),
        custom(rules::text_at_most(64)),
        custom(rules::storable)
    )]
    name: Field<String>,
    #[serde(default)]
    #[garde(custom(|list: &IfThere<ScopeItems>, moment: &Moment| rules::items_at_least(1)(&list.0, moment)), dive)]
    scopes: IfThere<ScopeItems>,
    #[serde(default)]
    #[garde(custom(rules::optional))]
    active: Field<bool>,
}

object!(Body: name, scopes, active);

impl Input for Change {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let id = parts.path_id("id")?.into();
        let body: Body = parts.body()?;
        let scopes = body.scopes.0.value().is_some().then(|| named(body.scopes.0));
        let change = Self { id, name: body.name.into_value(), scopes, active: body.active.into_value() };
        if change.name.is_none() && change.scopes.is_none() && change.active.is_none() {
            return Err(invalid("body", "", "At least one field must be provided"));
        }
        Ok(change)
    }
}
