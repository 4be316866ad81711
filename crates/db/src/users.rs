//! The users of an organization, as its administrators manage them.
//!
//! What lets somebody in stays with [`crate::identity`], whose tables a tenant's transaction may change in a few columns
//! and hardly read: an administrator sets a password and never sees one.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use domain::auth::Role;
use domain::page::PageRequest;
use domain::user::User;
use domain::{EmployeeId, UserId};
use uuid::Uuid;

use crate::identity::RoleColumn;
use crate::schema::{employees, organizations, refresh_tokens as tokens, user_credentials as credentials, users};
use crate::{DbResult, TenantTx};

type Row = (
    (Uuid, Uuid, String, RoleColumn, DateTime<Utc>, DateTime<Utc>),
    Option<(Option<DateTime<Utc>>, Option<DateTime<Utc>>)>,
    Option<Uuid>,
);

/// Users with what is known of their sign-in and the employee they are. (A macro, since the type of a joined query has
/// no name worth writing.)
macro_rules! described {
    ($organization:expr) => {
        users::table
            .left_join(
                credentials::table.on(credentials::organization_id
                    .eq(users::organization_id)
                    .and(credentials::user_id.eq(users::id))),
            )
            .left_join(employees::table.on(
                employees::organization_id.eq(users::organization_id).and(employees::user_id.eq(users::id.nullable())),
            ))
            .filter(users::organization_id.eq($organization))
            .select((
                (users::organization_id, users::id, users::email, users::role, users::created_at, users::updated_at),
                (credentials::banned_until, credentials::last_sign_in_at).nullable(),
                employees::id.nullable(),
            ))
    };
}

fn user(row: Row) -> User {
    let ((organization, id, email, role, created_at, updated_at), sign_in, employee) = row;
    let (banned_until, last_sign_in_at) = sign_in.unwrap_or_default();
    User {
        id: id.into(),
        organization: organization.into(),
        email,
        role: role.0,
        employee: employee.map(Into::into),
        banned_until,
        last_sign_in_at,
        created_at,
        updated_at,
    }
}

/// One user of the organization.
#[tracing::instrument(name = "db find user", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn find(tx: &mut TenantTx, id: UserId) -> DbResult<Option<User>> {
    let organization = tx.organization();
    let row: Option<Row> =
        described!(organization).filter(users::id.eq(id.uuid())).first(tx.connection()).await.optional()?;
    Ok(row.map(user))
}

/// One page of the organization's users by address, those of one role or all, and how many there are.
#[tracing::instrument(name = "db list users", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn list(tx: &mut TenantTx, role: Option<Role>, page: PageRequest) -> DbResult<(Vec<User>, i64)> {
    let organization = tx.organization();
    let mut count = users::table.filter(users::organization_id.eq(organization)).into_boxed();
    let mut rows = described!(organization).into_boxed();
    if let Some(role) = role {
        count = count.filter(users::role.eq(RoleColumn(role)));
        rows = rows.filter(users::role.eq(RoleColumn(role)));
    }
    let total = count.count().get_result(tx.connection()).await?;
    let rows: Vec<Row> = rows
        .order((users::email.asc(), users::id.asc()))
        .limit(page.limit)
        .offset(page.offset())
        .load(tx.connection())
        .await?;
    Ok((rows.into_iter().map(user).collect(), total))
}

/// Keeps other changes of who administers the organization from happening until the transaction ends, and tells
/// whether an administrator other than `user` could sign in.
pub async fn has_other_administrator(tx: &mut TenantTx, user: UserId, now: DateTime<Utc>) -> DbResult<bool> {
    let organization = tx.organization();
    organizations::table
        .find(organization)
        .select(organizations::id)
        .for_no_key_update()
        .first::<Uuid>(tx.connection())
        .await?;
    Ok(diesel::select(diesel::dsl::exists(
        users::table
            .inner_join(
                credentials::table.on(credentials::organization_id
                    .eq(users::organization_id)
                    .and(credentials::user_id.eq(users::id))),
            )
            .filter(users::organization_id.eq(organization))
            .filter(users::role.eq(RoleColumn(Role::Admin)))
            .filter(users::id.ne(user.uuid()))
            .filter(credentials::banned_until.is_null().or(credentials::banned_until.le(now)))
            // Named, since not every column may be read.
            .select(users::id),
    ))
    .get_result(tx.connection())
    .await?)
}

/// Gives a user another role. Their next token has it; the present one is refused within half a minute.
pub async fn set_role(tx: &mut TenantTx, user: UserId, role: Role, now: DateTime<Utc>) -> DbResult<()> {
    let key: (Uuid, Uuid) = (tx.organization(), user.uuid());
    diesel::update(users::table.find(key))
        .set((users::role.eq(RoleColumn(role)), users::updated_at.eq(now)))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// Keeps a user out until a time, or lets them in again. Sign-ins that exist go on: see [`end_sign_ins`].
pub async fn set_ban(
    tx: &mut TenantTx,
    user: UserId,
    until: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> DbResult<()> {
    let key: (Uuid, Uuid) = (tx.organization(), user.uuid());
    diesel::update(credentials::table.find(key))
        .set((credentials::banned_until.eq(until), credentials::updated_at.eq(now)))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// Replaces a user's password by another, hashed (PHC string).
pub async fn set_password(tx: &mut TenantTx, user: UserId, hash: &str, now: DateTime<Utc>) -> DbResult<()> {
    let key: (Uuid, Uuid) = (tx.organization(), user.uuid());
    diesel::update(credentials::table.find(key))
        .set((credentials::password_hash.eq(hash), credentials::updated_at.eq(now)))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// Ends every sign-in of a user; answers how many refresh tokens lost their worth.
///
/// Repeated until nothing is left: a refresh that was under way when the first statement ran has then committed its
/// successor, and a later one waits for our locks.
pub async fn end_sign_ins(tx: &mut TenantTx, user: UserId, now: DateTime<Utc>) -> DbResult<usize> {
    let organization = tx.organization();
    let mut ended = 0;
    loop {
        let live = tokens::table
            .filter(tokens::organization_id.eq(organization))
            .filter(tokens::user_id.eq(user.uuid()))
            .filter(tokens::revoked_at.is_null());
        match diesel::update(live).set(tokens::revoked_at.eq(now)).execute(tx.connection()).await? {
            0 => return Ok(ended),
            more => ended += more,
        }
    }
}

/// What a credential must still agree with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The user's role now; `None` when there is no such user, or they are banned.
    pub role: Option<Role>,
    /// Whether the employee is there and may work.
    pub may_work: bool,
}

/// How somebody stands whose token says that they are `user` and, maybe, `employee`.
#[tracing::instrument(name = "db standing", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn standing(
    tx: &mut TenantTx,
    user: UserId,
    employee: Option<EmployeeId>,
    now: DateTime<Utc>,
) -> DbResult<Standing> {
    let organization = tx.organization();
    let found: Option<(RoleColumn, Option<DateTime<Utc>>, Option<bool>)> = users::table
        .inner_join(
            credentials::table
                .on(credentials::organization_id.eq(users::organization_id).and(credentials::user_id.eq(users::id))),
        )
        .left_join(
            employees::table.on(employees::organization_id
                .eq(users::organization_id)
                .and(employees::id.nullable().eq(employee.map(EmployeeId::uuid)))),
        )
        .filter(users::organization_id.eq(organization))
        .filter(users::id.eq(user.uuid()))
        .select((users::role, credentials::banned_until, employees::is_active.nullable()))
        .first(tx.connection())
        .await
        .optional()?;
    Ok(match found {
        Some((role, banned_until, active)) if banned_until.is_none_or(|until| until <= now) => {
            Standing { role: Some(role.0), may_work: active.unwrap_or(false) }
        }
        _ => Standing { role: None, may_work: false },
    })
}
