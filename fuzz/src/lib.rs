//! What is done to bytes that come from elsewhere, to see that nobody can harm a reader with them.
//!
//! Each target is a function that takes any bytes and panics when something is wrong. `tests/replay.rs` gives them the files below `corpus/`, `libfuzzer/`
//! gives them what libFuzzer makes of these. See README.md.

mod client;
mod clixml;
mod fragments;
mod pfx;
mod sealed;
mod server;
mod soap;
mod wire;

pub use client::client;
pub use clixml::clixml;
pub use fragments::fragments;
pub use pfx::pfx;
pub use sealed::sealed;
pub use server::server;
pub use soap::soap;

/// A target.
pub type Target = fn(&[u8]);

/// All targets with their names, which are also those of their folders below `corpus/`.
pub const TARGETS: [(&str, Target); 7] = [
    ("client", client),
    ("clixml", clixml),
    ("fragments", fragments),
    ("pfx", pfx),
    ("sealed", sealed),
    ("server", server),
    ("soap", soap),
];
