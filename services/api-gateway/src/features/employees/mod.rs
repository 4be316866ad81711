//! Employees: who works in the field, where they stand, and how they sign in.
//!
//! Where somebody stands (at work, lately at work, not) is read from their sessions whenever it is asked for; no job has
//! to run for it to be right. Deactivating somebody ends their work and their sign-ins in one transaction.

mod create;
mod get;
mod list;
mod profile;
mod search;
mod set_status;
mod update;
mod wire;

use crate::error::ApiError;
use crate::http::endpoint::Routes;

/// There is no such employee in the organization.
pub const NOT_FOUND: ApiError = ApiError::NotFound("Employee not found");

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes
        .add::<create::Create>()
        .add::<list::List>()
        .add::<get::Get>()
        .add::<update::Update>()
        .add::<set_status::SetStatus>()
        .add::<profile::Profile>()
        .add::<search::Search>();
}
