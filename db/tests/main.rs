//! Every statement on both databases: SQLite always, PostgreSQL where `TEST_POSTGRES_URL` names a server (`./test` starts one).

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests; this is for their helpers")]

mod api_keys;
mod as_seen;
mod claims;
mod continuous_gate;
mod disturbed;
mod finishing;
mod handing;
mod hybrid;
mod outbox;
mod raising;
mod records;
mod runs;
mod support;
mod ticket_polls;
mod upgrading;
mod waking;
