//! One route: who may use it, what it is charged to, what it takes, what it does.
//!
//! A use case implements [`Endpoint`]; [`Routes::add`] puts it behind the contract's order of checks, so none can
//! forget one: route, credential, role, employee, body, values, budget, and then the use case's own rules.

use std::future::Future;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::HeaderName;
use actix_web::web::{self, BytesMut, ServiceConfig};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use domain::Tenant;
use domain::api_key::{KnownKey, Scope};
use futures_util::{FutureExt, StreamExt};

use super::abuse;
use super::caller::{Access, Caller, KeyAccess, authenticate};
use super::client_address::client_address;
use super::input::{Input, Parts, is_plain_text, media_type};
use super::limits::{Budget, Remaining, admit, charge_refusal};
use super::observe::{RequestContext, within_request};
use super::openapi::{self, About, Operation};
use super::reply;
use crate::config::Environment;
use crate::error::{ApiError, ApiResult};
use crate::state::State;

/// A use case behind a route.
pub trait Endpoint: 'static {
    /// Its method; every GET also answers HEAD.
    const METHOD: Method;
    /// Its path, with `{name}` for parameters.
    const PATH: &'static str;
    /// Who may use it.
    const ACCESS: Access;
    /// What an API key needs to use it.
    const KEYS: KeyAccess = KeyAccess::Scope(Scope::AdminAll);
    /// Whether the token may stand in the query, for clients that cannot set headers.
    const TOKEN_IN_QUERY: bool = false;
    /// What it is charged to.
    const BUDGET: Budget = Budget::Default;
    /// Whether it is there in production.
    const IN_PRODUCTION: bool = true;
    /// How long it may take; `None` for the time of the settings.
    const PATIENCE: Option<Duration> = None;
    /// What it takes from the request.
    type Input: Input;

    /// What it is called and what it answers, for the API description; the rest is derived.
    fn about() -> About;

    /// Does it.
    fn handle(call: Call<Self::Input>) -> impl Future<Output = ApiResult<HttpResponse>>;
}

/// A request that passed every check.
pub struct Call<I> {
    /// Who asks; nobody on public routes.
    caller: Option<Caller>,
    /// What every use case may reach.
    pub state: web::Data<State>,
    /// What they sent.
    pub input: I,
    /// The body piece by piece, for a use case whose input does not read it.
    pub body: Option<web::Payload>,
    /// Where they call from.
    pub address: Option<IpAddr>,
    /// The request's id, for whatever it causes.
    pub request_id: Rc<str>,
}

impl<I> Call<I> {
    /// Who asks. On a route that is not public there always is somebody.
    pub fn caller(&self) -> ApiResult<&Caller> {
        self.caller.as_ref().ok_or(ApiError::NoCredential)
    }
}

/// One line of the table of routes, for tests that must visit every route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: &'static str,
    /// Who may use it.
    pub access: Access,
    /// What an API key needs to use it.
    pub keys: KeyAccess,
    /// Describes it.
    pub operation: fn() -> Operation,
    /// Reads what it takes, without doing it.
    pub read: fn(&Parts<'_>) -> ApiResult<()>,
}

/// Collects routes: for the server when there is one, and always for the table.
pub struct Routes<'a> {
    server: Option<&'a mut ServiceConfig>,
    table: Vec<Route>,
}

impl<'a> Routes<'a> {
    /// Adds routes to a server.
    pub fn of(server: &'a mut ServiceConfig) -> Self {
        Self { server: Some(server), table: Vec::new() }
    }

    /// Only makes the table.
    #[must_use]
    pub const fn table_only() -> Self {
        Self { server: None, table: Vec::new() }
    }

    /// Adds one use case.
    pub fn add<E: Endpoint>(&mut self) -> &mut Self {
        self.table.push(Route {
            method: E::METHOD,
            path: E::PATH,
            access: E::ACCESS,
            keys: E::KEYS,
            operation: openapi::operation::<E>,
            read: |parts| E::Input::read(parts).map(|_| ()),
        });
        if let Some(server) = self.server.as_deref_mut() {
            server.route(E::PATH, web::method(E::METHOD).to(serve::<E>));
            if E::METHOD == Method::GET {
                server.route(E::PATH, web::method(Method::HEAD).to(serve::<E>));
            }
        }
        self
    }

    /// The table.
    #[must_use]
    pub fn into_table(self) -> Vec<Route> {
        self.table
    }
}

/// What a reply says about the budget it was charged to: requests a window, requests left, seconds until it ends.
static BUDGET_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// Whatever is no route. It is charged to the caller's address like any other refusal.
pub async fn no_such_route(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    const UNMATCHED: &str = "unmatched";
    let context = RequestContext::of(&request);
    let address = client_address(&request, &state.config.trusted_proxies);
    if let Err(error) = admit(&state, None, address, Budget::Default).await {
        state.metrics.rate_limited(UNMATCHED);
        abuse::note(&state, UNMATCHED, &error);
        return reply::refusal(&error, &context.request_id);
    }
    let url = request.uri().path_and_query().map_or("/", |path| path.as_str());
    reply::no_such_route(request.method().as_str(), url, &context.request_id)
}

async fn serve<E: Endpoint>(request: HttpRequest, payload: web::Payload, state: web::Data<State>) -> HttpResponse {
    if !E::IN_PRODUCTION && state.config.environment == Environment::Production {
        return no_such_route(request, state).await;
    }
    let address = client_address(&request, &state.config.trusted_proxies);
    let mut remaining = None;
    let context = RequestContext::of(&request);
    let examined = AssertUnwindSafe(examine::<E>(&request, payload, &state, address, &mut remaining)).catch_unwind();
    let answer = match tokio::time::timeout(E::PATIENCE.unwrap_or(state.config.request_timeout), examined).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(ApiError::Internal("the handler panicked".to_owned())),
        Err(_) => Err(ApiError::Unavailable("the request took too long".to_owned())),
    };
    let mut response = match answer {
        Ok(response) => response,
        Err(error) => {
            context.failed(&error);
            abuse::note(&state, E::PATH, &error);
            reply::refusal(&error, &context.request_id)
        }
    };
    if let Some(key) = context.api_key() {
        count_use(&state, key, E::PATH, response.status().as_u16());
    }
    if let Some(remaining) = remaining {
        let headers = response.headers_mut();
        for (name, value) in BUDGET_HEADERS.iter().zip([remaining.limit, remaining.remaining, remaining.reset_s]) {
            headers.insert(name.clone(), value.into());
        }
    }
    response
}

/// Counts what a key's request came to; the caller does not wait for it.
fn count_use(state: &web::Data<State>, key: KnownKey, path: &str, status: u16) {
    state.metrics.api_key_request(path, status);
    if status < 400 {
        return;
    }
    let db = state.db.clone();
    tokio::spawn(async move {
        let counted = async {
            let mut tx = db.tenant(Tenant::of_key(&key)).await?;
            db::api_keys::count_error(&mut tx, key.id).await?;
            tx.commit().await
        };
        if let Err(error) = counted.await {
            tracing::debug!(error.message = %error, "an error of an API key was not counted");
        }
    });
}

async fn examine<E: Endpoint>(
    request: &HttpRequest,
    payload: web::Payload,
    state: &web::Data<State>,
    address: Option<IpAddr>,
    remaining: &mut Option<Remaining>,
) -> ApiResult<HttpResponse> {
    let checked = async {
        let caller = authenticate(state, request, E::ACCESS, E::KEYS, E::TOKEN_IN_QUERY).await?;
        RequestContext::of(request).called_by(caller.as_ref());
        let (body, unread) = if E::Input::READS_BODY {
            (read_body(request, payload, state.config.body_limit).await?, None)
        } else {
            (BytesMut::new(), Some(payload))
        };
        let input = E::Input::read(&Parts::of(request, &body, state.clock.now()))?;
        Ok::<_, ApiError>((caller, input, unread))
    };
    let (caller, input, body) = match checked.await {
        Ok(checked) => checked,
        // A dependency that is away is not the caller's fault.
        Err(error) if E::BUDGET == Budget::Exempt || error.status_and_code().0.is_server_error() => return Err(error),
        Err(error) => {
            let (error, left) = charge_refusal(state, address, error).await;
            *remaining = left;
            if matches!(error, ApiError::TooMany { .. }) {
                state.metrics.rate_limited(E::PATH);
            }
            return Err(error);
        }
    };
    match admit(state, caller.as_ref(), address, E::BUDGET).await {
        Ok(left) => *remaining = left,
        Err(error) => {
            state.metrics.rate_limited(E::PATH);
            return Err(error);
        }
    }
    let request_id = RequestContext::of(request).request_id;
    let call = Call { caller, state: state.clone(), input, body, address, request_id: Rc::clone(&request_id) };
    within_request(request_id, E::handle(call)).await
}

/// The whole body, if it is of a type that is read at all and not too large.
async fn read_body(request: &HttpRequest, mut payload: web::Payload, limit: usize) -> ApiResult<BytesMut> {
    let declared = request.headers().get(actix_web::http::header::CONTENT_LENGTH);
    let length = declared.and_then(|value| value.to_str().ok()).and_then(|value| value.parse::<usize>().ok());
    let is_json = media_type(request).is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    let acceptable = is_json || is_plain_text(request);
    let sends_something =
        length.is_some_and(|length| length > 0) || (length.is_none() && request.chunked().unwrap_or(false));
    if sends_something && !acceptable {
        return Err(ApiError::UnsupportedMediaType);
    }
    if length.is_some_and(|length| length > limit) {
        return Err(ApiError::TooLarge);
    }
    let mut body = BytesMut::with_capacity(length.unwrap_or(0));
    while let Some(chunk) = payload.next().await {
        // A body that breaks off is no JSON; usually nobody is left to read the answer.
        let chunk = chunk.map_err(|_| ApiError::MalformedJson)?;
        if body.len() + chunk.len() > limit {
            return Err(ApiError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
