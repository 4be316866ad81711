//! `POST /admin/api-keys`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::api_keys::NewApiKey;
use db::audit::Entry;
use domain::ApiKeyId;
use domain::api_key::{ApiKey, Scope};
use garde::Validate;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ScopeItems, named, together};
use crate::error::ApiResult;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Makes a key; its value is answered once and kept by nobody here.
pub struct Create;

impl Endpoint for Create {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/admin/api-keys";
    const ACCESS: Access = Access::Admins;
    const KEYS: KeyAccess = KeyAccess::People;
    type Input = Wanted;

    fn about() -> About {
        About::new("api-keys", "createApiKey", "Create an API key; its value is shown once").created::<Made<'_>>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Wanted { name, scopes } = &call.input;
        let scopes = together(scopes)?;
        let minted = call.state.api_keys.mint().await?;
        let now = call.state.clock.now();
        let id = ApiKeyId::generate();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let new = NewApiKey {
            id,
            name,
            scopes: &scopes,
            hash: &minted.hash,
            salt: &minted.salt,
            prefix: &minted.prefix,
            created_by: caller.user(),
        };
        let mut record = db::api_keys::create(&mut tx, &new, now).await?;
        let entry = Entry::new("API_KEY_CREATED", caller.actor())
            .on("api_key", id)
            .with("name", name.as_str())
            .with("scopes", scopes.words());
        db::audit::record(&mut tx, &entry, now).await?;
        tx.commit().await?;
        record.preview = minted.preview;
        Ok(reply::created(Made { key: minted.key.expose_secret(), record }))
    }
}

/// A new key.
#[derive(Serialize, ToSchema)]
#[schema(as = NewApiKey)]
struct Made<'a> {
    /// The key itself.
    #[schema(pattern = "^ft_live_[a-f0-9]{48}$")]
    key: &'a str,
    record: ApiKey,
}

/// A key to be.
pub struct Wanted {
    name: String,
    scopes: Vec<Scope>,
}

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(
        custom(rules::required),
        custom(rules::text_at_least(3)),
        custom(rules::text_at_most(64)),
        custom(rules::storable)
    )]
    name: Field<String>,
    #[serde(default)]
    #[garde(custom(rules::items_at_least(1)), dive)]
    scopes: Field<ScopeItems>,
}

object!(Body: name, scopes);

impl Input for Wanted {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let body: Body = parts.body()?;
        Ok(Self { name: body.name.into_value().unwrap_or_default(), scopes: named(body.scopes) })
    }
}
