//! Signing in: our own routes, and the subset of Supabase Auth that its clients need.
//!
//! Both speak for the same identity provider. `/auth/login` answers in our envelope; `/auth/v1/*` answers as GoTrue
//! does, so that an unmodified client library signs in, stays signed in and signs out.

mod gotrue;
mod login;
mod me;

use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<login::Login>().add::<me::Me>();
    gotrue::routes(routes);
}
