//! What messages say: builders give the CLIXML of [`super::Message::data`], readers take the value that was in it.

mod create_pipeline;
mod host;
mod record;

pub use create_pipeline::{create_pipeline, read_create_pipeline};
pub use host::{HostCall, Question, host_choice, host_refusal, read_host_call};
pub use record::{read_record, record_to_message};

use crate::clixml::encode;
use crate::{Base, ErrorRecord, Object, PipelineEnd, Value};

/// State of a runspace pool (MS-PSRP 2.2.3.4).
#[derive(Clone, Debug, PartialEq)]
pub enum PoolState {
    /// 0
    BeforeOpen,
    /// 1
    Opening,
    /// 2: pipelines may come.
    Opened,
    /// 3
    Closed,
    /// 4
    Closing,
    /// 5: with the reason; empty when there was none.
    Broken(Box<ErrorRecord>),
    /// 6
    NegotiationSent,
    /// 7
    NegotiationSucceeded,
    /// 8
    Connecting,
    /// 9
    Disconnected,
}

/// Why a value is not what a message of its type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// A property is missing or of another type.
    #[error("{0} is missing or of another type")]
    Missing(&'static str),
    /// A number that stands for no state.
    #[error("a state that does not exist: {0}")]
    UnknownState(i64),
    /// A pipeline of several statements, which is more than [`crate::Pipeline`] can say.
    #[error("a pipeline of several statements")]
    Statements,
}

/// SESSION_CAPABILITY: protocol 2.3, as Windows PowerShell 5.1 speaks it (MS-PSRP 2.2.2.1).
#[must_use]
pub fn session_capability() -> String {
    let version = |text: &str| Value::Version(text.to_owned());
    let capability = Object::default()
        .with_member("protocolversion", version("2.3"))
        .with_member("PSVersion", version("2.0"))
        .with_member("SerializationVersion", version("1.1.0.1"));
    plain(capability)
}

/// INIT_RUNSPACEPOOL: one runspace, no host (MS-PSRP 2.2.2.2).
#[must_use]
pub fn init_runspace_pool() -> String {
    let init = Object::default()
        .with_member("MinRunspaces", 1)
        .with_member("MaxRunspaces", 1)
        .with_member(
            "PSThreadOptions",
            enumeration("System.Management.Automation.Runspaces.PSThreadOptions", "Default", 0),
        )
        .with_member("ApartmentState", unknown_apartment())
        .with_member("HostInfo", no_host(HostOfPipeline::None))
        .with_member("ApplicationArguments", empty_dictionary());
    plain(init)
}

/// PUBLIC_KEY, with [`crate::session_key::KeyExchange::public_key`] (MS-PSRP 2.2.2.3).
#[must_use]
pub fn public_key(base64: &str) -> String {
    plain(Object::default().with_member("PublicKey", base64))
}

/// The key in PUBLIC_KEY.
///
/// # Errors
/// When there is none.
pub fn read_public_key(value: &Value) -> Result<&str, PayloadError> {
    value.property("PublicKey").and_then(Value::as_str).ok_or(PayloadError::Missing("PublicKey"))
}

/// ENCRYPTED_SESSION_KEY, with what [`crate::session_key::SessionKey::wrap_for`] gives (MS-PSRP 2.2.2.4).
#[must_use]
pub fn encrypted_session_key(base64: &str) -> String {
    plain(Object::default().with_member("EncryptedSessionKey", base64))
}

/// The key in ENCRYPTED_SESSION_KEY.
///
/// # Errors
/// When there is none.
pub fn read_encrypted_session_key(value: &Value) -> Result<&str, PayloadError> {
    let key = value.property("EncryptedSessionKey").and_then(Value::as_str);
    key.ok_or(PayloadError::Missing("EncryptedSessionKey"))
}

/// PUBLIC_KEY_REQUEST: an empty string (MS-PSRP 2.2.2.5).
#[must_use]
pub fn public_key_request() -> String {
    "<S></S>".to_owned()
}

/// APPLICATION_PRIVATE_DATA without any (MS-PSRP 2.2.2.13).
#[must_use]
pub fn application_private_data() -> String {
    plain(Object::default().with_member("ApplicationPrivateData", empty_dictionary()))
}

/// RUNSPACEPOOL_STATE (MS-PSRP 2.2.2.9).
#[must_use]
pub fn runspace_pool_state(state: &PoolState) -> String {
    let (number, error) = match state {
        PoolState::BeforeOpen => (0, None),
        PoolState::Opening => (1, None),
        PoolState::Opened => (2, None),
        PoolState::Closed => (3, None),
        PoolState::Closing => (4, None),
        PoolState::Broken(error) => (5, Some(error.to_value())),
        PoolState::NegotiationSent => (6, None),
        PoolState::NegotiationSucceeded => (7, None),
        PoolState::Connecting => (8, None),
        PoolState::Disconnected => (9, None),
    };
    plain(with_exception(Object::default().with_member("RunspaceState", number), error))
}

/// The state in RUNSPACEPOOL_STATE.
///
/// # Errors
/// When there is none or it does not exist.
pub fn read_runspace_pool_state(value: &Value) -> Result<PoolState, PayloadError> {
    let number = value.property("RunspaceState").and_then(Value::as_i64);
    match number.ok_or(PayloadError::Missing("RunspaceState"))? {
        0 => Ok(PoolState::BeforeOpen),
        1 => Ok(PoolState::Opening),
        2 => Ok(PoolState::Opened),
        3 => Ok(PoolState::Closed),
        4 => Ok(PoolState::Closing),
        5 => Ok(PoolState::Broken(Box::new(exception(value)))),
        6 => Ok(PoolState::NegotiationSent),
        7 => Ok(PoolState::NegotiationSucceeded),
        8 => Ok(PoolState::Connecting),
        9 => Ok(PoolState::Disconnected),
        other => Err(PayloadError::UnknownState(other)),
    }
}

/// PIPELINE_STATE of a pipeline that ended (MS-PSRP 2.2.2.21).
#[must_use]
pub fn pipeline_state(end: &PipelineEnd) -> String {
    let (number, error) = match end {
        PipelineEnd::Stopped => (3, None),
        PipelineEnd::Completed => (4, None),
        PipelineEnd::Failed(error) => (5, Some(error.to_value())),
    };
    plain(with_exception(Object::default().with_member("PipelineState", number), error))
}

/// The end in PIPELINE_STATE; `None` for a state that is no end, e.g. running (MS-PSRP 2.2.3.5).
///
/// # Errors
/// When there is no state or it does not exist.
pub fn read_pipeline_state(value: &Value) -> Result<Option<PipelineEnd>, PayloadError> {
    let number = value.property("PipelineState").and_then(Value::as_i64);
    match number.ok_or(PayloadError::Missing("PipelineState"))? {
        // Not started, running, stopping, disconnected.
        0..=2 | 6 => Ok(None),
        3 => Ok(Some(PipelineEnd::Stopped)),
        4 => Ok(Some(PipelineEnd::Completed)),
        5 => Ok(Some(PipelineEnd::Failed(exception(value)))),
        other => Err(PayloadError::UnknownState(other)),
    }
}

/// Whose host a pipeline uses (`_useRunspaceHost`).
#[derive(Clone, Copy, PartialEq)]
enum HostOfPipeline {
    None,
    OfPool,
}

/// A host that can show and ask nothing (MS-PSRP 2.2.3.14).
fn no_host(host: HostOfPipeline) -> Object {
    Object::default()
        .with_member("_isHostNull", true)
        .with_member("_isHostUINull", true)
        .with_member("_isHostRawUINull", true)
        .with_member("_useRunspaceHost", host == HostOfPipeline::OfPool)
}

fn with_exception(object: Object, error: Option<Value>) -> Object {
    match error {
        Some(error) => object.with_member("ExceptionAsErrorRecord", error),
        None => object,
    }
}

fn exception(value: &Value) -> ErrorRecord {
    value.property("ExceptionAsErrorRecord").map(ErrorRecord::from_value).unwrap_or_default()
}

fn unknown_apartment() -> Object {
    enumeration("System.Threading.ApartmentState", "Unknown", 2)
}

fn enumeration(type_name: &str, shown: &str, number: i32) -> Object {
    let type_names = type_names(&[type_name, "System.Enum", "System.ValueType", "System.Object"]);
    Object { type_names, base: Base::Primitive(number.into()), ..Object::default() }.shown_as(shown)
}

fn empty_dictionary() -> Object {
    let name = "System.Management.Automation.PSPrimitiveDictionary";
    let type_names = type_names(&[name, "System.Collections.Hashtable", "System.Object"]);
    Object { type_names, base: Base::Dictionary(Vec::new()), ..Object::default() }
}

fn type_names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// CLIXML of what this module builds, apart from parameters and output of commands.
fn plain(object: Object) -> String {
    encode(&object.into(), None).expect("built here of few levels and without secrets")
}

#[cfg(test)]
mod tests;
