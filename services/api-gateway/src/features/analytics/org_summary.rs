//! `GET /admin/org-summary` and its other name, `GET /analytics/summary` (D46)

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::money::Money;
use serde::Serialize;
use utoipa::ToSchema;

use super::period::AskedPeriod;
use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// What the organization did in a period, by default the last 30 days.
pub struct OrgSummary;

impl Endpoint for OrgSummary {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/org-summary";
    const ACCESS: Access = Access::Admins;
    type Input = AskedPeriod;

    fn about() -> About {
        About::new("analytics", "getOrgSummary", "Organization totals over a period").note(NOTE).ok::<Totals>()
    }

    async fn handle(call: Call<AskedPeriod>) -> ApiResult<HttpResponse> {
        summary(call).await
    }
}

/// The name the first version of the architecture gave it.
pub struct AnalyticsSummary;

impl Endpoint for AnalyticsSummary {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/analytics/summary";
    const ACCESS: Access = Access::Admins;
    type Input = AskedPeriod;

    fn about() -> About {
        About::new("analytics", "getAnalyticsSummary", "Another name of /admin/org-summary").note(NOTE).ok::<Totals>()
    }

    async fn handle(call: Call<AskedPeriod>) -> ApiResult<HttpResponse> {
        summary(call).await
    }
}

const NOTE: &str = "`from` is midnight 30 days ago when absent, `to` is open. Sessions are counted by whole days of the \
                    organization's time zone, claims by the moment they were submitted; `activeEmployeesCount` is who is \
                    at work right now.";

async fn summary(call: Call<AskedPeriod>) -> ApiResult<HttpResponse> {
    let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
    let period = call.input.since_days(&mut tx, 30, call.state.clock.now()).await?;
    let totals = db::figures::organization_totals(&mut tx, period).await?;
    tx.commit().await?;
    Ok(reply::ok(Totals {
        total_sessions: totals.sessions,
        total_distance_km: totals.distance_km,
        total_duration_seconds: totals.duration_s,
        total_expenses: totals.expenses,
        approved_expense_amount: totals.approved.rounded(),
        rejected_expense_amount: totals.rejected.rounded(),
        active_employees_count: totals.at_work,
    }))
}

/// What an organization did in a period.
#[derive(Serialize, ToSchema)]
#[schema(as = OrgSummary)]
#[serde(rename_all = "camelCase")]
struct Totals {
    total_sessions: i64,
    /// To 2 decimals.
    total_distance_km: f64,
    total_duration_seconds: i64,
    total_expenses: i64,
    /// To 2 decimals.
    #[schema(value_type = f64)]
    approved_expense_amount: Money,
    /// To 2 decimals.
    #[schema(value_type = f64)]
    rejected_expense_amount: Money,
    active_employees_count: i64,
}
