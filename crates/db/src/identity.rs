//! Accounts, refresh tokens and signing keys: what the built-in identity provider keeps.
//!
//! All of it is read by the system role: signing in comes before any organization is known.

use chrono::{DateTime, Utc};
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::prelude::*;
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel_async::RunQueryDsl;
use domain::auth::Role;
use domain::{EmployeeId, OrganizationId, UserId};
use std::io::Write;
use uuid::Uuid;

use crate::advisory::pg_advisory_xact_lock;
use crate::schema::sql_types::UserRole;
use crate::schema::{employees, refresh_tokens as tokens, signing_keys, user_credentials as credentials, users};
use crate::{DbResult, SystemTx, TenantTx};

/// The rule that an address has one account.
pub const EMAIL_TAKEN: &str = "users_email_key";

#[derive(Debug, Clone, Copy, AsExpression, FromSqlRow)]
#[diesel(sql_type = UserRole)]
pub(crate) struct RoleColumn(pub(crate) Role);

impl ToSql<UserRole, Pg> for RoleColumn {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(self.0.as_str().as_bytes())?;
        Ok(IsNull::No)
    }
}

impl FromSql<UserRole, Pg> for RoleColumn {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let text = std::str::from_utf8(value.as_bytes())?;
        Role::parse(text).map(Self).ok_or_else(|| format!("unknown role {text:?}").into())
    }
}

/// Somebody who signs in, as tokens describe them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub user: UserId,
    /// Their organization.
    pub organization: OrganizationId,
    /// Their address, lower case.
    pub email: String,
    /// Their role.
    pub role: Role,
    /// The active employee they are, if any.
    pub employee: Option<EmployeeId>,
    /// Until when they may not sign in.
    pub banned_until: Option<DateTime<Utc>>,
    /// When the account was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When they last signed in with their password.
    pub last_sign_in_at: Option<DateTime<Utc>>,
}

impl Account {
    /// Whether they are kept out at `now`.
    #[must_use]
    pub fn is_banned(&self, now: DateTime<Utc>) -> bool {
        self.banned_until.is_some_and(|until| until > now)
    }
}

/// A user to be; the address must be in lower case.
#[derive(Debug, Clone)]
pub struct NewUser<'a> {
    /// Their id.
    pub id: UserId,
    /// Their address.
    pub email: &'a str,
    /// Their role.
    pub role: Role,
    /// Their password, hashed (PHC string).
    pub password_hash: &'a str,
}

/// Makes a user of the transaction's organization. Conflicts with [`EMAIL_TAKEN`].
pub async fn create_user(tx: &mut TenantTx, new: &NewUser<'_>) -> DbResult<()> {
    let organization = tx.organization();
    insert_user(tx.connection(), organization, new).await
}

/// Makes the first user of an organization. By the system role: `organization create` runs before anybody can sign in.
pub async fn create_first_user(tx: &mut SystemTx, organization: OrganizationId, new: &NewUser<'_>) -> DbResult<()> {
    insert_user(tx.connection(), organization.uuid(), new).await
}

async fn insert_user(
    connection: &mut diesel_async::AsyncPgConnection,
    organization: Uuid,
    new: &NewUser<'_>,
) -> DbResult<()> {
    diesel::insert_into(users::table)
        .values((
            users::organization_id.eq(organization),
            users::id.eq(new.id.uuid()),
            users::email.eq(new.email),
            users::role.eq(RoleColumn(new.role)),
        ))
        .execute(connection)
        .await?;
    diesel::insert_into(credentials::table)
        .values((
            credentials::organization_id.eq(organization),
            credentials::user_id.eq(new.id.uuid()),
            credentials::password_hash.eq(new.password_hash),
        ))
        .execute(connection)
        .await?;
    Ok(())
}

type AccountRow = (
    (Uuid, Uuid, String, RoleColumn, DateTime<Utc>, DateTime<Utc>),
    (String, Option<DateTime<Utc>>, Option<DateTime<Utc>>),
    Option<Uuid>,
);

/// An account and its password hash, by address (lower case).
#[tracing::instrument(name = "db account by email", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn by_email(tx: &mut SystemTx, email: &str) -> DbResult<Option<(Account, String)>> {
    load_account(tx, Wanted::Email(email)).await
}

/// An account by user.
pub async fn by_user(tx: &mut SystemTx, user: UserId) -> DbResult<Option<Account>> {
    Ok(load_account(tx, Wanted::User(user)).await?.map(|(account, _)| account))
}

enum Wanted<'a> {
    Email(&'a str),
    User(UserId),
}

async fn load_account(tx: &mut SystemTx, wanted: Wanted<'_>) -> DbResult<Option<(Account, String)>> {
    let account = users::table
        .inner_join(
            credentials::table
                .on(credentials::organization_id.eq(users::organization_id).and(credentials::user_id.eq(users::id))),
        )
        .left_join(
            employees::table.on(employees::organization_id
                .eq(users::organization_id)
                .and(employees::user_id.eq(users::id.nullable()))
                .and(employees::is_active)),
        )
        .select((
            (users::organization_id, users::id, users::email, users::role, users::created_at, users::updated_at),
            (credentials::password_hash, credentials::banned_until, credentials::last_sign_in_at),
            employees::id.nullable(),
        ))
        .into_boxed();
    let account = match wanted {
        Wanted::Email(email) => account.filter(users::email.eq(email)),
        Wanted::User(user) => account.filter(users::id.eq(user.uuid())),
    };
    let row: Option<AccountRow> = account.first(tx.connection()).await.optional()?;
    Ok(row.map(|((organization, user, email, role, created_at, updated_at), (hash, banned_until, last), employee)| {
        let account = Account {
            user: user.into(),
            organization: organization.into(),
            email,
            role: role.0,
            employee: employee.map(Into::into),
            banned_until,
            created_at,
            updated_at,
            last_sign_in_at: last,
        };
        (account, hash)
    }))
}

/// Notes a sign-in with the password; `rehashed` replaces the stored hash, for when its cost has been raised.
pub async fn signed_in(
    tx: &mut SystemTx,
    account: &Account,
    rehashed: Option<&str>,
    now: DateTime<Utc>,
) -> DbResult<()> {
    let key: (Uuid, Uuid) = (account.organization.uuid(), account.user.uuid());
    diesel::update(credentials::table.find(key))
        .set(credentials::last_sign_in_at.eq(now))
        .execute(tx.connection())
        .await?;
    if let Some(hash) = rehashed {
        diesel::update(credentials::table.find(key))
            .set((credentials::password_hash.eq(hash), credentials::updated_at.eq(now)))
            .execute(tx.connection())
            .await?;
    }
    Ok(())
}

/// A refresh token as it is kept: only its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshToken {
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// Whose.
    pub organization: OrganizationId,
    /// Whose.
    pub user: UserId,
    /// The sign-in it descends from.
    pub family: Uuid,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was exchanged for its successor.
    pub used_at: Option<DateTime<Utc>>,
    /// When its family was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Keeps a new token.
pub async fn add_refresh_token(
    tx: &mut SystemTx,
    organization: OrganizationId,
    user: UserId,
    family: Uuid,
    hash: &[u8; 32],
    now: DateTime<Utc>,
) -> DbResult<()> {
    diesel::insert_into(tokens::table)
        .values((
            tokens::organization_id.eq(organization.uuid()),
            tokens::token_hash.eq(hash.as_slice()),
            tokens::user_id.eq(user.uuid()),
            tokens::family_id.eq(family),
            tokens::created_at.eq(now),
        ))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// A token by its hash, locked: two replicas that refresh with the same token follow each other.
#[tracing::instrument(name = "db refresh token", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn lock_refresh_token(tx: &mut SystemTx, hash: &[u8; 32]) -> DbResult<Option<RefreshToken>> {
    type Row = (Uuid, Uuid, Uuid, DateTime<Utc>, Option<DateTime<Utc>>, Option<DateTime<Utc>>);
    let row: Option<Row> = tokens::table
        .filter(tokens::token_hash.eq(hash.as_slice()))
        .select((
            tokens::organization_id,
            tokens::user_id,
            tokens::family_id,
            tokens::created_at,
            tokens::used_at,
            tokens::revoked_at,
        ))
        .for_update()
        .first(tx.connection())
        .await
        .optional()?;
    Ok(row.map(|(organization, user, family, created_at, used_at, revoked_at)| RefreshToken {
        hash: *hash,
        organization: organization.into(),
        user: user.into(),
        family,
        created_at,
        used_at,
        revoked_at,
    }))
}

/// Notes that a token was exchanged for its successor.
pub async fn use_refresh_token(tx: &mut SystemTx, token: &RefreshToken, now: DateTime<Utc>) -> DbResult<()> {
    diesel::update(tokens::table.find((token.organization.uuid(), token.hash.as_slice())))
        .set(tokens::used_at.eq(now))
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// Which families of a user's tokens to revoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// Every one: signed out everywhere.
    All,
    /// This one: signed out here.
    Only(Uuid),
    /// Every other one: signed out elsewhere.
    AllBut(Uuid),
}

/// Revokes families of a user's tokens; answers how many tokens that were still good are not any more.
pub async fn revoke_families(tx: &mut SystemTx, user: UserId, which: Families, now: DateTime<Utc>) -> DbResult<usize> {
    let mut live = tokens::table
        .filter(tokens::user_id.eq(user.uuid()))
        .filter(tokens::revoked_at.is_null())
        .select((tokens::organization_id, tokens::token_hash))
        .into_boxed();
    live = match which {
        Families::All => live,
        Families::Only(family) => live.filter(tokens::family_id.eq(family)),
        Families::AllBut(family) => live.filter(tokens::family_id.ne(family)),
    };
    let keys: Vec<(Uuid, Vec<u8>)> = live.load(tx.connection()).await?;
    let hashes: Vec<&[u8]> = keys.iter().map(|(_, hash)| hash.as_slice()).collect();
    Ok(diesel::update(tokens::table.filter(tokens::token_hash.eq_any(hashes)))
        .set(tokens::revoked_at.eq(now))
        .execute(tx.connection())
        .await?)
}

/// Whether a sign-in still holds: its family has a token that was not revoked.
pub async fn is_family_live(tx: &mut SystemTx, family: Uuid) -> DbResult<bool> {
    Ok(diesel::select(diesel::dsl::exists(
        tokens::table.filter(tokens::family_id.eq(family)).filter(tokens::revoked_at.is_null()),
    ))
    .get_result(tx.connection())
    .await?)
}

/// A key that signs access tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Its id, as tokens name it.
    pub kid: String,
    /// The private part, sealed with the secrets key.
    pub sealed_private_key: Vec<u8>,
    /// The public point, uncompressed SEC 1, 65 bytes.
    pub public_key: Vec<u8>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stopped signing.
    pub retired_at: Option<DateTime<Utc>>,
}

/// Every key, newest first.
pub async fn signing_keys(tx: &mut SystemTx) -> DbResult<Vec<SigningKey>> {
    type Row = (String, Vec<u8>, Vec<u8>, DateTime<Utc>, Option<DateTime<Utc>>);
    let rows: Vec<Row> = signing_keys::table
        .order((signing_keys::created_at.desc(), signing_keys::kid.desc()))
        .load(tx.connection())
        .await?;
    Ok(rows
        .into_iter()
        .map(|(kid, sealed_private_key, public_key, created_at, retired_at)| SigningKey {
            kid,
            sealed_private_key,
            public_key,
            created_at,
            retired_at,
        })
        .collect())
}

/// Keeps other processes from making signing keys until the transaction ends: replicas that start together agree on
/// one.
pub async fn lock_signing_keys(tx: &mut SystemTx) -> DbResult<()> {
    // "signkeys" in ASCII: any number that nothing else locks.
    diesel::select(pg_advisory_xact_lock(0x7369_676e_6b65_7973)).execute(tx.connection()).await?;
    Ok(())
}

/// Keeps a new signing key and retires those before it.
pub async fn add_signing_key(tx: &mut SystemTx, key: &SigningKey) -> DbResult<()> {
    diesel::update(signing_keys::table.filter(signing_keys::retired_at.is_null()))
        .set(signing_keys::retired_at.eq(key.created_at))
        .execute(tx.connection())
        .await?;
    diesel::insert_into(signing_keys::table)
        .values((
            signing_keys::kid.eq(&key.kid),
            signing_keys::sealed_private_key.eq(&key.sealed_private_key),
            signing_keys::public_key.eq(&key.public_key),
            signing_keys::created_at.eq(key.created_at),
        ))
        .execute(tx.connection())
        .await?;
    Ok(())
}
