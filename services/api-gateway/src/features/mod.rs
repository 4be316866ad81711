//! A folder per feature, a file per use case.

pub mod analytics;
pub mod api_keys;
pub mod attendance;
pub mod audit;
pub mod auth;
pub mod dashboard;
pub mod docs;
pub mod employees;
pub mod expenses;
pub mod health;
pub mod live;
pub mod locations;
pub mod monitoring;
pub mod operations;
pub mod organizations;
pub mod profile;
pub mod receipts;
pub mod users;
pub mod webhooks;

use crate::http::endpoint::{Route, Routes};

/// The table of contents: each feature's routes. What phones send all day stands first: a request is compared with the
/// routes in this order, and a pattern with a variable in it costs a regular expression.
pub fn routes(routes: &mut Routes<'_>) {
    locations::routes(routes);
    attendance::routes(routes);
    health::routes(routes);
    docs::routes(routes);
    auth::routes(routes);
    users::routes(routes);
    organizations::routes(routes);
    employees::routes(routes);
    profile::routes(routes);
    expenses::routes(routes);
    receipts::routes(routes);
    analytics::routes(routes);
    dashboard::routes(routes);
    api_keys::routes(routes);
    audit::routes(routes);
    live::routes(routes);
    webhooks::routes(routes);
    monitoring::routes(routes);
    operations::routes(routes);
}

/// Every route there is.
#[must_use]
pub fn table() -> Vec<Route> {
    let mut all = Routes::table_only();
    routes(&mut all);
    all.into_table()
}
