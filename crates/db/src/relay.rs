//! Handing events on: each one once to every webhook that wants it, and in one order to open streams.
//!
//! One relay at a time holds the row `relay_state`. It gives events their numbers in the transaction that fans them out
//! and marks them, so numbers commit in their order; it tells streams what is numbered and moves the second mark on
//! afterwards, so nothing is left out when it dies between the two. All of it is by the system role: events of every
//! organization pass through here, and none stays.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use domain::job::DeliverWebhook;
use domain::{DeliveryId, EventId, OrganizationId, WebhookId};
use uuid::Uuid;

use crate::json::JsonText;
use crate::schema::{relay_state as state, webhook_events as events};
use crate::{DbResult, SystemTx};

/// How long a relay is taken for alive after its last turn.
pub const HELD_FOR: TimeDelta = TimeDelta::seconds(10);

/// What a turn did.
#[derive(Debug, Default)]
pub struct Turn {
    /// Events that were handed on, in their order.
    pub events: Vec<Handed>,
    /// What is now due to webhooks, with the trace it comes from.
    pub deliveries: Vec<(DeliverWebhook, Option<String>)>,
}

/// An event that was handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// Where it happened.
    pub organization: OrganizationId,
    /// Its name.
    pub event_type: String,
    /// Its envelope as JSON.
    pub envelope: String,
    /// The trace and the request it happened in.
    pub trace: Option<String>,
}

/// Takes the relay, or keeps it, and hands on up to `most` events. `None`: another holds it.
#[tracing::instrument(name = "db relay events", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn turn(tx: &mut SystemTx, me: Uuid, most: i64, now: DateTime<Utc>) -> DbResult<Option<Turn>> {
    // Whoever waits here for the other's commit then sees who holds it.
    let (last, holder, until): (i64, Option<Uuid>, Option<DateTime<Utc>>) = state::table
        .select((state::relayed, state::holder, state::held_until))
        .for_update()
        .first(tx.connection())
        .await?;
    // A clock that was set back must not lock everybody out for as long.
    let held = until.is_some_and(|until| until > now && until <= now + HELD_FOR + HELD_FOR);
    if held && holder != Some(me) {
        return Ok(None);
    }
    let waiting: Vec<(Uuid, Uuid, String, JsonText, Option<String>)> = events::table
        .filter(events::relayed_at.is_null())
        .order(events::position.asc())
        .limit(most)
        .select((events::organization_id, events::id, events::event_type, events::payload, events::trace))
        .load(tx.connection())
        .await?;
    let (mut organizations, mut ids, mut handed) = (Vec::new(), Vec::new(), Vec::new());
    for (organization, id, event_type, envelope, trace) in waiting {
        organizations.push(organization);
        ids.push(id);
        handed.push(Handed { organization: organization.into(), event_type, envelope: envelope.0, trace });
    }
    let deliveries = if ids.is_empty() { Vec::new() } else { fan_out(tx, &organizations, &ids, last, now).await? };
    let count = i64::try_from(ids.len()).unwrap_or_default();
    diesel::update(state::table)
        .set((state::relayed.eq(last + count), state::holder.eq(me), state::held_until.eq(now + HELD_FOR)))
        .execute(tx.connection())
        .await?;
    Ok(Some(Turn { events: handed, deliveries }))
}

#[derive(QueryableByName)]
struct Made {
    #[diesel(sql_type = SqlUuid)]
    organization_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    webhook_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    event_id: Uuid,
    #[diesel(sql_type = Nullable<Text>)]
    trace: Option<String>,
}

/// Numbers events from `last` on, marks them, and makes a delivery for every active webhook that wants one.
async fn fan_out(
    tx: &mut SystemTx,
    organizations: &[Uuid],
    ids: &[Uuid],
    last: i64,
    now: DateTime<Utc>,
) -> DbResult<Vec<(DeliverWebhook, Option<String>)>> {
    let made: Vec<Made> = diesel::sql_query(
        "WITH handed AS (
             UPDATE webhook_events AS event SET relayed_at = $4, relayed = $3 + asked.place
             FROM unnest($1, $2) WITH ORDINALITY AS asked (organization_id, id, place)
             WHERE event.organization_id = asked.organization_id AND event.id = asked.id
             RETURNING event.organization_id, event.id, event.event_type, event.trace, asked.place
         ), made AS (
             INSERT INTO webhook_deliveries (organization_id, id, webhook_id, event_id, event_type, next_retry_at, created_at)
             SELECT handed.organization_id, gen_random_uuid(), webhooks.id, handed.id, handed.event_type, $4, $4
             FROM handed JOIN webhooks ON webhooks.organization_id = handed.organization_id
                 AND webhooks.is_active AND handed.event_type = ANY (webhooks.events)
             ORDER BY handed.place
             ON CONFLICT ON CONSTRAINT webhook_deliveries_once DO NOTHING
             RETURNING organization_id, id, webhook_id, event_id
         )
         SELECT made.*, handed.trace FROM made
             JOIN handed ON handed.organization_id = made.organization_id AND handed.id = made.event_id
         ORDER BY handed.place",
    )
    .bind::<Array<SqlUuid>, _>(organizations)
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<BigInt, _>(last)
    .bind::<Timestamptz, _>(now)
    .load(tx.connection())
    .await?;
    Ok(made
        .into_iter()
        .map(|row| {
            let job = DeliverWebhook {
                delivery: DeliveryId::from(row.id),
                webhook: WebhookId::from(row.webhook_id),
                event: EventId::from(row.event_id),
                attempt: 1,
                organization: Some(OrganizationId::from(row.organization_id)),
            };
            (job, row.trace)
        })
        .collect())
}

/// Gives the relay back, so that another need not wait for the end of our time.
pub async fn release(tx: &mut SystemTx, me: Uuid) -> DbResult<()> {
    diesel::update(state::table.filter(state::holder.eq(me)))
        .set((state::holder.eq(None::<Uuid>), state::held_until.eq(None::<DateTime<Utc>>)))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// Something open streams are to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its number: greater than that of everything told before.
    pub number: i64,
    /// Whose streams.
    pub organization: OrganizationId,
    /// What they are told, as JSON: `{type, payload, ts}`.
    pub live: String,
}

/// What the relay has numbered and not yet told, oldest first, at most `most`; for its holder alone.
#[tracing::instrument(name = "db events to tell", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn untold(tx: &mut SystemTx, most: i64) -> DbResult<Vec<Told>> {
    let published: i64 = state::table.select(state::published).first(tx.connection()).await?;
    let rows: Vec<(Option<i64>, Uuid, Option<JsonText>)> = events::table
        .filter(events::live.is_not_null())
        .filter(events::relayed.gt(published))
        .order(events::relayed.asc())
        .limit(most)
        .select((events::relayed, events::organization_id, events::live))
        .load(tx.connection())
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(number, organization, live)| {
            Some(Told { number: number?, organization: organization.into(), live: live?.0 })
        })
        .collect())
}

/// Notes that streams were told everything up to `number`.
pub async fn told(tx: &mut SystemTx, number: i64) -> DbResult<()> {
    diesel::update(state::table.filter(state::published.lt(number)))
        .set(state::published.eq(number))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// How many events wait to be handed on, and since when the oldest does. For metrics.
pub async fn waiting(tx: &mut SystemTx) -> DbResult<(i64, Option<DateTime<Utc>>)> {
    Ok(events::table
        .filter(events::relayed_at.is_null())
        .select((diesel::dsl::sql::<BigInt>("count(*)"), diesel::dsl::min(events::created_at)))
        .first(tx.connection())
        .await?)
}

/// Removes up to `most` events that were handed on before `horizon`, and the deliveries of that age that are over and no
/// dead letters; an event stays as long as a delivery of it does. Answers how many events went.
#[tracing::instrument(name = "db expire events", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn expire(tx: &mut SystemTx, horizon: DateTime<Utc>, most: i64) -> DbResult<usize> {
    diesel::sql_query(
        "DELETE FROM webhook_deliveries WHERE (organization_id, id) IN (
             SELECT organization_id, id FROM webhook_deliveries
             WHERE created_at < $1 AND status <> 'pending' AND dead_at IS NULL LIMIT $2)",
    )
    .bind::<Timestamptz, _>(horizon)
    .bind::<BigInt, _>(most)
    .execute(tx.connection())
    .await?;
    Ok(diesel::sql_query(
        "DELETE FROM webhook_events WHERE (organization_id, id) IN (
             SELECT organization_id, id FROM webhook_events AS event
             WHERE created_at < $1 AND relayed_at IS NOT NULL AND NOT EXISTS (
                 SELECT FROM webhook_deliveries AS delivery
                 WHERE delivery.organization_id = event.organization_id AND delivery.event_id = event.id)
             LIMIT $2)",
    )
    .bind::<Timestamptz, _>(horizon)
    .bind::<BigInt, _>(most)
    .execute(tx.connection())
    .await?)
}
