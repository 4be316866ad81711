//! Attendance: an employee checks in, works, and checks out; the session between is what everything else hangs on.
//!
//! There is at most one open session an employee, and the database decides races. A check-out marks the session for
//! measurement in the transaction that closes it; the job that does it is asked for afterwards and found by the
//! worker's sweep when that fails.

mod check_in;
mod check_out;
mod my_sessions;
mod org_sessions;
mod recalculate;

use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes
        .add::<check_in::CheckIn>()
        .add::<check_out::CheckOut>()
        .add::<recalculate::Recalculate>()
        .add::<my_sessions::MySessions>()
        .add::<org_sessions::OrgSessions>();
}
