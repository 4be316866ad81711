//! `GET /expenses/{id}/receipt`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::ExpenseId;
use domain::auth::Role;
use domain::clock::Replied;
use domain::receipt::ReceiptPath;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Input, Parts};
use crate::http::openapi::About;
use crate::http::reply;
use crate::receipts::Found;

/// Hands out an address at which the receipt of a claim can be read for a while: to administrators, and to the employee
/// whose claim it is. A receipt that lies elsewhere has its own address, which does not expire.
pub struct Receipt;

const NO_EXPENSE: ApiError = ApiError::NotFound("Expense not found");
const NO_RECEIPT: ApiError = ApiError::NotFound("Receipt not found");

impl Endpoint for Receipt {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/expenses/{id}/receipt";
    const ACCESS: Access = Access::Everyone;
    type Input = Which;

    fn about() -> About {
        About::new("expenses", "getExpenseReceipt", "An address at which the receipt of a claim can be read")
            .note("For administrators and for the employee whose claim it is.")
            .ok::<Readable>()
            .refuses(400, "What lies there is no receipt, or not the one that was seen first.")
            .refuses(404, "There is no such claim, or it has no receipt.")
    }

    async fn handle(call: Call<Which>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let id = call.input.0;
        let mut tx = call.state.db.tenant(caller.tenant()).await?;
        let expense = db::expenses::find(&mut tx, id).await?.ok_or(NO_EXPENSE)?;
        tx.commit().await?;
        if caller.role() == Role::Employee && expense.employee != caller.working_employee()? {
            return Err(NO_EXPENSE);
        }
        let receipt_url = expense.receipt_url.ok_or(NO_RECEIPT)?;
        let Ok(path) = receipt_url.parse::<ReceiptPath>() else {
            return Ok(reply::ok(Readable { url: receipt_url, expires_at: None }));
        };
        let (now, store) = (call.state.clock.now(), call.state.receipts.store());
        let found = store.look(path, now).await.map_err(|error| ApiError::Unavailable(error.to_string()))?;
        let not_shown = |why| Err(ApiError::Refused(format!("The receipt cannot be shown: {why}")));
        if let Some(complaint) = found.complaint() {
            return not_shown(complaint);
        }
        match found {
            Found::Nothing => return Err(NO_RECEIPT),
            Found::Receipt { etag: Some(etag) } => {
                let mut tx = call.state.db.tenant(caller.tenant()).await?;
                let is_first = db::expenses::is_first_receipt(&mut tx, id, &etag).await?;
                tx.commit().await?;
                if !is_first {
                    return not_shown("another file was put in its place");
                }
            }
            _ => {}
        }
        let (url, expires_at) = store.download_url(path, now);
        Ok(reply::ok(Readable { url, expires_at: Some(Replied(expires_at)) }))
    }
}

/// Where a receipt can be read.
#[derive(Serialize, ToSchema)]
#[schema(as = ReceiptAddress)]
#[serde(rename_all = "camelCase")]
struct Readable {
    /// GET the file here.
    url: String,
    /// Until when; `null` for a receipt that lies elsewhere.
    expires_at: Option<Replied>,
}

/// The claim in the path.
pub struct Which(ExpenseId);

impl Input for Which {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        Ok(Self(parts.path_id("id")?.into()))
    }
}
