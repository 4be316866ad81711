//! `GET /admin/leaderboard` and `GET /leaderboard`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::analytics::Metric;
use garde::Validate;

use super::period::{AskedPeriod, FROM, TO};
use super::wire::{LeaderboardEntry, ranking};
use crate::error::ApiResult;
use crate::http::caller::{Access, KeyAccess};
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, TimeText};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// The ranking, for administrators.
pub struct AdminLeaderboard;

impl Endpoint for AdminLeaderboard {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/leaderboard";
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        About::new("analytics", "getAdminLeaderboard", "Ranking with every figure (administrators)")
            .note(NOTE)
            .list::<LeaderboardEntry>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
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
    type Input = Wanted;

    fn about() -> About {
        About::new("analytics", "getLeaderboard", "Ranking with every figure (everybody)")
            .note(NOTE)
            .list::<LeaderboardEntry>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        leaderboard(call).await
    }
}

const NOTE: &str = "By the days of the period, those of `from` and `to` included; `from` is 30 days ago when absent. Equals \
                    stand in the order of their ids. `expenses` ranks by the amount claimed.";

async fn leaderboard(call: Call<Wanted>) -> ApiResult<HttpResponse> {
    let Wanted { metric, period, most } = call.input;
    let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
    let period = period.since_days(&mut tx, 30, call.state.clock.now()).await?;
    let rows = db::figures::leaderboard(&mut tx, metric, period, most).await?;
    tx.commit().await?;
    Ok(reply::ok(ranking(rows, metric)))
}

/// Ranked by what, in which period, how many.
pub struct Wanted {
    metric: Metric,
    period: AskedPeriod,
    most: i64,
}

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::one_of_saying(
        &["distance", "duration", "sessions", "expenses"],
        "metric must be distance, duration, sessions, or expenses"
    )))]
    metric: Field<String>,
    #[garde(custom(rules::optional), custom(rules::time(FROM)))]
    from: Field<TimeText>,
    #[garde(custom(rules::optional), custom(rules::time(TO)))]
    to: Field<TimeText>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(50.0)))]
    limit: Field<f64>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query {
            metric: query.text("metric"),
            from: query.time("from"),
            to: query.time("to"),
            limit: query.number("limit"),
        };
        parts.judge("querystring", &query, &["metric", "from", "to", "limit"])?;
        let metric = query.metric.value().and_then(|word| Metric::parse(word)).unwrap_or(Metric::Distance);
        Ok(Self { metric, period: AskedPeriod::of(&query.from, &query.to), most: query.limit.whole_or(10) })
    }
}
