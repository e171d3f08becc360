//! Responses: what the service answers when nothing went wrong.

use quick_xml::escape::escape;
use uuid::Uuid;

use super::xml::{Element, Namespace};
use super::{
    ANONYMOUS, Fault, Malformed, Operation, Parts, Stream, command_attribute, envelope, id, shown, stream, stream_text,
};

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The id of the request that this answers, when it says so.
    pub relates_to: Option<Uuid>,
    /// What it answers.
    pub body: ResponseBody,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// To Create.
    Created {
        /// The id of the shell, which the server decides.
        shell: Uuid,
        /// The session configuration.
        resource_uri: String,
        /// What the client called the server.
        to: String,
    },
    /// To Command.
    Accepted {
        /// The id of the command, which the server decides.
        command: Uuid,
    },
    /// To Send.
    Sent,
    /// To Receive.
    Received {
        /// Fragments; may be none.
        streams: Vec<Stream>,
        /// The state of the command, when it is told.
        state: Option<CommandState>,
    },
    /// To Signal.
    Signalled,
    /// To Delete.
    Deleted,
}

/// The state of a command (MS-WSMV 2.2.4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandState {
    /// It has nothing more to say.
    Done {
        /// The command.
        command: Option<Uuid>,
    },
    /// Pending or running: more will come.
    Running,
}

impl ResponseBody {
    /// The operation that it answers.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        match self {
            Self::Created { .. } => Operation::Create,
            Self::Accepted { .. } => Operation::Command,
            Self::Sent => Operation::Send,
            Self::Received { .. } => Operation::Receive,
            Self::Signalled => Operation::Signal,
            Self::Deleted => Operation::Delete,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Created { shell, resource_uri, to } => {
                created_text(*shell, &escape(resource_uri.as_str()), &escape(to.as_str()))
            }
            Self::Accepted { command } => {
                format!("<rsp:CommandResponse><rsp:CommandId>{}</rsp:CommandId></rsp:CommandResponse>", shown(*command))
            }
            Self::Sent => "<rsp:SendResponse/>".to_owned(),
            Self::Received { streams, state } => {
                let streams: String = streams.iter().map(stream_text).collect();
                format!(
                    "<rsp:ReceiveResponse>{streams}{}</rsp:ReceiveResponse>",
                    state.map(state_text).unwrap_or_default()
                )
            }
            Self::Signalled => "<rsp:SignalResponse/>".to_owned(),
            Self::Deleted => String::new(),
        }
    }
}

fn created_text(shell: Uuid, resource_uri: &str, to: &str) -> String {
    let shell = shown(shell);
    format!(
        "<x:ResourceCreated><a:Address>{to}</a:Address><a:ReferenceParameters><w:ResourceURI>{resource_uri}\
         </w:ResourceURI><w:SelectorSet><w:Selector Name=\"ShellId\">{shell}</w:Selector></w:SelectorSet>\
         </a:ReferenceParameters></x:ResourceCreated><rsp:Shell><rsp:ShellId>{shell}</rsp:ShellId>\
         <rsp:ResourceUri>{resource_uri}</rsp:ResourceUri><rsp:IdleTimeOut>PT900.000S</rsp:IdleTimeOut>\
         <rsp:InputStreams>stdin pr</rsp:InputStreams><rsp:OutputStreams>stdout</rsp:OutputStreams>\
         <rsp:State>Connected</rsp:State></rsp:Shell>"
    )
}

fn state_text(state: CommandState) -> String {
    match state {
        CommandState::Done { command } => format!(
            r#"<rsp:CommandState{} State="{DONE}"><rsp:ExitCode>0</rsp:ExitCode></rsp:CommandState>"#,
            command_attribute(command)
        ),
        CommandState::Running => format!(r#"<rsp:CommandState State="{RUNNING}"/>"#),
    }
}

impl Response {
    /// The envelope.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let relates = self.relates_to.map(|id| format!("<a:RelatesTo>uuid:{}</a:RelatesTo>", shown(id)));
        let header = format!(
            "<a:Action>{}Response</a:Action><a:MessageID>uuid:{}</a:MessageID><a:To>{ANONYMOUS}</a:To>{}",
            self.body.operation().action(),
            shown(Uuid::new_v4()),
            relates.unwrap_or_default()
        );
        envelope(&header, &self.body.text())
    }

    /// Reads the answer to an operation. Unknown headers and elements are ignored.
    ///
    /// # Errors
    /// When the body is no envelope or does not answer that operation.
    pub fn parse(operation: Operation, body: &[u8]) -> Result<Result<Self, Fault>, Malformed> {
        let parts = Parts::parse(body)?;
        if let Some(fault) = Fault::in_body(&parts.body) {
            return Ok(Err(fault));
        }
        Ok(Ok(Self { relates_to: parts.id("RelatesTo")?, body: read_body(operation, &parts.body)? }))
    }
}

fn read_body(operation: Operation, body: &Element) -> Result<ResponseBody, Malformed> {
    let inside = |name| body.child(Namespace::Shell, name).ok_or_else(|| Malformed::missing(name));
    Ok(match operation {
        Operation::Create => created(body)?,
        Operation::Command => {
            let command = inside("CommandResponse")?.child_text(Namespace::Shell, "CommandId");
            ResponseBody::Accepted { command: id(command.ok_or_else(|| Malformed::missing("CommandId"))?)? }
        }
        Operation::Send => inside("SendResponse").map(|_| ResponseBody::Sent)?,
        Operation::Receive => received(inside("ReceiveResponse")?)?,
        Operation::Signal => inside("SignalResponse").map(|_| ResponseBody::Signalled)?,
        Operation::Delete => ResponseBody::Deleted,
    })
}

/// The selector decides; old servers leave out the `rsp:Shell` (MS-WSMV 3.1.4.5.2).
fn created(body: &Element) -> Result<ResponseBody, Malformed> {
    let created = body.child(Namespace::Transfer, "ResourceCreated");
    let reference = created.and_then(|created| created.child(Namespace::Addressing, "ReferenceParameters"));
    let selectors = reference.and_then(|reference| reference.child(Namespace::WsMan, "SelectorSet"));
    let selectors = selectors.map(|set| set.children.as_slice()).unwrap_or_default();
    let selector = selectors.iter().find(|selector| selector.attribute("Name") == Some("ShellId")).map(Element::text);
    let shell = body.child(Namespace::Shell, "Shell").and_then(|shell| shell.child_text(Namespace::Shell, "ShellId"));
    let shell = selector.or(shell).ok_or_else(|| Malformed::missing("ShellId"))?;
    let text = |namespace, name| reference.and_then(|r| r.child_text(namespace, name)).unwrap_or_default().to_owned();
    Ok(ResponseBody::Created {
        shell: id(shell)?,
        resource_uri: text(Namespace::WsMan, "ResourceURI"),
        to: created.and_then(|c| c.child_text(Namespace::Addressing, "Address")).unwrap_or_default().to_owned(),
    })
}

fn received(response: &Element) -> Result<ResponseBody, Malformed> {
    let streams = response.children_named(Namespace::Shell, "Stream").map(stream).collect::<Result<_, _>>()?;
    let state = response.child(Namespace::Shell, "CommandState").map(command_state).transpose()?;
    Ok(ResponseBody::Received { streams, state })
}

fn command_state(element: &Element) -> Result<CommandState, Malformed> {
    let state = element.attribute("State").unwrap_or_default();
    if state.rsplit('/').next() == Some("Done") {
        Ok(CommandState::Done { command: super::optional_id(element, "CommandId")? })
    } else {
        Ok(CommandState::Running)
    }
}

const DONE: &str = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/CommandState/Done";
const RUNNING: &str = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/CommandState/Running";
