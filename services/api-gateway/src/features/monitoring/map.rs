//! `GET /admin/monitoring/map`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::monitoring::MapMarker;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// Where everybody is who is at work, or was within a day.
pub struct Map;

/// Markers at most.
const MOST: i64 = 1000;

impl Endpoint for Map {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/monitoring/map";
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        About::new("admin", "getMap", "Latest position of every active or recent employee")
            .note("At most 1000 markers, by employee id; employees without any point are left out.")
            .list::<MapMarker>()
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let markers = db::monitoring::map(&mut tx, call.state.clock.now(), MOST).await?;
        tx.commit().await?;
        Ok(reply::ok(markers))
    }
}
