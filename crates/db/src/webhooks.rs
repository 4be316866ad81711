//! Webhooks, and what is on its way to them.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use domain::job::DeliverWebhook;
use domain::page::PageRequest;
use domain::webhook::{CIRCUIT_OPEN, Delivery, RetrySchedule, STREAK, STREAK_KEPT, TEST_EVENT, Webhook};
use domain::{DeliveryId, EventId, OrganizationId, WebhookId};
use uuid::Uuid;

use crate::advisory::pg_advisory_xact_lock;
use crate::json::JsonText;
use crate::schema::{webhook_deliveries as deliveries, webhook_events as events, webhooks};
use crate::{DbError, DbResult, SystemTx, TenantTx};

#[derive(Queryable, Selectable)]
#[diesel(table_name = webhooks)]
struct Row {
    organization_id: Uuid,
    id: Uuid,
    url: String,
    events: Vec<String>,
    is_active: bool,
    retry_schedule: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Webhook {
    type Error = DbError;

    fn try_from(row: Row) -> DbResult<Self> {
        Ok(Self {
            id: row.id.into(),
            organization: row.organization_id.into(),
            url: row.url,
            is_active: row.is_active,
            events: row.events,
            retry_schedule: schedule(&row.retry_schedule)?,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

fn schedule(word: &str) -> DbResult<RetrySchedule> {
    RetrySchedule::parse(word).ok_or_else(|| DbError::Broken(format!("unknown retry schedule {word:?}")))
}

/// A webhook to be.
#[derive(Debug)]
pub struct NewWebhook<'a> {
    /// Its id, for which the secret is sealed.
    pub id: WebhookId,
    /// Where requests go.
    pub url: &'a str,
    /// The secret, sealed.
    pub sealed_secret: &'a [u8],
    /// What it is told of.
    pub events: &'a [String],
    /// How attempts are spread.
    pub retry_schedule: RetrySchedule,
}

/// Makes a webhook.
#[tracing::instrument(name = "db create webhook", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn create(tx: &mut TenantTx, new: &NewWebhook<'_>, now: DateTime<Utc>) -> DbResult<Webhook> {
    let organization = tx.organization();
    diesel::insert_into(webhooks::table)
        .values((
            webhooks::organization_id.eq(organization),
            webhooks::id.eq(new.id.uuid()),
            webhooks::url.eq(new.url),
            webhooks::sealed_secret.eq(new.sealed_secret),
            webhooks::events.eq(new.events),
            webhooks::retry_schedule.eq(new.retry_schedule.as_str()),
            webhooks::created_at.eq(now),
            webhooks::updated_at.eq(now),
        ))
        .returning(Row::as_returning())
        .get_result(tx.connection())
        .await?
        .try_into()
}

/// Every webhook of the organization, newest first.
#[tracing::instrument(name = "db list webhooks", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn list(tx: &mut TenantTx) -> DbResult<Vec<Webhook>> {
    let organization = tx.organization();
    let rows: Vec<Row> = webhooks::table
        .filter(webhooks::organization_id.eq(organization))
        .order((webhooks::created_at.desc(), webhooks::id.desc()))
        .select(Row::as_select())
        .load(tx.connection())
        .await?;
    rows.into_iter().map(Webhook::try_from).collect()
}

/// Whether the organization has this webhook; it is locked until the transaction ends.
pub async fn exists(tx: &mut TenantTx, id: WebhookId) -> DbResult<bool> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    let found: Option<Uuid> =
        webhooks::table.find(key).select(webhooks::id).for_no_key_update().first(tx.connection()).await.optional()?;
    Ok(found.is_some())
}

/// What to change of a webhook.
#[derive(Debug, Default)]
pub struct Change<'a> {
    /// Where requests go.
    pub url: Option<&'a str>,
    /// The secret, sealed; attempts that are still to be made use it, too.
    pub sealed_secret: Option<&'a [u8]>,
    /// What it is told of.
    pub events: Option<&'a [String]>,
    /// Whether it is told of anything. An administrator's word ends whatever the circuit breaker was at.
    pub is_active: Option<bool>,
    /// How attempts are spread.
    pub retry_schedule: Option<RetrySchedule>,
}

/// Changes what is given. `None` when there is no such webhook.
#[tracing::instrument(name = "db update webhook", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn update(
    tx: &mut TenantTx,
    id: WebhookId,
    change: &Change<'_>,
    now: DateTime<Utc>,
) -> DbResult<Option<Webhook>> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    diesel::update(webhooks::table.find(key))
        .set((
            change.url.map(|url| webhooks::url.eq(url)),
            change.sealed_secret.map(|secret| webhooks::sealed_secret.eq(secret)),
            change.events.map(|events| webhooks::events.eq(events)),
            change.is_active.map(|active| {
                (
                    webhooks::is_active.eq(active),
                    webhooks::circuit_open_until.eq(None::<DateTime<Utc>>),
                    webhooks::failure_streak.eq(0),
                )
            }),
            change.retry_schedule.map(|schedule| webhooks::retry_schedule.eq(schedule.as_str())),
            webhooks::updated_at.eq(now),
        ))
        .returning(Row::as_returning())
        .get_result(tx.connection())
        .await
        .optional()?
        .map(Webhook::try_from)
        .transpose()
}

/// Removes a webhook and everything that was sent to it; answers whether there was one.
#[tracing::instrument(name = "db delete webhook", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn delete(tx: &mut TenantTx, id: WebhookId) -> DbResult<bool> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    Ok(diesel::delete(webhooks::table.find(key)).execute(tx.connection()).await? > 0)
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = deliveries)]
struct DeliveryRow {
    organization_id: Uuid,
    id: Uuid,
    webhook_id: Uuid,
    event_id: Uuid,
    event_type: String,
    status: String,
    attempt_count: i32,
    response_status: Option<i32>,
    response_body: Option<String>,
    last_attempt_at: Option<DateTime<Utc>>,
    next_retry_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl From<DeliveryRow> for Delivery {
    fn from(row: DeliveryRow) -> Self {
        Self {
            id: row.id.into(),
            webhook: row.webhook_id.into(),
            event: row.event_id.into(),
            event_type: Some(row.event_type),
            organization: row.organization_id.into(),
            status: row.status,
            attempt_count: row.attempt_count,
            response_code: row.response_status,
            response_status: row.response_status,
            response_body: row.response_body,
            last_attempt_at: row.last_attempt_at,
            next_retry_at: row.next_retry_at,
            created_at: row.created_at,
        }
    }
}

/// One page of deliveries, newest first, and how many there are in all.
#[tracing::instrument(name = "db list deliveries", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn deliveries(
    tx: &mut TenantTx,
    webhook: Option<WebhookId>,
    status: Option<&str>,
    page: PageRequest,
) -> DbResult<(Vec<Delivery>, i64)> {
    let organization = tx.organization();
    let wanted = || {
        let mut query = deliveries::table.filter(deliveries::organization_id.eq(organization)).into_boxed();
        if let Some(webhook) = webhook {
            query = query.filter(deliveries::webhook_id.eq(webhook.uuid()));
        }
        if let Some(status) = status {
            query = query.filter(deliveries::status.eq(status.to_owned()));
        }
        query
    };
    let total = wanted().count().get_result(tx.connection()).await?;
    let rows: Vec<DeliveryRow> = wanted()
        .order((deliveries::created_at.desc(), deliveries::id.desc()))
        .limit(page.limit)
        .offset(page.offset())
        .select(DeliveryRow::as_select())
        .load(tx.connection())
        .await?;
    Ok((rows.into_iter().map(Delivery::from).collect(), total))
}

/// A dead letter: a delivery that failed for good, with what was to be delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The delivery.
    pub delivery: Delivery,
    /// The event's envelope as JSON, while it is kept.
    pub payload: Option<String>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// Dead letters, latest attempt first, and how many there are in all.
#[tracing::instrument(name = "db list dead letters", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn dead_letters(
    tx: &mut TenantTx,
    webhook: Option<WebhookId>,
    event_type: Option<&str>,
    limit: i64,
    offset: i64,
) -> DbResult<(Vec<DeadLetter>, i64)> {
    let organization = tx.organization();
    let wanted = || {
        let mut query = deliveries::table
            .filter(deliveries::organization_id.eq(organization))
            .filter(deliveries::dead_at.is_not_null())
            .into_boxed();
        if let Some(webhook) = webhook {
            query = query.filter(deliveries::webhook_id.eq(webhook.uuid()));
        }
        if let Some(kind) = event_type {
            query = query.filter(deliveries::event_type.eq(kind.to_owned()));
        }
        query
    };
    let total = wanted().count().get_result(tx.connection()).await?;
    let rows: Vec<(DeliveryRow, Option<String>)> = wanted()
        .order((deliveries::last_attempt_at.desc(), deliveries::id.desc()))
        .limit(limit)
        .offset(offset)
        .select((DeliveryRow::as_select(), deliveries::last_error))
        .load(tx.connection())
        .await?;
    let ids: Vec<Uuid> = rows.iter().map(|(row, _)| row.event_id).collect();
    let payloads: Vec<(Uuid, JsonText)> = events::table
        .filter(events::organization_id.eq(organization))
        .filter(events::id.eq_any(ids))
        .select((events::id, events::payload))
        .load(tx.connection())
        .await?;
    let letters = rows
        .into_iter()
        .map(|(row, last_error)| DeadLetter {
            payload: payloads.iter().find(|(id, _)| *id == row.event_id).map(|(_, payload)| payload.0.clone()),
            delivery: row.into(),
            last_error,
        })
        .collect();
    Ok((letters, total))
}

/// What came of asking for another attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Again {
    /// There is no such delivery.
    NoSuchDelivery,
    /// It is on its way already.
    Pending,
    /// It is pending again; the attempt to ask for.
    Asked(Box<Delivery>, DeliverWebhook),
}

/// Makes a delivery that is over pending again, for an attempt at once.
#[tracing::instrument(name = "db retry delivery", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn again(tx: &mut TenantTx, id: DeliveryId, now: DateTime<Utc>) -> DbResult<Again> {
    let organization = tx.organization();
    let updated: Option<DeliveryRow> =
        diesel::update(deliveries::table.find((organization, id.uuid())).filter(deliveries::status.ne("pending")))
            .set((
                deliveries::status.eq("pending"),
                deliveries::next_retry_at.eq(now),
                deliveries::dead_at.eq(None::<DateTime<Utc>>),
                deliveries::claimed_until.eq(None::<DateTime<Utc>>),
            ))
            .returning(DeliveryRow::as_returning())
            .get_result(tx.connection())
            .await
            .optional()?;
    if let Some(row) = updated {
        let job = DeliverWebhook {
            delivery: id,
            webhook: row.webhook_id.into(),
            event: row.event_id.into(),
            attempt: row.attempt_count.saturating_add(1),
            organization: Some(organization.into()),
        };
        return Ok(Again::Asked(Box::new(row.into()), job));
    }
    let there: Option<Uuid> = deliveries::table
        .find((organization, id.uuid()))
        .select(deliveries::id)
        .first(tx.connection())
        .await
        .optional()?;
    Ok(if there.is_some() { Again::Pending } else { Again::NoSuchDelivery })
}

/// Makes a test event and its delivery to one webhook; nobody else hears of it.
#[tracing::instrument(name = "db test webhook", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn test(
    tx: &mut TenantTx,
    webhook: WebhookId,
    event: EventId,
    envelope: String,
    now: DateTime<Utc>,
) -> DbResult<DeliverWebhook> {
    let organization = tx.organization();
    let trace = tx.carrier();
    diesel::insert_into(events::table)
        .values((
            events::organization_id.eq(organization),
            events::id.eq(event.uuid()),
            events::event_type.eq(TEST_EVENT),
            events::payload.eq(JsonText(envelope)),
            events::trace.eq(trace),
            events::created_at.eq(now),
        ))
        .execute(tx.connection())
        .await?;
    let delivery = DeliveryId::generate();
    diesel::insert_into(deliveries::table)
        .values((
            deliveries::organization_id.eq(organization),
            deliveries::id.eq(delivery.uuid()),
            deliveries::webhook_id.eq(webhook.uuid()),
            deliveries::event_id.eq(event.uuid()),
            deliveries::event_type.eq(TEST_EVENT),
            deliveries::next_retry_at.eq(now),
            deliveries::created_at.eq(now),
        ))
        .execute(tx.connection())
        .await?;
    Ok(DeliverWebhook { delivery, webhook, event, attempt: 1, organization: Some(organization.into()) })
}

/// Everything an attempt needs.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Where to.
    pub url: String,
    /// The secret, sealed.
    pub sealed_secret: Vec<u8>,
    /// How further attempts are spread.
    pub retry_schedule: RetrySchedule,
    /// The event's name.
    pub event_type: String,
    /// The body; `None` when the event is gone.
    pub payload: Option<String>,
    /// The trace the event happened in.
    pub trace: Option<String>,
}

/// Whether an attempt may be made.
#[derive(Debug)]
pub enum Claim {
    /// It is ours, for a while.
    Ours(Box<Attempt>),
    /// There is nothing to do: the delivery is gone, over, further on, or somebody else's at the moment.
    Nothing,
    /// As many attempts as an address or an organization may have are under way.
    Busy,
}

/// How many attempts may be under way at the same time, over all workers.
#[derive(Debug, Clone, Copy)]
pub struct AtOnce {
    /// At one webhook.
    pub webhook: i64,
    /// Of one organization: its receivers that hang cost nobody else's turn.
    pub organization: i64,
}

/// Claims an attempt for so long; of several that ask, one gets it. When there are as many under way as there may be, it is
/// due again at `busy_until`: whoever was told so asks then, and the schedule need not.
#[tracing::instrument(name = "db claim delivery", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn claim(
    tx: &mut TenantTx,
    job: &DeliverWebhook,
    at_once: AtOnce,
    lasting: TimeDelta,
    busy_until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> DbResult<Claim> {
    let organization = tx.organization();
    // Those who claim for one organization follow each other, so that each counts what the one before it claimed. Which
    // organizations share a number does not matter: they wait for a moment.
    let (_, number) = organization.as_u64_pair();
    diesel::select(pg_advisory_xact_lock(number.cast_signed())).execute(tx.connection()).await?;
    // Then the webhook's row, as recording does.
    let webhook: Option<(String, Vec<u8>, String)> = webhooks::table
        .find((organization, job.webhook.uuid()))
        .select((webhooks::url, webhooks::sealed_secret, webhooks::retry_schedule))
        .for_no_key_update()
        .first(tx.connection())
        .await
        .optional()?;
    let Some((url, sealed_secret, retry_schedule)) = webhook else { return Ok(Claim::Nothing) };
    let due: Option<String> = deliveries::table
        .find((organization, job.delivery.uuid()))
        .filter(deliveries::webhook_id.eq(job.webhook.uuid()))
        .filter(deliveries::status.eq("pending"))
        .filter(deliveries::attempt_count.eq(job.attempt - 1))
        .filter(deliveries::claimed_until.is_null().or(deliveries::claimed_until.le(now)))
        .select(deliveries::event_type)
        .for_update()
        .first(tx.connection())
        .await
        .optional()?;
    let Some(event_type) = due else { return Ok(Claim::Nothing) };
    let under_way: Vec<Uuid> = deliveries::table
        .filter(deliveries::organization_id.eq(organization))
        .filter(deliveries::status.eq("pending"))
        .filter(deliveries::claimed_until.gt(now))
        .select(deliveries::webhook_id)
        .limit(at_once.organization)
        .load(tx.connection())
        .await?;
    let count = |some: usize| i64::try_from(some).unwrap_or(i64::MAX);
    let at_webhook = count(under_way.iter().filter(|webhook| **webhook == job.webhook.uuid()).count());
    if at_webhook >= at_once.webhook || count(under_way.len()) >= at_once.organization {
        diesel::update(deliveries::table.find((organization, job.delivery.uuid())))
            .set(deliveries::next_retry_at.eq(busy_until))
            .execute(tx.connection())
            .await?;
        return Ok(Claim::Busy);
    }
    diesel::update(deliveries::table.find((organization, job.delivery.uuid())))
        .set(deliveries::claimed_until.eq(now + lasting))
        .execute(tx.connection())
        .await?;
    let event: Option<(JsonText, Option<String>)> = events::table
        .find((organization, job.event.uuid()))
        .select((events::payload, events::trace))
        .first(tx.connection())
        .await
        .optional()?;
    let (payload, trace) = event.map_or((None, None), |(payload, trace)| (Some(payload.0), trace));
    let retry_schedule = schedule(&retry_schedule)?;
    Ok(Claim::Ours(Box::new(Attempt { url, sealed_secret, retry_schedule, event_type, payload, trace })))
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status, when there was an answer.
    pub status: Option<i32>,
    /// The beginning of the answer's body; else why there was none.
    pub body: Option<String>,
    /// Why it counts as failed; `None`: it does not.
    pub error: Option<String>,
    /// When to try again; `None` after a success or when it was the last attempt.
    pub next: Option<DateTime<Utc>>,
    /// Whether the receiver asked never to be called again.
    pub gone: bool,
}

/// What a recorded attempt did to its webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The attempt was recorded already, by somebody else.
    TooLate,
    /// Nothing.
    None,
    /// It is left alone for a while.
    CircuitOpened,
    /// It is told of nothing any more, because it said so.
    Disabled,
}

/// Failures in a row, the last of them, whether it is called at all, and until when its circuit is open.
type Streak = (i32, Option<DateTime<Utc>>, bool, Option<DateTime<Utc>>);

/// Records an attempt that was claimed.
#[tracing::instrument(name = "db record attempt", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn record(tx: &mut TenantTx, job: &DeliverWebhook, answer: &Answer, now: DateTime<Utc>) -> DbResult<Effect> {
    let organization = tx.organization();
    let (status, dead_at) = match (&answer.error, answer.next) {
        (None, _) => ("success", None),
        (Some(_), Some(_)) => ("pending", None),
        (Some(_), None) => ("failed", Some(now)),
    };
    // First the webhook, as claiming does.
    let streak: Option<Streak> = webhooks::table
        .find((organization, job.webhook.uuid()))
        .select((
            webhooks::failure_streak,
            webhooks::last_failure_at,
            webhooks::is_active,
            webhooks::circuit_open_until,
        ))
        .for_no_key_update()
        .first(tx.connection())
        .await
        .optional()?;
    let recorded = diesel::update(
        deliveries::table
            .find((organization, job.delivery.uuid()))
            .filter(deliveries::status.eq("pending"))
            .filter(deliveries::attempt_count.eq(job.attempt - 1)),
    )
    .set((
        deliveries::status.eq(status),
        deliveries::attempt_count.eq(job.attempt),
        deliveries::response_status.eq(answer.status),
        deliveries::response_body.eq(answer.body.as_deref()),
        deliveries::last_error.eq(answer.error.as_deref()),
        deliveries::last_attempt_at.eq(now),
        deliveries::next_retry_at.eq(answer.next),
        deliveries::claimed_until.eq(None::<DateTime<Utc>>),
        deliveries::dead_at.eq(dead_at),
    ))
    .execute(tx.connection())
    .await?;
    let Some((streak, last_failure, active, open_until)) = streak.filter(|_| recorded == 1) else {
        return Ok(Effect::TooLate);
    };
    let webhook = webhooks::table.find((organization, job.webhook.uuid()));
    if answer.error.is_none() {
        diesel::update(webhook).set(webhooks::failure_streak.eq(0)).execute(tx.connection()).await?;
        return Ok(Effect::None);
    }
    let streak = if last_failure.is_some_and(|last| now - last < STREAK_KEPT) { streak.saturating_add(1) } else { 1 };
    diesel::update(webhook)
        .set((webhooks::failure_streak.eq(streak), webhooks::last_failure_at.eq(now)))
        .execute(tx.connection())
        .await?;
    // A circuit that is open would close by itself, and call again whoever said never to.
    if answer.gone && (active || open_until.is_some()) {
        diesel::update(webhook)
            .set((webhooks::is_active.eq(false), webhooks::circuit_open_until.eq(None::<DateTime<Utc>>)))
            .execute(tx.connection())
            .await?;
        return Ok(Effect::Disabled);
    }
    if streak >= STREAK && active {
        diesel::update(webhook)
            .set((webhooks::is_active.eq(false), webhooks::circuit_open_until.eq(now + CIRCUIT_OPEN)))
            .execute(tx.connection())
            .await?;
        return Ok(Effect::CircuitOpened);
    }
    Ok(Effect::None)
}

/// Attempts that were due before `before` and that nobody makes, oldest first, at most `most`. By the system role: the
/// schedule asks for lost jobs of all organizations.
#[tracing::instrument(name = "db overdue deliveries", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn overdue(
    tx: &mut SystemTx,
    before: DateTime<Utc>,
    now: DateTime<Utc>,
    most: i64,
) -> DbResult<Vec<DeliverWebhook>> {
    let rows: Vec<(Uuid, Uuid, Uuid, Uuid, i32)> = deliveries::table
        .filter(deliveries::status.eq("pending"))
        .filter(deliveries::next_retry_at.le(before))
        .filter(deliveries::claimed_until.is_null().or(deliveries::claimed_until.le(now)))
        .order(deliveries::next_retry_at.asc())
        .limit(most)
        .select((
            deliveries::organization_id,
            deliveries::id,
            deliveries::webhook_id,
            deliveries::event_id,
            deliveries::attempt_count,
        ))
        .load(tx.connection())
        .await?;
    Ok(rows
        .into_iter()
        .map(|(organization, delivery, webhook, event, attempts)| DeliverWebhook {
            delivery: delivery.into(),
            webhook: webhook.into(),
            event: event.into(),
            attempt: attempts.saturating_add(1),
            organization: Some(organization.into()),
        })
        .collect())
}

/// Webhooks whose circuit may close at `now`. By the system role, as above.
pub async fn circuits_due(tx: &mut SystemTx, now: DateTime<Utc>) -> DbResult<Vec<(OrganizationId, WebhookId)>> {
    let rows: Vec<(Uuid, Uuid)> = webhooks::table
        .filter(webhooks::circuit_open_until.le(now))
        .select((webhooks::organization_id, webhooks::id))
        .load(tx.connection())
        .await?;
    Ok(rows.into_iter().map(|(organization, webhook)| (organization.into(), webhook.into())).collect())
}

/// Closes a circuit that is due; answers whether it was still open. A webhook that an administrator disabled meanwhile
/// has none.
pub async fn close_circuit(tx: &mut TenantTx, id: WebhookId, now: DateTime<Utc>) -> DbResult<bool> {
    let organization = tx.organization();
    let closed =
        diesel::update(webhooks::table.find((organization, id.uuid())).filter(webhooks::circuit_open_until.le(now)))
            .set((
                webhooks::is_active.eq(true),
                webhooks::circuit_open_until.eq(None::<DateTime<Utc>>),
                webhooks::failure_streak.eq(0),
            ))
            .execute(tx.connection())
            .await?;
    Ok(closed == 1)
}

/// How many circuits are open, and how many dead letters there are, of all organizations. By the system role, for
/// metrics and for administrators, who are told how much and not whose.
pub async fn troubles(tx: &mut SystemTx) -> DbResult<(i64, i64)> {
    let open = webhooks::table
        .filter(webhooks::circuit_open_until.is_not_null())
        .select(diesel::dsl::sql::<BigInt>("count(*)"))
        .first(tx.connection())
        .await?;
    let dead = deliveries::table
        .filter(deliveries::dead_at.is_not_null())
        .select(diesel::dsl::sql::<BigInt>("count(*)"))
        .first(tx.connection())
        .await?;
    Ok((open, dead))
}

/// How the newest deliveries of the organization went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Tally {
    /// How many were looked at.
    #[diesel(sql_type = BigInt)]
    pub deliveries: i64,
    /// Accepted.
    #[diesel(sql_type = BigInt)]
    pub succeeded: i64,
    /// Given up.
    #[diesel(sql_type = BigInt)]
    pub failed: i64,
    /// Those that needed more than one attempt.
    #[diesel(sql_type = BigInt)]
    pub retried: i64,
}

/// Counts the newest `most` deliveries of the organization.
#[tracing::instrument(name = "db tally deliveries", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn tally(tx: &mut TenantTx, most: i64) -> DbResult<Tally> {
    Ok(diesel::sql_query(
        "SELECT count(*) AS deliveries, count(*) FILTER (WHERE status = 'success') AS succeeded,
                count(*) FILTER (WHERE status = 'failed') AS failed, count(*) FILTER (WHERE attempt_count > 1) AS retried
         FROM (SELECT status, attempt_count FROM webhook_deliveries WHERE organization_id = $1
               ORDER BY created_at DESC, id DESC LIMIT $2) AS newest",
    )
    .bind::<SqlUuid, _>(tx.organization())
    .bind::<BigInt, _>(most)
    .get_result(tx.connection())
    .await?)
}

/// Organizations with dead letters from before `horizon`, or with more than `most`. By the system role, as above.
pub async fn overfull(tx: &mut SystemTx, horizon: DateTime<Utc>, most: i64) -> DbResult<Vec<OrganizationId>> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = SqlUuid)]
        organization_id: Uuid,
    }
    let found: Vec<Found> = diesel::sql_query(
        "SELECT organization_id FROM webhook_deliveries WHERE dead_at IS NOT NULL
         GROUP BY organization_id HAVING min(dead_at) < $1 OR count(*) > $2",
    )
    .bind::<Timestamptz, _>(horizon)
    .bind::<BigInt, _>(most)
    .load(tx.connection())
    .await?;
    Ok(found.into_iter().map(|found| found.organization_id.into()).collect())
}

/// A dead letter that was archived.
#[derive(Debug, Clone, QueryableByName)]
pub struct Archived {
    /// The delivery.
    #[diesel(sql_type = SqlUuid)]
    pub delivery_id: Uuid,
    /// Why: `retention_policy` or `max_size_eviction`.
    #[diesel(sql_type = Text)]
    pub reason: String,
}

/// Archives the organization's dead letters from before `horizon`, then the oldest beyond `most`.
#[tracing::instrument(name = "db archive dead letters", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn archive(
    tx: &mut TenantTx,
    horizon: DateTime<Utc>,
    most: i64,
    now: DateTime<Utc>,
) -> DbResult<Vec<Archived>> {
    Ok(diesel::sql_query(
        "WITH dead AS (
             SELECT id, dead_at, row_number() OVER (ORDER BY dead_at DESC, id DESC) AS place
             FROM webhook_deliveries WHERE organization_id = $1 AND dead_at IS NOT NULL
         ), chosen AS (
             SELECT id, dead_at, CASE WHEN dead_at < $2 THEN 'retention_policy' ELSE 'max_size_eviction' END AS reason
             FROM dead WHERE dead_at < $2 OR place > $3
         ), gone AS (
             UPDATE webhook_deliveries AS delivery SET dead_at = NULL FROM chosen
             WHERE delivery.organization_id = $1 AND delivery.id = chosen.id
             RETURNING delivery.id, delivery.webhook_id, delivery.event_id, delivery.attempt_count, chosen.dead_at,
                 chosen.reason
         )
         INSERT INTO webhook_dlq_archive (organization_id, id, delivery_id, webhook_id, event_id, url, attempt_number,
                                          failed_at, archived_at, reason)
         SELECT $1, gen_random_uuid(), gone.id, gone.webhook_id, gone.event_id, webhooks.url, gone.attempt_count,
                gone.dead_at, $4, gone.reason
         FROM gone JOIN webhooks ON webhooks.organization_id = $1 AND webhooks.id = gone.webhook_id
         RETURNING delivery_id, reason",
    )
    .bind::<SqlUuid, _>(tx.organization())
    .bind::<Timestamptz, _>(horizon)
    .bind::<BigInt, _>(most)
    .bind::<Timestamptz, _>(now)
    .load(tx.connection())
    .await?)
}
