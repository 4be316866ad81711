//! Who did what: written with what they did, never changed, chained so that a change would show.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::auth::Actor;
use domain::{OrganizationId, UserId};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::schema::{admin_audit_log as log, audit_chains as chains};
use crate::{DbError, DbResult, SystemTx, TenantTx};

/// An entry to be: an event such as `EMPLOYEE_CREATED`, who caused it, and what it was done to.
#[derive(Debug, Clone)]
pub struct Entry {
    event: &'static str,
    actor: Actor,
    resource: Option<(&'static str, String)>,
    payload: Map<String, Value>,
}

impl Entry {
    /// `event`, done by `actor`. A program with an API key is named in the payload (`api_key_id`).
    #[must_use]
    pub fn new(event: &'static str, actor: Actor) -> Self {
        let mut payload = Map::new();
        if let Actor::ApiKey(key) = actor {
            payload.insert("api_key_id".to_owned(), key.to_string().into());
        }
        Self { event, actor, resource: None, payload }
    }

    /// What it was done to: `("employee", id)`.
    #[must_use]
    pub fn on(mut self, resource_type: &'static str, resource_id: impl std::fmt::Display) -> Self {
        self.resource = Some((resource_type, resource_id.to_string()));
        self
    }

    /// Something else worth knowing; never a secret.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.payload.insert(key.to_owned(), value.into());
        self
    }
}

/// Writes an entry in the caller's transaction. It takes its place in the organization's chain when that commits.
#[tracing::instrument(name = "db record audit", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn record(tx: &mut TenantTx, entry: &Entry, now: DateTime<Utc>) -> DbResult<()> {
    let organization = tx.organization();
    let actor = match entry.actor {
        Actor::User(user) => Some(user.uuid()),
        Actor::ApiKey(_) | Actor::System => None,
    };
    diesel::insert_into(log::table)
        .values((
            log::organization_id.eq(organization),
            log::id.eq(Uuid::now_v7()),
            log::event.eq(entry.event),
            log::actor_id.eq(actor),
            log::resource_type.eq(entry.resource.as_ref().map(|(kind, _)| *kind)),
            log::resource_id.eq(entry.resource.as_ref().map(|(_, id)| id.as_str())),
            log::payload.eq(Value::Object(entry.payload.clone())),
            log::created_at.eq(now),
        ))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// An entry as administrators see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Its id.
    pub id: Uuid,
    /// What happened.
    pub event: String,
    /// The user who did it; `None` for API keys and for the product itself.
    pub actor: Option<UserId>,
    /// What kind of thing it was done to.
    pub resource_type: Option<String>,
    /// Which one.
    pub resource_id: Option<String>,
    /// What else is known.
    pub payload: Value,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// The newest entries before `before`, of one event if it is given, at most `most`.
#[tracing::instrument(name = "db list audit", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn list(
    tx: &mut TenantTx,
    before: Option<DateTime<Utc>>,
    event: Option<&str>,
    most: i64,
) -> DbResult<Vec<Written>> {
    let organization = tx.organization();
    let mut query = log::table.filter(log::organization_id.eq(organization)).into_boxed();
    if let Some(before) = before {
        query = query.filter(log::created_at.lt(before));
    }
    if let Some(event) = event {
        query = query.filter(log::event.eq(event));
    }
    type Row = (Uuid, String, Option<Uuid>, Option<String>, Option<String>, Value, DateTime<Utc>);
    let rows: Vec<Row> = query
        .order((log::created_at.desc(), log::id.desc()))
        .limit(most)
        .select((
            log::id,
            log::event,
            log::actor_id,
            log::resource_type,
            log::resource_id,
            log::payload,
            log::created_at,
        ))
        .load(tx.connection())
        .await?;
    Ok(rows
        .into_iter()
        .map(|(id, event, actor, resource_type, resource_id, payload, created_at)| Written {
            id,
            event,
            actor: actor.map(UserId::from),
            resource_type,
            resource_id,
            payload,
            created_at,
        })
        .collect())
}

/// What is wrong with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The row is not what was written, or the one before it is not.
    Changed,
    /// Rows are missing from this place on.
    Missing,
    /// The row was put in past the chain.
    Unchained,
}

impl Fault {
    /// In a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Missing => "missing",
            Self::Unchained => "unchained",
        }
    }
}

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every row is as it was written and none is missing.
    Intact {
        /// Rows in the chain.
        entries: i64,
        /// The hash of the last row, 32 bytes; kept elsewhere, it proves later that nothing before it was touched, not
        /// even by the owner of the database. `None` when there are no rows.
        hash: Option<Vec<u8>>,
    },
    /// The first thing that is wrong.
    Broken {
        /// What it is.
        fault: Fault,
        /// Its place in the chain, from 1; `None` for a row that was never chained.
        position: Option<i64>,
        /// The row, or the first one behind a gap; `None` when the rows are missing at the end.
        id: Option<Uuid>,
    },
}

/// Computes the organization's chain anew from its first row and compares.
#[tracing::instrument(name = "db verify audit", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn verify(tx: &mut TenantTx) -> DbResult<Verdict> {
    let organization = tx.organization();
    verify_chain(tx.connection(), organization).await
}

/// The same for every organization that has a chain or entries. By the system role: an operator asks, who belongs to
/// none.
pub async fn verify_all(tx: &mut SystemTx) -> DbResult<Vec<(OrganizationId, Verdict)>> {
    let mut organizations: Vec<Uuid> =
        chains::table.select(chains::organization_id).order(chains::organization_id).load(tx.connection()).await?;
    let written: Vec<Uuid> = log::table.select(log::organization_id).distinct().load(tx.connection()).await?;
    organizations.extend(written);
    organizations.sort_unstable();
    organizations.dedup();
    let mut verdicts = Vec::with_capacity(organizations.len());
    for organization in organizations {
        verdicts.push((organization.into(), verify_chain(tx.connection(), organization).await?));
    }
    Ok(verdicts)
}

async fn verify_chain(connection: &mut AsyncPgConnection, organization: Uuid) -> DbResult<Verdict> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Text)]
        problem: String,
        #[diesel(sql_type = Nullable<BigInt>)]
        at_position: Option<i64>,
        #[diesel(sql_type = Nullable<SqlUuid>)]
        id: Option<Uuid>,
    }
    // The end first: rows that are added meanwhile are then checked without being counted.
    let end: Option<(i64, Vec<u8>)> =
        chains::table.find(organization).select((chains::position, chains::hash)).first(connection).await.optional()?;
    let found: Option<Found> = diesel::sql_query("SELECT * FROM app.verify_audit($1)")
        .bind::<SqlUuid, _>(organization)
        .get_result(connection)
        .await
        .optional()?;
    let Some(found) = found else {
        let (entries, hash) = end.map_or((0, None), |(position, hash)| (position, Some(hash)));
        return Ok(Verdict::Intact { entries, hash });
    };
    let fault = [Fault::Changed, Fault::Missing, Fault::Unchained]
        .into_iter()
        .find(|fault| fault.as_str() == found.problem)
        .ok_or_else(|| DbError::Broken(format!("unknown audit fault {:?}", found.problem)))?;
    Ok(Verdict::Broken { fault, position: found.at_position, id: found.id })
}
