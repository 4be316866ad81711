//! Organizations: the tenants themselves.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use domain::OrganizationId;

use crate::schema::organizations;
use crate::{DbResult, SystemTx, TenantTx};

/// The rule that two organizations cannot share a slug.
pub const SLUG_TAKEN: &str = "organizations_slug_key";

/// Makes an organization whose days are those of UTC. By the system role: there is no tenant before it exists.
pub async fn create(tx: &mut SystemTx, id: OrganizationId, name: &str, slug: &str) -> DbResult<()> {
    create_in(tx, id, name, slug, "UTC").await
}

/// Makes an organization whose days are those of a time zone. By the system role, as above.
pub async fn create_in(tx: &mut SystemTx, id: OrganizationId, name: &str, slug: &str, zone: &str) -> DbResult<()> {
    diesel::insert_into(organizations::table)
        .values((
            organizations::id.eq(id.uuid()),
            organizations::name.eq(name),
            organizations::slug.eq(slug),
            organizations::time_zone.eq(zone),
        ))
        .execute(tx.connection())
        .await?;
    Ok(())
}

#[diesel::declare_sql_function]
extern "SQL" {
    /// Whether PostgreSQL knows an IANA name.
    #[sql_name = "app.is_time_zone"]
    fn is_time_zone(name: diesel::sql_types::Text) -> diesel::sql_types::Bool;
}

/// Whether there is a time zone of that IANA name. By the system role: it is asked before there is an organization.
pub async fn knows_time_zone(tx: &mut SystemTx, zone: &str) -> DbResult<bool> {
    Ok(diesel::select(is_time_zone(zone)).get_result(tx.connection()).await?)
}

/// Every organization. By the system role: the schedule has their figures looked after.
pub async fn all(tx: &mut SystemTx) -> DbResult<Vec<OrganizationId>> {
    let ids: Vec<uuid::Uuid> = organizations::table.select(organizations::id).load(tx.connection()).await?;
    Ok(ids.into_iter().map(OrganizationId::from).collect())
}

/// An organization as its administrators see it.
#[derive(Debug, Clone, PartialEq, Eq, Queryable)]
pub struct Organization {
    /// Its id.
    pub id: uuid::Uuid,
    /// What it is called.
    pub name: String,
    /// Its short name.
    pub slug: String,
    /// The time zone of its days and weeks, an IANA name.
    pub time_zone: String,
}

/// The organization itself; `None` when it is no longer there.
pub async fn own(tx: &mut TenantTx) -> DbResult<Option<Organization>> {
    let id = tx.organization();
    let columns = (organizations::id, organizations::name, organizations::slug, organizations::time_zone);
    Ok(organizations::table.find(id).select(columns).first(tx.connection()).await.optional()?)
}

/// Sets the time zone of its days and weeks; answers whether there is one of that IANA name. Figures of days follow with
/// the next reconciliation.
pub async fn set_time_zone(tx: &mut TenantTx, zone: &str, now: DateTime<Utc>) -> DbResult<bool> {
    let id = tx.organization();
    if !diesel::select(is_time_zone(zone)).get_result::<bool>(tx.connection()).await? {
        return Ok(false);
    }
    diesel::update(organizations::table.find(id).filter(organizations::time_zone.ne(zone)))
        .set((
            organizations::time_zone.eq(zone),
            organizations::time_zone_set_at.eq(now),
            organizations::updated_at.eq(now),
        ))
        .execute(tx.connection())
        .await?;
    Ok(true)
}
