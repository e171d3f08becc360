//! What pipelines write: PIPELINE_OUTPUT, ERROR_RECORD and the other streams (MS-PSRP 2.2.2.19-2.2.2.26).

use super::type_names;
use crate::clixml::{EncodeError, encode};
use crate::message::MessageType;
use crate::session_key::SessionKey;
use crate::{ErrorRecord, Object, Record, Value};

/// Type and CLIXML of the message that carries a record.
///
/// # Errors
/// [`EncodeError::NoSessionKey`] when there is a SecureString in it and no key; [`EncodeError::TooDeep`].
pub fn record_to_message(record: &Record, key: Option<&SessionKey>) -> Result<(MessageType, String), EncodeError> {
    let (kind, value) = match record {
        Record::Debug(text) => (MessageType::DebugRecord, &informational("DebugRecord", text)),
        Record::Error(error) => (MessageType::ErrorRecord, &error.to_value()),
        Record::Information(value) => (MessageType::InformationRecord, value),
        Record::Output(value) => (MessageType::PipelineOutput, value),
        Record::Progress(value) => (MessageType::ProgressRecord, value),
        Record::Verbose(text) => (MessageType::VerboseRecord, &informational("VerboseRecord", text)),
        Record::Warning(text) => (MessageType::WarningRecord, &informational("WarningRecord", text)),
    };
    Ok((kind, encode(value, key)?))
}

/// The record in a message of that type; `None` for types that carry none, whose value is not asked for.
///
/// # Errors
/// Those of `value`.
pub fn read_record<E>(kind: MessageType, value: impl FnOnce() -> Result<Value, E>) -> Result<Option<Record>, E> {
    let record = match kind {
        MessageType::DebugRecord => Record::Debug(text(&value()?)),
        MessageType::ErrorRecord => Record::Error(ErrorRecord::from_value(&value()?)),
        MessageType::InformationRecord => Record::Information(value()?),
        MessageType::PipelineOutput => Record::Output(value()?),
        MessageType::ProgressRecord => Record::Progress(value()?),
        MessageType::VerboseRecord => Record::Verbose(text(&value()?)),
        MessageType::WarningRecord => Record::Warning(text(&value()?)),
        _ => return Ok(None),
    };
    Ok(Some(record))
}

/// MS-PSRP 2.2.3.16.
fn informational(kind: &str, text: &str) -> Value {
    let kind = format!("System.Management.Automation.{kind}");
    let type_names = type_names(&[&kind, "System.Management.Automation.InformationalRecord", "System.Object"]);
    Object { type_names, ..Object::default() }
        .shown_as(text)
        .with_member("InformationalRecord_Message", text)
        .with_member("InformationalRecord_SerializeInvocationInfo", false)
        .into()
}

fn text(value: &Value) -> String {
    let message = value.property("InformationalRecord_Message").or_else(|| value.property("Message"));
    message.unwrap_or(value).text()
}
