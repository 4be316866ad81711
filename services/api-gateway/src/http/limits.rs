//! Who may ask how often. Budgets are counted in Redis, shared by all replicas; when Redis is away, everybody passes.

use std::net::IpAddr;
use std::time::Duration;

use queue::limits::{Charge, Kind, Verdict};

use super::caller::{Caller, address_key};
use crate::error::{ApiError, ApiResult};
use crate::state::State;

/// How long a request waits for Redis before it passes uncounted (D8).
pub const PATIENCE: Duration = Duration::from_millis(250);

/// What a request of a route is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// Nothing: probes and metrics.
    Exempt,
    /// The caller's default budget.
    Default,
    /// A budget of the route's own, instead of the default one.
    Own {
        /// Its name in keys.
        route: &'static str,
        /// Requests.
        limit: u32,
        /// In so many seconds.
        window_s: u32,
    },
}

/// Requests of one caller in a window.
pub const DEFAULT_LIMIT: u32 = 1200;
/// Seconds of that window.
pub const DEFAULT_WINDOW_S: u32 = 60;
const ORGANIZATION_LIMIT: u32 = 5000;
const ORGANIZATION_WINDOW_S: u32 = 60;
const KEY_LIMIT: u32 = 600;
const KEY_WINDOW_S: u32 = 60;
const LOGIN_LIMIT: u32 = 10;
const LOGIN_WINDOW_S: u32 = 60;

/// What the reply says about the budget it was charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// Requests a window.
    pub limit: u32,
    /// Requests left.
    pub remaining: u32,
    /// Seconds until the window ends.
    pub reset_s: u32,
}

impl From<Verdict> for Remaining {
    fn from(verdict: Verdict) -> Self {
        Self { limit: verdict.limit, remaining: verdict.remaining, reset_s: verdict.reset_s }
    }
}

/// Charges an acceptable request: to its API key, to its organization, then to its caller (or, without one, its address).
pub async fn admit(
    state: &State,
    caller: Option<&Caller>,
    address: Option<IpAddr>,
    budget: Budget,
) -> ApiResult<Option<Remaining>> {
    let scale = state.config.rate_limit_multiplier;
    let who = caller.map_or_else(|| address_key(address), |caller| format!("sub:{}", caller.subject()));
    let own = match budget {
        Budget::Exempt => return Ok(None),
        Budget::Default => fixed(format!("default:{who}"), DEFAULT_LIMIT, DEFAULT_WINDOW_S, scale),
        Budget::Own { route, limit, window_s } => fixed(format!("{route}:{who}"), limit, window_s, scale),
    };
    let mut charges = Vec::with_capacity(3);
    if let Some(caller) = caller {
        if let Some(key) = caller.api_key() {
            charges.push(Charge {
                key: format!("key:{}", key.id),
                budget: KEY_LIMIT.saturating_mul(scale),
                window_s: KEY_WINDOW_S,
                kind: Kind::Sliding,
            });
        }
        charges.push(Charge {
            key: format!("org:{}", caller.tenant().organization()),
            budget: ORGANIZATION_LIMIT.saturating_mul(scale),
            window_s: ORGANIZATION_WINDOW_S,
            kind: Kind::Sliding,
        });
    }
    charges.push(own);
    let own = charges.len() - 1;
    let Ok(verdicts) = state.limits.check(charges, PATIENCE).await else { return Ok(None) };
    for (place, verdict) in verdicts.iter().enumerate() {
        if !verdict.allowed {
            return Err(if place == own {
                too_many(verdict)
            } else if place + 1 == own {
                ApiError::TooMany { message: "Organization rate limit exceeded", retry_after_s: 60 }
            } else {
                ApiError::TooMany { message: "API key rate limit exceeded", retry_after_s: 60 }
            });
        }
    }
    Ok(verdicts.last().copied().map(Remaining::from))
}

/// Charges a refused request to its address (D7); the refusal becomes a 429 when that budget is used up, too.
pub async fn charge_refusal(
    state: &State,
    address: Option<IpAddr>,
    refusal: ApiError,
) -> (ApiError, Option<Remaining>) {
    let key = format!("refused:{}", address_key(address));
    let charge = fixed(key, DEFAULT_LIMIT, DEFAULT_WINDOW_S, state.config.rate_limit_multiplier);
    match state.limits.check(vec![charge], PATIENCE).await.ok().and_then(|verdicts| verdicts.first().copied()) {
        Some(verdict) if !verdict.allowed => (too_many(&verdict), Some(verdict.into())),
        Some(verdict) => (refusal, Some(verdict.into())),
        None => (refusal, None),
    }
}

/// The budget of failed sign-ins, by address and e-mail.
#[must_use]
pub fn login_budget(state: &State, address: Option<IpAddr>, email: &str) -> Charge {
    let key = format!("login:{}:{}", address_key(address), email.to_lowercase());
    fixed(key, LOGIN_LIMIT, LOGIN_WINDOW_S, state.config.rate_limit_multiplier)
}

/// The refusal of a used-up budget.
#[must_use]
pub fn too_many(verdict: &Verdict) -> ApiError {
    ApiError::TooMany { message: "Too many requests", retry_after_s: u64::from(verdict.reset_s.max(1)) }
}

fn fixed(key: String, budget: u32, window_s: u32, scale: u32) -> Charge {
    Charge { key, budget: budget.saturating_mul(scale), window_s, kind: Kind::Fixed }
}
