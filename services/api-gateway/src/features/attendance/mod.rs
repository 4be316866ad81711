//! Attendance: an employee checks in, works, and checks out; the session between is what everything else hangs on.
//!
//! There is at most one open session an employee, and the database decides races. A check-out marks the session for
//! measurement in the transaction that closes it; the job that does it is asked for afterwards and found by the
//! worker's sweep when that fails.

mod admin_sessions;
mod check_in;
mod check_out;
mod force_checkout;
mod my_sessions;
mod org_sessions;
mod recalculate;
mod session_points;
mod wire;

use crate::http::endpoint::Routes;

/// The words by which lists are filtered: how live a session is.
const FILTERS: &[&str] = &["all", "active", "recent", "inactive"];

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes
        .add::<check_in::CheckIn>()
        .add::<check_out::CheckOut>()
        .add::<recalculate::Recalculate>()
        .add::<my_sessions::MySessions>()
        .add::<org_sessions::OrgSessions>()
        .add::<admin_sessions::AdminSessions>()
        .add::<session_points::SessionPoints>()
        .add::<force_checkout::ForceCheckout>();
}
