//! Who asks.

use std::net::IpAddr;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use chrono::TimeDelta;
use domain::auth::{Actor, Identity, Role};
use domain::{EmployeeId, Tenant, UserId};

use crate::error::{ApiError, ApiResult};
use crate::identity::VerifyError;
use crate::state::State;

/// How long the answer "this employee may work" is believed (D4).
const EMPLOYEE_CHECK: TimeDelta = TimeDelta::seconds(30);

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
    let employee = match (identity.role, identity.employee) {
        (Role::Employee, Some(employee)) if may_work(state, &identity, employee).await? => Some(employee),
        _ => None,
    };
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

/// Whether the employee's row is there and active: a token outlives both, so it is asked again every half minute.
async fn may_work(state: &State, identity: &Identity, employee: EmployeeId) -> ApiResult<bool> {
    let key = (identity.organization(), employee);
    let now = state.clock.now();
    if let Some(known) = state.working.get(&key, now) {
        return Ok(known);
    }
    let mut tx = state.db.tenant(Tenant::of(identity)).await?;
    let active = db::employees::is_active(&mut tx, employee).await?;
    tx.commit().await?;
    state.working.put(key, active, now, now + EMPLOYEE_CHECK);
    Ok(active)
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
