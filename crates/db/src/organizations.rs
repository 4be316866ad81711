//! Organizations: the tenants themselves.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use domain::OrganizationId;

use crate::schema::organizations;
use crate::{DbResult, SystemTx};

/// The rule that two organizations cannot share a slug.
pub const SLUG_TAKEN: &str = "organizations_slug_key";

/// Makes an organization. By the system role: there is no tenant before it exists.
pub async fn create(tx: &mut SystemTx, id: OrganizationId, name: &str, slug: &str) -> DbResult<()> {
    diesel::insert_into(organizations::table)
        .values((organizations::id.eq(id.uuid()), organizations::name.eq(name), organizations::slug.eq(slug)))
        .execute(tx.connection())
        .await?;
    Ok(())
}
