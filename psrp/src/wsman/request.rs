//! Requests: what a client asks of the service.

use std::time::Duration;

use base64::Engine as _;
use quick_xml::escape::escape;
use uuid::Uuid;

use super::xml::{Element, Namespace};
use super::{
    ANONYMOUS, BASE64, Fault, Header, Malformed, Operation, Parts, Stream, base64, command_attribute, envelope,
    excerpt, optional_id, shown, stream, stream_text,
};

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What every request says.
    pub header: Header,
    /// What this one asks for.
    pub body: RequestBody,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// Opens a shell (MS-PSRP 3.1.5.3.1).
    Create {
        /// The id that the client wishes for.
        shell: Option<Uuid>,
        /// The option `protocolversion`, which must be complied with.
        protocol_version: Option<String>,
        /// `creationXml`: fragments that begin the negotiation. As a stream only for the sake of its `Debug`.
        creation: Stream,
    },
    /// Starts a pipeline (MS-PSRP 3.1.5.3.3).
    Command {
        /// The id of the pipeline.
        command: Option<Uuid>,
        /// The first fragment of CREATE_PIPELINE. As a stream only for the sake of its `Debug`.
        arguments: Stream,
    },
    /// Sends fragments (MS-PSRP 3.1.5.3.5).
    Send {
        /// One or more.
        streams: Vec<Stream>,
    },
    /// Waits for fragments (MS-PSRP 3.1.5.3.7).
    Receive {
        /// `None` waits for what belongs to the pool, not to a pipeline.
        command: Option<Uuid>,
    },
    /// Tells a pipeline something (MS-PSRP 3.1.5.3.9).
    Signal {
        /// The id of the pipeline.
        command: Uuid,
        /// What.
        signal: Signal,
    },
    /// Closes the shell (MS-PSRP 3.1.5.3.11).
    Delete,
}

/// What a pipeline is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Stop. The pipeline then says that it has stopped.
    Stop,
    /// The client is done with it: forget it.
    Terminate,
}

impl Signal {
    /// "crtl" is Microsoft's own spelling (MS-PSRP 3.1.5.3.9).
    const fn code(self) -> &'static str {
        match self {
            Self::Stop => "powershell/signal/crtl_c",
            Self::Terminate => "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/signal/Terminate",
        }
    }

    /// Clients differ in the prefix and in the case.
    fn of_code(code: &str) -> Option<Self> {
        match code.to_ascii_lowercase().rsplit('/').next() {
            Some("crtl_c" | "ctrl_c") => Some(Self::Stop),
            Some("terminate") => Some(Self::Terminate),
            _ => None,
        }
    }
}

impl RequestBody {
    /// What kind of request it is.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        match self {
            Self::Create { .. } => Operation::Create,
            Self::Command { .. } => Operation::Command,
            Self::Send { .. } => Operation::Send,
            Self::Receive { .. } => Operation::Receive,
            Self::Signal { .. } => Operation::Signal,
            Self::Delete => Operation::Delete,
        }
    }

    fn options(&self) -> String {
        match self {
            Self::Create { protocol_version: Some(version), .. } => {
                option("protocolversion", version, " MustComply=\"true\"")
            }
            Self::Command { .. } => option("WINRS_SKIP_CMD_SHELL", "FALSE", ""),
            Self::Receive { .. } => option("WSMAN_CMDSHELL_OPTION_KEEPALIVE", "TRUE", ""),
            Self::Create { .. } | Self::Send { .. } | Self::Signal { .. } | Self::Delete => String::new(),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Create { shell, creation, .. } => create_text(*shell, &creation.data),
            Self::Command { command, arguments } => format!(
                "<rsp:CommandLine{}><rsp:Command></rsp:Command><rsp:Arguments>{}</rsp:Arguments></rsp:CommandLine>",
                command_attribute(*command),
                BASE64.encode(&arguments.data)
            ),
            Self::Send { streams } => {
                format!("<rsp:Send>{}</rsp:Send>", streams.iter().map(stream_text).collect::<String>())
            }
            Self::Receive { command } => format!(
                "<rsp:Receive><rsp:DesiredStream{}>stdout</rsp:DesiredStream></rsp:Receive>",
                command_attribute(*command)
            ),
            Self::Signal { command, signal } => format!(
                "<rsp:Signal{}><rsp:Code>{}</rsp:Code></rsp:Signal>",
                command_attribute(Some(*command)),
                signal.code()
            ),
            Self::Delete => String::new(),
        }
    }
}

fn create_text(shell: Option<Uuid>, creation: &[u8]) -> String {
    let id = shell.map(|id| format!(r#" ShellId="{}""#, shown(id))).unwrap_or_default();
    format!(
        "<rsp:Shell{id}><rsp:IdleTimeOut>PT{IDLE_SECONDS}.000S</rsp:IdleTimeOut>\
         <rsp:InputStreams>stdin pr</rsp:InputStreams><rsp:OutputStreams>stdout</rsp:OutputStreams>\
         <creationXml xmlns=\"{}\">{}</creationXml></rsp:Shell>",
        Namespace::PowerShell.uri(),
        BASE64.encode(creation)
    )
}

fn option(name: &str, value: &str, attributes: &str) -> String {
    format!(
        r#"<w:OptionSet s:mustUnderstand="true"><w:Option Name="{name}"{attributes}>{}</w:Option></w:OptionSet>"#,
        escape(value)
    )
}

impl Request {
    /// The envelope.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        envelope(&self.header_text(), &self.body.text())
    }

    fn header_text(&self) -> String {
        let Header { to, resource_uri, shell, message, session, max_envelope_size, operation_timeout } = &self.header;
        let session =
            session.map(|id| format!(r#"<p:SessionId s:mustUnderstand="false">uuid:{}</p:SessionId>"#, shown(id)));
        let selectors = shell.map(|id| {
            format!(r#"<w:SelectorSet><w:Selector Name="ShellId">{}</w:Selector></w:SelectorSet>"#, shown(id))
        });
        format!(
            "<a:To>{to}</a:To><w:ResourceURI s:mustUnderstand=\"true\">{uri}</w:ResourceURI>\
             <a:ReplyTo><a:Address s:mustUnderstand=\"true\">{ANONYMOUS}</a:Address></a:ReplyTo>\
             <a:Action s:mustUnderstand=\"true\">{action}</a:Action>\
             <w:MaxEnvelopeSize s:mustUnderstand=\"true\">{max_envelope_size}</w:MaxEnvelopeSize>\
             <a:MessageID>uuid:{message}</a:MessageID>\
             <w:Locale xml:lang=\"en-US\" s:mustUnderstand=\"false\"/>\
             <p:DataLocale xml:lang=\"en-US\" s:mustUnderstand=\"false\"/>{session}\
             <p:OperationID s:mustUnderstand=\"false\">uuid:{operation}</p:OperationID>\
             <p:SequenceId s:mustUnderstand=\"false\">1</p:SequenceId>{selectors}{options}\
             <w:OperationTimeout>{timeout}</w:OperationTimeout>",
            to = escape(to.as_str()),
            uri = escape(resource_uri.as_str()),
            action = self.body.operation().action(),
            message = shown(*message),
            session = session.unwrap_or_default(),
            operation = shown(Uuid::new_v4()),
            selectors = selectors.unwrap_or_default(),
            options = self.body.options(),
            timeout = duration_text(*operation_timeout),
        )
    }

    /// Reads an envelope. Unknown headers and elements are ignored.
    ///
    /// # Errors
    /// The fault to answer with, and the id of the request when it has got that far.
    pub fn parse(body: &[u8]) -> Result<Self, (Fault, Option<Uuid>)> {
        let parts = Parts::parse(body).map_err(|error| (Fault::invalid(error), None))?;
        let invalid = |id| move |error: Malformed| (Fault::invalid(error), id);
        let message = parts.id("MessageID").map_err(invalid(None))?;
        let message = message.ok_or_else(|| invalid(None)(Malformed::missing("MessageID")))?;
        let action = parts.header.child_text(Namespace::Addressing, "Action").unwrap_or_default();
        let operation = Operation::of_action(action).ok_or_else(|| {
            let text = format!("The action {} is not supported.", excerpt(action));
            (Fault::new("a:ActionNotSupported", Fault::NOT_SUPPORTED, text), Some(message))
        })?;
        let header = header(&parts.header, message).map_err(invalid(Some(message)))?;
        let body = read_body(operation, &parts).map_err(invalid(Some(message)))?;
        Ok(Self { header, body })
    }
}

fn header(header: &Element, message: Uuid) -> Result<Header, Malformed> {
    let text = |namespace, name| header.child_text(namespace, name);
    let size = text(Namespace::WsMan, "MaxEnvelopeSize").and_then(|text| text.parse().ok());
    let timeout = text(Namespace::WsMan, "OperationTimeout").map(duration).transpose()?;
    let selectors = header.child(Namespace::WsMan, "SelectorSet").map(|set| set.children.as_slice());
    let shell = selectors.unwrap_or_default().iter().find(|selector| selector.attribute("Name") == Some("ShellId"));
    Ok(Header {
        to: text(Namespace::Addressing, "To").unwrap_or_default().to_owned(),
        resource_uri: text(Namespace::WsMan, "ResourceURI").unwrap_or_default().to_owned(),
        shell: shell.map(|selector| super::id(selector.text())).transpose()?,
        message,
        // Not every client sends a GUID here, and nothing hangs on it.
        session: text(Namespace::Microsoft, "SessionId").and_then(|text| super::id(text).ok()),
        max_envelope_size: size.unwrap_or(DEFAULT_ENVELOPE),
        operation_timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
    })
}

fn read_body(operation: Operation, parts: &Parts) -> Result<RequestBody, Malformed> {
    let inside = |name| parts.body.child(Namespace::Shell, name).ok_or_else(|| Malformed::missing(name));
    Ok(match operation {
        Operation::Create => create(inside("Shell")?, &parts.header)?,
        Operation::Command => command(inside("CommandLine")?)?,
        Operation::Send => send(inside("Send")?)?,
        Operation::Receive => receive(inside("Receive")?)?,
        Operation::Signal => signal(inside("Signal")?)?,
        Operation::Delete => RequestBody::Delete,
    })
}

fn create(shell: &Element, header: &Element) -> Result<RequestBody, Malformed> {
    let options = header.child(Namespace::WsMan, "OptionSet").map(|set| set.children.as_slice()).unwrap_or_default();
    let version = options.iter().find(|option| option.attribute("Name") == Some("protocolversion"));
    let creation =
        shell.child(Namespace::PowerShell, "creationXml").ok_or_else(|| Malformed::missing("creationXml"))?;
    Ok(RequestBody::Create {
        shell: optional_id(shell, "ShellId")?,
        protocol_version: version.map(|option| option.text().to_owned()),
        creation: stdin(None, base64(creation.text())?),
    })
}

fn command(line: &Element) -> Result<RequestBody, Malformed> {
    let arguments: String = line.children_named(Namespace::Shell, "Arguments").map(Element::text).collect();
    let command = optional_id(line, "CommandId")?;
    Ok(RequestBody::Command { command, arguments: stdin(command, base64(&arguments)?) })
}

fn send(send: &Element) -> Result<RequestBody, Malformed> {
    let streams = send.children_named(Namespace::Shell, "Stream").map(stream).collect::<Result<Vec<_>, _>>()?;
    if streams.is_empty() {
        return Err(Malformed::missing("Stream"));
    }
    Ok(RequestBody::Send { streams })
}

fn receive(receive: &Element) -> Result<RequestBody, Malformed> {
    let desired = receive.child(Namespace::Shell, "DesiredStream");
    let desired = desired.ok_or_else(|| Malformed::missing("DesiredStream"))?;
    Ok(RequestBody::Receive { command: optional_id(desired, "CommandId")? })
}

fn signal(signal: &Element) -> Result<RequestBody, Malformed> {
    let code = signal.child_text(Namespace::Shell, "Code").unwrap_or_default();
    let known = Signal::of_code(code).ok_or_else(|| Malformed::new(format!("unknown signal {}", excerpt(code))))?;
    let command = optional_id(signal, "CommandId")?.ok_or_else(|| Malformed::missing("CommandId"))?;
    Ok(RequestBody::Signal { command, signal: known })
}

pub(crate) fn stdin(command: Option<Uuid>, data: Vec<u8>) -> Stream {
    Stream { name: "stdin".to_owned(), command, data }
}

fn duration_text(span: Duration) -> String {
    format!("PT{}.{:03}S", span.as_secs(), span.subsec_millis())
}

/// An `xs:duration` of days, hours, minutes and seconds; at most a day.
fn duration(text: &str) -> Result<Duration, Malformed> {
    let invalid = || Malformed::new(format!("not a duration: {}", excerpt(text)));
    let rest = text.strip_prefix('P').ok_or_else(invalid)?;
    let (days, time) = rest.split_once('T').unwrap_or((rest, ""));
    let mut seconds = 0.0;
    for (part, units) in [(days, [('D', 86_400.0)].as_slice()), (time, &[('H', 3_600.0), ('M', 60.0), ('S', 1.0)])] {
        let mut number = String::new();
        for character in part.chars() {
            match units.iter().find(|(unit, _)| *unit == character) {
                Some((_, scale)) => {
                    seconds += number.parse::<f64>().map_err(|_| invalid())? * scale;
                    number.clear();
                }
                None if character.is_ascii_digit() || character == '.' => number.push(character),
                None => return Err(invalid()),
            }
        }
        if !number.is_empty() {
            return Err(invalid());
        }
    }
    Duration::try_from_secs_f64(seconds.min(MAX_TIMEOUT_SECONDS)).map_err(|_| invalid())
}

const IDLE_SECONDS: u32 = 180;
/// What Windows takes when a request does not say (MS-WSMV 2.2.4.10).
const DEFAULT_ENVELOPE: usize = 150 * 1024;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_TIMEOUT_SECONDS: f64 = 86_400.0;
