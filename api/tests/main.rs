//! The API over real HTTP and a real database. No worker runs: tests play its part through the same transactions.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests; this is for their helpers")]

mod api_keys;
mod approvals;
mod control;
mod credentials;
mod deciding;
mod document;
mod events;
mod frame;
mod hooks;
mod hybrid;
mod limits;
mod oidc;
mod organizations;
mod outbox;
mod raising;
mod reach;
mod reading;
mod security;
mod servicenow;
mod support;
mod tokens;
