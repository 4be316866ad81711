//! `GET /admin/user-summary`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::UserId;
use domain::money::Money;
use garde::Validate;
use serde::Serialize;
use utoipa::ToSchema;

use super::period::{AskedPeriod, FROM, TO};
use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, TimeText, UuidText};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// What one user did in a period, by default ever; also when they no longer work here, or never did (D48).
pub struct UserSummary;

impl Endpoint for UserSummary {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/user-summary";
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        About::new("analytics", "getUserSummary", "Totals of one user over a period")
            .note(
                "`userId` is a user, not an employee; the caller when absent. Without `from` and `to` the period is open. \
                 A user who is no employee has zeros.",
            )
            .ok::<Totals>()
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let period = call.input.period.checked()?;
        let user = call.input.user.or(caller.user()).ok_or_else(|| {
            ApiError::Refused("userId query parameter is required when using API key authentication".to_owned())
        })?;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let totals = db::figures::user_totals(&mut tx, user, period).await?;
        tx.commit().await?;
        Ok(reply::ok(Totals {
            average_distance_per_session: totals.average_distance_km(),
            average_session_duration_seconds: totals.average_duration_s(),
            sessions_count: totals.sessions,
            total_distance_km: totals.distance_km,
            total_duration_seconds: totals.duration_s,
            total_expenses: totals.expenses,
            approved_expense_amount: totals.approved.rounded(),
        }))
    }
}

/// What a user did in a period.
#[derive(Serialize, ToSchema)]
#[schema(as = UserSummary)]
#[serde(rename_all = "camelCase")]
struct Totals {
    sessions_count: i64,
    /// To 2 decimals.
    total_distance_km: f64,
    total_duration_seconds: i64,
    total_expenses: i64,
    /// To 2 decimals.
    #[schema(value_type = f64)]
    approved_expense_amount: Money,
    /// To 2 decimals.
    average_distance_per_session: f64,
    average_session_duration_seconds: i64,
}

/// Whose figures, of which period.
pub struct Wanted {
    user: Option<UserId>,
    period: AskedPeriod,
}

#[derive(Validate)]
#[garde(context(Moment))]
#[expect(non_snake_case, reason = "problems are named by the field, as the caller spells it")]
struct Query {
    #[garde(custom(rules::optional), custom(rules::uuid("userId must be a valid UUID")))]
    userId: Field<UuidText>,
    #[garde(custom(rules::optional), custom(rules::time(FROM)))]
    from: Field<TimeText>,
    #[garde(custom(rules::optional), custom(rules::time(TO)))]
    to: Field<TimeText>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query { userId: query.id("userId"), from: query.time("from"), to: query.time("to") };
        parts.judge("querystring", &query, &["userId", "from", "to"])?;
        let user = query.userId.value().and_then(|id| id.0).map(UserId::from);
        Ok(Self { user, period: AskedPeriod::of(&query.from, &query.to) })
    }
}
