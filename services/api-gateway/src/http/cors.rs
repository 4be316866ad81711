//! Which web pages may read our answers.

use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use actix_web::{HttpRequest, HttpResponse};

/// Below this path any page may call, with its own token in a header and never with cookies: it speaks the identity
/// protocol whose clients run anywhere.
const OPEN_TO_ALL: &str = "/auth/v1/";
const OPEN_HEADERS: &str = "apikey, authorization, x-client-info, x-supabase-api-version, content-type";
const METHODS: &str = "GET, POST, PUT, PATCH, DELETE";

/// Adds what the browser needs to know to an answer.
pub fn allow(request: &HttpRequest, origins: &[String], headers: &mut HeaderMap) {
    if request.path().starts_with(OPEN_TO_ALL) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-supabase-api-version"));
        return;
    }
    if origins.is_empty() {
        return;
    }
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = request.headers().get(ORIGIN)
        && origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
    {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// Whether a page that opens a socket may read what is told there. Browsers ask nobody before they open one, so it is
/// decided here, by the rule of [`allow`]: pages of our own origin and of those in the settings. Whoever says no origin
/// is no page.
#[must_use]
pub fn is_known_origin(request: &HttpRequest, origins: &[String]) -> bool {
    let Some(origin) = request.headers().get(ORIGIN) else { return true };
    let ours = request.headers().get(HOST).map(HeaderValue::as_bytes);
    let host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host.as_bytes());
    (host.is_some() && host == ours) || origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
}

/// Answers OPTIONS, on known and unknown paths alike; `None` for any other method.
#[must_use]
pub fn preflight(request: &HttpRequest) -> Option<HttpResponse> {
    if request.method() != Method::OPTIONS {
        return None;
    }
    let headers = request.headers();
    if !headers.contains_key(ORIGIN) || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return Some(
            HttpResponse::BadRequest().content_type("text/plain; charset=utf-8").body("Invalid Preflight Request"),
        );
    }
    let mut response = HttpResponse::NoContent();
    response.insert_header((ACCESS_CONTROL_ALLOW_METHODS, METHODS));
    if request.path().starts_with(OPEN_TO_ALL) {
        response.insert_header((ACCESS_CONTROL_ALLOW_HEADERS, OPEN_HEADERS));
    } else if let Some(asked) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        response.insert_header((ACCESS_CONTROL_ALLOW_HEADERS, asked.clone()));
        response.append_header((VARY, "Access-Control-Request-Headers"));
    }
    Some(response.finish())
}
