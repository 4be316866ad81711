//! Somebody trying doors: one log line and one count each, so that many of them can be noticed.
//!
//! The line is written within the request's span, which names address, organization and caller; it never holds the
//! credential.

use crate::error::ApiError;
use crate::state::State;

/// Notes a refusal that an honest client seldom sees.
pub fn note(state: &State, path: &str, refusal: &ApiError) {
    let kind = match refusal {
        ApiError::BadToken => "token_refused",
        ApiError::MalformedApiKey | ApiError::UnknownApiKey => "api_key_unknown",
        ApiError::MissingScope(_) | ApiError::PeopleOnly => "scope_refused",
        ApiError::WrongRole(_) => "role_refused",
        ApiError::BadCredentials => "login_failed",
        ApiError::TooMany { .. } | ApiError::CoolingDown { .. } => "limit_hit",
        // A signed address that was never handed out; or one that is too old.
        ApiError::AddressExpired => "address_refused",
        // A row of another organization looks just like one that is not there.
        ApiError::NotFound(_) if path.contains('{') && !path.starts_with("/docs/") => "foreign_id",
        _ => return,
    };
    noted(state, path, kind);
}

/// The same for a refusal that has words of its own.
pub fn noted(state: &State, path: &str, kind: &'static str) {
    state.metrics.abuse(kind);
    tracing::warn!(abuse.kind = kind, route = path, "a request was refused that looks like trying doors");
}
