use std::sync::LazyLock;

use psrp::clixml::{EncodeError, decode, encode};
use psrp::message::{Message, MessageType, payload};
use psrp::session_key::SessionKey;
use psrp::{ErrorRecord, Value};

/// Text as a value: what can be read can be written, and what was written reads as the same. No payload reader minds what the value is.
pub fn clixml(input: &[u8]) {
    static KEY: LazyLock<SessionKey> = LazyLock::new(SessionKey::generate);
    let Ok(value) = decode(input, Some(&KEY)) else { return };
    let text = match encode(&value, Some(&KEY)) {
        // Several values have become one list, or type names stand elsewhere: one element deeper than what was read.
        Err(EncodeError::TooDeep) => return,
        written => written.expect("what was read can be written"),
    };
    let again = decode(text.as_bytes(), Some(&KEY)).expect("what was written can be read");
    // Only where nothing is "not a number", which is not even equal to itself.
    assert!(again == value || text.contains("NaN"), "{value:?} was written as {text} and read as {again:?}");
    assert_eq!(encode(&again, Some(&KEY)), Ok(text));
    look_at(&value);
    read_as_payload(&value);
}

fn look_at(value: &Value) {
    let _ = (value.text(), value.as_bool(), value.as_bytes(), value.as_date_time(), value.as_i64(), value.as_str());
    let _ = value.as_list().map(<[Value]>::len);
    let error = ErrorRecord::from_value(value);
    assert_eq!(ErrorRecord::from_value(&error.to_value()), error);
}

fn read_as_payload(value: &Value) {
    let _ = payload::read_encrypted_session_key(value);
    let _ = payload::read_public_key(value);
    let _ = payload::read_runspace_pool_state(value);
    if let Ok(call) = payload::read_host_call(value) {
        decode(payload::host_refusal(&call).as_bytes(), None).expect("a refusal is CLIXML");
    }
    if let Ok(Some(end)) = payload::read_pipeline_state(value) {
        let text = payload::pipeline_state(&end);
        let again = decode(text.as_bytes(), None).expect("a state is CLIXML");
        assert_eq!(payload::read_pipeline_state(&again), Ok(Some(end)));
    }
    for kind in RECORDS {
        let read: Result<_, ()> = payload::read_record(kind, || Ok(value.clone()));
        assert!(matches!(read, Ok(Some(_))), "anything makes a record");
    }
    if let Ok(pipeline) = payload::read_create_pipeline(value) {
        let _ = format!("{pipeline:?}");
    }
}

/// Bytes as a message, which is a header and CLIXML.
pub(crate) fn message(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
}

const RECORDS: [MessageType; 7] = [
    MessageType::DebugRecord,
    MessageType::ErrorRecord,
    MessageType::InformationRecord,
    MessageType::PipelineOutput,
    MessageType::ProgressRecord,
    MessageType::VerboseRecord,
    MessageType::WarningRecord,
];
