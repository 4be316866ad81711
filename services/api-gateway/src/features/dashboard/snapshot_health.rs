//! `GET /internal/snapshot-health`

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use chrono::{DateTime, TimeDelta, Utc};
use db::figures::Freshness;
use domain::clock::{Replied, Stored};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;

/// How old the newest row of a table may be: reconciliation looks at every organization twice within it.
const FRESH: TimeDelta = TimeDelta::seconds(600);

/// Whether the read models of the caller's organization are kept.
pub struct SnapshotHealth;

impl Endpoint for SnapshotHealth {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/internal/snapshot-health";
    const ACCESS: Access = Access::Admins;
    type Input = ();

    fn about() -> About {
        About::new("internal", "getSnapshotHealth", "Freshness of the three read models of the caller's organization")
            .note("A table is stale when its newest row is older than 600 s, or when it has no row.")
            .ok::<Health>()
            .bare::<Degraded>(503, "At least one is stale.")
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let now = call.state.clock.now();
        let mut tx = call.state.db.tenant(call.caller()?.tenant()).await?;
        let tables = db::figures::freshness(&mut tx).await?;
        tx.commit().await?;
        let latest = tables.all().into_iter().filter_map(|table| table.newest).max();
        let tables = Tables {
            employee_last_state: Table::of(tables.employee_last_state, now),
            org_dashboard_snapshot: Table::of(tables.org_dashboard_snapshot, now),
            employee_metrics_snapshot: Table::of(tables.employee_metrics_snapshot, now),
        };
        let stale = [&tables.employee_last_state, &tables.org_dashboard_snapshot, &tables.employee_metrics_snapshot]
            .into_iter()
            .any(|table| table.stale);
        let data = Health {
            status: if stale { Status::Degraded } else { Status::Healthy },
            checked_at: Replied(now),
            tables,
            workers: Workers { healthy: !is_stale(latest, now), last_processed_at: latest.map(Stored) },
        };
        // Clients read the status in the body: it is an answer, not an error.
        let code = if stale { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        Ok(reply::json(code, &Degraded { success: true, data }))
    }
}

fn is_stale(newest: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    newest.is_none_or(|newest| now - newest > FRESH)
}

/// The answer when something is stale; the same envelope as otherwise.
#[derive(Serialize, ToSchema)]
#[schema(as = DegradedSnapshots)]
struct Degraded {
    success: bool,
    data: Health,
}

/// How fresh the read models are.
#[derive(Serialize, ToSchema)]
#[schema(as = SnapshotHealth)]
#[serde(rename_all = "camelCase")]
struct Health {
    status: Status,
    checked_at: Replied,
    tables: Tables,
    workers: Workers,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SnapshotStatus)]
#[serde(rename_all = "lowercase")]
enum Status {
    Healthy,
    Degraded,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SnapshotTables)]
struct Tables {
    employee_last_state: Table,
    org_dashboard_snapshot: Table,
    employee_metrics_snapshot: Table,
}

/// One read model.
#[derive(Serialize, ToSchema)]
#[schema(as = SnapshotTableHealth)]
#[serde(rename_all = "camelCase")]
struct Table {
    latest_update_at: Option<Stored>,
    row_count: i64,
    stale: bool,
}

impl Table {
    fn of(table: Freshness, now: DateTime<Utc>) -> Self {
        Self { latest_update_at: table.newest.map(Stored), row_count: table.rows, stale: is_stale(table.newest, now) }
    }
}

/// Whoever keeps them.
#[derive(Serialize, ToSchema)]
#[schema(as = SnapshotWorkers)]
#[serde(rename_all = "camelCase")]
struct Workers {
    /// Whether any of the tables was kept lately.
    healthy: bool,
    last_processed_at: Option<Stored>,
}
