//! `GET /admin/organization`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::OrganizationId;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

pub const NOT_FOUND: ApiError = ApiError::NotFound("Organization not found");

/// The caller's organization.
pub struct Show;

impl Endpoint for Show {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/organization";
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        About::new("admin", "getOrganization", "The caller's organization").ok::<Organization>()
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let own = db::organizations::own(&mut tx).await?.ok_or(NOT_FOUND)?;
        tx.commit().await?;
        Ok(reply::ok(Organization::from(own)))
    }
}

/// An organization.
#[derive(Serialize, ToSchema)]
pub struct Organization {
    id: OrganizationId,
    name: String,
    /// Its short name.
    slug: String,
    /// The IANA name of the time zone of its days and weeks.
    time_zone: String,
}

impl From<db::organizations::Organization> for Organization {
    fn from(own: db::organizations::Organization) -> Self {
        Self { id: own.id.into(), name: own.name, slug: own.slug, time_zone: own.time_zone }
    }
}
