//! `GET /admin/dashboard`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::analytics::{Dashboard, DayTotals, Metric, Period};
use domain::clock::Stored;
use domain::money::Money;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::features::analytics::wire::{LeaderboardEntry, TrendPoint, ranking};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// Headline figures, the days of a week, the five who went farthest in 30 days.
pub struct AdminDashboard;

impl Endpoint for AdminDashboard {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/dashboard";
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        About::new("admin", "getAdminDashboard", "Headline figures, 7-day trend, 30-day top five")
            .note(
                "Counts are of employees who ever checked in. Everything of today is read from sessions and claims at the \
                 moment of asking; `snapshotUpdatedAt` says when a job last kept the figures, null when none has.",
            )
            .ok::<Board>()
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let board = db::figures::dashboard(&mut tx, now).await?;
        let week = Period { from: Some(db::figures::midnight(&mut tx, 7, now).await?), to: None };
        let days = db::figures::days(&mut tx, week).await?;
        let month = Period { from: Some(db::figures::midnight(&mut tx, 30, now).await?), to: None };
        let best = db::figures::leaderboard(&mut tx, Metric::Distance, month, 5).await?;
        tx.commit().await?;
        Ok(reply::ok(Board {
            active_employee_count: board.active,
            recent_employee_count: board.recent,
            inactive_employee_count: board.inactive,
            active_employees_today: board.active,
            today_session_count: board.sessions_today,
            today_distance_km: board.distance_today_km,
            pending_expense_count: board.pending_expenses,
            pending_expense_amount: board.pending_amount.rounded(),
            snapshot_updated_at: board.kept_at.map(Stored),
            session_trend: with_today(days, &board).into_iter().map(TrendPoint::from).collect(),
            leaderboard: ranking(best, Metric::Distance),
        }))
    }
}

/// The days with today's as it is now: the trend and the headline never contradict each other.
fn with_today(mut days: Vec<DayTotals>, board: &Dashboard) -> Vec<DayTotals> {
    let at = days.partition_point(|day| day.date < board.today);
    days.truncate(at);
    if board.sessions_today > 0 {
        days.push(DayTotals {
            date: board.today,
            sessions: board.sessions_today,
            distance_km: board.distance_today_km,
            duration_s: board.duration_today_s,
        });
    }
    days
}

/// What an administrator sees first.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminDashboard)]
#[serde(rename_all = "camelCase")]
struct Board {
    /// Employees with an open session.
    active_employee_count: i64,
    /// Employees whose last check-out was less than 24 hours ago.
    recent_employee_count: i64,
    /// Everybody else who ever checked in.
    inactive_employee_count: i64,
    /// The same as `activeEmployeeCount`.
    active_employees_today: i64,
    /// Closed sessions with a distance that began today.
    today_session_count: i64,
    /// Their kilometres, to 2 decimals.
    today_distance_km: f64,
    pending_expense_count: i64,
    /// To 2 decimals.
    #[schema(value_type = f64)]
    pending_expense_amount: Money,
    snapshot_updated_at: Option<Stored>,
    /// From seven days ago until today; only days that have sessions.
    session_trend: Vec<TrendPoint>,
    /// The five who went farthest since 30 days ago.
    leaderboard: Vec<LeaderboardEntry>,
}
