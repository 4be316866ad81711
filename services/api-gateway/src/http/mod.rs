//! What every route shares: who calls, what they may send, how much, and how answers look.
//!
//! A request passes [`observe`] (id, log line, metrics, headers, CORS), then [`endpoint`] examines it in the
//! contract's order: credential, role, employee, body, values, budget. Only then does a use case see it.

pub mod abuse;
pub mod caller;
pub mod client_address;
pub mod cors;
pub mod endpoint;
pub mod expiring;
pub mod input;
pub mod limits;
pub mod observe;
pub mod openapi;
pub mod reply;
pub mod rules;
pub mod timestamp;
