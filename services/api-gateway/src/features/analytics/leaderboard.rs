//! `GET /admin/leaderboard` and `GET /leaderboard`

use actix_web::HttpResponse;
use actix_web::http::Method;

use super::ranking::AskedRanking;
use super::wire::{LeaderboardEntry, ranking};
use crate::error::ApiResult;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// The ranking, for administrators.
pub struct AdminLeaderboard;

impl Endpoint for AdminLeaderboard {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/leaderboard";
    const ACCESS: Access = Access::Admins;
    type Input = AskedRanking<true>;

    fn about() -> About {
        About::new("analytics", "getAdminLeaderboard", "Ranking with every figure (administrators)")
            .note(NOTE)
            .list::<LeaderboardEntry>()
    }

    async fn handle(call: Call<AskedRanking<true>>) -> ApiResult<HttpResponse> {
        leaderboard(call).await
    }
}

/// The ranking, for everybody.
pub struct Leaderboard;

impl Endpoint for Leaderboard {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/leaderboard";
    const ACCESS: Access = Access::Everyone;
    const KEYS: KeyAccess = KeyAccess::Any;
    type Input = AskedRanking<true>;

    fn about() -> About {
        About::new("analytics", "getLeaderboard", "Ranking with every figure (everybody)")
            .note(NOTE)
            .list::<LeaderboardEntry>()
    }

    async fn handle(call: Call<AskedRanking<true>>) -> ApiResult<HttpResponse> {
        leaderboard(call).await
    }
}

const NOTE: &str = "By the days of the period, those of `from` and `to` included; `from` is 30 days ago when absent. Equals \
                    stand in the order of their ids. `expenses` ranks by the amount claimed.";

async fn leaderboard(call: Call<AskedRanking<true>>) -> ApiResult<HttpResponse> {
    let AskedRanking { metric, period, most } = call.input;
    let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
    let period = period.since_days(&mut tx, 30, call.state.clock.now()).await?;
    let rows = db::figures::leaderboard(&mut tx, metric, period, most).await?;
    tx.commit().await?;
    Ok(reply::ok(ranking(rows, metric)))
}
