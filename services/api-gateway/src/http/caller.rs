//! Who asks.

use std::net::IpAddr;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use chrono::TimeDelta;
use db::users::Standing;
use domain::auth::{Actor, Identity, Role};
use domain::{EmployeeId, Tenant, UserId};

use crate::error::{ApiError, ApiResult};
use crate::identity::VerifyError;
use crate::state::State;

/// How long it is believed that what a token says still holds (D4).
const STANDING_CHECK: TimeDelta = TimeDelta::seconds(30);

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody, without a credential.
    Public,
    /// Everybody of the organization.
    Everyone,
    /// Administrators.
    Admins,
    /// Employees who may work.
    Employees,
    /// The same people; whoever else asks, of whatever role, is told that this is for employees.
    WorkingEmployees,
}

/// A verified caller.
#[derive(Debug, Clone)]
pub struct Caller {
    identity: Arc<Identity>,
    /// The employee they are, as long as they may work.
    employee: Option<EmployeeId>,
}

impl Caller {
    /// The right to their organization's rows.
    #[must_use]
    pub fn tenant(&self) -> Tenant {
        Tenant::of(&self.identity)
    }

    /// Who does what this request does, for the audit log.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor::User(self.identity.user)
    }

    /// The signed-in user.
    #[must_use]
    pub fn user(&self) -> UserId {
        self.identity.user
    }

    /// Who they are, as the credential says.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The employee they are, if they are one who may work.
    #[must_use]
    pub const fn employee(&self) -> Option<EmployeeId> {
        self.employee
    }

    /// The employee they are; a refusal when there is none.
    pub fn working_employee(&self) -> ApiResult<EmployeeId> {
        self.employee.ok_or(ApiError::NoEmployee)
    }
}

/// Examines the credential: is there one, is it good, is its role the right one, may its employee work.
pub async fn authenticate(state: &State, request: &HttpRequest, access: Access) -> ApiResult<Option<Caller>> {
    if access == Access::Public {
        return Ok(None);
    }
    let token = bearer(request)?;
    let verified = state.identity.verify(token).await.map_err(|error| match error {
        VerifyError::Invalid => ApiError::BadToken,
        VerifyError::Claims(error) => ApiError::BadClaims(error),
        VerifyError::Unavailable => ApiError::Unavailable("the identity provider is unavailable".to_owned()),
    })?;
    let identity = Arc::new(verified.identity);
    let wanted = match access {
        Access::Admins => Some(Role::Admin),
        Access::Employees => Some(Role::Employee),
        Access::Public | Access::Everyone | Access::WorkingEmployees => None,
    };
    if let Some(role) = wanted.filter(|role| *role != identity.role) {
        return Err(ApiError::WrongRole(role));
    }
    let may_work = standing(state, &identity).await?;
    let employee = identity.employee.filter(|_| identity.role == Role::Employee && may_work);
    let caller = Caller { identity, employee };
    if matches!(access, Access::Employees | Access::WorkingEmployees) {
        caller.working_employee()?;
    }
    Ok(Some(caller))
}

/// The token of `Authorization: Bearer …`. Without that header an API key would be looked at; none exists yet, so a
/// well-formed one is unknown.
fn bearer(request: &HttpRequest) -> ApiResult<&str> {
    let header = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    if header.is_none_or(str::is_empty)
        && let Some(key) = request.headers().get("x-api-key")
    {
        let key = key.to_str().unwrap_or_default().trim();
        return Err(if is_api_key(key) { ApiError::UnknownApiKey } else { ApiError::MalformedApiKey });
    }
    header
        .and_then(|value| value.strip_prefix("Bearer "))
        .filter(|token| !token.is_empty())
        .ok_or(ApiError::NoCredential)
}

/// `ft_live_` and 48 hex digits, in any letter case.
fn is_api_key(key: &str) -> bool {
    key.len() == 56
        && key.is_ascii()
        && key[..8].eq_ignore_ascii_case("ft_live_")
        && key[8..].bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What was found of somebody a while ago, and for which employee it was asked.
#[derive(Debug, Clone, Copy)]
pub struct KnownStanding {
    employee: Option<EmployeeId>,
    standing: Standing,
}

/// Asks what has become of the caller, who may have been banned, given another role or deactivated since the token was
/// made; answers whether the employee may work. Asked again every half minute.
///
/// A token that says another role than the user has now is as good as none: signing in again, or renewing it, gives one
/// that is right. Where somebody else is the identity provider, users are theirs, and only the employee is looked at.
async fn standing(state: &State, identity: &Identity) -> ApiResult<bool> {
    let ours = state.identity.built_in().is_some();
    if !ours && (identity.role != Role::Employee || identity.employee.is_none()) {
        return Ok(false);
    }
    let key = (identity.organization(), identity.user);
    let now = state.clock.now();
    let known = state.standing.get(&key, now).filter(|known| known.employee == identity.employee);
    let standing = match known {
        Some(known) => known.standing,
        None => {
            let mut tx = state.db.tenant(Tenant::of(identity)).await?;
            let standing = match identity.employee {
                Some(employee) if !ours => {
                    let may_work = db::employees::is_active(&mut tx, employee).await?;
                    Standing { role: Some(identity.role), may_work }
                }
                employee => db::users::standing(&mut tx, identity.user, employee, now).await?,
            };
            tx.commit().await?;
            let known = KnownStanding { employee: identity.employee, standing };
            state.standing.put(key, known, now, now + STANDING_CHECK);
            standing
        }
    };
    if standing.role == Some(identity.role) { Ok(standing.may_work) } else { Err(ApiError::BadToken) }
}

/// What a request is counted by before anybody is known: its address.
#[must_use]
pub fn address_key(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "ip:unknown".to_owned(), |address| format!("ip:{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn bearer_of(headers: &[(&'static str, &'static str)]) -> Result<String, String> {
        let mut request = TestRequest::default();
        for header in headers {
            request = request.append_header(*header);
        }
        bearer(&request.to_http_request()).map(str::to_owned).map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_exact_spelling_counts() {
        assert_eq!(bearer_of(&[("authorization", "Bearer abc")]).as_deref(), Ok("abc"));
        for wrong in ["bearer abc", "Bearer", "Bearer ", "Basic abc", "abc"] {
            assert_eq!(
                bearer_of(&[("authorization", wrong)]).unwrap_err(),
                "Missing or malformed Authorization header"
            );
        }
    }

    #[test]
    fn an_api_key_is_looked_at_only_without_authorization() {
        const KEY: &str = " ft_live_0123456789abcdef0123456789ABCDEF0123456789abcdef ";
        assert_eq!(bearer_of(&[("x-api-key", KEY)]).unwrap_err(), "Invalid API key");
        assert_eq!(
            bearer_of(&[("x-api-key", "nonsense"), ("authorization", "")]).unwrap_err(),
            "Invalid API key format"
        );
        assert_eq!(bearer_of(&[("x-api-key", KEY), ("authorization", "Bearer t")]).as_deref(), Ok("t"));
    }
}
