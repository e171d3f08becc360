//! PowerShell remoting (MS-PSRP) over WS-Management (MS-WSMV), client side and server side of one codec, sans-IO.
//!
//! Nothing here opens a connection, reads a clock or is asynchronous. [`client::Pool`] and [`server::Server`] are state machines: feed them HTTP bodies, take
//! from them HTTP bodies and events. Below them, from the outside in: [`wsman`] (SOAP envelopes), [`fragment`] (pieces of messages), [`message`] (typed
//! messages), [`clixml`] (values), [`session_key`] (what encrypts a `SecureString`).

pub mod client;
pub mod clixml;
pub mod command;
pub mod fragment;
pub mod message;
pub mod record;
pub mod sealed;
pub mod server;
pub mod session_key;
pub mod wsman;

pub use clixml::{Base, Object, Secret, Value};
pub use command::{Command, Parameter, Pipeline};
pub use record::{ErrorRecord, PipelineEnd, Record};
