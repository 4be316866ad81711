//! `DELETE /admin/api-keys/{id}`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::Entry;
use domain::ApiKeyId;

use super::NOT_FOUND;
use crate::error::ApiResult;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Input, Parts};
use crate::http::openapi::About;

/// Removes a key for good. It takes effect with the next request.
pub struct Delete;

impl Endpoint for Delete {
    const METHOD: Method = Method::DELETE;
    const PATH: &'static str = "/admin/api-keys/{id}";
    const ACCESS: Access = Access::Admins;
    const KEYS: KeyAccess = KeyAccess::People;
    type Input = WhichKey;

    fn about() -> About {
        About::new("api-keys", "deleteApiKey", "Delete an API key").no_content().refuses(404, "There is no such key.")
    }

    async fn handle(call: Call<WhichKey>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let WhichKey(id) = call.input;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        if !db::api_keys::delete(&mut tx, id).await? {
            return Err(NOT_FOUND);
        }
        let entry = Entry::new("API_KEY_DELETED", caller.actor()).on("api_key", id);
        db::audit::record(&mut tx, &entry, call.state.clock.now()).await?;
        tx.commit().await?;
        Ok(HttpResponse::NoContent().finish())
    }
}

/// The key in the path.
pub struct WhichKey(ApiKeyId);

impl Input for WhichKey {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        Ok(Self(parts.path_id("id")?.into()))
    }
}
