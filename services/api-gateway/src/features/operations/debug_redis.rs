//! `GET /debug/redis`

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply::{self, NoSuchRoute};

/// Whether the queue store answers. Not there in production.
pub struct DebugRedis;

impl Endpoint for DebugRedis {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/debug/redis";
    const ACCESS: Access = Access::Public;
    const IN_PRODUCTION: bool = false;
    type Input = ();

    fn about() -> About {
        About::new("internal", "getDebugRedis", "Ping the queue store (non-production only)")
            .bare::<Pong>(200, "It answers.")
            .bare::<NoSuchRoute<'_>>(404, "In production.")
            .bare::<Silence>(503, "It does not.")
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        Ok(match call.state.queues.ping().await {
            Ok(()) => reply::json(StatusCode::OK, &Pong { status: Fine::Ok, redis: "PONG" }),
            Err(error) => {
                tracing::debug!(error.message = %error, "Redis was asked and did not answer");
                reply::json(StatusCode::SERVICE_UNAVAILABLE, &Silence { status: NotFine::Error, redis: "unreachable" })
            }
        })
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = DebugRedis)]
struct Pong {
    status: Fine,
    redis: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DebugRedisOk)]
#[serde(rename_all = "lowercase")]
enum Fine {
    Ok,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DebugRedisAway)]
struct Silence {
    status: NotFine,
    redis: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DebugRedisError)]
#[serde(rename_all = "lowercase")]
enum NotFine {
    Error,
}
