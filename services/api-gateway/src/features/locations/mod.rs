//! Locations: where people went, as their phones say.
//!
//! A fix is accepted for the caller's own open session only. Yes is said after the commit and not before; a fix sent
//! twice is stored once. Batches travel alone; single fixes of everybody are gathered into one statement.

mod my_route;
mod record;
mod record_batch;
mod recorder;
mod wire;

pub use recorder::Recorder;

use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<record::Record>().add::<record_batch::RecordBatch>().add::<my_route::MyRoute>();
}
