//! Users: who signs in, as what, and who no longer may.
//!
//! Only where the gateway is the identity provider itself: a Supabase project has a console and an API of its own for
//! this. An organization always keeps one administrator who can sign in, or nobody could ever undo anything.

mod create;
mod list;
mod update;

use crate::error::{ApiError, ApiResult};
use crate::http::endpoint::Routes;
use crate::state::State;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<create::Create>().add::<list::List>().add::<update::Update>();
}

/// The refusal to lock the last administrator out.
pub fn last_administrator() -> ApiError {
    ApiError::Refused("An organization needs at least one administrator who can sign in".to_owned())
}

/// The refusal of an address that somebody has.
pub fn email_taken(email: &str) -> ApiError {
    ApiError::Refused(format!("email '{email}' is already registered"))
}

/// Refuses to make or change accounts that are somebody else's to keep.
pub fn ours_to_manage(state: &State) -> ApiResult<()> {
    if state.identity.built_in().is_some() {
        return Ok(());
    }
    Err(ApiError::Refused("Accounts are managed by the identity provider, not through this API".to_owned()))
}
