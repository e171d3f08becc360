//! Writes what the corpora began with: messages of both sides as this repository's own writers make them, and values as psrpcore does.
//!
//! `cargo run -p fuzz --example seeds` writes them again, after a change of the protocol or of how a target reads its input.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::Utc;
use psrp::client::{Configuration, Operation};
use psrp::clixml::encode;
use psrp::fragment::split;
use psrp::message::payload::{self, PoolState};
use psrp::message::{Destination, Message, MessageType};
use psrp::sealed::{Protocol, Sealed, Spelling};
use psrp::wsman::{CommandState, Header, Request, RequestBody, Response, ResponseBody, Signal, Stream};
use psrp::{Command, ErrorRecord, Object, Pipeline, PipelineEnd, Record, Value};
use uuid::Uuid;

fn main() -> anyhow::Result<()> {
    clixml()?;
    fragments()?;
    sealed()?;
    soap()?;
    client()?;
    server()?;
    pfx()
}

/// The values of `psrp/tests/data/psrpcore.json`, and the payload of each message.
fn clixml() -> anyhow::Result<()> {
    let vectors = fs::read_to_string(repository().join("psrp/tests/data/psrpcore.json"))?;
    let vectors: serde_json::Value = serde_json::from_str(&vectors)?;
    for (n, vector) in vectors["vectors"].as_array().into_iter().flatten().enumerate() {
        save("clixml", &format!("psrpcore-{n:02}"), vector["clixml"].as_str().unwrap_or_default())?;
    }
    for (name, text) in payloads()? {
        save("clixml", name, text)?;
    }
    Ok(())
}

fn payloads() -> anyhow::Result<Vec<(&'static str, String)>> {
    let failed = || ErrorRecord { message: "no".to_owned(), category: 13, ..ErrorRecord::default() };
    Ok(vec![
        ("session-capability", payload::session_capability()),
        ("init-runspace-pool", payload::init_runspace_pool()),
        ("application-private-data", payload::application_private_data()),
        ("public-key", payload::public_key("QUI=")),
        ("encrypted-session-key", payload::encrypted_session_key("QUI=")),
        ("pool-opened", payload::runspace_pool_state(&PoolState::Opened)),
        ("pool-broken", payload::runspace_pool_state(&PoolState::Broken(Box::new(failed())))),
        ("pipeline-completed", payload::pipeline_state(&PipelineEnd::Completed)),
        ("pipeline-failed", payload::pipeline_state(&PipelineEnd::Failed(failed()))),
        ("error-record", encode(&failed().to_value(), None)?),
        ("warning-record", payload::record_to_message(&Record::Warning("careful".to_owned()), None)?.1),
        ("create-pipeline", payload::create_pipeline(&pipeline(), None)?),
        ("host-call", host_call(PROMPT_FOR_CHOICE)?),
        ("certificate", encode(&certificate(), None)?),
    ])
}

fn pipeline() -> Pipeline {
    Pipeline::from(Command::new("Get-ExchangeCertificate").with("Server", "EX01").with("Bytes", vec![1, 2, 3]))
        .then(Command::script("{ $_ }").argument(1))
}

fn host_call(number: i32) -> anyhow::Result<String> {
    let method = Object { base: psrp::Base::Primitive(number.into()), ..Object::default() };
    let parameters = Value::from(vec![Value::from("Continue?")]);
    let call = Object::default().with_member("ci", 1_i64).with_member("mi", method).with_member("mp", parameters);
    Ok(encode(&call.into(), None)?)
}

/// As Exchange shows one.
fn certificate() -> Value {
    let status = Object { base: psrp::Base::Primitive(1.into()), ..Object::of_type("Deserialized.CertificateStatus") };
    Object::of_type("Deserialized.Microsoft.Exchange.Management.SystemConfigurationTasks.ExchangeCertificate")
        .with("Thumbprint", "00".repeat(20))
        .with("NotAfter", Utc::now())
        .with("Status", status.shown_as("Valid"))
        .with("CertificateDomains", Value::from(vec![Value::from("ex01.contoso.example")]))
        .with_member("PSComputerName", "ex01")
        .into()
}

/// The first byte is the size at which the target cuts.
fn fragments() -> anyhow::Result<()> {
    let message = |data: &str| {
        let (destination, kind) = (Destination::Server, MessageType::CreatePipeline);
        Message { destination, kind, pool: COMMAND, pipeline: Some(COMMAND), data: data.into() }.encode()
    };
    let (short, long) = (message("<S>a</S>"), message(&payload::create_pipeline(&pipeline(), None)?));
    save("fragments", "one", split(1, &short, 1000).concat())?;
    save("fragments", "several", split(2, &long, 500).concat())?;
    let mixed: Vec<u8> =
        split(3, &long, 1000).into_iter().zip(split(4, &long, 1000)).flat_map(|(a, b)| [a, b]).flatten().collect();
    save("fragments", "mixed", mixed)?;
    let disorder: Vec<u8> = split(5, &long, 1000).into_iter().rev().flatten().collect();
    save("fragments", "last-first", disorder)?;
    save("fragments", "twice", split(6, &long, 1000)[0].repeat(2))?;
    save("fragments", "cut-in-pieces-of-nine", [b"\x1e", &short[..]].concat())
}

fn sealed() -> anyhow::Result<()> {
    let piece = Sealed { token: &[1, 0, 0, 0, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0], data: b"--Encrypted Boundary\r\n" };
    let tight = piece.write(Protocol::Spnego, Spelling::Tight);
    save("sealed", "spaced", piece.write(Protocol::Kerberos, Spelling::Spaced))?;
    save("sealed", "in-two-pieces", tight.repeat(2))?;
    let end = b"--Encrypted Boundary--\r\n".len();
    save("sealed", "in-two-pieces-without-an-end-between", [&tight[..tight.len() - end], &tight].concat())?;
    save("sealed", "tight", tight)?;
    save("sealed", "content-type", Protocol::Kerberos.content_type())
}

fn soap() -> anyhow::Result<()> {
    for (name, request) in requests() {
        save("soap", &format!("request-{name}"), request)?;
    }
    for (name, response) in responses(true) {
        save("soap", &format!("response-{name}"), response)?;
    }
    save("soap", "fault-of-a-provider", TIMED_OUT)
}

fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let stream = || Stream { name: "stdin".to_owned(), command: Some(COMMAND), data: vec![0; 20] };
    let creation = Stream { command: None, ..stream() };
    let shell = Some(SHELL);
    let create = RequestBody::Create { shell, protocol_version: Some("2.3".to_owned()), creation };
    let bodies = [
        ("create", create),
        ("command", RequestBody::Command { command: Some(COMMAND), arguments: stream() }),
        ("send", RequestBody::Send { streams: vec![stream(), stream()] }),
        ("receive", RequestBody::Receive { command: Some(COMMAND) }),
        ("receive-of-the-pool", RequestBody::Receive { command: None }),
        ("signal", RequestBody::Signal { command: COMMAND, signal: Signal::Stop }),
        ("delete", RequestBody::Delete),
    ];
    bodies.into_iter().map(|(name, body)| (name, Request { header: header(&body), body }.write())).collect()
}

fn header(body: &RequestBody) -> Header {
    Header {
        to: "https://ex01.contoso.example/PowerShell?a=1&b=2".to_owned(),
        resource_uri: Configuration::Exchange.resource_uri().to_owned(),
        shell: (body.operation() != Operation::Create).then_some(SHELL),
        message: MESSAGE,
        session: Some(SHELL),
        max_envelope_size: 512_000,
        operation_timeout: Duration::from_secs(20),
    }
}

fn responses(relate: bool) -> Vec<(&'static str, Vec<u8>)> {
    let relates_to = relate.then_some(MESSAGE);
    let stream = Stream { name: "stdout".to_owned(), command: Some(COMMAND), data: b"one".to_vec() };
    let resource_uri = Configuration::Exchange.resource_uri().to_owned();
    let created = ResponseBody::Created { shell: SHELL, resource_uri, to: "https://ex01/".to_owned() };
    let done = Some(CommandState::Done { command: Some(COMMAND) });
    let running = Some(CommandState::Running);
    let bodies = [
        ("created", created),
        ("accepted", ResponseBody::Accepted { command: COMMAND }),
        ("sent", ResponseBody::Sent),
        ("received", ResponseBody::Received { streams: vec![stream], state: done }),
        ("running", ResponseBody::Received { streams: Vec::new(), state: running }),
        ("signalled", ResponseBody::Signalled),
        ("deleted", ResponseBody::Deleted),
    ];
    bodies.into_iter().map(|(name, body)| (name, Response { relates_to, body }.write())).collect()
}

fn client() -> anyhow::Result<()> {
    save("client", "whole-run", "+Get-X\0.output\0")?;
    save("client", "secret", "$pass word\0.output\0")?;
    save(
        "client",
        "asked-for-a-key",
        format!("$pass word\0P00010007{}\0.output\0+Get-X", payload::public_key_request()),
    )?;
    save("client", "stopped-before-it-began", "+Get-X\0x\0+Get-Y\0.output")?;
    save("client", "stopped-while-it-runs", "+Get-X\0M00041007<S>a</S>\0x\0.late")?;
    save("client", "timed-out-and-asked-again", format!("+Get-X\0M00041007<S>a</S>\0F{TIMED_OUT}\0.output"))?;
    save("client", "refused-by-a-load-balancer", "+Get-X\0M00041007<S>a</S>\0H<html>Service Unavailable</html>\0c")?;
    for (name, text) in payloads()? {
        let kind = client_kind(name);
        save("client", &format!("told-{name}"), format!("+Get-X\0M{kind:08X}{text}\0P{kind:08X}{text}\0.output"))?;
    }
    for (name, response) in responses(false) {
        let response = String::from_utf8(response)?.replace(&COMMAND.to_string().to_uppercase(), "{PIPELINE}");
        save("client", &format!("answered-{name}"), format!("S{response}\0+Get-X\0S{response}"))?;
    }
    Ok(())
}

/// Under which type the client shall read it.
fn client_kind(name: &str) -> u32 {
    let kind = match name {
        "encrypted-session-key" => MessageType::EncryptedSessionKey,
        "pool-opened" | "pool-broken" => MessageType::RunspacePoolState,
        "pipeline-completed" | "pipeline-failed" => MessageType::PipelineState,
        "error-record" => MessageType::ErrorRecord,
        "warning-record" => MessageType::WarningRecord,
        "host-call" => MessageType::PipelineHostCall,
        _ => MessageType::PipelineOutput,
    };
    kind.number()
}

fn server() -> anyhow::Result<()> {
    save("server", "whole-run", "+Get-X\0.output\0c")?;
    save("server", "stopped", "+Get-X\0x\0.output")?;
    let told = [
        ("session-capability", MessageType::SessionCapability, payload::session_capability()),
        ("init-runspace-pool", MessageType::InitRunspacePool, payload::init_runspace_pool()),
        ("public-key", MessageType::PublicKey, payload::public_key("QUI=")),
    ];
    for (name, kind, text) in told {
        save("server", &format!("told-{name}"), format!("P{:08X}{text}\0+Get-X\0.output", kind.number()))?;
    }
    let (kind, text) = (MessageType::CreatePipeline.number(), payload::create_pipeline(&pipeline(), None)?);
    save("server", "two-pipelines", format!("+Get-X\0C{kind:08X}{text}\0M{kind:08X}{text}"))?;
    for (name, request) in requests() {
        let id = |id: Uuid| id.to_string().to_uppercase();
        let request = String::from_utf8(request)?
            .replace(&id(SHELL), "{SHELL}")
            .replace(&id(MESSAGE), "{MESSAGE}")
            .replace(&id(COMMAND), "{PIPELINE}");
        save("server", &format!("asked-{name}"), format!("+Get-X\0S{request}\0.output"))?;
    }
    Ok(())
}

/// Keys of nobody: made here and thrown away.
fn pfx() -> anyhow::Result<()> {
    let (certificate, key) = lab::certificate::issue(&lab::certificate::Request::five_years("Nobody", Utc::now()))?;
    save("pfx", "by-exchange", lab::pfx::write(&certificate, &key, "correct horse")?)?;
    save("pfx", "a-certificate", &certificate.der)?;
    save("pfx", "a-key", key.expose())
}

fn save(target: &str, name: &str, input: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let folder = repository().join("fuzz/corpus").join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(name), input)?)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

const SHELL: Uuid = Uuid::from_u128(1);
const COMMAND: Uuid = Uuid::from_u128(2);
const MESSAGE: Uuid = Uuid::from_u128(3);
const PROMPT_FOR_CHOICE: i32 = 26;
/// A fault with other prefixes than this repository writes, and with the text of a provider.
const TIMED_OUT: &str = "<e:Envelope xmlns:e=\"http://www.w3.org/2003/05/soap-envelope\"><e:Header/><e:Body><e:Fault>\
    <e:Code><e:Value>e:Receiver</e:Value><e:Subcode><e:Value>w:TimedOut</e:Value></e:Subcode></e:Code><e:Reason>\
    <e:Text xml:lang=\"\">late</e:Text></e:Reason><e:Detail><f:WSManFault \
    xmlns:f=\"http://schemas.microsoft.com/wbem/wsman/1/wsmanfault\" Code=\"2150858793\"><f:Message>late<f:ProviderFault>\
    <f:WSManFault Code=\"0x1\"><f:Message>later</f:Message></f:WSManFault></f:ProviderFault></f:Message></f:WSManFault>\
    </e:Detail></e:Fault></e:Body></e:Envelope>";
