//! What tests need from the outside world: real servers, and movements somebody really made.
//!
//! Only ever a dev-dependency (and part of `cargo xtask`), so nothing here is linked into a service.

#[cfg(feature = "database")]
#[expect(clippy::expect_used, reason = "a test without its database can only stop")]
pub mod database;
pub mod redis;
#[cfg(feature = "tls")]
pub mod tls;
pub mod track;
