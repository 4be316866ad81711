//! `GET /admin/sessions/{id}/locations`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::api_key::Scope;
use domain::clock::Stored;
use domain::{FixId, SessionId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Input, Parts};
use crate::http::openapi::About;
use crate::http::reply;

/// Every point of a session, oldest first, up to the points a session may have (D35); an unknown session has none.
pub struct SessionPoints;

impl Endpoint for SessionPoints {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/sessions/{id}/locations";
    const ACCESS: Access = Access::Admins;
    const KEYS: KeyAccess = KeyAccess::Scope(Scope::ReadSessions);
    type Input = WhichSession;

    fn about() -> About {
        About::new("admin", "listSessionLocations", "All points of a session, oldest first")
            .note("Not paged. An unknown session has none.")
            .list::<Point>()
    }

    async fn handle(call: Call<WhichSession>) -> ApiResult<HttpResponse> {
        let WhichSession(id) = call.input;
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let route = match db::attendance::find(&mut tx, id).await? {
            None => Vec::new(),
            Some(session) => db::locations::route_since(&mut tx, &session, call.state.config.max_points).await?,
        };
        tx.commit().await?;
        let points = route.into_iter().map(|stored| Point {
            id: stored.id,
            latitude: stored.fix.at.latitude(),
            longitude: stored.fix.at.longitude(),
            accuracy: stored.fix.accuracy_m,
            recorded_at: Stored(stored.fix.recorded_at),
            sequence_number: stored.fix.sequence_number,
        });
        Ok(reply::ok(points.collect::<Vec<_>>()))
    }
}

/// A point of a session.
#[derive(Serialize, ToSchema)]
#[schema(as = SessionPoint)]
struct Point {
    id: FixId,
    latitude: f64,
    longitude: f64,
    accuracy: Option<f64>,
    recorded_at: Stored,
    sequence_number: Option<i64>,
}

/// The session in the path.
pub struct WhichSession(SessionId);

impl Input for WhichSession {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        Ok(Self(parts.path_id("id")?.into()))
    }
}
