//! Proof of belonging to an organization.

use crate::api_key::KnownKey;
use crate::auth::Identity;
use crate::id::OrganizationId;
use crate::job::Payload;

/// Proof that whoever is asking belongs to an organization.
///
/// There is no public constructor: a verified credential hands one out ([`Tenant::of`]), and so does a job that names
/// its organization. An id taken from a path never becomes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tenant(OrganizationId);

impl Tenant {
    /// The organization of a verified credential.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        Self(identity.organization)
    }

    /// The organization of an API key that a caller has shown.
    #[must_use]
    pub const fn of_key(key: &KnownKey) -> Self {
        Self(key.organization)
    }

    /// The organization a job works for; `None` when its producer did not say, and the system role has to look it up.
    #[must_use]
    pub fn of_job(job: &impl Payload) -> Option<Self> {
        job.organization().map(Self)
    }

    /// The organization of a row that the system role found, for what the product does by itself: the worker's schedule,
    /// and nothing that anybody asks for.
    #[must_use]
    pub const fn found_by_system(organization: OrganizationId) -> Self {
        Self(organization)
    }

    /// The organization itself.
    #[must_use]
    pub const fn organization(self) -> OrganizationId {
        self.0
    }
}
