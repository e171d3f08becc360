//! The codec against psrpcore, an implementation by others: what either writes the other reads.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests; this is for their helpers")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use chrono::{DateTime, TimeDelta};
use psrp::clixml::{decode, encode};
use psrp::fragment::{Reassembler, split};
use psrp::message::payload::{self, PoolState};
use psrp::message::{Destination, Message, MessageType};
use psrp::session_key::{KeyExchange, SessionKey};
use psrp::{Base, Command, ErrorRecord, Object, Parameter, Pipeline, PipelineEnd, Record, Secret, Value};
use serde_json::{Value as Json, json};
use uuid::Uuid;

#[test]
fn values_that_psrpcore_wrote_are_read() {
    for vector in vectors() {
        let text = vector["clixml"].as_str().unwrap();
        assert_eq!(decode(text.as_bytes(), None), Ok(value(&vector["value"])), "{text}");
    }
}

#[test]
fn the_vectors_are_those_that_psrpcore_writes_today() {
    let made = peers::python("psrp_vectors.py").arg("make").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(String::from_utf8(made.stdout).unwrap(), std::fs::read_to_string(data()).unwrap());
}

#[test]
fn no_cut_through_what_psrpcore_wrote_makes_the_reader_panic() {
    for vector in vectors() {
        let text = vector["clixml"].as_str().unwrap().as_bytes();
        for end in 1..text.len() {
            assert!(decode(&text[..end], None).is_err(), "{}", String::from_utf8_lossy(&text[..end]));
        }
    }
}

#[test]
fn a_psrpcore_server_understands_a_client() {
    let mut server = Peer::start("server");
    let opened = server.open_pool();
    assert_eq!(opened.events[1], json!({"event": "InitRunspacePoolEvent", "runspaces": [1, 1], "no_host": true}));
    assert_eq!(
        opened.kinds(),
        [MessageType::SessionCapability, MessageType::ApplicationPrivateData, MessageType::RunspacePoolState]
    );
    let state = payload::read_runspace_pool_state(&opened.messages[2].value(None));
    assert_eq!(state, Ok(PoolState::Opened));

    let exchange = KeyExchange::generate().unwrap();
    let answer = server.send(MessageType::PublicKey, None, payload::public_key(exchange.public_key()));
    let key = answer.messages[0].value(None);
    let key = exchange.accept(payload::read_encrypted_session_key(&key).unwrap()).unwrap();

    let pipeline = Pipeline::from(everything()).then(Command::script("{ 'a'; \"b\" }"));
    let data = payload::create_pipeline(&pipeline, Some(&key)).unwrap();
    let created = server.send(MessageType::CreatePipeline, Some(PIPELINE), data);
    let told = &created.events[0];
    assert!(Pipeline { commands: commands(told) } == pipeline, "{told}");
    for (name, expected) in [("no_input", true), ("add_to_history", false), ("is_nested", false), ("no_host", true)] {
        assert_eq!(told[name], expected, "{name}");
    }
    assert_eq!((&told["uses_host_of_pool"], &told["apartment"]), (&json!(true), &json!("Unknown")));

    assert_records_of_psrpcore(&server.ask(&json!({"do": "run"})), &key);
}

fn assert_records_of_psrpcore(answer: &Answer, key: &SessionKey) {
    let [running, records @ .., end] = &answer.messages[..] else { panic!("{:?}", answer.messages) };
    assert_eq!(payload::read_pipeline_state(&running.value(None)), Ok(None));
    let read = |message: &Message| payload::read_record::<()>(message.kind, || Ok(message.value(Some(key)))).unwrap();
    let records: Vec<Record> = records.iter().map(|message| read(message).expect("a record")).collect();
    assert_eq!(payload::read_pipeline_state(&end.value(Some(key))), Ok(Some(PipelineEnd::Completed)));
    assert!(answer.messages.iter().all(|message| message.pipeline == Some(PIPELINE)));

    let mut expected: Vec<Record> = vectors().iter().map(|vector| Record::Output(value(&vector["value"]))).collect();
    expected.push(Record::Output(Secret::new("päss 😀").into()));
    expected.push(Record::Debug("a debug line".to_owned()));
    expected.push(Record::Verbose("a verbose line".to_owned()));
    expected.push(Record::Warning("a warning".to_owned()));
    assert_eq!(records[..expected.len()], expected);
    let [Record::Progress(progress), Record::Information(information), Record::Error(error)] =
        &records[expected.len()..]
    else {
        panic!("{records:?}");
    };
    assert_eq!(progress.property("PercentComplete"), Some(&50.into()));
    assert_eq!(information.property("MessageData").map(Value::text).as_deref(), Some("information"));
    assert_eq!(error.exception, "Microsoft.Exchange.Configuration.Tasks.ManagementObjectNotFoundException");
    assert_eq!((error.message.as_str(), error.category), ("The server EX01 has no such certificate.", 6));
    assert_eq!(error.fully_qualified_error_id, "[Server=EX01] 1A2B,GetExchangeCertificate");
    assert_eq!((error.activity.as_str(), error.target_type.as_str()), ("Get-ExchangeCertificate", "String"));
    assert_eq!(error.reason, "ManagementObjectNotFoundException");
}

#[test]
fn a_psrpcore_server_is_told_that_there_is_no_host_and_stops_a_pipeline() {
    let mut server = Peer::start("server");
    server.open_pool();
    let data = payload::create_pipeline(&Command::new("Read-Host").into(), None).unwrap();
    server.send(MessageType::CreatePipeline, Some(PIPELINE), data);

    let asked = server.ask(&json!({"do": "ask"}));
    assert_eq!(asked.kinds()[1..], [MessageType::PipelineHostCall, MessageType::PipelineHostCall]);
    let calls: Vec<_> =
        asked.messages[1..].iter().map(|message| payload::read_host_call(&message.value(None)).unwrap()).collect();
    let told: Vec<_> = calls.iter().map(|call| (call.method.as_str(), call.wants_answer())).collect();
    assert_eq!(told, [("WriteLine2", false), ("ReadLine", true)]);
    let refusal = payload::host_refusal(&calls[1]);
    let answered = server.send(MessageType::PipelineHostResponse, Some(PIPELINE), refusal);
    assert_eq!(answered.events[0]["method"], "ReadLine");
    assert_eq!(answered.events[0]["ci"], calls[1].id);
    assert!(answered.events[0]["error"].as_str().unwrap().contains("no host"));

    let stopped = server.ask(&json!({"do": "stop"}));
    let state = payload::read_pipeline_state(&stopped.messages[0].value(None));
    assert_eq!(state, Ok(Some(PipelineEnd::Stopped)));
}

#[test]
fn a_psrpcore_server_says_why_its_pool_is_broken() {
    let mut server = Peer::start("server");
    server.open_pool();
    let broken = server.ask(&json!({"do": "breaks"}));
    let state = payload::read_runspace_pool_state(&broken.messages[0].value(None));
    assert!(matches!(state, Ok(PoolState::Broken(error)) if error.message == "broken"));
}

#[test]
fn a_psrpcore_client_understands_a_server() {
    let mut client = Peer::start("client");
    let opening = client.ask(&json!({"do": "open"}));
    assert_eq!(opening.kinds(), [MessageType::SessionCapability, MessageType::InitRunspacePool]);
    assert!(opening.messages.iter().all(|message| message.destination == Destination::Server));
    client.pool = opening.messages[0].pool;
    client.send(MessageType::SessionCapability, None, payload::session_capability());
    client.send(MessageType::ApplicationPrivateData, None, payload::application_private_data());
    let state = payload::runspace_pool_state(&PoolState::Opened);
    let opened = client.send(MessageType::RunspacePoolState, None, state);
    assert_eq!(opened.events, [json!({"event": "RunspacePoolStateEvent", "state": "Opened"})]);

    let asked = client.send(MessageType::PublicKeyRequest, None, payload::public_key_request());
    assert_eq!(asked.kinds(), [MessageType::PublicKey], "{:?}", asked.events);
    let key = SessionKey::generate();
    let wrapped = key.wrap_for(payload::read_public_key(&asked.messages[0].value(None)).unwrap()).unwrap();
    client.send(MessageType::EncryptedSessionKey, None, payload::encrypted_session_key(&wrapped));

    let started = client.ask(&json!({"do": "start"}));
    assert_eq!(started.kinds(), [MessageType::CreatePipeline]);
    let pipeline = payload::read_create_pipeline(&started.messages[0].value(Some(&key))).unwrap();
    assert_eq!(pipeline, Pipeline { commands: commands(&started.events[0]) });
    assert_eq!(pipeline.commands[0].parameter("switch"), Some(&true.into()));
    assert_records_reach_psrpcore(&mut client, started.messages[0].pipeline, &key);
}

fn assert_records_reach_psrpcore(client: &mut Peer, pipeline: Option<Uuid>, key: &SessionKey) {
    let mut write = |record: &Record| {
        let (kind, data) = payload::record_to_message(record, Some(key)).unwrap();
        let told = client.send(kind, pipeline, data).events;
        assert_eq!(told.len(), 1, "{record:?}");
        told[0].clone()
    };
    let mut outputs: Vec<Value> = vectors().iter().map(|vector| value(&vector["value"])).collect();
    outputs.push(Secret::new("päss 😀").into());
    for output in outputs {
        let told = write(&Record::Output(output.clone()));
        assert_eq!(value(&told["value"]), output, "{told}");
    }
    let lines = [Record::Debug("d".to_owned()), Record::Verbose("v".to_owned()), Record::Warning("w\n".to_owned())];
    assert_eq!(lines.each_ref().map(|line| write(line)["text"].clone()), ["d", "v", "w\n"].map(Json::from));
    let error = error_record();
    assert_eq!(told_error(&write(&Record::Error(error.clone()))), error);

    let end = payload::pipeline_state(&PipelineEnd::Failed(error.clone()));
    let ended = client.send(MessageType::PipelineState, pipeline, end);
    assert_eq!((&ended.events[0]["state"], told_error(&ended.events[0])), (&json!("Failed"), error));
}

#[test]
fn a_psrpcore_client_is_told_that_the_pool_is_broken() {
    let mut client = Peer::start("client");
    client.pool = client.ask(&json!({"do": "open"})).messages[0].pool;
    client.send(MessageType::SessionCapability, None, payload::session_capability());
    let state = payload::runspace_pool_state(&PoolState::Broken(Box::new(error_record())));
    let told = client.send(MessageType::RunspacePoolState, None, state);
    assert_eq!((&told.events[0]["state"], told_error(&told.events[0])), (&json!("Broken"), error_record()));
}

/// A command with a parameter of each type.
fn everything() -> Command {
    let named = |(n, vector): (usize, &Json)| Parameter { name: Some(format!("P{n}")), value: value(&vector["value"]) };
    let mut command = Command::new("Get-Everything").switch("Force").with_secret("Password", Secret::new("päss 😀"));
    command.parameters.extend(vectors().iter().enumerate().map(named));
    command.with("Large", vec![7; 20_000]).argument("positional")
}

fn error_record() -> ErrorRecord {
    ErrorRecord {
        message: "The server <EX01> is äway.\r\n".to_owned(),
        exception: "Microsoft.Exchange.Data.Directory.ADTransientException".to_owned(),
        fully_qualified_error_id: "[Server=EX01] 1A2B,GetExchangeCertificate".to_owned(),
        category: 22,
        activity: "Get-ExchangeCertificate".to_owned(),
        reason: "ADTransientException".to_owned(),
        target_name: "EX01".to_owned(),
        target_type: "ServerIdParameter".to_owned(),
        category_message: "ReadError (EX01:ServerIdParameter) [Get-ExchangeCertificate], ADTransientException"
            .to_owned(),
    }
}

fn told_error(told: &Json) -> ErrorRecord {
    let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    ErrorRecord {
        message: text("message"),
        exception: text("exception"),
        fully_qualified_error_id: text("fully_qualified_error_id"),
        category: told["category"].as_i64().unwrap().try_into().unwrap(),
        activity: text("activity"),
        reason: text("reason"),
        target_name: text("target_name"),
        target_type: text("target_type"),
        category_message: text("category_message"),
    }
}

fn commands(told: &Json) -> Vec<Command> {
    let parameter = |told: &Json| Parameter { name: told[0].as_str().map(str::to_owned), value: value(&told[1]) };
    let command = |told: &Json| Command {
        name: told["name"].as_str().unwrap().to_owned(),
        is_script: told["is_script"].as_bool().unwrap(),
        parameters: array(&told["parameters"]).iter().map(parameter).collect(),
    };
    array(&told["commands"]).iter().map(command).collect()
}

/// The value that `describe` of psrp_vectors.py told.
fn value(told: &Json) -> Value {
    let text = || told["v"].as_str().unwrap().to_owned();
    match told["t"].as_str().unwrap() {
        "Nil" => Value::Null,
        "B" => Value::Bool(text().parse().unwrap()),
        "BA" => Value::Bytes(unhex(&text())),
        "By" => Value::U8(text().parse().unwrap()),
        "C" => Value::Char(text().parse().unwrap()),
        "D" => Value::Decimal(text()),
        "DT" => match DateTime::parse_from_rfc3339(&text()) {
            Ok(at) => Value::DateTime(at),
            Err(_) => Value::NaiveDateTime(text().parse().unwrap()),
        },
        "Db" => Value::Double(text().parse().unwrap()),
        "G" => Value::Guid(text().parse().unwrap()),
        "I16" => Value::I16(text().parse().unwrap()),
        "I32" => Value::I32(text().parse().unwrap()),
        "I64" => Value::I64(text().parse().unwrap()),
        "Obj" => object(told),
        "S" => Value::String(text()),
        "SB" => Value::I8(text().parse().unwrap()),
        "SBK" => Value::ScriptBlock(text()),
        "SS" => Value::SecureString(Secret::new(text())),
        "Sg" => Value::Single(text().parse().unwrap()),
        "TS" => Value::Duration(TimeDelta::nanoseconds(text().parse::<i64>().unwrap() * 100)),
        "U16" => Value::U16(text().parse().unwrap()),
        "U32" => Value::U32(text().parse().unwrap()),
        "U64" => Value::U64(text().parse().unwrap()),
        "URI" => Value::Uri(text()),
        "Version" => Value::Version(text()),
        "XD" => Value::Xml(text()),
        other => panic!("psrp_vectors.py told of {other}"),
    }
}

fn object(told: &Json) -> Value {
    let named = |told: &Json| (told[0].as_str().unwrap().to_owned(), value(&told[1]));
    Object {
        type_names: array(&told["types"]).iter().map(|name| name.as_str().unwrap().to_owned()).collect(),
        to_string: told["shown"].as_str().map(str::to_owned),
        base: if told["base"].is_null() { Base::None } else { base(&told["base"]) },
        properties: array(&told["props"]).iter().map(named).collect(),
        members: array(&told["members"]).iter().map(named).collect(),
    }
    .into()
}

fn base(told: &Json) -> Base {
    let items = || array(&told["v"]).iter().map(value).collect();
    match told["k"].as_str().unwrap() {
        "DCT" => Base::Dictionary(array(&told["v"]).iter().map(|pair| (value(&pair[0]), value(&pair[1]))).collect()),
        "IE" => Base::Enumerable(items()),
        "LST" => Base::List(items()),
        "QUE" => Base::Queue(items()),
        "STK" => Base::Stack(items()),
        _ => Base::Primitive(value(&told["v"])),
    }
}

fn vectors() -> Vec<Json> {
    let told: Json = serde_json::from_str(&std::fs::read_to_string(data()).unwrap()).unwrap();
    array(&told["vectors"]).to_vec()
}

fn array(told: &Json) -> &[Json] {
    told.as_array().unwrap()
}

/// A process that speaks for the other side.
struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    destination: Destination,
    pool: Uuid,
    next_object: u64,
    reassembler: Reassembler,
}

struct Answer {
    messages: Vec<Message>,
    events: Vec<Json>,
}

impl Peer {
    fn start(side: &str) -> Self {
        let mut process = peers::python("psrp_vectors.py");
        process.arg(side).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = process.spawn().unwrap();
        Self {
            requests: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
            destination: if side == "server" { Destination::Server } else { Destination::Client },
            pool: Uuid::new_v4(),
            next_object: 1,
            reassembler: Reassembler::new(1 << 20),
        }
    }

    fn open_pool(&mut self) -> Answer {
        let capability = self.send(MessageType::SessionCapability, None, payload::session_capability());
        let mut opened = self.send(MessageType::InitRunspacePool, None, payload::init_runspace_pool());
        opened.messages.splice(0..0, capability.messages);
        opened.events.splice(0..0, capability.events);
        opened
    }

    /// Sends a message in fragments that are as small as no transport makes them.
    fn send(&mut self, kind: MessageType, pipeline: Option<Uuid>, data: String) -> Answer {
        let message =
            Message { destination: self.destination, kind, pool: self.pool, pipeline, data: data.into_bytes() };
        let fragments = split(self.next_object, &message.encode(), 300);
        self.next_object += 1;
        self.ask(&json!({"do": "feed", "pipeline": pipeline, "data": hex(&fragments.concat())}))
    }

    fn ask(&mut self, request: &Json) -> Answer {
        writeln!(self.requests, "{request}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let told: Json = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{request} was not answered"));
        let mut messages = Vec::new();
        for piece in array(&told["data"]) {
            for message in self.reassembler.push(&unhex(piece[1].as_str().unwrap())).unwrap() {
                messages.push(Message::decode(&message).unwrap());
            }
        }
        Answer { messages, events: array(&told["events"]).to_vec() }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends by itself when its input ends; this does not wait for that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    fn kinds(&self) -> Vec<MessageType> {
        self.messages.iter().map(|message| message.kind).collect()
    }
}

trait Data {
    fn value(&self, key: Option<&SessionKey>) -> Value;
}

/// The value; and it comes back when it is written and read again.
impl Data for Message {
    fn value(&self, key: Option<&SessionKey>) -> Value {
        let value = decode(&self.data, key).unwrap();
        let again = decode(encode(&value, key).unwrap().as_bytes(), key);
        assert_eq!(again.as_ref(), Ok(&value));
        value
    }
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/psrpcore.json")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The pipeline of the tests.
const PIPELINE: Uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF);
