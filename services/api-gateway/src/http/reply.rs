//! How answers look.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use domain::page::Pagination;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiError;

/// The media type of replies.
pub const JSON: &str = "application/json; charset=utf-8";

/// A reply as JSON.
#[must_use]
pub fn json<T: Serialize>(status: StatusCode, body: &T) -> HttpResponse {
    match serde_json::to_vec(body) {
        Ok(body) => HttpResponse::build(status).insert_header((CONTENT_TYPE, JSON)).body(body),
        Err(error) => {
            tracing::error!(error.message = %error, "a reply could not be written as JSON");
            HttpResponse::InternalServerError().finish()
        }
    }
}

#[derive(Serialize)]
struct Success<T> {
    success: bool,
    data: T,
}

/// 200 with `data` in the envelope.
#[must_use]
pub fn ok<T: Serialize>(data: T) -> HttpResponse {
    json(StatusCode::OK, &Success { success: true, data })
}

/// 201 with `data` in the envelope.
#[must_use]
pub fn created<T: Serialize>(data: T) -> HttpResponse {
    json(StatusCode::CREATED, &Success { success: true, data })
}

/// 202 with `data` in the envelope.
#[must_use]
pub fn accepted<T: Serialize>(data: T) -> HttpResponse {
    json(StatusCode::ACCEPTED, &Success { success: true, data })
}

/// 200 with one page of a list.
#[must_use]
pub fn page<T: Serialize>(data: Vec<T>, pagination: Pagination) -> HttpResponse {
    #[derive(Serialize)]
    struct Page<T> {
        success: bool,
        data: Vec<T>,
        pagination: Pagination,
    }
    json(StatusCode::OK, &Page { success: true, data, pagination })
}

/// A refusal as clients read it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
#[serde(rename_all = "camelCase")]
pub struct Refusal<'a> {
    /// Always false.
    #[schema(example = false)]
    success: bool,
    /// What is wrong, for people.
    error: String,
    /// The request's id, as in the header `X-Request-Id`.
    request_id: &'a str,
    /// What is wrong, for programs.
    code: &'static str,
    /// Which field or fields, or a hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Object>)]
    details: Option<serde_json::Value>,
}

/// The refusal of a used-up budget.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RateLimitError)]
#[serde(rename_all = "camelCase")]
pub struct RateLimited<'a> {
    /// Seconds until trying again makes sense: `42s`.
    #[schema(pattern = "^[0-9]+s$")]
    retry_after: String,
    /// Always false.
    #[schema(example = false)]
    success: bool,
    /// Which budget, for people.
    error: String,
    /// The request's id, as in the header `X-Request-Id`.
    request_id: &'a str,
    /// What is wrong, for programs.
    code: &'static str,
}

/// The envelope of a refusal.
#[must_use]
pub fn refusal(error: &ApiError, request_id: &str) -> HttpResponse {
    let (status, code) = error.status_and_code();
    let wait = match error {
        ApiError::TooMany { retry_after_s, .. } => Some(*retry_after_s),
        _ => None,
    };
    let (success, message) = (false, error.to_string());
    let Some(seconds) = wait else {
        let mut response =
            json(status, &Refusal { success, error: message, request_id, code, details: error.details() });
        if let ApiError::CoolingDown { left, .. } = error {
            response.headers_mut().insert(RETRY_AFTER, left.as_secs().saturating_add(1).into());
        }
        return response;
    };
    let retry_after = format!("{seconds}s");
    let mut response = json(status, &RateLimited { retry_after, success, error: message, request_id, code });
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
    response
}

/// The reply of a path or method that is no route.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NotFoundRoute)]
#[serde(rename_all = "camelCase")]
pub struct NoSuchRoute<'a> {
    /// `Route METHOD:URL not found`.
    message: String,
    error: NotFound,
    /// Always 404.
    status_code: u16,
    /// Always false.
    #[schema(example = false)]
    success: bool,
    /// The request's id, as in the header `X-Request-Id`.
    request_id: &'a str,
    code: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
enum NotFound {
    #[serde(rename = "Not Found")]
    NotFound,
}

/// The reply of a path or method that is no route.
#[must_use]
pub fn no_such_route(method: &str, raw_url: &str, request_id: &str) -> HttpResponse {
    json(
        StatusCode::NOT_FOUND,
        &NoSuchRoute {
            message: format!("Route {method}:{raw_url} not found"),
            error: NotFound::NotFound,
            status_code: 404,
            success: false,
            request_id,
            code: "NOT_FOUND",
        },
    )
}
