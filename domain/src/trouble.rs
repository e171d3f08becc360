//! What went wrong in a step, and what a person can do about it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::storable::storable;

/// A failure told so that an administrator can act on it. Never carries a secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[schema(example = json!({
    "code": "server_unreachable",
    "message": "ex03.contoso.example did not accept a connection on port 443: connection refused",
    "action": "Start the server or its network path; the step is retried by itself."
}))]
pub struct Trouble {
    /// Stable word in snake_case for programs, e.g. `server_unreachable`.
    pub code: String,
    /// What happened, for people.
    pub message: String,
    /// What to do next, for people.
    pub action: String,
}

impl Trouble {
    /// A trouble with its stable code, what happened and what to do. Other systems have a part in its words, so they are made [`storable`].
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>, action: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: storable(message), action: storable(action) }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}). {}", self.message.trim_end_matches('.'), self.code, self.action)
    }
}
