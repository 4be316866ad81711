//! Who asks, and what they may do. Signatures are checked elsewhere; what the claims mean is decided here.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{ApiKeyId, EmployeeId, OrganizationId, UserId, parse_uuid};

/// What a person is to their organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Role {
    /// Runs the organization.
    Admin,
    /// Works in the field.
    Employee,
}

impl Role {
    /// As it stands in tokens and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "ADMIN",
            Self::Employee => "EMPLOYEE",
        }
    }

    /// Reads it; `None` for any other word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Admin, Self::Employee].into_iter().find(|role| role.as_str() == text)
    }
}

/// The claims of a token whose signature, audience, issuer and times were found right.
///
/// Only these top-level claims count: metadata that a user can edit never grants anything.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Claims {
    /// Subject.
    #[serde(default)]
    pub sub: Option<String>,
    /// Role in the organization.
    #[serde(default)]
    pub role: Option<String>,
    /// Organization.
    #[serde(default)]
    pub org_id: Option<String>,
    /// Employee, for people in the field.
    #[serde(default)]
    pub employee_id: Option<String>,
    /// E-mail address.
    #[serde(default)]
    pub email: Option<String>,
}

/// Why a rightly signed token is still no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// `sub` is absent or no UUID.
    #[error("Invalid user id in token")]
    UserId,
    /// `role` or `org_id` is absent: the issuer was never told to add them.
    #[error("JWT missing required claims")]
    Missing,
    /// An employee's token does not say which employee.
    #[error("JWT missing employee_id claim for EMPLOYEE role")]
    MissingEmployee,
    /// The role is none of ours.
    #[error("Invalid token claims: Role must be ADMIN or EMPLOYEE")]
    Role,
    /// The organization is no UUID.
    #[error("Invalid token claims: organization_id must be a valid UUID")]
    Organization,
    /// The employee is no UUID.
    #[error("Invalid token claims: employee_id must be a valid UUID")]
    Employee,
    /// The e-mail address does not look like one.
    #[error("Invalid token claims: email must be a valid email address")]
    Email,
}

/// Who does something that is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// A signed-in user.
    User(UserId),
    /// A program with an API key.
    ApiKey(ApiKeyId),
    /// The product by itself.
    System,
}

/// Who asks, as far as the credential says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The signed-in user.
    pub user: UserId,
    /// Their role.
    pub role: Role,
    /// Their organization; [`crate::Tenant::of`] turns it into the right to read its rows.
    pub(crate) organization: OrganizationId,
    /// The employee they are, when the credential names one.
    pub employee: Option<EmployeeId>,
    /// Their e-mail address, when the credential names one.
    pub email: Option<String>,
}

impl Identity {
    /// Their organization.
    #[must_use]
    pub const fn organization(&self) -> OrganizationId {
        self.organization
    }
}

impl Claims {
    /// Turns verified claims into an identity.
    pub fn into_identity(self) -> Result<Identity, ClaimsError> {
        fn present(claim: Option<String>) -> Option<String> {
            claim.filter(|text| !text.is_empty())
        }
        let user = present(self.sub).as_deref().and_then(parse_uuid).ok_or(ClaimsError::UserId)?;
        let (Some(role), Some(organization)) = (present(self.role), present(self.org_id)) else {
            return Err(ClaimsError::Missing);
        };
        let role = Role::parse(&role).ok_or(ClaimsError::Role)?;
        let organization = parse_uuid(&organization).ok_or(ClaimsError::Organization)?;
        let employee = match present(self.employee_id) {
            Some(id) => Some(parse_uuid(&id).ok_or(ClaimsError::Employee)?),
            None if role == Role::Employee => return Err(ClaimsError::MissingEmployee),
            None => None,
        };
        let email = present(self.email);
        if email.as_deref().is_some_and(|email| !looks_like_email(email)) {
            return Err(ClaimsError::Email);
        }
        Ok(Identity {
            user: user.into(),
            role,
            organization: organization.into(),
            employee: employee.map(Into::into),
            email,
        })
    }
}

/// Whether `text` has the shape of an e-mail address: one `@`, a local part of ordinary characters without leading,
/// trailing or doubled dots, and a domain of at least two labels. Length at most 254 bytes, as RFC 5321 allows.
#[must_use]
pub fn looks_like_email(text: &str) -> bool {
    let Some((local, host)) = text.split_once('@') else { return false };
    let local_ok = !local.is_empty()
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && local.bytes().all(|b| b.is_ascii_alphanumeric() || b"_'+-.".contains(&b))
        && local.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b));
    let label_ok = |label: &str| {
        label.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let mut labels = host.rsplit('.');
    let top_ok = labels.next().is_some_and(|top| top.len() >= 2 && top.bytes().all(|b| b.is_ascii_alphabetic()));
    let rest: Vec<&str> = labels.collect();
    text.len() <= 254 && local_ok && top_ok && !rest.is_empty() && rest.into_iter().all(label_ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11";
    const ORGANIZATION: &str = "9b2b7f7e-7c1d-4c58-8a35-2f4f2f4f9e02";

    fn claims(role: &str) -> Claims {
        Claims {
            sub: Some(USER.into()),
            role: Some(role.into()),
            org_id: Some(ORGANIZATION.into()),
            employee_id: None,
            email: None,
        }
    }

    #[test]
    fn an_administrator_needs_no_employee() {
        let identity = claims("ADMIN").into_identity().unwrap();
        assert_eq!((identity.role, identity.employee), (Role::Admin, None));
        assert_eq!(identity.organization().to_string(), ORGANIZATION);
    }

    #[test]
    fn every_wrong_claim_has_its_own_answer() {
        let with = |change: fn(&mut Claims)| {
            let mut claims = claims("EMPLOYEE");
            claims.employee_id = Some(USER.into());
            change(&mut claims);
            claims.into_identity().map(|_| ())
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|c| c.sub = None), Err(ClaimsError::UserId));
        assert_eq!(with(|c| c.sub = Some("api_key:1".into())), Err(ClaimsError::UserId));
        assert_eq!(with(|c| c.role = None), Err(ClaimsError::Missing));
        assert_eq!(with(|c| c.org_id = None), Err(ClaimsError::Missing));
        assert_eq!(with(|c| c.role = Some("authenticated".into())), Err(ClaimsError::Role));
        assert_eq!(with(|c| c.org_id = Some("1".into())), Err(ClaimsError::Organization));
        assert_eq!(with(|c| c.employee_id = None), Err(ClaimsError::MissingEmployee));
        assert_eq!(with(|c| c.employee_id = Some("1".into())), Err(ClaimsError::Employee));
        assert_eq!(with(|c| c.email = Some("nobody".into())), Err(ClaimsError::Email));
    }

    #[test]
    fn addresses_are_recognised() {
        for good in ["ana@example.com", "a.b+c@sub.example.co", "o'neil@example.org"] {
            assert!(looks_like_email(good), "{good}");
        }
        for bad in [
            "",
            "ana",
            "ana@",
            "@example.com",
            "a..b@example.com",
            ".a@example.com",
            "a@example",
            "a@b@example.com",
            "a b@example.com",
            "a@-x.com",
            "a@example.c0m",
        ] {
            assert!(!looks_like_email(bad), "{bad}");
        }
    }
}
