//! `PUT /receipts/{organization}/{employee}/{file}`

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::Method;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{PATH, Signed};
use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::http::reply;
use crate::receipts::{Address, NotTaken};

/// Takes a receipt in, piece by piece, and judges it by its content: whatever type the request declares is ignored.
pub struct Upload;

impl Endpoint for Upload {
    const METHOD: Method = Method::PUT;
    const PATH: &'static str = PATH;
    const ACCESS: Access = Access::Public;
    /// A photograph over a bad connection takes its time.
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(300));
    type Input = Signed;

    fn about() -> About {
        About::new("expenses", "uploadReceipt", "Put a receipt at a signed address")
            .note("The address is the permission. The file is judged by its content, whatever type is declared.")
            .ok::<Uploaded>()
            .refuses(400, "The file is not of the type its name says, or another one lies there.")
            .refuses(403, "The address is not valid or has expired.")
            .refuses(404, "Receipts lie elsewhere.")
            .refuses(413, "The file is too large.")
            .parameter("path", "organization", true, json!({ "type": "string", "format": "uuid" }))
            .parameter("path", "employee", true, json!({ "type": "string", "format": "uuid" }))
            .parameter("path", "file", true, json!({ "type": "string" }))
            .parameter("query", "expires", true, json!({ "type": "integer" }))
            .parameter("query", "signature", true, json!({ "type": "string" }))
    }

    async fn handle(call: Call<Signed>) -> ApiResult<HttpResponse> {
        let (receipts, path) = call.input.admit(&call.state, Address::Upload)?;
        if call.input.length.is_some_and(|length| length > receipts.max_bytes()) {
            return Err(ApiError::TooLarge);
        }
        let body = call.body.ok_or_else(|| ApiError::Internal("the body was read already".to_owned()))?;
        receipts.take(path, body).await.map_err(|error| match error {
            NotTaken::TooLarge => ApiError::TooLarge,
            NotTaken::OtherKind => ApiError::Refused(format!("The file is not of type {}", path.kind().media_type())),
            NotTaken::Taken => ApiError::Refused("Another file has been uploaded to this address already".to_owned()),
            NotTaken::BrokenOff => ApiError::Refused("The upload broke off".to_owned()),
            NotTaken::Io(_) => ApiError::Unavailable(error.to_string()),
        })?;
        Ok(reply::ok(Uploaded { receipt_url: path.to_string() }))
    }
}

/// Where the receipt lies now.
#[derive(Serialize, ToSchema)]
#[schema(as = UploadedReceipt)]
#[serde(rename_all = "camelCase")]
struct Uploaded {
    /// The path by which a claim names it.
    receipt_url: String,
}
