//! `GET /admin/events`

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, ContentEncoding, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use chrono::TimeDelta;
use domain::clock::Replied;
use futures_util::stream;
use serde_json::json;

use super::hub::{NotOpened, Subscription, written};
use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Input, Parts};
use crate::http::openapi::About;

/// What happens in the organization, as it happens. Ends with the caller's token.
pub struct Events;

const MEDIA_TYPE: &str = "text/event-stream; charset=utf-8";

/// How long a stream of an API key may last; a key does not end by itself, but may be taken back.
const KEY_LASTS: TimeDelta = TimeDelta::minutes(15);

/// How far back a stream that was cut off can go on, in time and in events.
const HISTORY: TimeDelta = TimeDelta::minutes(15);
const HISTORY_MOST: i64 = 1000;

impl Endpoint for Events {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/events";
    const ACCESS: Access = Access::Admins;
    const TOKEN_IN_QUERY: bool = true;
    type Input = Since;

    fn about() -> About {
        About::new("admin", "streamEvents", "Live event stream of the organization (Server-Sent Events)")
            .note("The token may stand in the query (token=). Last-Event-ID goes on after that event, within a short history.")
            .opened_by(&["bearerAuth", "apiKeyAuth", "tokenQuery"])
            .parameter("query", "token", false, json!({ "type": "string" }))
            .parameter("header", "Last-Event-ID", false, json!({ "type": "string" }))
            .text(200, "text/event-stream; charset=utf-8", "The stream.")
    }

    async fn handle(call: Call<Since>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let organization = caller.tenant().organization();
        if !call.input.opens {
            return Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, MEDIA_TYPE)).finish());
        }
        let now = call.state.clock.now();
        let until = caller.until().unwrap_or(now + KEY_LASTS);
        let mut subscription = call.state.live.open(organization.uuid(), until).await.map_err(|error| match error {
            NotOpened::TooMany => ApiError::TooMany {
                message: "SSE connection limit reached (max 20 per organization).",
                retry_after_s: 15,
            },
            NotOpened::Closing => ApiError::Unavailable("the process is on its way out".to_owned()),
        })?;
        let mut opening = format!("event: connected\ndata: {}\n\n", json!({ "orgId": organization }));
        if let Some(after) = call.input.after {
            let mut tx = call.state.db.tenant(caller.tenant()).await?;
            let missed = db::events::missed(&mut tx, after, now - HISTORY, HISTORY_MOST).await?;
            tx.commit().await?;
            if missed.incomplete {
                let gap = json!({ "type": "history.gap", "payload": {}, "ts": Replied(now) }).to_string();
                opening.push_str(&format!("event: history.gap\ndata: {gap}\n\n"));
            }
            // Only what was sent is passed over later: the client's own number may be of a database that was set back.
            let mut last = 0;
            for (number, body) in missed.events {
                last = last.max(number);
                if let Some(message) = written(number, &body) {
                    opening.push_str(&String::from_utf8_lossy(&message.text));
                }
            }
            subscription.begin_after(last);
        }
        let told = stream::unfold((Some(Bytes::from(opening)), subscription), next);
        let mut response = HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, MEDIA_TYPE))
            .insert_header((CACHE_CONTROL, "no-cache, no-transform"))
            // Said, so that nothing gathers events in order to compress them.
            .insert_header(ContentEncoding::Identity)
            .streaming(told);
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        Ok(response)
    }
}

type Told = (Option<Bytes>, Subscription);

async fn next((opening, mut subscription): Told) -> Option<(Result<Bytes, std::convert::Infallible>, Told)> {
    let text = match opening {
        Some(opening) => opening,
        None => subscription.next().await?,
    };
    Some((Ok(text), (None, subscription)))
}

/// What is asked for.
pub struct Since {
    /// HEAD asks what the answer would be, and opens nothing: its stream would end with the token, whoever has gone.
    opens: bool,
    /// The last event a client saw, if it says so.
    after: Option<i64>,
}

impl Input for Since {
    const READS_BODY: bool = false;
    const IS_JUDGED: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let last = parts.request.headers().get("last-event-id").and_then(|value| value.to_str().ok());
        let after = last.and_then(|last| last.trim().parse().ok()).filter(|number| *number >= 0);
        Ok(Self { opens: parts.request.method() != Method::HEAD, after })
    }
}
