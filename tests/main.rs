//! End to end: the binary as users start it, over HTTP.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests; this is for their helpers")]

mod backup;
mod canary;
mod cluster;
mod hybrid;
mod integrations;
mod outages;
mod partition;
mod probe;
mod proxy;
mod readme;
mod resilience;
mod roles;
mod sealed;
mod support;
mod tickets;
