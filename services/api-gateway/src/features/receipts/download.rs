//! `GET /receipts/{organization}/{employee}/{file}`

use actix_web::HttpResponse;
use actix_web::body::SizedStream;
use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use actix_web::web::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::{NOT_FOUND, PATH, Signed};
use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::openapi::About;
use crate::receipts::Address;

/// Hands a receipt out, piece by piece.
pub struct Download;

/// Bytes read at once.
const PIECE: usize = 64 * 1024;

impl Endpoint for Download {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = PATH;
    const ACCESS: Access = Access::Public;
    type Input = Signed;

    fn about() -> About {
        About::new("expenses", "downloadReceipt", "Read a receipt at a signed address")
            .note("The address is the permission.")
            .text(200, "*/*", "The file, of the type its name says.")
            .refuses(403, "The address is not valid or has expired.")
            .refuses(404, "There is no receipt.")
            .parameter("path", "organization", true, json!({ "type": "string", "format": "uuid" }))
            .parameter("path", "employee", true, json!({ "type": "string", "format": "uuid" }))
            .parameter("path", "file", true, json!({ "type": "string" }))
            .parameter("query", "expires", true, json!({ "type": "integer" }))
            .parameter("query", "signature", true, json!({ "type": "string" }))
    }

    async fn handle(call: Call<Signed>) -> ApiResult<HttpResponse> {
        let (receipts, path) = call.input.admit(&call.state, Address::Download)?;
        let found = receipts.read(path).await.map_err(|error| ApiError::Unavailable(error.to_string()))?;
        let (file, size) = found.ok_or(NOT_FOUND)?;
        let pieces = stream::try_unfold(file, |mut file| async move {
            let mut piece = vec![0; PIECE];
            let read = file.read(&mut piece).await?;
            piece.truncate(read);
            Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(piece), file)))
        });
        Ok(HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, path.kind().media_type()))
            // A receipt never changes; who may see it does.
            .insert_header((CACHE_CONTROL, "private, max-age=300, immutable"))
            // The console is another origin, and the address is the permission.
            .insert_header((HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"))
            .body(SizedStream::new(size, Box::pin(pieces))))
    }
}
