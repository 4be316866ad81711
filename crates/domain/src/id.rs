//! One newtype per kind of id, so that a session can never be passed where an employee is meant.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::{Uuid, Variant};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh id: a version 7 UUID, so that rows written together stand together.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The bare UUID, for the wire and the database.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

ids! {
    /// An organization: the tenant everything belongs to.
    OrganizationId;
    /// Somebody who signs in.
    UserId;
    /// Somebody who works in the field.
    EmployeeId;
    /// One attendance session, from check-in to check-out.
    SessionId;
    /// One recorded position.
    FixId;
    /// One claim of money spent.
    ExpenseId;
    /// One stretch of time that an administrator watched.
    MonitoringSessionId;
    /// One job that could not be queued.
    RetryIntentId;
    /// One event under one of its names.
    EventId;
    /// A key that programs call with.
    ApiKeyId;
    /// An address that is told of events.
    WebhookId;
    /// One event on its way to one webhook.
    DeliveryId;
}

/// Reads a UUID as the wire accepts it: 36 characters, any letter case, version 1–8 and the RFC 9562 variant, or all
/// zeros, or all ones. `None` for anything else.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    if text.len() != 36 {
        return None;
    }
    let id = Uuid::try_parse(text).ok()?;
    let ordinary = id.get_variant() == Variant::RFC4122 && (1..=8).contains(&id.get_version_num());
    (ordinary || id.is_nil() || id.is_max()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::parse_uuid;

    #[test]
    fn the_wire_accepts_versions_1_to_8_in_any_case_and_the_two_special_ones() {
        for good in [
            "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11",
            "3F9F0C52-1F5E-8A55-BF0E-5D1B6F0A7C11",
            "01890000-0000-7000-8000-000000000000",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ] {
            assert!(parse_uuid(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "3f9f0c521f5e4a559f0e5d1b6f0a7c11",
            "{3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11}",
            "3f9f0c52-1f5e-9a55-9f0e-5d1b6f0a7c11",
            "3f9f0c52-1f5e-0a55-9f0e-5d1b6f0a7c11",
            "3f9f0c52-1f5e-4a55-7f0e-5d1b6f0a7c11",
            "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c1g",
            "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11 ",
        ] {
            assert!(parse_uuid(bad).is_none(), "{bad}");
        }
    }
}
