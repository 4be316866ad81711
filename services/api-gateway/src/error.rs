//! Everything a caller can be told went wrong.

use std::time::Duration;

use actix_web::http::StatusCode;
use db::DbError;
use domain::api_key::Scope;
use domain::auth::{ClaimsError, Role};
use queue::QueueError;
use serde::Serialize;

/// What a handler answers.
pub type ApiResult<T> = Result<T, ApiError>;

/// One unacceptable value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where: `body/points/3/latitude`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// A request is refused, or could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no credential, or not in the form that is read.
    #[error("Missing or malformed Authorization header")]
    NoCredential,
    /// The token is not one of ours, or no longer good.
    #[error("Invalid or missing authentication token")]
    BadToken,
    /// The token is ours, and says too little or nonsense.
    #[error("{0}")]
    BadClaims(#[from] ClaimsError),
    /// The API key does not look like one.
    #[error("Invalid API key format")]
    MalformedApiKey,
    /// There is no such API key.
    #[error("Invalid API key")]
    UnknownApiKey,
    /// The key may not do this.
    #[error("API key missing required scope: {}", .0.as_str())]
    MissingScope(Scope),
    /// Programs may not do this.
    #[error("This endpoint requires JWT user authentication")]
    PeopleOnly,
    /// Address or password are wrong.
    #[error("Invalid email or password")]
    BadCredentials,
    /// The role is the wrong one.
    #[error("This action requires {} role", .0.as_str())]
    WrongRole(Role),
    /// The caller is no employee who may work.
    #[error("Employee context required. This endpoint is for employees only.")]
    NoEmployee,
    /// A page of a foreign origin asks for what only pages of known origins may read.
    #[error("This origin is not allowed")]
    ForeignOrigin,
    /// A signed address was never handed out for this, or is no longer good.
    #[error("This address is not valid or has expired")]
    AddressExpired,
    /// There is no such row in the caller's organization.
    #[error("{0}")]
    NotFound(&'static str),
    /// There is none of what was asked for; says so in words that name it.
    #[error("{0}")]
    NothingFound(String),
    /// Values are missing, of the wrong type or out of range.
    #[error("{}", joined(.0))]
    Invalid(Vec<Problem>),
    /// A rule of the business forbids it.
    #[error("{0}")]
    Refused(String),
    /// A rule of the business forbids it because of one field.
    #[error("{message}")]
    RefusedField {
        /// Why.
        message: String,
        /// Which field.
        field: &'static str,
    },
    /// The body is no JSON.
    #[error("Body is not valid JSON but content-type is set to 'application/json'")]
    MalformedJson,
    /// The path cannot be decoded.
    #[error("The URL is not valid")]
    MalformedUrl,
    /// The body is larger than allowed.
    #[error("Request body is too large")]
    TooLarge,
    /// The body is of another type than JSON.
    #[error("Unsupported Media Type")]
    UnsupportedMediaType,
    /// A budget is used up.
    #[error("{message}")]
    TooMany {
        /// Which budget, in words.
        message: &'static str,
        /// Seconds until trying again makes sense.
        retry_after_s: u64,
    },
    /// The same was done a moment ago.
    #[error("Distance DLQ replay is rate-limited. Please wait before replaying again.")]
    CoolingDown {
        /// What it was done to.
        queue: &'static str,
        /// How long to wait yet.
        left: Duration,
        /// How long one has to wait in all.
        whole: Duration,
    },
    /// The route has been removed for good.
    #[error("{0}")]
    Gone(&'static str),
    /// Nobody does what would be queued.
    #[error("{0}")]
    NoWorkers(&'static str),
    /// Something this request needs is away.
    #[error("Service unavailable")]
    Unavailable(String),
    /// A queue holds as many jobs as it may.
    #[error("Queue overload: {queue} depth {depth} exceeds MAX_QUEUE_DEPTH={most}")]
    QueueOverloaded {
        /// Which one.
        queue: &'static str,
        /// How many it holds.
        depth: u64,
        /// How many it may hold.
        most: u64,
    },
    /// It could not be done, in the words of the contract. The cause is logged and not told.
    #[error("{message}")]
    Failed {
        /// What could not be done.
        message: &'static str,
        /// Why.
        cause: String,
    },
    /// Our mistake. The cause is logged and not told.
    #[error("Internal server error")]
    Internal(String),
}

fn joined(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{} {}", problem.field, problem.message)).collect::<Vec<_>>().join(", ")
}

/// Hint for operators whose identity provider does not add our claims.
const CLAIMS_HINT: &str =
    "The identity provider must add role, org_id and, for employees, employee_id as top-level claims.";

impl ApiError {
    /// The status and the machine-readable code it answers with.
    #[must_use]
    pub const fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NoCredential | Self::BadToken => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Self::BadClaims(ClaimsError::Missing | ClaimsError::MissingEmployee) => {
                (StatusCode::UNAUTHORIZED, "AUTH_HOOK_MISSING")
            }
            Self::BadClaims(_) => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Self::MalformedApiKey | Self::UnknownApiKey => (StatusCode::UNAUTHORIZED, "INVALID_API_KEY"),
            Self::BadCredentials => (StatusCode::UNAUTHORIZED, "INVALID_CREDENTIALS"),
            Self::PeopleOnly => (StatusCode::FORBIDDEN, "JWT_REQUIRED"),
            Self::MissingScope(_)
            | Self::WrongRole(_)
            | Self::NoEmployee
            | Self::ForeignOrigin
            | Self::AddressExpired => (StatusCode::FORBIDDEN, "FORBIDDEN"),
            Self::NotFound(_) | Self::NothingFound(_) => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Self::Invalid(_)
            | Self::Refused(_)
            | Self::RefusedField { .. }
            | Self::MalformedJson
            | Self::MalformedUrl => (StatusCode::BAD_REQUEST, "VALIDATION_ERROR"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE"),
            Self::TooMany { .. } => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
            Self::CoolingDown { .. } => (StatusCode::TOO_MANY_REQUESTS, "DLQ_REPLAY_RATE_LIMITED"),
            Self::Gone(_) => (StatusCode::GONE, "GONE"),
            Self::QueueOverloaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "QUEUE_OVERLOADED"),
            Self::NoWorkers(_) | Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE"),
            Self::Failed { .. } | Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR"),
        }
    }

    /// What else the reply says.
    #[must_use]
    pub fn details(&self) -> Option<serde_json::Value> {
        match self {
            Self::Invalid(problems) => Some(serde_json::json!({ "fields": problems })),
            Self::RefusedField { field, .. } => Some(serde_json::json!({ "field": field })),
            Self::BadClaims(ClaimsError::Missing | ClaimsError::MissingEmployee) => {
                Some(serde_json::json!({ "hint": CLAIMS_HINT }))
            }
            Self::QueueOverloaded { queue, depth, most } => {
                Some(serde_json::json!({ "queue": queue, "queueDepth": depth, "maxQueueDepth": most }))
            }
            Self::CoolingDown { queue, left, whole } => Some(serde_json::json!({
                "queue": queue,
                "retryAfterMs": u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
                "cooldownMs": u64::try_from(whole.as_millis()).unwrap_or(u64::MAX),
            })),
            _ => None,
        }
    }

    /// What the caller is not told, for the log.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        match self {
            Self::Unavailable(cause) | Self::Internal(cause) | Self::Failed { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Unavailable(_) => Self::Unavailable(error.to_string()),
            DbError::Conflict(_) | DbError::Broken(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        Self::Unavailable(error.to_string())
    }
}
