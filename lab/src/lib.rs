//! A simulated Exchange organization behind the real PowerShell-remoting wire.
//!
//! The model is pure: [`world::World`] takes an instant and lets happen what is due, [`cmdlets`] run against it. Nothing in
//! it opens a connection or reads a clock. Around it, [`Lab`] drives the clock and listens: PowerShell and metadata of
//! every server over TLS, and a control API to look at it all and to make things go wrong.

mod admission;
#[cfg(test)]
mod bench;
pub mod certificate;
pub mod clock;
mod cloud;
pub mod cmdlets;
mod control;
pub mod directory;
mod endpoint;
pub mod faults;
mod files;
mod http;
pub mod hybrid;
pub mod itsm;
pub mod journal;
mod lab;
mod logon;
mod options;
pub mod organization;
pub mod pfx;
mod running;
pub mod server;
mod site;
pub mod state;
pub mod tenant;
mod tls;
pub mod trust;
pub mod world;

pub use files::{CloudFiles, Files};
pub use itsm::LabTickets;
pub use lab::{Lab, LabCloud, LabServer, Report};
pub use options::{Authentication, Options};
pub use psrp::Secret;
pub use running::Cmdlets;
