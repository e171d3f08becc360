//! Whole renewals: a real worker on a real database against the lab, over the real wire.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests; this is for their helpers")]

mod faults_of_the_wire;
mod refusals;
mod runs;
mod support;
mod troubles;
mod undoing;
