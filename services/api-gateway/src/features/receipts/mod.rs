//! Receipts in the local directory: the gateway serves the addresses that it handed out.
//!
//! There is no credential here but the address itself, signed and soon expired. With a bucket as the store, its own
//! addresses are handed out and these routes know no receipt.

mod download;
mod upload;

use actix_web::http::header::CONTENT_LENGTH;
use domain::receipt::ReceiptPath;

use crate::error::{ApiError, ApiResult};
use crate::http::endpoint::Routes;
use crate::http::input::{Input, Parts};
use crate::receipts::{Address, LocalReceipts};
use crate::state::State;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<upload::Upload>().add::<download::Download>();
}

const PATH: &str = "/receipts/{organization}/{employee}/{file}";
const NOT_FOUND: ApiError = ApiError::NotFound("Receipt not found");

/// An address as its bearer sends it.
pub struct Signed {
    path: Option<ReceiptPath>,
    expires: Option<i64>,
    signature: String,
    /// Bytes of the body, when they are declared.
    length: Option<u64>,
}

impl Input for Signed {
    const READS_BODY: bool = false;
    // A bad address is one answer, whatever is wrong with it.
    const IS_JUDGED: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let part = |name| parts.request.match_info().query(name);
        let path = format!("{}/{}/{}", part("organization"), part("employee"), part("file"));
        let query = parts.query();
        Ok(Self {
            path: path.parse().ok(),
            expires: query.text("expires").into_value().and_then(|text| text.parse().ok()),
            signature: query.text("signature").into_value().unwrap_or_default(),
            length: parts
                .request
                .headers()
                .get(CONTENT_LENGTH)
                .and_then(|length| length.to_str().ok())
                .and_then(|length| length.parse().ok()),
        })
    }
}

impl Signed {
    /// The directory and the path in it, if this very address was handed out for this and is still good.
    fn admit<'a>(&self, state: &'a State, what: Address) -> ApiResult<(&'a LocalReceipts, ReceiptPath)> {
        let receipts = state.receipts.local().ok_or(NOT_FOUND)?;
        match (self.path, self.expires) {
            (Some(path), Some(expires)) if receipts.allows(what, path, expires, &self.signature, state.clock.now()) => {
                Ok((receipts, path))
            }
            _ => Err(ApiError::AddressExpired),
        }
    }
}
