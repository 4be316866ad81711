//! Administrators who watch: when they did, and the map they look at.

mod history;
mod map;
mod start;
mod stop;

use domain::UserId;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Caller;
use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<start::Start>().add::<stop::Stop>().add::<history::History>().add::<map::Map>();
}

/// Whoever watches is a person (D12).
fn person(caller: &Caller) -> ApiResult<UserId> {
    caller.user().ok_or(ApiError::PeopleOnly)
}
