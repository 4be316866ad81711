//! The audit log: who did what in the organization, and the proof that nobody has changed what it says.

mod list;
mod verify;

pub use verify::Verification;

use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<list::List>().add::<verify::Verify>();
}
