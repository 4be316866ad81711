//! `POST /expenses/receipt-upload-url`

use actix_web::HttpResponse;
use actix_web::http::Method;
use domain::receipt::{Extension, ReceiptKind, ReceiptPath};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, object};
use crate::http::openapi::About;
use crate::http::{reply, rules};

/// Hands out an address to which a receipt can be put, and the path by which an expense then names it.
pub struct ReceiptUploadUrl;

impl Endpoint for ReceiptUploadUrl {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/expenses/receipt-upload-url";
    const ACCESS: Access = Access::Employees;
    type Input = Announced;

    fn about() -> About {
        About::new("expenses", "createReceiptUploadUrl", "An address to which a receipt can be put, once")
            .note("PUT the file to `uploadUrl`, then name it in a claim by `receiptUrl`.")
            .ok::<Addresses>()
    }

    async fn handle(call: Call<Announced>) -> ApiResult<HttpResponse> {
        let caller = call.caller()?;
        let employee = caller.working_employee()?;
        let Announced { extension, media_type } = &call.input;
        let kind = media_type.as_deref().map(|text| announced_kind(*extension, text)).transpose()?;
        let path = ReceiptPath::generate(caller.tenant().organization(), employee, *extension);
        Ok(reply::ok(Addresses {
            upload_url: call.state.receipts.store().upload_url(path, kind, call.state.clock.now()),
            receipt_url: path.to_string(),
        }))
    }
}

/// The kind that a media type announces, which must be the one of the name.
fn announced_kind(extension: Extension, media_type: &str) -> ApiResult<ReceiptKind> {
    let Some(kind) = ReceiptKind::of_media_type(media_type) else {
        let allowed = ReceiptKind::ALL.map(ReceiptKind::media_type).join(", ");
        return Err(ApiError::Refused(format!("Unsupported MIME type '{media_type}'. Allowed: {allowed}")));
    };
    if kind != extension.kind() {
        return Err(ApiError::Refused(format!(
            "MIME type '{media_type}' does not match extension '{}' (expected '{}')",
            extension.as_str(),
            extension.kind().media_type()
        )));
    }
    Ok(kind)
}

/// Where a receipt can be put, and how a claim then names it.
#[derive(Serialize, ToSchema)]
#[schema(as = ReceiptAddresses)]
#[serde(rename_all = "camelCase")]
struct Addresses {
    /// PUT the file here.
    upload_url: String,
    /// The path by which a claim names it; not an address.
    receipt_url: String,
}

/// What will be uploaded.
pub struct Announced {
    extension: Extension,
    media_type: Option<String>,
}

const EXTENSIONS: &[&str] = &["jpg", "jpeg", "png", "webp", "pdf"];

#[derive(Deserialize, Validate)]
#[garde(context(Moment))]
#[expect(non_snake_case, reason = "the fields are named as the body spells them")]
struct Body {
    #[serde(default)]
    #[garde(custom(rules::word(EXTENSIONS, "extension must be one of: jpg, jpeg, png, webp, pdf")))]
    extension: Field<String>,
    #[serde(default)]
    #[garde(custom(rules::optional))]
    mimeType: Field<String>,
}

object!(Body: extension, mimeType);

impl Input for Announced {
    const READS_BODY: bool = true;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let body: Body = parts.body()?;
        let extension = body.extension.value().and_then(|text| Extension::parse(text));
        Ok(Self { extension: extension.unwrap_or(Extension::Jpg), media_type: body.mimeType.into_value() })
    }
}
