//! The ranking that is asked for.

use domain::analytics::Metric;
use garde::Validate;

use super::period::{AskedPeriod, FROM, TO};
use crate::error::ApiResult;
use crate::http::input::{Field, Input, Moment, Parts, TimeText};
use crate::http::rules;

/// Ranked by what, in which period, how many; by what was claimed, too, where `CLAIMS` are ranked.
pub struct AskedRanking<const CLAIMS: bool> {
    /// By what.
    pub metric: Metric,
    /// When.
    pub period: AskedPeriod,
    /// How many at most.
    pub most: i64,
}

/// The words for what can be ranked by, and what is said of any other.
const fn metrics(claims: bool) -> (&'static [&'static str], &'static str) {
    if claims {
        (&["distance", "duration", "sessions", "expenses"], "metric must be distance, duration, sessions, or expenses")
    } else {
        (&["distance", "duration", "sessions"], "metric must be distance, duration, or sessions")
    }
}

#[derive(Validate)]
#[garde(context(Moment))]
struct Query<const CLAIMS: bool> {
    #[garde(custom(rules::one_of_saying(metrics(CLAIMS).0, metrics(CLAIMS).1)))]
    metric: Field<String>,
    #[garde(custom(rules::optional), custom(rules::time(FROM)))]
    from: Field<TimeText>,
    #[garde(custom(rules::optional), custom(rules::time(TO)))]
    to: Field<TimeText>,
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(50.0)))]
    limit: Field<f64>,
}

impl<const CLAIMS: bool> Input for AskedRanking<CLAIMS> {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query::<CLAIMS> {
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
