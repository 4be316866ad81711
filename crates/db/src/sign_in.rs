//! What another identity provider has to be told: who may sign in and who may not any more.
//!
//! A notice is written in the transaction that decides it. The schedule takes one at a time, reads what holds now, tells
//! the provider outside of any transaction, and removes the notice unless something else was decided meanwhile.

use chrono::{DateTime, Utc};
use diesel::dsl::{exists, select};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use domain::{OrganizationId, UserId};
use uuid::Uuid;

use crate::schema::{employees, sign_in_notices as notices};
use crate::{DbResult, SystemTx, TenantTx};

/// Notes that the provider has to be told whether a user may sign in.
#[tracing::instrument(name = "db note sign-in", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn note(tx: &mut TenantTx, user: UserId, now: DateTime<Utc>) -> DbResult<()> {
    let decision = Uuid::now_v7();
    diesel::insert_into(notices::table)
        .values((
            notices::organization_id.eq(tx.organization()),
            notices::user_id.eq(user.uuid()),
            notices::decision.eq(decision),
            notices::due_at.eq(now),
        ))
        .on_conflict((notices::organization_id, notices::user_id))
        .do_update()
        // Due at once, also after a refusal. Whoever tells the one before is not overtaken: it stays theirs.
        .set((notices::decision.eq(decision), notices::due_at.eq(now)))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// A notice that somebody took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Notice {
    #[diesel(sql_type = SqlUuid)]
    organization_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    decision: Uuid,
    #[diesel(sql_type = Timestamptz)]
    taken_until: DateTime<Utc>,
}

impl Notice {
    /// Where they belong.
    #[must_use]
    pub fn organization(&self) -> OrganizationId {
        self.organization_id.into()
    }

    /// Whom it is about.
    #[must_use]
    pub fn user(&self) -> UserId {
        self.user_id.into()
    }

    /// Until when nobody else takes it.
    #[must_use]
    pub fn taken_until(&self) -> DateTime<Utc> {
        self.taken_until
    }
}

/// Takes the notice that has been due the longest; nobody else takes it before `until`. By the system role: the schedule
/// works for all organizations.
#[tracing::instrument(name = "db take sign-in", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn take(tx: &mut SystemTx, now: DateTime<Utc>, until: DateTime<Utc>) -> DbResult<Option<Notice>> {
    Ok(sql_query(
        "UPDATE sign_in_notices SET taken_until = $2 WHERE (organization_id, user_id) = (
             SELECT organization_id, user_id FROM sign_in_notices
             WHERE due_at <= $1 AND (taken_until IS NULL OR taken_until <= $1)
             ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING organization_id, user_id, decision, taken_until",
    )
    .bind::<Timestamptz, _>(now)
    .bind::<Timestamptz, _>(until)
    .get_result(tx.connection())
    .await
    .optional()?)
}

/// Whether a user may not sign in: the employee they are may not work.
#[tracing::instrument(name = "db is kept out", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn is_kept_out(tx: &mut TenantTx, user: UserId) -> DbResult<bool> {
    let theirs = employees::table
        .filter(employees::organization_id.eq(tx.organization()))
        .filter(employees::user_id.eq(user.uuid()))
        .filter(employees::is_active.eq(false));
    Ok(select(exists(theirs)).get_result(tx.connection()).await?)
}

/// Notes that the provider was told; when something else was decided meanwhile, that is due at once. Of a notice that is
/// somebody else's by now, nothing is changed. By the system role, as above.
pub async fn told(tx: &mut SystemTx, notice: &Notice, now: DateTime<Utc>) -> DbResult<()> {
    let told = diesel::delete(
        notices::table
            .find((notice.organization_id, notice.user_id))
            .filter(notices::decision.eq(notice.decision))
            .filter(notices::taken_until.eq(notice.taken_until)),
    );
    if told.execute(tx.connection()).await? == 0 {
        put_off(tx, notice, now).await?;
    }
    Ok(())
}

/// Gives a notice back that could not be told: it is due again at `until`, or at once when something else was decided
/// meanwhile. Answers whether it still was this one's to give. By the system role, as above.
pub async fn put_off(tx: &mut SystemTx, notice: &Notice, until: DateTime<Utc>) -> DbResult<bool> {
    let given = sql_query(
        "UPDATE sign_in_notices SET taken_until = NULL, due_at = CASE WHEN decision = $3 THEN $4 ELSE due_at END
         WHERE organization_id = $1 AND user_id = $2 AND taken_until = $5",
    )
    .bind::<SqlUuid, _>(notice.organization_id)
    .bind::<SqlUuid, _>(notice.user_id)
    .bind::<SqlUuid, _>(notice.decision)
    .bind::<Timestamptz, _>(until)
    .bind::<Timestamptz, _>(notice.taken_until)
    .execute(tx.connection())
    .await?;
    Ok(given > 0)
}
