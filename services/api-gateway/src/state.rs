//! What every handler may reach.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use db::Db;
use domain::{Clock, OrganizationId, UserId};
use queue::Producer;
use queue::limits::Limits;

use crate::config::Config;
use crate::features::health::Readiness;
use crate::features::live::Hub;
use crate::features::locations::Recorder;
use crate::http::caller::KnownStanding;
use crate::http::expiring::Expiring;
use crate::identity::Authenticator;
use crate::identity::api_keys::ApiKeys;
use crate::identity::passwords::Passwords;
use crate::jobs::DistanceJobs;
use crate::metrics::Metrics;
use crate::queues::{Queues, Recalculations};
use crate::receipts::Receipts;

/// What every handler may reach. One per process.
pub struct State {
    /// Settings.
    pub config: Config,
    /// The database.
    pub db: Db,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Who issues and verifies tokens.
    pub identity: Authenticator,
    /// Hashes passwords, a few at a time.
    pub passwords: Passwords,
    /// Budgets.
    pub limits: Limits,
    /// Asks for measurements.
    pub jobs: DistanceJobs,
    /// Looks at the queues.
    pub queues: Queues,
    /// Measurements since the process started.
    pub recalculations: Recalculations,
    /// When the process started.
    pub started: Instant,
    /// Stores single fixes, gathered.
    pub recorder: Recorder,
    /// Where receipts lie.
    pub receipts: Receipts,
    /// Whether what tokens say of somebody still holds, for half a minute.
    pub standing: Expiring<(OrganizationId, UserId), KnownStanding>,
    /// What open streams are told.
    pub live: Arc<Hub>,
    /// Asks for webhook deliveries.
    pub deliveries: Producer,
    /// Finds out whose API key it is.
    pub api_keys: ApiKeys,
    /// What `/ready` last found.
    pub readiness: Readiness,
    /// Metrics of this process.
    pub metrics: Arc<Metrics>,
    /// Whether the process is on its way out.
    pub(crate) draining: AtomicBool,
}

impl State {
    /// Whether the process is on its way out: it finishes what it has and wants nothing new.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
