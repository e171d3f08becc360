//! Ways to the outside: where an organization's endpoints are, and sessions on them.

pub mod cloud;
mod connection;
mod context;
mod credentials;
mod endpoints;
mod http;
pub mod itsm;
mod pool;
mod session;
mod tls;

pub(crate) use cloud::redact;
pub use credentials::{Account, Credentials, Kerberos, Proof, WindowsLogon, WindowsProtocol, split_username};
pub use endpoints::{Endpoint, Endpoints, InvalidEndpoint, MAX_ENVELOPE_SIZE, MAX_SESSIONS};
pub(crate) use http::fetch;
pub use pool::{Lease, Sessions};
pub use session::{Answer, Session};
pub use tls::{Identity, InvalidTrust, Pin, Trust};

use domain::storable::make_json_storable;

/// Why nothing came back from an endpoint, by what it means for a command that was to change something.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The command never left: nothing was changed, try again.
    #[error("{host} cannot be reached: {why}")]
    NotSent {
        /// `host:port`.
        host: String,
        /// What happened.
        why: String,
    },
    /// The command never left, because no KDC answers who would give a ticket: nothing was changed, try again.
    #[error("there is no Kerberos ticket for {host}: {why}")]
    NoKdc {
        /// `host:port`.
        host: String,
        /// What happened.
        why: String,
    },
    /// The endpoint refuses to talk: wrong credentials, a certificate that is not trusted, no such endpoint. Trying again does not help.
    #[error("{host} refuses: {why}")]
    Refused {
        /// `host:port`.
        host: String,
        /// Stable word for programs.
        code: &'static str,
        /// What happened.
        why: String,
        /// What to do.
        action: &'static str,
    },
    /// The command was sent and no answer came: it may have been carried out. Look before anything else.
    #[error("{host} did not answer after the command was sent: {why}")]
    UnknownOutcome {
        /// `host:port`.
        host: String,
        /// What happened.
        why: String,
    },
}

/// The JSON of an answer, as every database can hold what it says; `None` as soon as it is longer than `most` bytes.
async fn read_body(mut response: reqwest::Response, most: usize) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > most {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    make_json_storable(&mut body);
    Ok(Some(body))
}
