//! The organization itself, as its administrators see it. Beyond the contract: the time zone decides which day a session
//! or a claim belongs to, and when a week begins.

mod show;
mod update;

use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<show::Show>().add::<update::Update>();
}
