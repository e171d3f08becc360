//! The API over real HTTP and a real database. No worker runs: tests play its part through the same transactions.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests; this is for their helpers")]

mod approvals;
mod control;
mod deciding;
mod document;
mod events;
mod frame;
mod hooks;
mod hybrid;
mod organizations;
mod raising;
mod reading;
mod servicenow;
mod support;
mod tokens;
