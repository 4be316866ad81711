//! `GET /admin/api-keys`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::api_key::ApiKey;

use crate::error::ApiResult;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// Every key of the organization, newest first.
pub struct List;

impl Endpoint for List {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/api-keys";
    const ACCESS: Access = Access::Admins;
    const KEYS: KeyAccess = KeyAccess::People;
    type Input = ();

    fn about() -> About {
        About::new("api-keys", "listApiKeys", "API keys, newest first").list::<ApiKey>()
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let keys = db::api_keys::list(&mut tx).await?;
        tx.commit().await?;
        Ok(reply::ok(keys))
    }
}
