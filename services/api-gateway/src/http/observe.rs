//! What happens around every request, whatever it is: an id, a trace, a log line, metrics, headers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, web};
use domain::api_key::KnownKey;
use tracing::{Instrument, Span, field};
use uuid::Uuid;

use super::caller::Caller;
use super::client_address::client_address;
use super::{cors, reply};
use crate::error::ApiError;
use crate::state::State;

/// The header that carries the request's id both ways.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers of every reply, read once: reading them anew cost each reply as much as writing them.
static SECURITY: [(HeaderName, HeaderValue); 12] = [
    header(
        "content-security-policy",
        "default-src 'self';script-src 'self';style-src 'self' 'unsafe-inline';img-src 'self' data:;base-uri 'self';\
         font-src 'self' https: data:;form-action 'self';frame-ancestors 'self';object-src 'none';\
         script-src-attr 'none';upgrade-insecure-requests",
    ),
    header("strict-transport-security", "max-age=31536000; includeSubDomains"),
    header("x-content-type-options", "nosniff"),
    header("x-frame-options", "SAMEORIGIN"),
    header("referrer-policy", "no-referrer"),
    header("cross-origin-opener-policy", "same-origin"),
    header("cross-origin-resource-policy", "same-origin"),
    header("origin-agent-cluster", "?1"),
    header("x-dns-prefetch-control", "off"),
    header("x-download-options", "noopen"),
    header("x-permitted-cross-domain-policies", "none"),
    header("x-xss-protection", "0"),
];

const fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

/// What is known of a request beside the request itself.
#[derive(Clone)]
pub struct RequestContext {
    /// Its id: the caller's, or ours.
    pub request_id: Rc<str>,
    span: Span,
    failure: Rc<RefCell<Option<Failure>>>,
    key: Rc<Cell<Option<KnownKey>>>,
}

struct Failure {
    code: &'static str,
    cause: String,
}

impl RequestContext {
    /// The context of a request. Every request has one; outside the middleware (in tests) it is empty.
    #[must_use]
    pub fn of(request: &HttpRequest) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_else(|| Self::new("".into(), Span::none()))
    }

    fn new(request_id: Rc<str>, span: Span) -> Self {
        Self { request_id, span, failure: Rc::default(), key: Rc::default() }
    }

    /// Notes who calls, for the log.
    pub fn called_by(&self, caller: Option<&Caller>) {
        if let Some(caller) = caller {
            self.span.record("organization_id", field::display(caller.tenant().organization()));
            self.span.record("actor", field::display(caller.subject()));
        }
    }

    /// Notes the key somebody calls with; also when it may not do what is asked.
    pub fn called_with_key(&self, key: KnownKey) {
        self.key.set(Some(key));
    }

    /// The key somebody calls with.
    #[must_use]
    pub fn api_key(&self) -> Option<KnownKey> {
        self.key.get()
    }

    /// Notes why it failed, for the one log line at its end.
    pub fn failed(&self, error: &ApiError) {
        let cause = error.cause().map_or_else(|| error.to_string(), str::to_owned);
        *self.failure.borrow_mut() = Some(Failure { code: error.status_and_code().1, cause });
    }
}

tokio::task_local! {
    static REQUEST: Rc<str>;
}

/// Runs the part of a request that may cause something elsewhere.
pub fn within_request<F: Future>(request_id: Rc<str>, work: F) -> impl Future<Output = F::Output> {
    REQUEST.scope(request_id, work)
}

/// The present trace and request, for what is caused by them; `None` outside of any.
#[must_use]
pub fn present_request() -> Option<String> {
    REQUEST.try_with(|id| telemetry::traces::carrier(id)).ok().flatten()
}

/// The middleware around everything else.
pub async fn observe(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let Some(state) = request.app_data::<web::Data<State>>().cloned() else {
        return next.call(request).await.map(ServiceResponse::map_into_boxed_body);
    };
    let guard = state.metrics.http.begin();
    let address = client_address(request.request(), &state.config.trusted_proxies);
    let request_id = request_id(request.headers());
    let span = tracing::info_span!(
        "request",
        otel.kind = "server",
        otel.status_code = field::Empty,
        request_id = &*request_id,
        method = request.method().as_str(),
        route = field::Empty,
        status = field::Empty,
        remote_addr = address.map(field::display),
        organization_id = field::Empty,
        actor = field::Empty,
    );
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    telemetry::traces::follow(&span, header("traceparent"), header("tracestate"));
    let context = RequestContext::new(request_id, span.clone());
    request.extensions_mut().insert(context.clone());

    // Routing wants the request to itself, so nothing of it is held on to until it comes back with the answer.
    let answer = if let Some(response) = cors::preflight(request.request()) {
        request.into_response(response)
    } else if !is_decodable(request.path()) {
        request.into_response(reply::refusal(&ApiError::MalformedUrl, &context.request_id))
    } else {
        next.call(request).instrument(span.clone()).await?.map_into_boxed_body()
    };
    let (http, mut response) = answer.into_parts();

    let headers = response.headers_mut();
    for (name, value) in &SECURITY {
        // A page that needs a policy of its own has set it.
        if !headers.contains_key(name) {
            headers.insert(name.clone(), value.clone());
        }
    }
    cors::allow(&http, &state.config.cors_origins, headers);
    if let Ok(id) = HeaderValue::from_str(&context.request_id) {
        headers.insert(REQUEST_ID, id);
    }
    if state.is_draining() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }

    let route = http.match_pattern().map_or_else(|| "unmatched".to_owned(), |pattern| colon_pattern(&pattern));
    let status = response.status().as_u16();
    let took = started.elapsed();
    span.record("route", route.as_str());
    span.record("status", status);
    telemetry::traces::rename(&span, format!("{} {route}", http.method()));
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
    let trace_id = telemetry::traces::sampled_trace_id(&span);
    guard.finish(http.method().as_str(), &route, status, took, trace_id.as_deref());
    span.in_scope(|| write_line(&route, status, took.as_secs_f64() * 1000.0, context.failure.borrow().as_ref()));
    Ok(ServiceResponse::new(http, response))
}

/// The one line a request gets.
fn write_line(route: &str, status: u16, duration_ms: f64, failure: Option<&Failure>) {
    let duration_ms = (duration_ms * 10.0).round() / 10.0;
    let (kind, cause) = failure.map_or((None, None), |failure| (Some(failure.code), Some(failure.cause.as_str())));
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(duration_ms, error.kind = kind, error.message = cause, "request answered")
        };
    }
    match () {
        () if status >= 500 || duration_ms >= 2000.0 => line!(error),
        () if matches!(route, "/health" | "/ready" | "/metrics") => line!(debug),
        () if duration_ms >= 500.0 => line!(warn),
        () => line!(info),
    }
}

/// The caller's id when it is 1–128 of `A–Z a–z 0–9 . _ : -`, else a new one (D44).
fn request_id(headers: &HeaderMap) -> Rc<str> {
    let theirs = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let acceptable = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
    };
    theirs.filter(acceptable).map_or_else(|| Uuid::new_v4().to_string().into(), Into::into)
}

/// `/admin/employees/{id}` as metrics and logs spell it: `/admin/employees/:id`.
fn colon_pattern(pattern: &str) -> String {
    pattern.replace('{', ":").replace('}', "")
}

/// Whether every `%` of a path starts an escape and the escapes make UTF-8.
fn is_decodable(path: &str) -> bool {
    let mut bytes = path.bytes();
    let mut decoded = Vec::with_capacity(path.len());
    let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
        } else if let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) {
            decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
        } else {
            return false;
        }
    }
    std::str::from_utf8(&decoded).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_callers_are_taken_when_they_are_harmless() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(text).unwrap());
            request_id(&headers).to_string()
        };
        assert_eq!(id("phone-7:2026.1_a"), "phone-7:2026.1_a");
        for bad in ["", "a b", "ä", "a\"b", &"x".repeat(129)] {
            assert_ne!(id(bad), bad);
        }
    }

    #[test]
    fn paths_that_cannot_be_decoded_are_noticed() {
        assert!(is_decodable("/a%20b%C3%A4"));
        for bad in ["/%", "/%2", "/%zz", "/%ff"] {
            assert!(!is_decodable(bad), "{bad}");
        }
    }
}
