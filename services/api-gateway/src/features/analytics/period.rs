//! The period that figures are asked for.

use chrono::{DateTime, Utc};
use db::TenantTx;
use domain::analytics::Period;
use garde::Validate;

use crate::error::{ApiError, ApiResult};
use crate::http::input::{Field, Input, Moment, Parts, TimeText};
use crate::http::rules;

/// What is said of a `from` that is none.
pub const FROM: &str = "from must be a valid ISO-8601 date";
/// What is said of a `to` that is none.
pub const TO: &str = "to must be a valid ISO-8601 date";

/// A period as it was asked for: whether it makes sense is not known yet.
#[derive(Debug, Clone, Copy)]
pub struct AskedPeriod(Period);

impl AskedPeriod {
    /// `from` and `to` of a query, both found acceptable.
    pub fn of(from: &Field<TimeText>, to: &Field<TimeText>) -> Self {
        let time = |field: &Field<TimeText>| field.value().and_then(|time| time.0);
        Self(Period { from: time(from), to: time(to) })
    }

    /// The period itself; a refusal when it ends before it begins.
    pub fn checked(self) -> ApiResult<Period> {
        match self.0 {
            Period { from: Some(from), to: Some(to) } if from > to => {
                Err(ApiError::Refused("'from' date must not be later than 'to' date".to_owned()))
            }
            period => Ok(period),
        }
    }

    /// The period; its beginning, when none was asked for, is midnight of the organization `days` days ago.
    pub async fn since_days(self, tx: &mut TenantTx, days: u16, now: DateTime<Utc>) -> ApiResult<Period> {
        let mut period = self.checked()?;
        if period.from.is_none() {
            period.from = Some(db::figures::midnight(tx, days, now).await?);
        }
        Ok(period)
    }
}

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::optional), custom(rules::time(FROM)))]
    from: Field<TimeText>,
    #[garde(custom(rules::optional), custom(rules::time(TO)))]
    to: Field<TimeText>,
}

impl Input for AskedPeriod {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query { from: query.time("from"), to: query.time("to") };
        parts.judge("querystring", &query, &["from", "to"])?;
        Ok(Self::of(&query.from, &query.to))
    }
}
