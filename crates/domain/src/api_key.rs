//! Keys that programs call with, and what they may do.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::{stored, stored_or_null};
use crate::id::{ApiKeyId, OrganizationId};

/// Something a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[schema(as = ApiKeyScope)]
pub enum Scope {
    /// Read employees.
    #[serde(rename = "read:employees")]
    ReadEmployees,
    /// Read sessions.
    #[serde(rename = "read:sessions")]
    ReadSessions,
    /// Review expenses.
    #[serde(rename = "write:expenses")]
    WriteExpenses,
    /// Everything an administrator may.
    #[serde(rename = "admin:all")]
    AdminAll,
}

impl Scope {
    /// Every word, in the order of the contract.
    pub const ALL: [Self; 4] = [Self::ReadEmployees, Self::ReadSessions, Self::WriteExpenses, Self::AdminAll];

    /// As it is written on the wire and stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadEmployees => "read:employees",
            Self::ReadSessions => "read:sessions",
            Self::WriteExpenses => "write:expenses",
            Self::AdminAll => "admin:all",
        }
    }

    /// Reads it; `None` for any other word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// Why scopes do not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("admin:all cannot be combined with other scopes")]
pub struct NotAlone;

/// What a key may do. `admin:all` stands alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// These, each once, in the order given.
    pub fn new(given: impl IntoIterator<Item = Scope>) -> Result<Self, NotAlone> {
        let mut scopes = Vec::new();
        for scope in given {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        if scopes.contains(&Scope::AdminAll) && scopes.len() > 1 {
            return Err(NotAlone);
        }
        Ok(Self(scopes))
    }

    /// Whether they allow what asks for `needed`; `None` asks for nothing.
    #[must_use]
    pub fn allow(&self, needed: Option<Scope>) -> bool {
        needed.is_none_or(|needed| self.0.contains(&needed) || self.0.contains(&Scope::AdminAll))
    }

    /// As they are stored.
    #[must_use]
    pub fn words(&self) -> Vec<&'static str> {
        self.0.iter().map(|scope| scope.as_str()).collect()
    }
}

/// A key whose hash was found right: whose it is. [`crate::Tenant::of_key`] turns it into the right to read rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownKey {
    /// The key.
    pub id: ApiKeyId,
    pub(crate) organization: OrganizationId,
}

impl KnownKey {
    /// Says that a caller has shown this very key. Only whoever compared the hash may say so.
    #[must_use]
    pub const fn shown(id: ApiKeyId, organization: OrganizationId) -> Self {
        Self { id, organization }
    }
}

/// A key as administrators see it; never the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// What people call it.
    pub name: String,
    /// What it may do.
    #[schema(value_type = Vec<Scope>)]
    pub scopes: Scopes,
    /// When it was made.
    #[serde(serialize_with = "stored")]
    pub created_at: DateTime<Utc>,
    /// When it was last let through.
    #[serde(serialize_with = "stored_or_null")]
    pub last_used_at: Option<DateTime<Utc>>,
    /// Whether it may anything at the moment.
    pub active: bool,
    /// Requests it was let through with.
    pub request_count: i64,
    /// Replies of 400 or more.
    pub error_count: i64,
    /// As much of the key as may be shown.
    #[serde(rename = "key_preview")]
    pub preview: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_all_stands_alone_and_allows_everything() {
        assert_eq!(Scopes::new([Scope::AdminAll, Scope::ReadSessions]), Err(NotAlone));
        let all = Scopes::new([Scope::AdminAll, Scope::AdminAll]).unwrap();
        assert_eq!(all.words(), ["admin:all"]);
        for scope in Scope::ALL {
            assert!(all.allow(Some(scope)));
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
        }
    }

    #[test]
    fn a_scope_allows_itself_and_what_needs_none() {
        let scopes = Scopes::new([Scope::ReadEmployees, Scope::WriteExpenses]).unwrap();
        assert!(scopes.allow(None) && scopes.allow(Some(Scope::ReadEmployees)));
        assert!(!scopes.allow(Some(Scope::ReadSessions)) && !scopes.allow(Some(Scope::AdminAll)));
    }
}
