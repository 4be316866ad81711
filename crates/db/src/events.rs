//! What happened, written with the change it tells of.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use domain::event::Event;

use crate::json::JsonText;
use crate::schema::webhook_events as rows;
use crate::{DbError, DbResult, TenantTx};

/// Writes an event, under each of its names, in the caller's transaction; the relay is woken when that commits.
#[tracing::instrument(name = "db record event", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn record(tx: &mut TenantTx, event: &Event, now: DateTime<Utc>) -> DbResult<()> {
    let organization = tx.organization();
    let trace = tx.carrier();
    let messages: Vec<_> = event
        .messages(organization.into(), now)
        .map_err(|error| DbError::Broken(error.to_string()))?
        .into_iter()
        .map(|message| {
            (
                rows::organization_id.eq(organization),
                rows::id.eq(message.id.uuid()),
                rows::event_type.eq(message.kind.as_str()),
                rows::payload.eq(JsonText(message.envelope)),
                rows::live.eq(message.live.map(JsonText)),
                rows::trace.eq(trace.clone()),
                rows::created_at.eq(now),
            )
        })
        .collect();
    diesel::insert_into(rows::table).values(messages).execute(tx.connection()).await?;
    Ok(())
}
