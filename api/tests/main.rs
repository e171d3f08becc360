//! The API over real HTTP and a real database. No worker runs: tests play its part through the same transactions.

mod control;
mod deciding;
mod document;
mod events;
mod frame;
mod organizations;
mod raising;
mod reading;
mod servicenow;
mod support;
mod tokens;
