//! A simulated Exchange organization behind the real PowerShell-remoting wire.
//!
//! The model is pure: [`world::World`] takes an instant and lets happen what is due, [`cmdlets`] run against it. Nothing in
//! it opens a connection or reads a clock.

#[cfg(test)]
mod bench;
pub mod certificate;
pub mod clock;
pub mod cmdlets;
pub mod directory;
pub mod faults;
pub mod journal;
pub mod organization;
pub mod pfx;
pub mod server;
pub mod state;
pub mod trust;
pub mod world;
