//! placeholder
pub mod certificate;
pub mod pfx;
