//! Keys that programs call with.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use domain::api_key::{ApiKey, Scope, Scopes};
use domain::{ApiKeyId, OrganizationId, UserId};
use uuid::Uuid;

use crate::schema::api_keys as keys;
use crate::{DbError, DbResult, SystemTx, TenantTx};

/// Rows looked at for one key: prefixes are 32 random bits, so more than one is chance already.
const CANDIDATES: i64 = 10;

/// What is kept of a key, to compare with what a caller shows.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The key's id.
    pub id: ApiKeyId,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Hex of its scrypt hash.
    pub hash: String,
    /// Hex of the salt.
    pub salt: String,
}

/// Usable keys that begin so. By the system role: whose key it is, is what is being found out.
#[tracing::instrument(name = "db find api keys", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn candidates(tx: &mut SystemTx, prefix: &str) -> DbResult<Vec<Candidate>> {
    let rows: Vec<(Uuid, Uuid, String, String)> = keys::table
        .filter(keys::key_prefix.eq(prefix))
        .filter(keys::active)
        .filter(keys::revoked_at.is_null())
        .limit(CANDIDATES)
        .select((keys::id, keys::organization_id, keys::key_hash, keys::key_salt))
        .load(tx.connection())
        .await?;
    Ok(rows
        .into_iter()
        .map(|(id, organization, hash, salt)| Candidate {
            id: id.into(),
            organization: organization.into(),
            hash,
            salt,
        })
        .collect())
}

/// What a key may do now; `None` when it may nothing any more. A key that may do what is asked of it is counted.
#[tracing::instrument(name = "db use api key", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn present(
    tx: &mut TenantTx,
    key: ApiKeyId,
    needed: Option<Scope>,
    now: DateTime<Utc>,
) -> DbResult<Option<Scopes>> {
    #[derive(QueryableByName)]
    struct Present {
        #[diesel(sql_type = Array<Text>)]
        scopes: Vec<String>,
    }
    let organization = tx.organization();
    let found: Option<Present> = diesel::sql_query(
        "UPDATE api_keys SET
             request_count = request_count + ($3 IS NULL OR scopes && ARRAY[$3, 'admin:all'])::integer,
             last_used_at = CASE WHEN $3 IS NULL OR scopes && ARRAY[$3, 'admin:all'] THEN $4 ELSE last_used_at END
         WHERE organization_id = $1 AND id = $2 AND active AND revoked_at IS NULL
         RETURNING scopes",
    )
    .bind::<SqlUuid, _>(organization)
    .bind::<SqlUuid, _>(key.uuid())
    .bind::<Nullable<Text>, _>(needed.map(Scope::as_str))
    .bind::<Timestamptz, _>(now)
    .get_result(tx.connection())
    .await
    .optional()?;
    found.map(|found| scopes(&found.scopes)).transpose()
}

/// Counts a reply of 400 or more.
pub async fn count_error(tx: &mut TenantTx, key: ApiKeyId) -> DbResult<()> {
    let key: (Uuid, Uuid) = (tx.organization(), key.uuid());
    diesel::update(keys::table.find(key))
        .set(keys::error_count.eq(keys::error_count + 1))
        .execute(tx.connection())
        .await?;
    Ok(())
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = keys)]
struct Row {
    id: Uuid,
    name: String,
    key_prefix: String,
    scopes: Vec<String>,
    active: bool,
    request_count: i64,
    error_count: i64,
    last_used_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl TryFrom<Row> for ApiKey {
    type Error = DbError;

    fn try_from(row: Row) -> DbResult<Self> {
        Ok(Self {
            id: row.id.into(),
            name: row.name,
            preview: format!("{}...", row.key_prefix),
            scopes: scopes(&row.scopes)?,
            active: row.active,
            request_count: row.request_count,
            error_count: row.error_count,
            last_used_at: row.last_used_at,
            created_at: row.created_at,
        })
    }
}

fn scopes(stored: &[String]) -> DbResult<Scopes> {
    let scopes: Option<Vec<Scope>> = stored.iter().map(|scope| Scope::parse(scope)).collect();
    scopes
        .and_then(|scopes| Scopes::new(scopes).ok())
        .ok_or_else(|| DbError::Broken(format!("unknown scopes {stored:?}")))
}

/// A key to be.
#[derive(Debug)]
pub struct NewApiKey<'a> {
    /// Its id.
    pub id: ApiKeyId,
    /// What people call it.
    pub name: &'a str,
    /// What it may do.
    pub scopes: &'a Scopes,
    /// Hex of its scrypt hash.
    pub hash: &'a str,
    /// Hex of the salt.
    pub salt: &'a str,
    /// Its first 16 characters.
    pub prefix: &'a str,
    /// Who makes it.
    pub created_by: Option<UserId>,
}

/// Makes a key.
#[tracing::instrument(name = "db create api key", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn create(tx: &mut TenantTx, new: &NewApiKey<'_>, now: DateTime<Utc>) -> DbResult<ApiKey> {
    let organization = tx.organization();
    diesel::insert_into(keys::table)
        .values((
            keys::organization_id.eq(organization),
            keys::id.eq(new.id.uuid()),
            keys::name.eq(new.name),
            keys::key_hash.eq(new.hash),
            keys::key_salt.eq(new.salt),
            keys::key_prefix.eq(new.prefix),
            keys::scopes.eq(new.scopes.words()),
            keys::created_by.eq(new.created_by.map(UserId::uuid)),
            keys::created_at.eq(now),
            keys::updated_at.eq(now),
        ))
        .returning(Row::as_returning())
        .get_result(tx.connection())
        .await?
        .try_into()
}

/// Every key of the organization, newest first.
#[tracing::instrument(name = "db list api keys", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn list(tx: &mut TenantTx) -> DbResult<Vec<ApiKey>> {
    let organization = tx.organization();
    let rows: Vec<Row> = keys::table
        .filter(keys::organization_id.eq(organization))
        .order((keys::created_at.desc(), keys::id.desc()))
        .select(Row::as_select())
        .load(tx.connection())
        .await?;
    rows.into_iter().map(ApiKey::try_from).collect()
}

/// Whether the organization has this key; it is locked until the transaction ends.
pub async fn exists(tx: &mut TenantTx, id: ApiKeyId) -> DbResult<bool> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    let found: Option<Uuid> =
        keys::table.find(key).select(keys::id).for_update().first(tx.connection()).await.optional()?;
    Ok(found.is_some())
}

/// Changes what is given; disabling stamps the time, enabling clears it. `None` when there is no such key.
#[tracing::instrument(name = "db update api key", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn update(
    tx: &mut TenantTx,
    id: ApiKeyId,
    name: Option<&str>,
    scopes: Option<&Scopes>,
    active: Option<bool>,
    now: DateTime<Utc>,
) -> DbResult<Option<ApiKey>> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    diesel::update(keys::table.find(key))
        .set((
            name.map(|name| keys::name.eq(name)),
            scopes.map(|scopes| keys::scopes.eq(scopes.words())),
            active.map(|active| (keys::active.eq(active), keys::revoked_at.eq((!active).then_some(now)))),
            keys::updated_at.eq(now),
        ))
        .returning(Row::as_returning())
        .get_result(tx.connection())
        .await
        .optional()?
        .map(ApiKey::try_from)
        .transpose()
}

/// Removes a key; answers whether there was one.
#[tracing::instrument(name = "db delete api key", skip_all, fields(otel.kind = "client", db.system = "postgresql"))]
pub async fn delete(tx: &mut TenantTx, id: ApiKeyId) -> DbResult<bool> {
    let key: (Uuid, Uuid) = (tx.organization(), id.uuid());
    Ok(diesel::delete(keys::table.find(key)).execute(tx.connection()).await? > 0)
}
