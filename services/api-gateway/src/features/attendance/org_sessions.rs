//! `GET /attendance/org-sessions`

use actix_web::HttpResponse;
use actix_web::http::Method;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;

/// Removed; tells old clients where to go.
pub struct OrgSessions;

impl Endpoint for OrgSessions {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/attendance/org-sessions";
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        About::new("deprecated", "listOrgSessionsRemoved", "Removed")
            .note("Use GET /admin/sessions instead.")
            .deprecated()
            .refuses(410, "Always.")
    }

    async fn handle(_: Call<()>) -> ApiResult<HttpResponse> {
        Err(ApiError::Gone("GET /attendance/org-sessions has been removed. Use GET /admin/sessions instead."))
    }
}
