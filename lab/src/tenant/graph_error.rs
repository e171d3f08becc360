//! Errors as Graph tells them (cloud.md 2.4). Codes that public reports name are theirs; where only the code is known the text is ours.

use hyper::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Lifetime;

/// Why Graph did not do what it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphError {
    /// The HTTP status.
    pub status: u16,
    /// `error.code`.
    pub code: String,
    /// `error.message`.
    pub message: String,
    /// `error.details`, if there are any.
    pub details: Value,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
}

impl GraphError {
    /// One with these words.
    #[must_use]
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let (code, message) = (code.to_owned(), message.into());
        Self { status: status.as_u16(), code, message, details: Value::Null, retry_after: None }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Request_BadRequest", message)
    }

    pub(crate) fn not_found(name: &str) -> Self {
        let message = format!(
            "Resource '{name}' does not exist or one of its queried reference-property objects are not present."
        );
        Self::new(StatusCode::NOT_FOUND, "Request_ResourceNotFound", message)
    }

    pub(crate) fn denied() -> Self {
        let message = "Insufficient privileges to complete the operation.";
        Self::new(StatusCode::FORBIDDEN, "Authorization_RequestDenied", message)
    }

    pub(crate) fn conflict() -> Self {
        let message = "Unable to complete the request due to data concurrency violation.";
        Self::new(StatusCode::CONFLICT, "Directory_ConcurrencyViolation", message)
    }

    pub(crate) fn throttled(seconds: u32) -> Self {
        let message = "Too many requests";
        Self { retry_after: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message) }
    }

    pub(crate) fn unavailable(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::SERVICE_UNAVAILABLE => "serviceNotAvailable",
            StatusCode::GATEWAY_TIMEOUT => "timeout",
            _ => "generalException",
        };
        Self::new(status, code, "The service is not able to answer now.")
    }

    pub(crate) fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "InvalidAuthenticationToken", message)
    }

    pub(super) fn not_updatable(key: Uuid) -> Self {
        let message = format!("Update to existing credential with KeyId '{key}' is not allowed.");
        let details = json!([{ "code": "KeyNotUpdatable", "message": message, "target": "keyCredentials" }]);
        Self { details, ..Self::bad_request(message) }
    }

    pub(super) fn end_date() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "KeyCredentialsInvalidEndDate", "Key credential end date is invalid.")
    }

    pub(super) fn start_date() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "KeyCredentialsInvalidStartDate", "Key credential start date is invalid.")
    }

    pub(super) fn lifetime(limit: &Lifetime) -> Self {
        let message =
            format!("Credential lifetime exceeds the max value allowed as per assigned policy '{}'.", limit.policy);
        let details = json!([{ "code": "InvalidKeyEndDate", "message": message, "target": "EndDate" }]);
        let code = "CredentialInvalidLifetimeAsPerAppPolicy";
        Self { details, ..Self::new(StatusCode::BAD_REQUEST, code, message) }
    }

    pub(super) fn bad_proof() -> Self {
        let message = "Access Token missing or malformed.";
        Self::new(StatusCode::UNAUTHORIZED, "Authentication_MissingOrMalformed", message)
    }
}
