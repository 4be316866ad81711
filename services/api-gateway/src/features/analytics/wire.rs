//! How figures look.

use chrono::NaiveDate;
use domain::EmployeeId;
use domain::analytics::{DayTotals, Metric, Ranked};
use domain::money::Money;
use serde::Serialize;
use utoipa::ToSchema;

/// A day of the organization.
#[derive(Serialize, ToSchema)]
pub struct TrendPoint {
    date: NaiveDate,
    /// Closed sessions with a distance.
    sessions: i64,
    /// Kilometres, to 2 decimals.
    distance: f64,
    /// Whole seconds.
    duration: i64,
}

impl From<DayTotals> for TrendPoint {
    fn from(day: DayTotals) -> Self {
        Self { date: day.date, sessions: day.sessions, distance: day.distance_km, duration: day.duration_s }
    }
}

/// A place in a ranking.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderboardEntry {
    /// From 1.
    rank: usize,
    employee_id: EmployeeId,
    employee_code: Option<String>,
    employee_name: String,
    /// Kilometres, to 2 decimals.
    distance: f64,
    sessions: i64,
    /// Whole seconds.
    duration: i64,
    /// What was claimed; left out when there is nothing and nobody asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = f64, nullable = false)]
    expenses: Option<Money>,
}

/// A ranking by `metric`.
pub fn ranking(rows: Vec<Ranked>, metric: Metric) -> Vec<LeaderboardEntry> {
    let entry = |(place, row): (usize, Ranked)| LeaderboardEntry {
        rank: place + 1,
        employee_id: row.employee,
        employee_code: Some(row.code),
        employee_name: row.name,
        distance: row.distance_km,
        sessions: row.sessions,
        duration: row.duration_s,
        expenses: Some(row.expenses.rounded()).filter(|amount| metric == Metric::Expenses || amount.is_positive()),
    };
    rows.into_iter().enumerate().map(entry).collect()
}
