//! The way to ticket systems: changes in ServiceNow and in Jira Service Management (itsm.md 5).
//!
//! They are asked over one HTTPS client without cookies and without redirects, a few requests at a time. Approvals are read there and never given: the
//! account of rekey would vouch for people.

mod http;
pub mod jira;
pub mod servicenow;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use domain::Trouble;
use reqwest::Url;
use secrecy::SecretString;

use super::Trust;
use crate::outbox::{AllowList, NoClient, NotAllowed};

pub use super::cloud::Failure;
pub use jira::Jira;
pub use servicenow::ServiceNow;

/// What rekey signs in to a ticket system with.
#[derive(Clone, Debug)]
pub enum TicketCredentials {
    /// `x-sn-apikey` of ServiceNow.
    ApiKey(SecretString),
    /// Name and password, or mail address and API token (RFC 7617).
    Basic {
        /// The name.
        username: String,
        /// The password or API token.
        password: SecretString,
    },
    /// A token that does not change, such as a personal access token.
    Bearer(SecretString),
    /// OAuth 2.0 client credentials (RFC 6749 4.4) at the instance's `oauth_token.do`.
    ClientCredentials {
        /// The client.
        client_id: String,
        /// Its secret.
        client_secret: SecretString,
    },
}

/// Everything that the way to a ticket system is made of.
#[derive(Clone, Debug)]
pub struct TicketWay {
    /// Its address: scheme, host and port.
    pub url: Url,
    /// Who asks.
    pub credentials: TicketCredentials,
    /// Whom connections trust.
    pub trust: Trust,
    /// Where connections may go beside its own host, and which addresses of this machine that may be.
    pub allow: AllowList,
    /// How long trouble is waited for within one call.
    pub patience: TicketPatience,
}

/// How long trouble of a ticket system is waited for within one call. What lasts longer is for the caller, who comes again later.
#[derive(Clone, Copy, Debug)]
pub struct TicketPatience {
    /// How often something is asked at most.
    pub tries: u32,
    /// The pause before the second try; doubled with each one after it.
    pub first: Duration,
    /// The longest pause. A system that asks for a longer one is left alone.
    pub longest: Duration,
}

impl Default for TicketPatience {
    fn default() -> Self {
        Self { tries: 3, first: Duration::from_millis(500), longest: Duration::from_secs(5) }
    }
}

/// A way that cannot be gone.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTicketWay {
    /// The HTTPS client cannot be made.
    #[error("the HTTPS client cannot be made: {0}")]
    Client(#[from] NoClient),
    /// Its host is this machine, and nothing says that this is meant.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// Secrets would travel readable, or the address is none of a system.
    #[error("`{0}` is no address of a ticket system: use https://HOST or https://HOST:PORT")]
    Url(String),
}

/// A call that failed. Neither it nor its trouble ever holds a secret.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{trouble}")]
pub struct TicketError {
    /// What to do about it.
    pub failure: Failure,
    /// The same for people.
    pub trouble: Trouble,
}

impl TicketError {
    pub(crate) fn new(failure: Failure, code: &str, message: impl Into<String>, action: impl Into<String>) -> Self {
        Self { failure, trouble: Trouble::new(code, message, action) }
    }

    pub(crate) fn refused(code: &str, message: impl Into<String>, action: impl Into<String>) -> Self {
        Self::new(Failure::Refused, code, message, action)
    }

    pub(crate) fn again(code: &str, message: impl Into<String>, action: impl Into<String>) -> Self {
        Self::new(Failure::Again { after: None }, code, message, action)
    }

    pub(crate) fn unexpected(host: &str, what: impl fmt::Display) -> Self {
        Self::again(
            "ticket_unexpected_answer",
            format!("{host} answered something unexpected: {what}"),
            "Check that the url of the ticket system is right; it is tried again by itself",
        )
    }

    /// Whether the same call may come out otherwise later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self.failure, Failure::Again { .. } | Failure::UnknownOutcome)
    }
}

pub(crate) type Result<T> = std::result::Result<T, TicketError>;

/// A file at a ticket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// The name of the file.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A ticket whose state did not become what was asked for, although the system did not refuse it (KB0759295).
pub(crate) fn desync(what: &str, wanted: &str, is: &str, possible: &[String]) -> TicketError {
    let possible = if possible.is_empty() { "none".to_owned() } else { possible.join(", ") };
    TicketError::again(
        "ticket_desync",
        format!("{what} is in state {is} and did not become {wanted}; from there it can become {possible}"),
        "Look at the change there: what its model asks for before that state, whether it is on hold, and what business rules say; move it by hand, then \
         replay this message",
    )
}
