//! `GET /realtime/v1/websocket`: the subset of Supabase Realtime that lets an unmodified client follow tables.
//!
//! A client opens a socket, joins topics with an access token, and is told of changes of sessions, fixes and claims of
//! its own organization: an administrator of all of them, an employee of their own. Broadcast and presence are not
//! provided. Where the events come from, and what is not told, says docs/decisions/0031.

mod protocol;
mod socket;
mod topic;

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::cors::is_known_origin;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Parts};
use crate::http::openapi::About;
use protocol::Vsn;
use socket::Socket;

/// Follows tables. Who asks is said with each topic, not with the request.
pub struct Realtime;

impl Endpoint for Realtime {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/realtime/v1/websocket";
    const ACCESS: Access = Access::Public;
    type Input = Opening;

    fn about() -> About {
        About::new("realtime", "followTables", "Changes of the organization's rows, for clients of Supabase Realtime")
            .note(
                "A WebSocket that speaks Phoenix. Topics are joined with an access token; of postgres_changes, the tables \
                 attendance_sessions, gps_locations and expenses can be followed.",
            )
            .parameter("query", "vsn", false, json!({ "type": "string", "enum": ["1.0.0", "2.0.0"] }))
            .parameter("query", "apikey", false, json!({ "type": "string" }))
            .switches("The socket is open.")
            .refuses(400, "Not a WebSocket handshake, or an unknown vsn.")
            .refuses(403, "A page of another origin than those of the settings.")
    }

    async fn handle(mut call: Call<Opening>) -> ApiResult<HttpResponse> {
        let Opening { request, vsn, api_key } = call.input;
        let vsn = vsn.ok_or_else(|| ApiError::Refused("vsn must be 1.0.0 or 2.0.0".to_owned()))?;
        if !is_known_origin(&request, &call.state.config.cors_origins) {
            return Err(ApiError::ForeignOrigin);
        }
        let payload = call.body.take().ok_or_else(|| ApiError::Internal("the body was read".to_owned()))?;
        let stranger = call
            .state
            .live
            .stranger()
            .ok_or(ApiError::TooMany { message: "Too many sockets wait for a token", retry_after_s: 5 })?;
        let (response, session, messages) = actix_ws::handle(&request, payload)
            .map_err(|error| ApiError::Refused(format!("This is a WebSocket: {error}")))?;
        let socket = Socket::new(call.state, vsn, session, stranger, api_key, call.address, call.request_id);
        actix_web::rt::spawn(socket.run(messages));
        Ok(response)
    }
}

/// A request to open a socket.
pub struct Opening {
    request: HttpRequest,
    vsn: Option<Vsn>,
    /// Clients send the public key of their project; with some it is the token of whoever asks.
    api_key: Option<String>,
}

impl Input for Opening {
    const READS_BODY: bool = false;
    const IS_JUDGED: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let vsn = match query.text("vsn") {
            Field::Missing => Vsn::parse(None),
            Field::Value(word) => Vsn::parse(Some(&word)),
            Field::Null | Field::Wrong(_) => None,
        };
        Ok(Self { request: parts.request.clone(), vsn, api_key: query.text("apikey").into_value() })
    }
}
