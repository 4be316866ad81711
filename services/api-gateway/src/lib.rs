//! The gateway: everything a client speaks to.
//!
//! Start reading at [`features::routes`], the table of contents; [`http`] holds what every route shares, [`identity`]
//! signs people in, and [`startup`] ties it together.

pub mod config;
pub mod error;
pub mod features;
pub mod http;
pub mod identity;
pub mod jobs;
pub mod metrics;
pub mod queues;
pub mod receipts;
pub mod startup;
pub mod state;
