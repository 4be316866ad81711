//! Dashboards: what is going on right now, for administrators and for each employee.
//!
//! What belongs to today is read from sessions and claims themselves, so it is true whatever job has run (D43); what
//! belongs to the past is read from the days the worker keeps.

mod admin;
mod my_summary;
mod snapshot_health;

use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<admin::AdminDashboard>().add::<my_summary::MySummary>().add::<snapshot_health::SnapshotHealth>();
}
