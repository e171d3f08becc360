//! The API over real HTTP and a real database. No worker runs: tests play its part through the same transactions.

mod document;
mod raising;
mod support;
mod tokens;
