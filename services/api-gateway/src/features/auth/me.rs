//! `GET /auth/me`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::OrganizationId;
use domain::auth::Role;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// Who the credential says the caller is.
pub struct Me;

impl Endpoint for Me {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/auth/me";
    const ACCESS: Access = Access::Everyone;
    const KEYS: KeyAccess = KeyAccess::Any;
    type Input = ();

    fn about() -> About {
        About::new("auth", "getMe", "Who the credential says the caller is").ok::<Person<'_>>()
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        Ok(reply::ok(Person {
            id: caller.subject(),
            email: caller.email(),
            role: caller.role(),
            org_id: caller.tenant().organization(),
        }))
    }
}

/// Somebody with a credential.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Person<'a> {
    /// The user's, or `api_key:` and the key's.
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = Email)]
    email: Option<&'a str>,
    role: Role,
    org_id: OrganizationId,
}
