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

/// What a stream missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    /// The events, each with its number, oldest first: what open streams were told, as JSON.
    pub events: Vec<(i64, String)>,
    /// Whether something in between is no longer known.
    pub incomplete: bool,
}

/// Number, message and time of an event that open streams were told of.
type Told = (Option<i64>, Option<JsonText>, Option<DateTime<Utc>>);

/// What open streams were told after the event of that number, as far back as `since`, at most the newest `most`.
#[tracing::instrument(name = "db missed events", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn missed(tx: &mut TenantTx, after: i64, since: DateTime<Utc>, most: i64) -> DbResult<Missed> {
    let organization = tx.organization();
    let newer = rows::table
        .filter(rows::organization_id.eq(organization))
        .filter(rows::live.is_not_null())
        .filter(rows::relayed.gt(after));
    let found: Vec<Told> = newer
        .order(rows::relayed.desc())
        .limit(most.saturating_add(1))
        .select((rows::relayed, rows::live, rows::relayed_at))
        .load(tx.connection())
        .await?;
    let all = found.len();
    let mut events: Vec<(i64, String)> = found
        .into_iter()
        .take(usize::try_from(most).unwrap_or(usize::MAX))
        .filter(|(_, _, at)| at.is_some_and(|at| at >= since))
        .filter_map(|(number, live, _)| Some((number?, live?.0)))
        .collect();
    events.reverse();
    Ok(Missed { incomplete: events.len() < all, events })
}
