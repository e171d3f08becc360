//! The client: one runspace pool in one shell, as a state machine without I/O.
//!
//! [`Pool::poll_transmit`] says what to send, [`Pool::handle_response`] takes the answer, [`Pool::poll_event`] tells what it meant. There is never more than one
//! request on its way, except for the signal of [`Pool::stop_transmit`], which needs a connection of its own because the first is waiting in a Receive.
//!
//! Rules: a pipeline ends only with PIPELINE_STATE, never because nothing more came; a Receive that timed out or brought nothing is asked again; a Receive
//! whose answer was lost cannot be made up for, so whoever drives the pool gives it up with [`Pool::close`].

mod receive;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use uuid::Uuid;

use crate::clixml::{EncodeError, Size};
use crate::fragment::{Reassembler, split};
use crate::message::{Destination, Message, MessageType, payload};
use crate::session_key::{KeyError, KeyExchange, SessionKey, SharedKeyExchange};
use crate::wsman::{Fault, Header, Request, RequestBody, Signal, Stream, stdin};
use crate::{ErrorRecord, Pipeline, PipelineEnd, Record};

pub use crate::wsman::Operation;

/// The session configurations that are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// Exchange Server's `/PowerShell`: commands with parameters, no scripts.
    Exchange,
    /// The `/wsman` of Windows.
    Windows,
}

impl Configuration {
    /// The resource URI.
    #[must_use]
    pub const fn resource_uri(self) -> &'static str {
        match self {
            Self::Exchange => "http://schemas.microsoft.com/powershell/Microsoft.Exchange",
            Self::Windows => "http://schemas.microsoft.com/powershell/Microsoft.PowerShell",
        }
    }
}

/// How to talk to a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// `wsa:To`: the URL.
    pub to: String,
    /// Which session configuration.
    pub configuration: Configuration,
    /// The largest envelope the server takes and may send, in bytes: its MaxEnvelopeSizekb times 1024. At least 8 KiB are assumed (DSP0226 6.2).
    pub max_envelope_size: usize,
    /// How long the server may take to answer; a Receive that takes longer is asked again.
    pub operation_timeout: Duration,
    /// The key pair for the exchange of the session key.
    pub key_exchange: SharedKeyExchange,
}

impl Options {
    /// Envelopes of 500 KiB, the default since Windows Server 2012, 20 seconds, and a key pair of its own.
    #[must_use]
    pub fn new(to: &str, configuration: Configuration) -> Self {
        let (max_envelope_size, operation_timeout) = (500 * 1024, Duration::from_secs(20));
        let key_exchange = SharedKeyExchange::default();
        Self { to: to.to_owned(), configuration, max_envelope_size, operation_timeout, key_exchange }
    }
}

/// A request to send. `Debug` says how long it is, not what it says.
#[derive(Clone, PartialEq, Eq)]
pub struct Transmit {
    /// SOAP in UTF-8, to be posted as [`crate::wsman::CONTENT_TYPE`].
    pub body: Vec<u8>,
    /// What it asks for.
    pub operation: Operation,
}

impl fmt::Debug for Transmit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transmit").field("operation", &self.operation).field("bytes", &self.body.len()).finish()
    }
}

/// What has happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The pool is open.
    Opened,
    /// A pipeline wrote a record.
    Record {
        /// Which.
        pipeline: Uuid,
        /// What.
        record: Record,
    },
    /// A pipeline has ended. The pool wants to transmit once more to clean up behind it.
    Ended {
        /// Which.
        pipeline: Uuid,
        /// How.
        end: PipelineEnd,
    },
    /// The server asked for something of the host. There is none, and servers are told so; one that asks all the same gets an answer that changes nothing.
    HostCall {
        /// Whose call it was; `None` for the pool's own.
        pipeline: Option<Uuid>,
        /// What was called, e.g. `PromptForChoice`.
        method: String,
        /// What it was answered.
        answer: HostAnswer,
    },
    /// The shell is deleted.
    Closed,
}

/// What a call of the host was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostAnswer {
    /// Nothing: it only shows something.
    Ignored,
    /// No, to a request for confirmation: whoever wants something done says so in the command.
    No {
        /// What it asked.
        question: String,
    },
    /// An error: credentials, lines of text and other choices are not to be had.
    Refused,
}

/// Why the pool cannot go on. After any of them but [`ClientError::Busy`] it can only be closed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ClientError {
    /// The service answered with a fault.
    #[error("{0}")]
    Fault(Fault),
    /// The shell does not exist any more, e.g. because the server was restarted. What ran in it may or may not have been done.
    #[error("the shell is gone")]
    ShellGone,
    /// A pipeline is running; a pool runs one at a time.
    #[error("a pipeline is running")]
    Busy,
    /// The pool is closed or has failed.
    #[error("the pool is not open")]
    NotOpen,
    /// An answer that is not from WS-Management, e.g. from a load balancer.
    #[error("HTTP status {status}: {excerpt}")]
    Http {
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        excerpt: String,
    },
    /// The server broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The server gave the pool up.
    #[error("the runspace pool is broken: {}", .0.message)]
    PoolBroken(Box<ErrorRecord>),
    /// A parameter cannot travel.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The session key could not be exchanged.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl ClientError {
    fn protocol(error: impl fmt::Display) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// One runspace pool, which is one shell. See the module's text.
pub struct Pool {
    options: Options,
    /// Of the pool; also the id that the shell is wished to have, so that it can be deleted when the answer to Create was lost.
    id: Uuid,
    session: Uuid,
    shell: Uuid,
    stage: Stage,
    keys: Keys,
    work: Work,
    /// What to send before anything else.
    queue: VecDeque<RequestBody>,
    in_flight: Option<InFlight>,
    /// Of what concerns the pool. Each target counts its fragments on its own.
    reassembler: Reassembler,
    /// Of the pipeline that was started last. Outlives its end, which may not be the last that an answer holds.
    pipeline_reassembler: Reassembler,
    /// Of the values in the answer that is being read: the events keep them.
    received: Size,
    /// Fragments of one message share a number (MS-PSRP 2.2.4).
    next_object: u64,
    events: VecDeque<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    /// Create is sent; the negotiation is going on (MS-PSRP 3.1.1.2.3).
    Opening,
    Open,
    Closing,
    /// Nothing more can be done but to delete the shell.
    Failed,
    /// There is no shell to delete.
    Gone,
    Closed,
}

enum Keys {
    None,
    /// To be sent when the pool is open.
    Made(Arc<KeyExchange>),
    Asked(Arc<KeyExchange>),
    Held(SessionKey),
}

impl Keys {
    const fn session_key(&self) -> Option<&SessionKey> {
        match self {
            Self::Held(key) => Some(key),
            Self::None | Self::Made(_) | Self::Asked(_) => None,
        }
    }
}

enum Work {
    Idle,
    /// It holds a `SecureString`.
    WaitingForKey {
        id: Uuid,
        pipeline: Pipeline,
    },
    Ready {
        id: Uuid,
        fragments: Vec<Vec<u8>>,
    },
    Running {
        id: Uuid,
    },
}

#[derive(Clone, Copy)]
struct InFlight {
    message: Uuid,
    operation: Operation,
    command: Option<Uuid>,
}

impl Pool {
    /// A pool that is not open yet; its first transmit is Create.
    #[must_use]
    pub fn new(mut options: Options) -> Self {
        options.max_envelope_size = options.max_envelope_size.max(SMALLEST_ENVELOPE);
        let id = Uuid::new_v4();
        Self {
            options,
            id,
            session: Uuid::new_v4(),
            shell: id,
            stage: Stage::New,
            keys: Keys::None,
            work: Work::Idle,
            queue: VecDeque::new(),
            in_flight: None,
            reassembler: Reassembler::new(MESSAGE_LIMIT),
            pipeline_reassembler: Reassembler::new(MESSAGE_LIMIT),
            received: Size::default(),
            next_object: 1,
            events: VecDeque::new(),
        }
    }

    /// Of all requests of this pool.
    #[must_use]
    pub const fn session_id(&self) -> Uuid {
        self.session
    }

    /// `None` as long as there is no shell.
    #[must_use]
    pub fn shell_id(&self) -> Option<Uuid> {
        (self.stage != Stage::New).then_some(self.shell)
    }

    /// Queues a pipeline, also before the pool is open. When it holds a `SecureString`, the session key is exchanged first. Returns the id of the pipeline.
    ///
    /// # Errors
    /// [`ClientError::Busy`] until the one before has ended, [`ClientError::NotOpen`] after an error or [`Pool::close`]; also when a parameter cannot travel.
    pub fn start(&mut self, pipeline: Pipeline) -> Result<Uuid, ClientError> {
        if !matches!(self.stage, Stage::New | Stage::Opening | Stage::Open) {
            return Err(ClientError::NotOpen);
        }
        if !matches!(self.work, Work::Idle) {
            return Err(ClientError::Busy);
        }
        let id = Uuid::new_v4();
        match payload::create_pipeline(&pipeline, self.keys.session_key()) {
            Ok(data) => self.make_ready(id, data),
            Err(EncodeError::NoSessionKey) => {
                self.want_key()?;
                self.work = Work::WaitingForKey { id, pipeline };
            }
            Err(error) => return Err(error.into()),
        }
        Ok(id)
    }

    /// Gives up whatever is going on and queues Delete. An answer that is still on its way is not to be handed in any more.
    pub fn close(&mut self) {
        self.queue.clear();
        self.work = Work::Idle;
        self.in_flight = None;
        match self.stage {
            Stage::New | Stage::Gone => self.closed(),
            Stage::Opening | Stage::Open | Stage::Closing | Stage::Failed => self.stage = Stage::Closing,
            Stage::Closed => {}
        }
    }

    /// The next request, or `None` when there is nothing to do, or when an answer has to come first.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if self.in_flight.is_some() {
            return None;
        }
        let body = match self.stage {
            Stage::New => self.create(),
            Stage::Opening => self.queue.pop_front().unwrap_or(POOL_RECEIVE),
            Stage::Open => self.next_when_open()?,
            Stage::Closing => RequestBody::Delete,
            Stage::Failed | Stage::Gone | Stage::Closed => return None,
        };
        let command = match &body {
            RequestBody::Receive { command } | RequestBody::Command { command, .. } => *command,
            _ => None,
        };
        let operation = body.operation();
        let (message, transmit) = self.transmit(body);
        self.in_flight = Some(InFlight { message, operation, command });
        Some(transmit)
    }

    /// What has happened, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The signal that stops the running pipeline, for a second connection. Its answer is not handed in; the pipeline itself says that it has stopped.
    ///
    /// A pipeline of which nothing was sent yet is dropped: that gives [`Event::Ended`] and nothing to send.
    pub fn stop_transmit(&mut self) -> Option<Transmit> {
        match self.work {
            Work::Idle => None,
            Work::WaitingForKey { id, .. } | Work::Ready { id, .. } => {
                self.work = Work::Idle;
                self.events.push_back(Event::Ended { pipeline: id, end: PipelineEnd::Stopped });
                None
            }
            Work::Running { id } => Some(self.transmit(RequestBody::Signal { command: id, signal: Signal::Stop }).1),
        }
    }

    fn next_when_open(&mut self) -> Option<RequestBody> {
        self.send_public_key();
        if let Some(body) = self.queue.pop_front() {
            return Some(body);
        }
        // The key comes to the pool, not to a pipeline (MS-PSRP 3.1.5.4.4).
        if matches!(self.keys, Keys::Asked(_)) {
            return Some(POOL_RECEIVE);
        }
        match std::mem::replace(&mut self.work, Work::Idle) {
            Work::Ready { id, fragments } => {
                self.work = Work::Running { id };
                self.pipeline_reassembler = Reassembler::new(MESSAGE_LIMIT);
                self.queue_pipeline(id, fragments);
                self.queue.pop_front()
            }
            Work::Running { id } => {
                self.work = Work::Running { id };
                Some(RequestBody::Receive { command: Some(id) })
            }
            idle_or_waiting => {
                self.work = idle_or_waiting;
                None
            }
        }
    }

    /// The first fragment starts the command, the others follow as its input (MS-PSRP 3.1.5.3.3, 3.1.5.3.5).
    fn queue_pipeline(&mut self, id: Uuid, fragments: Vec<Vec<u8>>) {
        let mut fragments = fragments.into_iter().map(|data| stdin(Some(id), data));
        if let Some(arguments) = fragments.next() {
            self.queue.push_back(RequestBody::Command { command: Some(id), arguments });
        }
        self.queue.extend(fragments.map(|stream| RequestBody::Send { streams: vec![stream] }));
    }

    fn make_ready(&mut self, id: Uuid, data: String) {
        let fragments = self.fragments(MessageType::CreatePipeline, Some(id), data);
        self.work = Work::Ready { id, fragments };
    }

    /// Takes the key pair unless that was done already or there is even a key.
    fn want_key(&mut self) -> Result<(), KeyError> {
        if matches!(self.keys, Keys::None) {
            self.keys = Keys::Made(self.options.key_exchange.get()?);
        }
        Ok(())
    }

    fn send_public_key(&mut self) {
        self.keys = match std::mem::replace(&mut self.keys, Keys::None) {
            Keys::Made(exchange) => {
                let data = payload::public_key(exchange.public_key());
                self.queue_message(MessageType::PublicKey, None, data, STDIN);
                Keys::Asked(exchange)
            }
            other => other,
        };
    }

    fn queue_message(&mut self, kind: MessageType, pipeline: Option<Uuid>, data: String, stream: &str) {
        for data in self.fragments(kind, pipeline, data) {
            let streams = vec![Stream { name: stream.to_owned(), command: pipeline, data }];
            self.queue.push_back(RequestBody::Send { streams });
        }
    }

    /// SESSION_CAPABILITY and INIT_RUNSPACEPOOL travel with the Create (MS-PSRP 3.1.5.3.1). Both fit into the smallest envelope.
    fn create(&mut self) -> RequestBody {
        self.stage = Stage::Opening;
        let mut data = self.fragments(MessageType::SessionCapability, None, payload::session_capability());
        data.extend(self.fragments(MessageType::InitRunspacePool, None, payload::init_runspace_pool()));
        RequestBody::Create {
            shell: Some(self.id),
            protocol_version: Some(PROTOCOL_VERSION.to_owned()),
            creation: stdin(None, data.concat()),
        }
    }

    fn fragments(&mut self, kind: MessageType, pipeline: Option<Uuid>, data: String) -> Vec<Vec<u8>> {
        let object = self.next_object;
        self.next_object += 1;
        let data = data.into_bytes();
        let message = Message { destination: Destination::Server, kind, pool: self.id, pipeline, data };
        split(object, &message.encode(), self.fragment_size())
    }

    /// The largest fragment whose envelope is not larger than allowed.
    fn fragment_size(&self) -> usize {
        let command = Some(self.id);
        let empty = stdin(command, Vec::new());
        let bodies =
            [RequestBody::Command { command, arguments: empty.clone() }, RequestBody::Send { streams: vec![empty] }];
        let around = bodies.map(|body| self.transmit(body).1.body.len()).into_iter().max().unwrap_or_default();
        // Base64 makes four bytes of three.
        self.options.max_envelope_size.saturating_sub(around) / 4 * 3
    }

    fn transmit(&self, body: RequestBody) -> (Uuid, Transmit) {
        let message = Uuid::new_v4();
        let operation = body.operation();
        let header = Header {
            to: self.options.to.clone(),
            resource_uri: self.options.configuration.resource_uri().to_owned(),
            shell: (operation != Operation::Create).then_some(self.shell),
            message,
            session: Some(self.session),
            max_envelope_size: self.options.max_envelope_size,
            operation_timeout: self.options.operation_timeout,
        };
        (message, Transmit { body: Request { header, body }.write(), operation })
    }

    fn closed(&mut self) {
        self.stage = Stage::Closed;
        self.events.push_back(Event::Closed);
    }
}

/// Says nothing of keys and parameters.
impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("id", &self.id).field("stage", &self.stage).finish_non_exhaustive()
    }
}

const POOL_RECEIVE: RequestBody = RequestBody::Receive { command: None };
const PROTOCOL_VERSION: &str = "2.3";
const SMALLEST_ENVELOPE: usize = 8 * 1024;
/// Of one message: far above anything that Exchange's cmdlets write.
const MESSAGE_LIMIT: usize = 64 << 20;
const STDIN: &str = "stdin";
const HOST_RESPONSES: &str = "pr";
