//! Employees: who works in the field, and how they sign in.

mod create;

use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<create::Create>();
}
