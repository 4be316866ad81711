//! The profile: an employee as they see themselves.

mod mine;

use db::{DbResult, TenantTx};
use domain::EmployeeId;
use domain::location::round_2;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<mine::Mine>();
}

/// What an employee did in all.
#[derive(Serialize, ToSchema)]
#[schema(as = ProfileStats)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    total_sessions: i64,
    total_distance_km: f64,
    total_duration_seconds: i64,
    expenses_submitted: i64,
    expenses_approved: i64,
}

impl Stats {
    /// Added up from the rows.
    pub async fn of(tx: &mut TenantTx, employee: EmployeeId) -> DbResult<Self> {
        let sessions = db::attendance::totals_of(tx, employee).await?;
        let claims = db::expenses::totals(tx, Some(employee)).await?;
        Ok(Self {
            total_sessions: sessions.sessions,
            total_distance_km: round_2(sessions.distance_km),
            total_duration_seconds: sessions.duration_s,
            expenses_submitted: claims.all().count,
            expenses_approved: claims.approved.count,
        })
    }
}
