//! Watching the day as it happens: a stream of events an administrator keeps open, or a socket that follows tables.
//!
//! Events reach every replica through Redis, in the order in which the worker's relay hands them on; positions leave the
//! gateway that stored them, thinned, and only while somebody of their organization watches.

pub mod changes;
mod events;
mod hub;
mod realtime;

pub use hub::{CHANGES, Hub};

use chrono::{DateTime, Utc};
use domain::clock::{Replied, Stored};
use domain::location::Fix;
use domain::{EmployeeId, SessionId, Tenant};
use serde_json::json;

use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<events::Events>().add::<realtime::Realtime>();
}

/// Tells whoever watches where somebody is now.
pub fn tell_position(
    hub: &Hub,
    tenant: Tenant,
    employee: EmployeeId,
    session: SessionId,
    fix: &Fix,
    now: DateTime<Utc>,
) {
    hub.moved(tenant.organization().uuid(), employee.uuid(), || {
        let told = json!({
            "type": "location.updated",
            "payload": {
                "sessionId": session,
                "employeeId": employee,
                "latitude": fix.at.latitude(),
                "longitude": fix.at.longitude(),
                "accuracy": fix.accuracy_m,
                "recordedAt": Stored(fix.recorded_at),
            },
            "ts": Replied(now),
        });
        Some(told.to_string())
    });
}
