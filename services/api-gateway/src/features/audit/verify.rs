//! `GET /admin/audit-log/verify`

use actix_web::HttpResponse;
use actix_web::http::Method;
use db::audit::{Verdict, verify};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::limits::Budget;
use crate::http::openapi::About;
use crate::http::reply;

/// Computes the chain of the organization's audit log anew and says what is wrong with it. Whoever keeps the hash it
/// answers can prove later that nothing up to there was changed, not even by whoever owns the database.
pub struct Verify;

impl Endpoint for Verify {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/audit-log/verify";
    const ACCESS: Access = Access::Admins;
    // It reads the whole log.
    const BUDGET: Budget = Budget::Own { route: "audit-verify", limit: 10, window_s: 60 };
    type Input = ();

    fn about() -> About {
        About::new("admin", "verifyAuditLog", "Whether anybody has changed the audit log").ok::<Verification>()
    }

    async fn handle(call: Call<()>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let verdict = verify(&mut tx).await?;
        tx.commit().await?;
        if let Verdict::Broken { fault, position, .. } = &verdict {
            tracing::error!(audit.fault = fault.as_str(), audit.position = position, "the audit log was tampered with");
        }
        Ok(reply::ok(Verification::from(verdict)))
    }
}

/// Whether the log is as it was written.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuditVerification)]
pub struct Verification {
    intact: bool,
    /// Entries, when it is intact.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    entries: Option<i64>,
    /// Hash of the last entry in hex, when it is intact and there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_hash: Option<String>,
    /// What is wrong first: `changed`, `missing` or `unchained`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fault: Option<&'static str>,
    /// Its place in the chain, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    position: Option<i64>,
    /// The entry that is wrong, or the first one behind a gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    entry_id: Option<Uuid>,
}

impl From<Verdict> for Verification {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Intact { entries, hash } => Self {
                intact: true,
                entries: Some(entries),
                last_hash: hash.map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect()),
                fault: None,
                position: None,
                entry_id: None,
            },
            Verdict::Broken { fault, position, id } => Self {
                intact: false,
                entries: None,
                last_hash: None,
                fault: Some(fault.as_str()),
                position,
                entry_id: id,
            },
        }
    }
}
