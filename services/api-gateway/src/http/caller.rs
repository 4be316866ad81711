//! Who asks.

use std::net::IpAddr;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use chrono::{DateTime, TimeDelta, Utc};
use db::users::Standing;
use domain::api_key::{KnownKey, Scope};
use domain::auth::{Actor, Identity, Role};
use domain::{EmployeeId, Tenant, UserId};

use crate::error::{ApiError, ApiResult};
use crate::http::observe::RequestContext;
use crate::identity::{VerifiedToken, VerifyError};
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

/// What an API key must be allowed to use a route. Tokens need no scope: their role decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAccess {
    /// Any key.
    Any,
    /// Keys with this scope, or with all of them.
    Scope(Scope),
    /// None: what is done here is done by people. The scope `admin:all` is asked for all the same, and first.
    People,
}

impl KeyAccess {
    /// The scope that is asked for.
    const fn needed(self) -> Option<Scope> {
        match self {
            Self::Any => None,
            Self::Scope(scope) => Some(scope),
            Self::People => Some(Scope::AdminAll),
        }
    }
}

/// A verified caller.
#[derive(Debug, Clone)]
pub struct Caller {
    credential: Credential,
    /// The employee they are, as long as they may work.
    employee: Option<EmployeeId>,
}

#[derive(Debug, Clone)]
enum Credential {
    Token(Arc<VerifiedToken>),
    Key(KnownKey),
}

impl Caller {
    /// The right to their organization's rows.
    #[must_use]
    pub fn tenant(&self) -> Tenant {
        match &self.credential {
            Credential::Token(token) => Tenant::of(&token.identity),
            Credential::Key(key) => Tenant::of_key(key),
        }
    }

    /// Who does what this request does, for the audit log.
    #[must_use]
    pub fn actor(&self) -> Actor {
        match &self.credential {
            Credential::Token(token) => Actor::User(token.identity.user),
            Credential::Key(key) => Actor::ApiKey(key.id),
        }
    }

    /// The signed-in user; `None` when a program calls with an API key.
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        match &self.credential {
            Credential::Token(token) => Some(token.identity.user),
            Credential::Key(_) => None,
        }
    }

    /// Their role; a key is an administrator's.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.credential {
            Credential::Token(token) => token.identity.role,
            Credential::Key(_) => Role::Admin,
        }
    }

    /// Their e-mail address, when the credential names one.
    #[must_use]
    pub fn email(&self) -> Option<&str> {
        match &self.credential {
            Credential::Token(token) => token.identity.email.as_deref(),
            Credential::Key(_) => None,
        }
    }

    /// What the contract calls the subject: a user's id, or `api_key:` and the key's.
    #[must_use]
    pub fn subject(&self) -> String {
        match &self.credential {
            Credential::Token(token) => token.identity.user.to_string(),
            Credential::Key(key) => format!("api_key:{}", key.id),
        }
    }

    /// The key they call with, if it is one.
    #[must_use]
    pub const fn api_key(&self) -> Option<KnownKey> {
        match &self.credential {
            Credential::Token(_) => None,
            Credential::Key(key) => Some(*key),
        }
    }

    /// When their token ends; a key does not end by itself.
    #[must_use]
    pub fn until(&self) -> Option<DateTime<Utc>> {
        match &self.credential {
            Credential::Token(token) => Some(token.expires_at),
            Credential::Key(_) => None,
        }
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

/// Examines the credential: is there one, is it good, may a key do this, is its role the right one, may its employee
/// work.
pub async fn authenticate(
    state: &State,
    request: &HttpRequest,
    access: Access,
    keys: KeyAccess,
    token_in_query: bool,
) -> ApiResult<Option<Caller>> {
    if access == Access::Public {
        return Ok(None);
    }
    match shown(request, token_in_query)? {
        Shown::Token(token) => by_token(state, &token, access).await.map(Some),
        Shown::Key(key) => {
            let credential = Credential::Key(use_key(state, request, &key, keys).await?);
            let caller = Caller { credential, employee: None };
            has_role(&caller, access)?;
            if matches!(access, Access::Employees | Access::WorkingEmployees) {
                caller.working_employee()?;
            }
            Ok(Some(caller))
        }
    }
}

/// Examines an access token, wherever it stood: is it good, is the role the right one, may the employee work.
pub async fn by_token(state: &State, token: &str, access: Access) -> ApiResult<Caller> {
    let token = state.identity.verify(token).await.map_err(|error| match error {
        VerifyError::Invalid => ApiError::BadToken,
        VerifyError::Claims(error) => ApiError::BadClaims(error),
        VerifyError::Unavailable => ApiError::Unavailable("the identity provider is unavailable".to_owned()),
    })?;
    let token = Arc::new(token);
    let caller = Caller { credential: Credential::Token(Arc::clone(&token)), employee: None };
    has_role(&caller, access)?;
    as_they_stand(state, token, access).await
}

/// Somebody who was let in a while ago, as they stand now: their token still holds, or they are refused.
pub async fn again(state: &State, caller: &Caller, access: Access) -> ApiResult<Caller> {
    match &caller.credential {
        Credential::Token(token) => as_they_stand(state, Arc::clone(token), access).await,
        Credential::Key(_) => Ok(caller.clone()),
    }
}

async fn as_they_stand(state: &State, token: Arc<VerifiedToken>, access: Access) -> ApiResult<Caller> {
    let may_work = standing(state, &token.identity).await?;
    let employee = token.identity.employee.filter(|_| token.identity.role == Role::Employee && may_work);
    let caller = Caller { credential: Credential::Token(token), employee };
    if matches!(access, Access::Employees | Access::WorkingEmployees) {
        caller.working_employee()?;
    }
    Ok(caller)
}

fn has_role(caller: &Caller, access: Access) -> ApiResult<()> {
    let wanted = match access {
        Access::Admins => Role::Admin,
        Access::Employees => Role::Employee,
        Access::Public | Access::Everyone | Access::WorkingEmployees => return Ok(()),
    };
    if wanted == caller.role() { Ok(()) } else { Err(ApiError::WrongRole(wanted)) }
}

/// What a caller shows.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Token(String),
    Key(String),
}

/// The token of `Authorization: Bearer …`, else an API key, else (where that is allowed) the token in the query.
fn shown(request: &HttpRequest, token_in_query: bool) -> ApiResult<Shown> {
    let header = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    if header.is_none_or(str::is_empty) {
        if let Some(key) = request.headers().get("x-api-key") {
            let key = key.to_str().unwrap_or_default().trim();
            return if is_api_key(key) { Ok(Shown::Key(key.to_owned())) } else { Err(ApiError::MalformedApiKey) };
        }
        if token_in_query {
            let mut parameters = form_urlencoded::parse(request.query_string().as_bytes());
            if let Some((_, token)) = parameters.find(|(name, token)| name == "token" && !token.is_empty()) {
                return Ok(Shown::Token(token.into_owned()));
            }
        }
    }
    header
        .and_then(|value| value.strip_prefix("Bearer "))
        .filter(|token| !token.is_empty())
        .map(|token| Shown::Token(token.to_owned()))
        .ok_or(ApiError::NoCredential)
}

/// `ft_live_` and 48 hex digits, in any letter case.
fn is_api_key(key: &str) -> bool {
    key.len() == 56
        && key.is_ascii()
        && key[..8].eq_ignore_ascii_case("ft_live_")
        && key[8..].bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Finds out whose key it is, and whether it may do this.
async fn use_key(state: &State, request: &HttpRequest, key: &str, access: KeyAccess) -> ApiResult<KnownKey> {
    let now = state.clock.now();
    let known = state.api_keys.identify(&state.db, key, now).await?.ok_or(ApiError::UnknownApiKey)?;
    let needed = access.needed();
    let mut tx = state.db.tenant(Tenant::of_key(&known)).await?;
    let scopes = db::api_keys::present(&mut tx, known.id, needed, now).await?;
    tx.commit().await?;
    // Somebody took it back since its hash was compared.
    let scopes = scopes.ok_or(ApiError::UnknownApiKey)?;
    RequestContext::of(request).called_with_key(known);
    if let Some(scope) = needed.filter(|_| !scopes.allow(needed)) {
        return Err(ApiError::MissingScope(scope));
    }
    if access == KeyAccess::People { Err(ApiError::PeopleOnly) } else { Ok(known) }
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

    fn shown_by(headers: &[(&'static str, &'static str)], query: &str, token_in_query: bool) -> Result<Shown, String> {
        let mut request = TestRequest::with_uri(&format!("/admin/events?{query}"));
        for header in headers {
            request = request.append_header(*header);
        }
        shown(&request.to_http_request(), token_in_query).map_err(|error| error.to_string())
    }

    fn token(text: &str) -> Result<Shown, String> {
        Ok(Shown::Token(text.to_owned()))
    }

    #[test]
    fn only_the_exact_spelling_counts() {
        assert_eq!(shown_by(&[("authorization", "Bearer abc")], "", false), token("abc"));
        for wrong in ["bearer abc", "Bearer", "Bearer ", "Basic abc", "abc"] {
            let refused = Err("Missing or malformed Authorization header".to_owned());
            assert_eq!(shown_by(&[("authorization", wrong)], "token=t", true), refused);
        }
    }

    #[test]
    fn an_api_key_is_looked_at_only_without_authorization() {
        const KEY: &str = " ft_live_0123456789abcdef0123456789ABCDEF0123456789abcdef ";
        assert_eq!(shown_by(&[("x-api-key", KEY)], "", false), Ok(Shown::Key(KEY.trim().to_owned())));
        let malformed = shown_by(&[("x-api-key", "nonsense"), ("authorization", "")], "", false);
        assert_eq!(malformed, Err("Invalid API key format".to_owned()));
        assert_eq!(shown_by(&[("x-api-key", KEY), ("authorization", "Bearer t")], "", false), token("t"));
    }

    #[test]
    fn a_token_in_the_query_counts_only_where_it_may() {
        assert_eq!(shown_by(&[], "a=1&token=t%2E", true), token("t."));
        assert_eq!(shown_by(&[("authorization", "Bearer h")], "token=t", true), token("h"));
        assert!(shown_by(&[], "token=t", false).is_err() && shown_by(&[], "token=", true).is_err());
    }
}
