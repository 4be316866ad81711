//! `GET /admin/audit-log`

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use chrono::{DateTime, Utc};
use domain::clock::stored;
use domain::{OrganizationId, UserId};
use garde::Validate;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, TimeText};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// What was done, newest first.
pub struct List;

impl Endpoint for List {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/audit-log";
    const ACCESS: Access = Access::Admins;
    type Input = Wanted;

    fn about() -> About {
        About::new("admin", "listAuditLog", "What was done, newest first").bare::<Log>(200, "Entries.")
    }

    async fn handle(call: Call<Wanted>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let Wanted { limit, before, event } = &call.input;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let entries = db::audit::list(&mut tx, *before, event.as_deref(), *limit).await?;
        tx.commit().await?;
        let organization = caller.tenant().organization();
        let data: Vec<AuditEntry> = entries
            .into_iter()
            .map(|entry| AuditEntry {
                id: entry.id,
                event: entry.event,
                actor_id: entry.actor,
                organization_id: organization,
                resource_type: entry.resource_type,
                resource_id: entry.resource_id,
                payload: entry.payload,
                created_at: entry.created_at,
            })
            .collect();
        Ok(reply::json(StatusCode::OK, &Log { success: true, count: data.len(), data }))
    }
}

/// Entries, and how many they are.
#[derive(Serialize, ToSchema)]
struct Log {
    success: bool,
    data: Vec<AuditEntry>,
    count: usize,
}

/// Something that was done.
#[derive(Serialize, ToSchema)]
struct AuditEntry {
    id: Uuid,
    event: String,
    /// Absent for API keys, which the payload names, and for what the product does by itself.
    actor_id: Option<UserId>,
    organization_id: OrganizationId,
    resource_type: Option<String>,
    resource_id: Option<String>,
    #[schema(value_type = Object)]
    payload: serde_json::Value,
    #[serde(serialize_with = "stored")]
    created_at: DateTime<Utc>,
}

/// Which entries.
pub struct Wanted {
    limit: i64,
    before: Option<DateTime<Utc>>,
    event: Option<String>,
}

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::finite), custom(rules::whole), custom(rules::at_least(1.0)), custom(rules::at_most(200.0)))]
    limit: Field<f64>,
    #[garde(custom(rules::optional), custom(rules::time("Invalid ISO datetime")))]
    before: Field<TimeText>,
    #[garde(custom(rules::optional), custom(rules::storable))]
    event: Field<String>,
}

impl Input for Wanted {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = parts.query();
        let query = Query { limit: query.number("limit"), before: query.time("before"), event: query.text("event") };
        parts.judge("querystring", &query, &["limit", "before", "event"])?;
        #[expect(clippy::cast_possible_truncation, reason = "the rules keep it between 1 and 200")]
        let limit = query.limit.value().map_or(50, |number| *number as i64);
        let before = query.before.value().and_then(|time| time.0);
        Ok(Self { limit, before, event: query.event.into_value() })
    }
}
