//! The business in plain Rust: no I/O, no async, no framework.
//!
//! Field teams check in, move, claim expenses and check out; their organization trusts the kilometres and the sums. What
//! that means is decided here, so that the gateway and the worker cannot come to different answers.

pub mod analytics;
pub mod api_key;
pub mod attendance;
pub mod auth;
pub mod change;
pub mod clock;
pub mod employee;
pub mod event;
pub mod expense;
pub mod id;
pub mod intent;
pub mod job;
pub mod location;
pub mod money;
pub mod monitoring;
pub mod network;
pub mod page;
pub mod receipt;
pub mod tenant;
pub mod user;
pub mod webhook;

pub use clock::{Clock, ManualClock, SystemClock};
pub use id::{
    ApiKeyId, DeliveryId, EmployeeId, EventId, ExpenseId, FixId, MonitoringSessionId, OrganizationId, RetryIntentId,
    SessionId, UserId, WebhookId,
};
pub use tenant::Tenant;
