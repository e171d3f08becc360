use super::*;
use crate::clixml::{EncodeError, decode};
use crate::message::MessageType;
use crate::session_key::SessionKey;
use crate::{Command, Pipeline, Record, Secret};

fn read(data: &str) -> Value {
    decode(data.as_bytes(), None).unwrap()
}

fn members(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().members.iter().map(|(name, _)| name.as_str()).collect()
}

fn failed() -> ErrorRecord {
    ErrorRecord { message: "Something <bad>.".to_owned(), reason: "BadException".to_owned(), ..ErrorRecord::default() }
}

#[test]
fn states_of_a_pool_come_back() {
    let states = [
        PoolState::BeforeOpen,
        PoolState::Opening,
        PoolState::Opened,
        PoolState::Closed,
        PoolState::Closing,
        PoolState::Broken(Box::new(failed())),
        PoolState::NegotiationSent,
        PoolState::NegotiationSucceeded,
        PoolState::Connecting,
        PoolState::Disconnected,
    ];
    for state in states {
        assert_eq!(read_runspace_pool_state(&read(&runspace_pool_state(&state))), Ok(state));
    }
}

#[test]
fn ends_of_a_pipeline_come_back_and_other_states_are_no_end() {
    for end in [PipelineEnd::Completed, PipelineEnd::Stopped, PipelineEnd::Failed(failed())] {
        assert_eq!(read_pipeline_state(&read(&pipeline_state(&end))), Ok(Some(end)));
    }
    let told = |state: i32| read_pipeline_state(&Object::default().with_member("PipelineState", state).into());
    assert_eq!([0, 1, 2, 6].map(told), [Ok(None), Ok(None), Ok(None), Ok(None)]);
    assert_eq!(told(5), Ok(Some(PipelineEnd::Failed(ErrorRecord::default()))));
    assert_eq!(told(7), Err(PayloadError::UnknownState(7)));
}

#[test]
fn keys_come_back() {
    assert_eq!(read_public_key(&read(&public_key("QUI="))), Ok("QUI="));
    assert_eq!(read_encrypted_session_key(&read(&encrypted_session_key("QUI="))), Ok("QUI="));
    assert_eq!(read(&public_key_request()), Value::from(""));
}

#[test]
fn records_come_back_with_their_types() {
    let records = [
        (MessageType::DebugRecord, Record::Debug("d\n".to_owned())),
        (MessageType::ErrorRecord, Record::Error(failed())),
        (MessageType::InformationRecord, Record::Information(1.into())),
        (MessageType::PipelineOutput, Record::Output(Value::Null)),
        (MessageType::ProgressRecord, Record::Progress("p".into())),
        (MessageType::VerboseRecord, Record::Verbose(String::new())),
        (MessageType::WarningRecord, Record::Warning("w".to_owned())),
    ];
    for (kind, record) in records {
        let (told, data) = record_to_message(&record, None).unwrap();
        assert_eq!(told, kind);
        assert_eq!(read_record::<()>(kind, || Ok(read(&data))), Ok(Some(record)));
    }
}

#[test]
fn only_records_are_read_as_records() {
    let unread = || -> Result<Value, ()> { panic!("the value of another message was asked for") };
    for kind in [MessageType::PipelineState, MessageType::UserEvent, MessageType::Unknown(1)] {
        assert_eq!(read_record(kind, unread), Ok(None));
    }
    assert_eq!(read_record(MessageType::PipelineOutput, || Err("broken")), Err("broken"));
}

#[test]
fn a_line_is_found_in_whatever_shape_it_comes() {
    let line = |value: Value| read_record::<()>(MessageType::WarningRecord, || Ok(value)).unwrap();
    assert_eq!(line("plain".into()), Some(Record::Warning("plain".to_owned())));
    let adapted = Object::default().with("Message", "adapted").shown_as("shown");
    assert_eq!(line(adapted.into()), Some(Record::Warning("adapted".to_owned())));
}

#[test]
fn a_secret_in_a_pipeline_needs_a_key() {
    let pipeline = Pipeline::from(Command::new("New-X").with_secret("Password", Secret::new("pw")));
    assert_eq!(create_pipeline(&pipeline, None), Err(EncodeError::NoSessionKey));
    let key = SessionKey::generate();
    let data = create_pipeline(&pipeline, Some(&key)).unwrap();
    assert_eq!(read_create_pipeline(&decode(data.as_bytes(), Some(&key)).unwrap()), Ok(pipeline));
}

#[test]
fn a_pipeline_is_what_windows_powershell_expects() {
    let pipeline = Pipeline::from(Command::new("Get-X").with("Name", "a").argument(1)).then(Command::script("$_"));
    let value = read(&create_pipeline(&pipeline, None).unwrap());
    let expected =
        ["NoInput", "ApartmentState", "RemoteStreamOptions", "AddToHistory", "HostInfo", "PowerShell", "IsNested"];
    assert_eq!(members(&value), expected);
    let command = &value.property("PowerShell").and_then(|shell| shell.property("Cmds")?.as_list()).unwrap()[0];
    let expected = [
        "Cmd",
        "IsScript",
        "UseLocalScope",
        "MergeMyResult",
        "MergeToResult",
        "MergePreviousResults",
        "MergeError",
        "MergeWarning",
        "MergeVerbose",
        "MergeDebug",
        "MergeInformation",
        "Args",
    ];
    assert_eq!(members(command), expected);
    assert_eq!(read_create_pipeline(&value), Ok(pipeline));
}

#[test]
fn a_pipeline_of_several_statements_is_refused_and_of_one_in_extra_commands_is_not() {
    let no_arguments = || Value::from(Vec::<Value>::new());
    let command = || Object::default().with_member("Cmd", "Get-X").with_member("IsScript", false);
    let commands = || Value::from(vec![Value::from(command().with_member("Args", no_arguments()))]);
    let pipeline = |extra: Vec<Value>| {
        let extra: Vec<Value> =
            extra.into_iter().map(|commands| Object::default().with_member("Cmds", commands).into()).collect();
        let shell = Object::default().with_member("Cmds", commands()).with_member("ExtraCmds", extra);
        read_create_pipeline(&Object::default().with_member("PowerShell", shell).into())
    };
    let one = Ok(Pipeline::from(Command::new("Get-X")));
    assert_eq!(pipeline(vec![]), one);
    assert_eq!(pipeline(vec![commands(), no_arguments()]), one);
    assert_eq!(pipeline(vec![commands(), commands()]), Err(PayloadError::Statements));
}

#[test]
fn host_calls_are_told_apart_by_whether_they_wait() {
    let call = |number: i32| {
        let method = enumeration("System.Management.Automation.Remoting.RemoteHostMethodId", "?", number);
        let value = Object::default().with_member("ci", 7_i64).with_member("mi", method);
        let call = read_host_call(&value.into()).unwrap();
        (call.method.clone(), call.wants_answer())
    };
    let table = [
        (1, "GetName", true),
        (6, "SetShouldExit", false),
        (26, "PromptForChoice", true),
        (56, "PromptForChoiceMultipleSelection", true),
    ];
    for (number, name, waits) in table {
        assert_eq!(call(number), (name.to_owned(), waits));
    }
    for unknown in [0, -1, 57, i32::MAX, i32::MIN] {
        assert_eq!(call(unknown), (unknown.to_string(), true));
    }
}

#[test]
fn a_refusal_names_the_call_it_answers() {
    let call = HostCall { id: 7, number: 26, method: "PromptForChoice".to_owned(), question: None };
    let value = read(&host_refusal(&call));
    assert_eq!(read_host_call(&value), Ok(call));
    let error = ErrorRecord::from_value(value.property("me").unwrap());
    assert_eq!((error.reason.as_str(), error.category), ("HostException", 11));
    assert!(value.property("mr").is_none());
}

#[test]
fn no_is_found_by_its_place_among_the_answers() {
    let question = |choices| Question { caption: String::new(), message: String::new(), choices };
    assert_eq!(
        [0, 1, 2, 3, 4, 5, 6].map(|choices| question(choices).no()),
        [None, None, Some(1), None, Some(2), Some(2), None]
    );
    let call = HostCall { id: 7, number: 26, method: "PromptForChoice".to_owned(), question: Some(question(4)) };
    let value = read(&host_choice(&call, 2));
    assert_eq!(value.property("mr").and_then(Value::as_i64), Some(2));
    assert!(value.property("me").is_none());
}

#[test]
fn what_is_missing_is_named() {
    let nothing = Value::Null;
    assert_eq!(read_public_key(&nothing), Err(PayloadError::Missing("PublicKey")));
    assert_eq!(read_encrypted_session_key(&nothing), Err(PayloadError::Missing("EncryptedSessionKey")));
    assert_eq!(read_runspace_pool_state(&nothing), Err(PayloadError::Missing("RunspaceState")));
    assert_eq!(read_pipeline_state(&nothing), Err(PayloadError::Missing("PipelineState")));
    assert_eq!(read_create_pipeline(&nothing), Err(PayloadError::Missing("PowerShell")));
    assert_eq!(read_host_call(&nothing), Err(PayloadError::Missing("ci")));
    let shell = Object::default().with_member("PowerShell", Object::default());
    assert_eq!(read_create_pipeline(&shell.into()), Err(PayloadError::Missing("Cmds")));
}
