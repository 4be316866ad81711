//! Analytics: what sessions and claims of a period add up to, for the organization, for one user, in rankings.
//!
//! Days are kept by the worker with every measurement (`db::figures`), so a period is a sum of days; a day is one of the
//! organization's time zone. What the contract wants from sessions or claims themselves is read from them.

mod leaderboard;
mod org_summary;
mod period;
mod ranking;
mod session_trend;
mod top_performers;
mod user_summary;
pub(super) mod wire;

use crate::http::endpoint::Routes;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes
        .add::<org_summary::OrgSummary>()
        .add::<org_summary::AnalyticsSummary>()
        .add::<user_summary::UserSummary>()
        .add::<top_performers::TopPerformers>()
        .add::<session_trend::SessionTrend>()
        .add::<leaderboard::AdminLeaderboard>()
        .add::<leaderboard::Leaderboard>();
}
