//! `GET /profile/me`

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use domain::EmployeeId;
use domain::attendance::ActivityStatus;
use domain::clock::Stored;
use serde::Serialize;
use utoipa::ToSchema;

use super::Stats;
use crate::error::ApiResult;
use crate::features::employees::NOT_FOUND;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// The caller's own profile; whoever is no employee who may work has none.
///
/// `activityStatus` follows what they last did, and not, as in lists, whether they are checked in.
pub struct Mine;

impl Endpoint for Mine {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/profile/me";
    const ACCESS: Access = Access::Everyone;
    const KEYS: KeyAccess = KeyAccess::Any;
    type Input = ();

    fn about() -> About {
        About::new("profile", "getMyProfile", "Caller's own employee profile")
            .note(
                "`activityStatus` follows the last activity: ACTIVE for 24 hours, RECENT for 7 days. Without an employee \
                 who may work, `data` is null and `meta.hasProfile` false.",
            )
            .bare::<Reply>(200, "The profile, or that there is none.")
            .refuses(404, "The employee is gone.")
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Some(id) = caller.employee() else { return Ok(nobody()) };
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let state = db::employees::state_of(&mut tx, id).await?.ok_or(NOT_FOUND)?;
        let stats = Stats::of(&mut tx, id).await?;
        tx.commit().await?;
        let employee = state.employee;
        Ok(reply::ok(Profile {
            id,
            name: employee.name,
            employee_code: employee.employee_code,
            phone: employee.phone,
            is_active: employee.is_active,
            activity_status: ActivityStatus::of_activity(state.last_activity_at, now),
            last_activity_at: state.last_activity_at.map(Stored),
            created_at: Stored(employee.created_at),
            stats,
        }))
    }
}

/// Somebody's own profile.
#[derive(Serialize, ToSchema)]
#[schema(as = MyProfile)]
struct Profile {
    id: EmployeeId,
    name: String,
    employee_code: String,
    phone: Option<String>,
    is_active: bool,
    #[serde(rename = "activityStatus")]
    activity_status: ActivityStatus,
    last_activity_at: Option<Stored>,
    created_at: Stored,
    stats: Stats,
}

/// The profile, or that there is none.
#[derive(Serialize, ToSchema)]
#[schema(as = MyProfileReply)]
struct Reply {
    success: bool,
    data: Option<Profile>,
    /// Only there when there is no profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    meta: Option<Meta>,
}

/// That there is no profile.
#[derive(Serialize, ToSchema)]
#[schema(as = MyProfileMeta)]
#[serde(rename_all = "camelCase")]
struct Meta {
    has_profile: bool,
}

/// The answer to whoever has no profile.
fn nobody() -> HttpResponse {
    reply::json(StatusCode::OK, &Reply { success: true, data: None, meta: Some(Meta { has_profile: false }) })
}
