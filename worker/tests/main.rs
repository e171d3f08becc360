//! Whole renewals: a real worker on a real database against the lab, over the real wire.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests; this is for their helpers")]

mod adopted;
mod any_schedule;
mod circumstances;
mod continuous_gate;
mod database;
mod every_call;
mod faults_of_the_wire;
mod hybrid;
mod invariants;
mod outbox;
mod process;
mod refusals;
mod restored;
mod runs;
mod support;
mod trial;
mod troubles;
mod undoing;
