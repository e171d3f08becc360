//! Why a cloud service did not do what it was asked, by what that means for whoever asked.

use std::time::Duration;

use domain::Trouble;

/// What to do about a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// Nothing was done: ask again, after this time if the service named one.
    Again {
        /// `Retry-After`.
        after: Option<Duration>,
    },
    /// It may have been done: look before anything else.
    UnknownOutcome,
    /// There is no such object.
    NotFound,
    /// Asking again does not help.
    Refused,
}

/// A call that failed. Neither it nor its trouble ever holds a token or an assertion.
#[derive(Debug, thiserror::Error)]
#[error("{trouble}")]
pub struct CloudError {
    /// What to do about it.
    pub failure: Failure,
    /// The same for people.
    pub trouble: Trouble,
}

impl CloudError {
    pub(crate) fn refused(code: &str, message: impl Into<String>, action: impl Into<String>) -> Self {
        Self { failure: Failure::Refused, trouble: Trouble::new(code, message, action) }
    }

    pub(crate) fn again(code: &str, message: impl Into<String>, action: impl Into<String>) -> Self {
        Self { failure: Failure::Again { after: None }, trouble: Trouble::new(code, message, action) }
    }

    pub(crate) fn unexpected(service: &str, what: impl std::fmt::Display) -> Self {
        Self::again(
            "unexpected_answer",
            format!("{service} answered something unexpected: {what}"),
            "Retry; if it stays, report it with the log",
        )
    }

    /// Whether the same call may come out otherwise later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self.failure, Failure::Again { .. } | Failure::UnknownOutcome)
    }
}

pub(crate) type Result<T> = std::result::Result<T, CloudError>;
