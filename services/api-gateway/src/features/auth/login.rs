//! `POST /auth/login`

use std::net::IpAddr;

use actix_web::HttpResponse;
use actix_web::http::Method;
use garde::Validate;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, object};
use crate::http::limits::{PATIENCE, login_budget, too_many};
use crate::http::openapi::About;
use crate::http::{reply, rules};
use crate::identity::{SignInError, Tokens};
use crate::state::State;

/// Exchanges an address and a password for tokens.
pub struct Login;

impl Endpoint for Login {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/auth/login";
    const ACCESS: Access = Access::Public;
    type Input = Credentials;

    fn about() -> About {
        About::new("auth", "login", "Exchange an e-mail address and a password for tokens")
            .note("Ten failures a minute, counted by address and e-mail.")
            .ok::<SignedIn<'_>>()
            .refuses(401, "E-mail or password are wrong.")
    }

    async fn handle(call: Call<Credentials>) -> ApiResult<HttpResponse> {
        let Credentials { email, password } = &call.input;
        let tokens = sign_in(&call.state, call.address, email, password).await.map_err(|refusal| match refusal {
            // Whoever may not sign in is not told more than whoever does not exist.
            Refusal::SignIn(SignInError::InvalidCredentials | SignInError::Banned) => ApiError::BadCredentials,
            Refusal::SignIn(SignInError::Unavailable) => {
                ApiError::Unavailable("the identity provider is unavailable".to_owned())
            }
            Refusal::TooMany(error) => error,
        })?;
        Ok(reply::ok(SignedIn {
            access_token: tokens.access_token.expose_secret(),
            refresh_token: tokens.refresh_token.as_ref().map(ExposeSecret::expose_secret),
            token_type: "bearer",
            expires_in: tokens.expires_in,
            expires_at: tokens.expires_at,
        }))
    }
}

/// What a signed-in client holds.
#[derive(Serialize, ToSchema)]
struct SignedIn<'a> {
    /// Goes into the header `Authorization: Bearer …`.
    access_token: &'a str,
    /// Exchanged for further tokens at the identity provider.
    refresh_token: Option<&'a str>,
    /// Always `bearer`.
    token_type: &'static str,
    /// Seconds the access token is good for.
    expires_in: i64,
    /// Until when, in Unix seconds.
    expires_at: Option<i64>,
}

/// Why somebody is not signed in.
pub enum Refusal {
    /// The identity provider says so.
    SignIn(SignInError),
    /// The address and e-mail failed too often.
    TooMany(ApiError),
}

/// Signs somebody in, unless they failed too often lately: every failure is charged to address and e-mail, and a
/// success clears the charge.
pub async fn sign_in(
    state: &State,
    address: Option<IpAddr>,
    email: &str,
    password: &SecretString,
) -> Result<Tokens, Refusal> {
    let budget = login_budget(state, address, email);
    // When Redis is away nobody is kept out (D8).
    if let Ok(verdict) = state.limits.peek(&budget, PATIENCE).await
        && !verdict.allowed
    {
        state.metrics.rate_limited(Login::PATH);
        return Err(Refusal::TooMany(too_many(&verdict)));
    }
    match state.identity.sign_in(email, password).await {
        Ok(tokens) => {
            let _ = state.limits.clear(&budget.key, PATIENCE).await;
            Ok(tokens)
        }
        Err(error) => {
            if !matches!(error, SignInError::Unavailable) {
                state.metrics.login_failures.inc();
                let _ = state.limits.check(vec![budget], PATIENCE).await;
            }
            Err(Refusal::SignIn(error))
        }
    }
}

/// What somebody signs in with.
pub struct Credentials {
    email: String,
    password: SecretString,
}

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
struct Body {
    #[serde(default)]
    #[garde(custom(rules::required), custom(rules::email))]
    email: Field<String>,
    #[serde(default)]
    #[garde(custom(rules::required), custom(rules::text_at_least(1)))]
    password: Field<String>,
}

object!(Body: email, password);

impl Input for Credentials {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let body: Body = parts.body()?;
        Ok(Self {
            email: body.email.into_value().unwrap_or_default().to_lowercase(),
            password: body.password.into_value().unwrap_or_default().into(),
        })
    }
}
