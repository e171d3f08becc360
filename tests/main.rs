//! End to end: the binary as users start it, over HTTP.

mod canary;
mod resilience;
mod roles;
mod support;
