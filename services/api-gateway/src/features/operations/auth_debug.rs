//! `GET /auth/debug`

use actix_web::HttpResponse;
use actix_web::http::header::AUTHORIZATION;
use actix_web::http::{Method, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::auth::Role;
use domain::{EmployeeId, OrganizationId};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Input, Parts};
use crate::http::openapi::About;
use crate::http::reply::{self, NoSuchRoute};

/// Shows callers the claims of their own token, and where the ones that count were found. Not there in production.
pub struct AuthDebug;

impl Endpoint for AuthDebug {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/auth/debug";
    const ACCESS: Access = Access::Everyone;
    const IN_PRODUCTION: bool = false;
    type Input = OwnClaims;

    fn about() -> About {
        About::new("internal", "getAuthDebug", "Echo the decoded token claims (non-production only)")
            .note("With an API key there are none: `raw` is empty and `source` is `missing`.")
            .bare::<Echo<'_>>(200, "Claims.")
            .bare::<NoSuchRoute<'_>>(404, "In production.")
    }

    async fn handle(call: Call<OwnClaims>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        // A key's caller shows no token, whatever header they send beside it.
        let raw = if caller.api_key().is_some() { Map::new() } else { call.input.0.clone() };
        let claim = |name: &str| {
            let value = raw.get(name).and_then(Value::as_str).map(str::to_owned);
            Claim { present: value.is_some(), value }
        };
        let claims = Claims { role: claim("role"), org_id: claim("org_id"), employee_id: claim("employee_id") };
        let employee = raw.get("employee_id").and_then(Value::as_str).and_then(domain::id::parse_uuid);
        Ok(reply::json(
            StatusCode::OK,
            &Echo {
                sub: caller.subject(),
                email: caller.email(),
                role: caller.role(),
                org_id: caller.tenant().organization(),
                employee_id: employee.map(EmployeeId::from),
                source: Source::of(&raw),
                hook_ok: claims.role.present && claims.org_id.present,
                claims,
                raw,
            },
        ))
    }
}

/// What a credential says.
#[derive(Serialize, ToSchema)]
#[schema(as = AuthDebug)]
struct Echo<'a> {
    /// The user's id, or `api_key:` and the key's.
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    email: Option<&'a str>,
    role: Role,
    org_id: OrganizationId,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    employee_id: Option<EmployeeId>,
    source: Source,
    /// Whether role and organization are where they have to be.
    hook_ok: bool,
    claims: Claims,
    /// All claims of the token.
    #[schema(value_type = Object)]
    raw: Map<String, Value>,
}

/// Where role and organization were found.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = AuthDebugSource)]
enum Source {
    /// Where they have to be.
    #[serde(rename = "top-level")]
    TopLevel,
    /// Where they are not trusted.
    #[serde(rename = "app_metadata")]
    AppMetadata,
    /// Nowhere.
    #[serde(rename = "missing")]
    Missing,
}

impl Source {
    fn of(raw: &Map<String, Value>) -> Self {
        let has = |claims: &Map<String, Value>| claims.contains_key("role") && claims.contains_key("org_id");
        if has(raw) {
            Self::TopLevel
        } else if raw.get("app_metadata").and_then(Value::as_object).is_some_and(has) {
            Self::AppMetadata
        } else {
            Self::Missing
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuthDebugClaims)]
struct Claims {
    role: Claim,
    org_id: Claim,
    employee_id: Claim,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuthDebugClaim)]
struct Claim {
    present: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    value: Option<String>,
}

/// The claims of the token in the header, which is verified before anybody looks at them.
pub struct OwnClaims(Map<String, Value>);

impl Input for OwnClaims {
    const READS_BODY: bool = false;
    const IS_JUDGED: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let header = parts.request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let claims = header
            .and_then(|header| header.strip_prefix("Bearer "))
            .and_then(|token| token.split('.').nth(1))
            .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok())
            .and_then(|claims| serde_json::from_slice(&claims).ok());
        Ok(Self(claims.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_says_where_claims_are_and_trusts_one_place() {
        for (claims, source) in [
            (json!({ "role": "ADMIN", "org_id": "x" }), Source::TopLevel),
            (json!({ "role": "ADMIN", "app_metadata": { "role": "ADMIN", "org_id": "x" } }), Source::AppMetadata),
            (json!({ "role": "ADMIN", "user_metadata": { "role": "ADMIN", "org_id": "x" } }), Source::Missing),
            (json!({}), Source::Missing),
        ] {
            assert_eq!(Source::of(claims.as_object().unwrap()), source, "{claims}");
        }
    }
}
