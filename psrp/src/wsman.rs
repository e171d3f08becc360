//! SOAP envelopes of WS-Management (MS-WSMV), as remote PowerShell uses them: written and read on both sides.

mod fault;
mod request;
mod response;
mod xml;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use quick_xml::escape::escape;
use thiserror::Error;
use uuid::Uuid;

pub use fault::Fault;
pub(crate) use request::stdin;
pub use request::{Request, RequestBody, Signal};
pub use response::{CommandState, Response, ResponseBody};

use xml::{Element, Namespace, XmlError};

/// The content type of every unsealed body.
pub const CONTENT_TYPE: &str = "application/soap+xml;charset=UTF-8";

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opens a shell (WS-Transfer).
    Create,
    /// Starts a command in a shell (MS-WSMV 3.1.4.11).
    Command,
    /// Sends input to a shell or a command (MS-WSMV 3.1.4.12).
    Send,
    /// Waits for output of a shell or a command (MS-WSMV 3.1.4.14).
    Receive,
    /// Stops a command, or ends it for good (MS-WSMV 3.1.4.15).
    Signal,
    /// Closes a shell (WS-Transfer).
    Delete,
}

impl Operation {
    const ALL: [Self; 6] = [Self::Create, Self::Command, Self::Send, Self::Receive, Self::Signal, Self::Delete];

    /// The `wsa:Action` of the request; the answer's is this with `Response` behind it.
    #[must_use]
    pub const fn action(self) -> &'static str {
        match self {
            Self::Create => "http://schemas.xmlsoap.org/ws/2004/09/transfer/Create",
            Self::Command => "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/Command",
            Self::Send => "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/Send",
            Self::Receive => "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/Receive",
            Self::Signal => "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/Signal",
            Self::Delete => "http://schemas.xmlsoap.org/ws/2004/09/transfer/Delete",
        }
    }

    fn of_action(action: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.action() == action)
    }
}

/// What every request of a session says in its header (MS-WSMV 2.2.4, DSP0226 section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `wsa:To`: the URL of the endpoint.
    pub to: String,
    /// `wsman:ResourceURI`: the session configuration.
    pub resource_uri: String,
    /// `wsman:SelectorSet` / `ShellId`. `None` when the shell is to be created.
    pub shell: Option<Uuid>,
    /// `wsa:MessageID`
    pub message: Uuid,
    /// `wsmv:SessionId`: the same for all requests of a client.
    pub session: Option<Uuid>,
    /// `wsman:MaxEnvelopeSize`: the largest answer wanted, in bytes.
    pub max_envelope_size: usize,
    /// `wsman:OperationTimeout`: how long the server may take to answer.
    pub operation_timeout: Duration,
}

/// A piece of a stream. `Debug` says how much, not what.
#[derive(Clone, PartialEq, Eq)]
pub struct Stream {
    /// `stdin` and `pr` (answers to host calls) towards the server, `stdout` from it (MS-PSRP 3.1.5.3.7).
    pub name: String,
    /// `None` for the shell itself.
    pub command: Option<Uuid>,
    /// One or several whole fragments.
    pub data: Vec<u8>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, command, data } = self;
        f.debug_struct("Stream").field("name", name).field("command", command).field("bytes", &data.len()).finish()
    }
}

/// Why a body is no envelope that is understood here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn missing(what: &str) -> Self {
        Self(format!("{what} is missing"))
    }
}

impl From<XmlError> for Malformed {
    fn from(error: XmlError) -> Self {
        Self(error.to_string())
    }
}

/// Header and body of an envelope.
struct Parts {
    header: Element,
    body: Element,
}

impl Parts {
    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let root = xml::parse(bytes)?;
        if !root.is(Namespace::Soap, "Envelope") {
            return Err(Malformed::new("not a SOAP 1.2 envelope"));
        }
        let (mut header, mut body) = (None, None);
        for child in root.children {
            if child.is(Namespace::Soap, "Header") {
                header.get_or_insert(child);
            } else if child.is(Namespace::Soap, "Body") {
                body.get_or_insert(child);
            }
        }
        let header = header.ok_or_else(|| Malformed::missing("Header"))?;
        Ok(Self { header, body: body.ok_or_else(|| Malformed::missing("Body"))? })
    }

    fn id(&self, name: &str) -> Result<Option<Uuid>, Malformed> {
        self.header.child_text(Namespace::Addressing, name).map(id).transpose()
    }
}

/// Writes an envelope.
fn envelope(header: &str, body: &str) -> Vec<u8> {
    let namespaces = [
        ("s", Namespace::Soap),
        ("a", Namespace::Addressing),
        ("w", Namespace::WsMan),
        ("p", Namespace::Microsoft),
        ("x", Namespace::Transfer),
        ("rsp", Namespace::Shell),
    ];
    let declare = |(prefix, namespace): (&str, Namespace)| format!(r#" xmlns:{prefix}="{}""#, namespace.uri());
    let declared: String = namespaces.into_iter().map(declare).collect();
    format!(
        r#"<s:Envelope xml:lang="en-US"{declared}><s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"#
    )
    .into_bytes()
}

/// A `uuid:` URI, a GUID with or without braces.
fn id(text: &str) -> Result<Uuid, Malformed> {
    let plain = text.strip_prefix("uuid:").or_else(|| text.strip_prefix("UUID:")).unwrap_or(text);
    Uuid::parse_str(plain).map_err(|_| Malformed::new(format!("not a GUID: {}", excerpt(text))))
}

/// Windows writes ids in capitals and compares them as text in places.
fn shown(id: Uuid) -> String {
    id.hyphenated().to_string().to_uppercase()
}

fn command_attribute(command: Option<Uuid>) -> String {
    command.map(|id| format!(r#" CommandId="{}""#, shown(id))).unwrap_or_default()
}

fn optional_id(element: &Element, attribute: &str) -> Result<Option<Uuid>, Malformed> {
    element.attribute(attribute).filter(|text| !text.is_empty()).map(id).transpose()
}

fn stream_text(stream: &Stream) -> String {
    let Stream { name, command, data } = stream;
    let command = command_attribute(*command);
    format!(r#"<rsp:Stream Name="{}"{command}>{}</rsp:Stream>"#, escape_attribute(name), BASE64.encode(data))
}

/// A reader makes spaces of breaks and tabs that stand in an attribute as they are (XML 1.0 section 3.3.3).
fn escape_attribute(text: &str) -> String {
    escape(text).replace('\n', "&#10;").replace('\t', "&#9;")
}

fn stream(element: &Element) -> Result<Stream, Malformed> {
    let name = element.attribute("Name").ok_or_else(|| Malformed::missing("the name of a stream"))?.to_owned();
    Ok(Stream { name, command: optional_id(element, "CommandId")?, data: base64(element.text())? })
}

fn base64(text: &str) -> Result<Vec<u8>, Malformed> {
    let decode = |text: &str| BASE64.decode(text).map_err(|_| Malformed::new("invalid base64"));
    if text.contains(|c: char| c.is_ascii_whitespace()) {
        decode(&text.chars().filter(|c| !c.is_ascii_whitespace()).collect::<String>())
    } else {
        decode(text)
    }
}

/// At most the first 200 characters, for messages.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(200).collect()
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const ANONYMOUS: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous";
