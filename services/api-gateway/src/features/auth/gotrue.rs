//! `/auth/v1/*`: the subset of Supabase Auth (GoTrue) that its client libraries need.
//!
//! Errors look as GoTrue's do, with their codes: a client library decides by them whether to keep its session. Whatever
//! is not about the token itself must therefore never look like it: an overloaded provider answers 503.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use domain::UserId;
use domain::auth::Role;
use domain::clock::Stored;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::login::{Refusal, sign_in};
use crate::error::ApiResult;
use crate::http::abuse;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint, Routes};
use crate::http::input::{Input, Parts};
use crate::http::openapi::About;
use crate::http::reply;
use crate::identity::{BuiltIn, RefreshError, SignInError, SignOut, Tokens, VerifiedToken, VerifyError};
use crate::state::State;
use db::identity::Account;

/// The routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<Token>().add::<SignedInUser>().add::<Logout>().add::<Jwks>().add::<Health>().add::<Settings>();
}

/// The version of the error format: clients read `code` from the body when they see it.
const API_VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-supabase-api-version"), HeaderValue::from_static("2024-01-01"));

fn answer<T: Serialize>(status: StatusCode, body: &T) -> HttpResponse {
    let mut response = reply::json(status, body);
    let (name, version) = API_VERSION;
    response.headers_mut().insert(name, version);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn refuse(status: StatusCode, code: &str, message: &str) -> HttpResponse {
    answer(status, &GoTrueError { code, message })
}

/// A refusal as GoTrue writes it.
#[derive(Serialize, ToSchema)]
struct GoTrueError<'a> {
    /// What is wrong, for programs.
    code: &'a str,
    /// What is wrong, for people.
    message: &'a str,
}

/// When these routes answer 404.
const ELSEWHERE: &str = "Another server is the identity provider.";

fn unavailable() -> HttpResponse {
    refuse(
        StatusCode::SERVICE_UNAVAILABLE,
        "unexpected_failure",
        "The identity provider is unavailable, try again shortly",
    )
}

fn not_here() -> HttpResponse {
    refuse(StatusCode::NOT_FOUND, "not_found", "This server is not the identity provider")
}

/// A body and a query, taken as they come: GoTrue's own errors answer for what is wrong with them.
struct Loose {
    body: Value,
    query: crate::http::input::Query,
    bearer: Option<String>,
}

impl Input for Loose {
    const READS_BODY: bool = true;
    const IS_JUDGED: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let bearer = parts.request.headers().get("authorization").and_then(|value| value.to_str().ok());
        Ok(Self {
            body: serde_json::from_slice(parts.body).unwrap_or(Value::Null),
            query: parts.query(),
            bearer: bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned),
        })
    }
}

impl Loose {
    fn parameter(&self, name: &str) -> Option<String> {
        self.query.text(name).into_value()
    }

    /// Who calls, or the answer that they are nobody.
    async fn caller(&self, state: &State, path: &str) -> Result<VerifiedToken, HttpResponse> {
        let token = self.bearer.as_deref().filter(|token| !token.is_empty()).ok_or_else(|| {
            refuse(StatusCode::UNAUTHORIZED, "no_authorization", "This endpoint requires a Bearer token")
        })?;
        state.identity.verify(token).await.map_err(|error| match error {
            VerifyError::Unavailable => unavailable(),
            VerifyError::Invalid | VerifyError::Claims(_) => {
                abuse::noted(state, path, "token_refused");
                refuse(StatusCode::FORBIDDEN, "bad_jwt", "invalid JWT: unable to parse or verify signature")
            }
        })
    }
}

/// Somebody as GoTrue describes them.
#[derive(Serialize, ToSchema)]
struct User<'a> {
    id: UserId,
    /// Always `authenticated`.
    aud: &'static str,
    role: Role,
    email: &'a str,
    email_confirmed_at: Stored,
    confirmed_at: Stored,
    /// Always empty.
    phone: &'static str,
    last_sign_in_at: Option<Stored>,
    app_metadata: AppMetadata,
    /// Always empty: nothing a person may edit is trusted.
    #[schema(value_type = Object)]
    user_metadata: Value,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    identities: [(); 0],
    created_at: Stored,
    updated_at: Stored,
    /// Always false.
    is_anonymous: bool,
}

/// How somebody signs in.
#[derive(Serialize, ToSchema)]
struct AppMetadata {
    /// Always `email`.
    provider: &'static str,
    #[schema(value_type = Vec<String>)]
    providers: [&'static str; 1],
}

fn user(account: &Account) -> User<'_> {
    User {
        id: account.user,
        aud: "authenticated",
        role: account.role,
        email: &account.email,
        email_confirmed_at: Stored(account.created_at),
        confirmed_at: Stored(account.created_at),
        phone: "",
        last_sign_in_at: account.last_sign_in_at.map(Stored),
        app_metadata: AppMetadata { provider: "email", providers: ["email"] },
        user_metadata: json!({}),
        identities: [],
        created_at: Stored(account.created_at),
        updated_at: Stored(account.updated_at),
        is_anonymous: false,
    }
}

/// What a signed-in client library holds.
#[derive(Serialize, ToSchema)]
struct GoTrueSession<'a> {
    access_token: &'a str,
    /// Always `bearer`.
    token_type: &'static str,
    /// Seconds the access token is good for.
    expires_in: i64,
    /// Until when, in Unix seconds.
    expires_at: Option<i64>,
    /// Good for one exchange.
    refresh_token: Option<&'a str>,
    user: Option<User<'a>>,
}

fn session(tokens: &Tokens) -> HttpResponse {
    answer(
        StatusCode::OK,
        &GoTrueSession {
            access_token: tokens.access_token.expose_secret(),
            token_type: "bearer",
            expires_in: tokens.expires_in,
            expires_at: tokens.expires_at,
            refresh_token: tokens.refresh_token.as_ref().map(ExposeSecret::expose_secret),
            user: tokens.account.as_ref().map(user),
        },
    )
}

/// `POST /auth/v1/token?grant_type=password|refresh_token`
struct Token;

impl Endpoint for Token {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/auth/v1/token";
    const ACCESS: Access = Access::Public;
    type Input = Loose;

    fn about() -> About {
        About::new("identity", "identityToken", "Sign in, or exchange a refresh token")
            .parameter("query", "grant_type", true, json!({ "type": "string", "enum": ["password", "refresh_token"] }))
            .body(json!({
                "type": "object",
                "properties": {
                    "email": { "type": "string", "format": "email" },
                    "password": { "type": "string" },
                    "refresh_token": { "type": "string" },
                },
            }))
            .bare::<GoTrueSession<'_>>(200, "Signed in.")
            .bare::<GoTrueError<'_>>(400, "The credentials are wrong, missing, or used before.")
            .object(429, "Too many sign-ins failed, as GoTrue says it; or another budget is used up, as everywhere.")
            .bare::<GoTrueError<'_>>(404, ELSEWHERE)
    }

    async fn handle(call: Call<Loose>) -> ApiResult<HttpResponse> {
        let Some(identity) = call.state.identity.built_in() else { return Ok(not_here()) };
        Ok(match call.input.parameter("grant_type").as_deref() {
            Some("password") => password_grant(&call).await,
            Some("refresh_token") => refresh_grant(&call.state, identity, &call.input.body).await,
            _ => refuse(StatusCode::BAD_REQUEST, "invalid_credentials", "unsupported_grant_type"),
        })
    }
}

async fn password_grant(call: &Call<Loose>) -> HttpResponse {
    let text = |name: &str| call.input.body[name].as_str().map(str::to_owned);
    let (Some(email), Some(password)) = (text("email"), text("password").map(SecretString::from)) else {
        return refuse(StatusCode::BAD_REQUEST, "validation_failed", "email and password are required");
    };
    match sign_in(&call.state, call.address, &email.to_lowercase(), &password).await {
        Ok(tokens) => session(&tokens),
        Err(Refusal::SignIn(SignInError::InvalidCredentials)) => {
            abuse::noted(&call.state, Token::PATH, "login_failed");
            refuse(StatusCode::BAD_REQUEST, "invalid_credentials", "Invalid login credentials")
        }
        Err(Refusal::SignIn(SignInError::Banned)) => {
            abuse::noted(&call.state, Token::PATH, "login_failed");
            refuse(StatusCode::BAD_REQUEST, "user_banned", "User is banned")
        }
        Err(Refusal::SignIn(SignInError::Unavailable)) => unavailable(),
        Err(Refusal::TooMany(_)) => {
            abuse::noted(&call.state, Token::PATH, "limit_hit");
            refuse(StatusCode::TOO_MANY_REQUESTS, "over_request_rate_limit", "Request rate limit reached")
        }
    }
}

async fn refresh_grant(state: &State, identity: &BuiltIn, body: &Value) -> HttpResponse {
    let Some(token) = body["refresh_token"].as_str().filter(|token| !token.is_empty()) else {
        return refuse(StatusCode::BAD_REQUEST, "validation_failed", "refresh_token required");
    };
    match identity.refresh(&token.to_owned().into()).await {
        Ok(tokens) => session(&tokens),
        Err(RefreshError::NotFound) => {
            abuse::noted(state, Token::PATH, "token_refused");
            refuse(StatusCode::BAD_REQUEST, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found")
        }
        Err(RefreshError::AlreadyUsed) => {
            abuse::noted(state, Token::PATH, "refresh_reused");
            refuse(StatusCode::BAD_REQUEST, "refresh_token_already_used", "Invalid Refresh Token: Already Used")
        }
        Err(RefreshError::Banned) => {
            refuse(StatusCode::BAD_REQUEST, "user_banned", "Invalid Refresh Token: User Banned")
        }
        Err(RefreshError::Unavailable) => unavailable(),
    }
}

/// `GET /auth/v1/user`
struct SignedInUser;

impl Endpoint for SignedInUser {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/auth/v1/user";
    const ACCESS: Access = Access::Public;
    type Input = Loose;

    fn about() -> About {
        About::new("identity", "identityUser", "Who is signed in")
            .bare::<User<'_>>(200, "Somebody.")
            .bare::<GoTrueError<'_>>(401, "There is no token.")
            .bare::<GoTrueError<'_>>(403, "The token, its session or its user are not good, or no longer.")
            .bare::<GoTrueError<'_>>(404, ELSEWHERE)
    }

    async fn handle(call: Call<Loose>) -> ApiResult<HttpResponse> {
        let Some(identity) = call.state.identity.built_in() else { return Ok(not_here()) };
        let caller = match call.input.caller(&call.state, Self::PATH).await {
            Ok(caller) => caller,
            Err(refusal) => return Ok(refusal),
        };
        let gone = || {
            refuse(StatusCode::FORBIDDEN, "session_not_found", "Session from session_id claim in JWT does not exist")
        };
        if let Some(session) = caller.session_id {
            match identity.session_holds(session).await {
                Ok(true) => {}
                Ok(false) => return Ok(gone()),
                Err(_) => return Ok(unavailable()),
            }
        }
        Ok(match identity.account(caller.identity.user).await {
            Ok(Some(account)) if account.is_banned(call.state.clock.now()) => {
                refuse(StatusCode::FORBIDDEN, "user_banned", "User is banned")
            }
            Ok(Some(account)) => answer(StatusCode::OK, &user(&account)),
            Ok(None) => refuse(StatusCode::FORBIDDEN, "user_not_found", "User from sub claim in JWT does not exist"),
            Err(_) => unavailable(),
        })
    }
}

/// `POST /auth/v1/logout?scope=global|local|others`
struct Logout;

impl Endpoint for Logout {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/auth/v1/logout";
    const ACCESS: Access = Access::Public;
    type Input = Loose;

    fn about() -> About {
        About::new("identity", "identityLogout", "Sign out")
            .parameter("query", "scope", false, json!({ "type": "string", "enum": ["global", "local", "others"] }))
            .no_content()
            .bare::<GoTrueError<'_>>(400, "There is no such scope.")
            .bare::<GoTrueError<'_>>(401, "There is no token.")
            .bare::<GoTrueError<'_>>(403, "The token is not good.")
            .bare::<GoTrueError<'_>>(404, ELSEWHERE)
    }

    async fn handle(call: Call<Loose>) -> ApiResult<HttpResponse> {
        let Some(identity) = call.state.identity.built_in() else { return Ok(not_here()) };
        let scope = match call.input.parameter("scope").as_deref() {
            None | Some("global") => SignOut::Everywhere,
            Some("local") => SignOut::Here,
            Some("others") => SignOut::Elsewhere,
            Some(_) => return Ok(refuse(StatusCode::BAD_REQUEST, "validation_failed", "Unsupported logout scope")),
        };
        Ok(match call.input.caller(&call.state, Self::PATH).await {
            Err(refusal) => refusal,
            Ok(caller) => match identity.sign_out(&caller, scope).await {
                Ok(()) => HttpResponse::NoContent().insert_header(API_VERSION).finish(),
                Err(_) => unavailable(),
            },
        })
    }
}

/// `GET /auth/v1/.well-known/jwks.json`
struct Jwks;

impl Endpoint for Jwks {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/auth/v1/.well-known/jwks.json";
    const ACCESS: Access = Access::Public;
    type Input = ();

    fn about() -> About {
        About::new("identity", "identityKeys", "The public keys that verify access tokens")
            .object(200, "A JSON Web Key Set.")
            .bare::<GoTrueError<'_>>(404, ELSEWHERE)
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let Some(identity) = call.state.identity.built_in() else { return Ok(not_here()) };
        Ok(match identity.jwks().await {
            Ok(keys) => {
                let mut response = reply::json(StatusCode::OK, &keys);
                // Shorter than a new key waits before it signs.
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
                response
            }
            Err(_) => unavailable(),
        })
    }
}

/// `GET /auth/v1/health`
struct Health;

impl Endpoint for Health {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/auth/v1/health";
    const ACCESS: Access = Access::Public;
    type Input = ();

    fn about() -> About {
        About::new("identity", "identityHealth", "Is the identity provider there")
            .bare::<Provider>(200, "It is.")
            .bare::<GoTrueError<'_>>(404, ELSEWHERE)
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        if call.state.identity.built_in().is_none() {
            return Ok(not_here());
        }
        Ok(answer(
            StatusCode::OK,
            &Provider {
                version: env!("CARGO_PKG_VERSION"),
                name: "GoTrue",
                description: "FieldTrack identity, GoTrue-compatible",
            },
        ))
    }
}

/// `GET /auth/v1/settings`
struct Settings;

impl Endpoint for Settings {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/auth/v1/settings";
    const ACCESS: Access = Access::Public;
    type Input = ();

    fn about() -> About {
        About::new("identity", "identitySettings", "How people may sign in")
            .bare::<SignInSettings>(200, "By e-mail and password; nobody signs up on their own.")
            .bare::<GoTrueError<'_>>(404, ELSEWHERE)
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        if call.state.identity.built_in().is_none() {
            return Ok(not_here());
        }
        Ok(answer(
            StatusCode::OK,
            &SignInSettings {
                external: External { email: true, phone: false, anonymous_users: false },
                disable_signup: true,
                mailer_autoconfirm: true,
                phone_autoconfirm: false,
                saml_enabled: false,
            },
        ))
    }
}

/// The identity provider.
#[derive(Serialize, ToSchema)]
struct Provider {
    version: &'static str,
    name: &'static str,
    description: &'static str,
}

/// How people may sign in.
#[derive(Serialize, ToSchema)]
struct SignInSettings {
    external: External,
    disable_signup: bool,
    mailer_autoconfirm: bool,
    phone_autoconfirm: bool,
    saml_enabled: bool,
}

/// Ways to prove who one is.
#[derive(Serialize, ToSchema)]
struct External {
    email: bool,
    phone: bool,
    anonymous_users: bool,
}
