//! The server: all shells of one endpoint, as a state machine without I/O.
//!
//! [`Server::handle`] takes a request and answers it, or says that a Receive is to be held until [`Server::receive`] has something to say. What clients want to
//! be run comes out of [`Server::poll_event`]; what it writes goes in by [`Server::push`] and [`Server::finish`].

mod shell;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use crate::client::Configuration;
use crate::wsman::{CommandState, Fault, Header, Request, RequestBody, Response, ResponseBody, Signal, Stream};
use crate::{ErrorRecord, Pipeline, PipelineEnd, Record};

use shell::{Run, Shell};

/// What the endpoint is like.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The session configuration that it serves.
    pub configuration: Configuration,
    /// The largest request it takes, and answer it gives, in bytes.
    pub max_envelope_size: usize,
    /// How many shells there may be at a time. Exchange allows 18 to a user.
    pub max_shells: usize,
    /// What a pipeline may hold.
    pub language: Language,
}

/// What a pipeline may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Commands only, as on Exchange's endpoint. A script fails with `ScriptsNotAllowed`.
    NoLanguage,
    /// Scripts too.
    FullLanguage,
}

/// One pipeline in one shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunId {
    /// The shell.
    pub shell: Uuid,
    /// The pipeline.
    pub pipeline: Uuid,
}

/// What to do about a request.
#[derive(Clone, Debug)]
pub enum Handled {
    /// Answer it.
    Reply(Reply),
    /// A Receive for which there is nothing yet: keep it, and ask [`Server::receive`] when something was pushed, or [`Server::time_out`].
    Wait(Waiting),
}

/// A Receive that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// How long the client is willing to wait.
    pub operation_timeout: Duration,
    /// The shell whose output it waits for.
    pub shell: Uuid,
    /// The pipeline; `None` waits for what concerns the pool.
    pub pipeline: Option<Uuid>,
    message: Uuid,
    max_envelope_size: usize,
}

/// An answer, to be sent as [`crate::wsman::CONTENT_TYPE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 200, or 500 for a fault.
    pub status: u16,
    /// SOAP in UTF-8.
    pub body: Vec<u8>,
}

impl Reply {
    /// A fault in answer to the request with this id.
    #[must_use]
    pub fn fault(fault: &Fault, relates_to: Option<Uuid>) -> Self {
        Self { status: 500, body: fault.write(relates_to) }
    }

    fn new(relates_to: Uuid, body: ResponseBody) -> Self {
        Self { status: 200, body: Response { relates_to: Some(relates_to), body }.write() }
    }
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerEvent {
    /// Run this.
    Start {
        /// Its name from now on.
        run: RunId,
        /// What.
        pipeline: Pipeline,
    },
    /// Stop it and say so with [`Server::finish`] and [`PipelineEnd::Stopped`]. It may also be gone already.
    Stop {
        /// Which.
        run: RunId,
    },
    /// A shell is gone and all that runs in it with it.
    Closed {
        /// Which.
        shell: Uuid,
    },
}

/// All shells of one endpoint. See the module's text.
#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
    shells: HashMap<Uuid, Shell>,
    events: VecDeque<ServerEvent>,
}

impl Server {
    /// No shells yet.
    #[must_use]
    pub fn new(options: ServerOptions) -> Self {
        Self { options, shells: HashMap::new(), events: VecDeque::new() }
    }

    /// Takes a request.
    pub fn handle(&mut self, body: &[u8]) -> Handled {
        if body.len() > self.options.max_envelope_size {
            return Handled::Reply(Reply::fault(&Fault::too_large(self.options.max_envelope_size), None));
        }
        match Request::parse(body) {
            Ok(request) => {
                let message = request.header.message;
                let handled = self.dispatch(request);
                handled.unwrap_or_else(|fault| Handled::Reply(Reply::fault(&fault, Some(message))))
            }
            Err((fault, message)) => Handled::Reply(Reply::fault(&fault, message)),
        }
    }

    /// What clients want, in order.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// Sends a record of a pipeline to its client. Ignored when the pipeline has ended or is gone.
    pub fn push(&mut self, run: RunId, record: Record) {
        if let Some(shell) = self.shells.get_mut(&run.shell) {
            shell.push(run.pipeline, &record);
        }
    }

    /// Says how a pipeline ended. Ignored when that is known already or the pipeline is gone.
    pub fn finish(&mut self, run: RunId, end: PipelineEnd) {
        if let Some(shell) = self.shells.get_mut(&run.shell) {
            shell.finish(run.pipeline, &end);
        }
    }

    /// What a Receive that waits may be told now; `None` when there is still nothing.
    pub fn receive(&mut self, waiting: &Waiting) -> Option<Reply> {
        let refuse = |fault: Fault| Some(Reply::fault(&fault, Some(waiting.message)));
        let Some(shell) = self.shells.get_mut(&waiting.shell) else { return refuse(Fault::no_such_shell()) };
        let limit = waiting.max_envelope_size.min(self.options.max_envelope_size);
        let Some(pipeline) = waiting.pipeline else {
            return (!shell.outgoing.is_empty()).then(|| fill(waiting, &mut shell.outgoing, limit, None));
        };
        let Some(run) = shell.runs.get_mut(&pipeline) else { return refuse(Fault::no_such_command()) };
        let done = run.has_ended().then_some(CommandState::Done { command: Some(pipeline) });
        let something = done.is_some() || !run.outgoing.is_empty();
        something.then(|| fill(waiting, &mut run.outgoing, limit, done))
    }

    /// What a Receive is told for which nothing came in time.
    #[must_use]
    pub fn time_out(&mut self, waiting: &Waiting) -> Reply {
        Reply::fault(&Fault::timed_out(), Some(waiting.message))
    }

    /// How many shells there are.
    #[must_use]
    pub fn shells(&self) -> usize {
        self.shells.len()
    }

    /// Closes a shell without being asked, as an idle one is closed or all are when the server restarts. Its client then hears that it does not exist.
    pub fn close_shell(&mut self, shell: Uuid) {
        if self.shells.remove(&shell).is_some() {
            self.events.push_back(ServerEvent::Closed { shell });
        }
    }

    /// A number for a message that a test sends in the place of the only shell.
    #[cfg(test)]
    pub(crate) fn take_number(&mut self) -> u64 {
        let shell = self.shells.values_mut().next().expect("a shell is open");
        shell.next_object += 1;
        shell.next_object - 1
    }

    fn dispatch(&mut self, request: Request) -> Result<Handled, Fault> {
        let Request { header, body } = request;
        self.check(&header)?;
        let body = match body {
            RequestBody::Create { shell, creation, .. } => self.create(&header, shell, &creation)?,
            RequestBody::Command { command, arguments } => self.command(&header, command, &arguments)?,
            RequestBody::Send { streams } => self.send(&header, &streams)?,
            RequestBody::Receive { command } => return self.wait(&header, command),
            RequestBody::Signal { command, signal } => self.signal(&header, command, signal)?,
            RequestBody::Delete => {
                let id = self.existing(&header)?;
                self.close_shell(id);
                ResponseBody::Deleted
            }
        };
        Ok(Handled::Reply(Reply::new(header.message, body)))
    }

    fn check(&self, header: &Header) -> Result<(), Fault> {
        if header.max_envelope_size < SMALLEST_ENVELOPE {
            return Err(Fault::too_small());
        }
        if header.resource_uri != self.options.configuration.resource_uri() {
            return Err(Fault::no_such_resource());
        }
        Ok(())
    }

    fn existing(&self, header: &Header) -> Result<Uuid, Fault> {
        header.shell.filter(|id| self.shells.contains_key(id)).ok_or_else(Fault::no_such_shell)
    }

    fn shell(&mut self, header: &Header) -> Result<(Uuid, &mut Shell), Fault> {
        let found = header.shell.and_then(|id| self.shells.get_mut(&id).map(|shell| (id, shell)));
        found.ok_or_else(Fault::no_such_shell)
    }

    fn create(&mut self, header: &Header, wish: Option<Uuid>, creation: &Stream) -> Result<ResponseBody, Fault> {
        let id = wish.unwrap_or_else(Uuid::new_v4);
        if self.shells.contains_key(&id) {
            return Err(Fault::invalid("the ShellId is in use"));
        }
        if self.shells.len() >= self.options.max_shells {
            return Err(Fault::too_many_shells(self.options.max_shells));
        }
        let envelope = header.max_envelope_size.min(self.options.max_envelope_size);
        let mut shell = Shell::new(fragment_size(envelope));
        shell.feed(None, &creation.data)?;
        self.shells.insert(id, shell);
        let (resource_uri, to) = (header.resource_uri.clone(), header.to.clone());
        Ok(ResponseBody::Created { shell: id, resource_uri, to })
    }

    fn command(&mut self, header: &Header, id: Option<Uuid>, arguments: &Stream) -> Result<ResponseBody, Fault> {
        let id = id.unwrap_or_else(Uuid::new_v4);
        let (_, shell) = self.shell(header)?;
        if shell.runs.contains_key(&id) {
            return Err(Fault::invalid("the CommandId is in use"));
        }
        if shell.runs.len() >= MAX_COMMANDS {
            return Err(Fault::too_many_commands(MAX_COMMANDS));
        }
        shell.runs.insert(id, Run::new());
        let fed = self.feed(header, Some(id), &arguments.data);
        if fed.is_err() {
            self.shell(header)?.1.runs.remove(&id);
        }
        fed.map(|()| ResponseBody::Accepted { command: id })
    }

    fn send(&mut self, header: &Header, streams: &[Stream]) -> Result<ResponseBody, Fault> {
        for stream in streams {
            if !matches!(stream.name.as_str(), "stdin" | "pr") {
                return Err(Fault::invalid("an input stream that does not exist"));
            }
            self.feed(header, stream.command, &stream.data)?;
        }
        Ok(ResponseBody::Sent)
    }

    fn feed(&mut self, header: &Header, target: Option<Uuid>, data: &[u8]) -> Result<(), Fault> {
        let language = self.options.language;
        let (id, shell) = self.shell(header)?;
        let mut events = Vec::new();
        for (name, pipeline) in shell.feed(target, data)? {
            let script = pipeline.commands.iter().find(|command| command.is_script);
            match (language, script) {
                (Language::NoLanguage, Some(script)) => {
                    shell.finish(name, &PipelineEnd::Failed(scripts_not_allowed(&script.name)));
                }
                _ => events.push(ServerEvent::Start { run: RunId { shell: id, pipeline: name }, pipeline }),
            }
        }
        self.events.extend(events);
        Ok(())
    }

    fn wait(&mut self, header: &Header, pipeline: Option<Uuid>) -> Result<Handled, Fault> {
        let waiting = Waiting {
            operation_timeout: header.operation_timeout,
            shell: self.existing(header)?,
            pipeline,
            message: header.message,
            max_envelope_size: header.max_envelope_size,
        };
        Ok(self.receive(&waiting).map_or_else(|| Handled::Wait(waiting), Handled::Reply))
    }

    fn signal(&mut self, header: &Header, pipeline: Uuid, signal: Signal) -> Result<ResponseBody, Fault> {
        let (id, shell) = self.shell(header)?;
        let running = match signal {
            Signal::Stop => shell.stop(pipeline)?,
            Signal::Terminate => shell.runs.remove(&pipeline).ok_or_else(Fault::no_such_command)?.is_running(),
        };
        if running {
            self.events.push_back(ServerEvent::Stop { run: RunId { shell: id, pipeline } });
        }
        Ok(ResponseBody::Signalled)
    }
}

/// As many fragments as fit, one at least, and the state with the last of them.
fn fill(waiting: &Waiting, outgoing: &mut VecDeque<Vec<u8>>, limit: usize, done: Option<CommandState>) -> Reply {
    let mut streams = Vec::new();
    let mut room = limit.saturating_sub(AROUND);
    while let Some(fragment) = outgoing.front() {
        let size = fragment.len().div_ceil(3) * 4 + AROUND_STREAM;
        if size > room && !streams.is_empty() {
            break;
        }
        room = room.saturating_sub(size);
        let data = outgoing.pop_front().unwrap_or_default();
        streams.push(Stream { name: "stdout".to_owned(), command: waiting.pipeline, data });
    }
    let state = done.filter(|_| outgoing.is_empty());
    Reply::new(waiting.message, ResponseBody::Received { streams, state })
}

/// Windows sends 32 KiB at a time; less when the client takes only small envelopes.
fn fragment_size(envelope: usize) -> usize {
    (envelope.saturating_sub(AROUND + AROUND_STREAM) / 4 * 3).min(WINDOWS_FRAGMENT)
}

/// As Windows PowerShell 5.1 says it.
fn scripts_not_allowed(script: &str) -> ErrorRecord {
    let message =
        "The syntax is not supported by this runspace. This can occur if the runspace is in no-language mode.";
    ErrorRecord {
        message: message.to_owned(),
        exception: "System.Management.Automation.ParseException".to_owned(),
        fully_qualified_error_id: "ScriptsNotAllowed".to_owned(),
        category: PARSER_ERROR,
        reason: "ParseException".to_owned(),
        target_name: script.to_owned(),
        target_type: "String".to_owned(),
        ..ErrorRecord::default()
    }
}

/// In one shell: MaxConcurrentCommandsPerShell, as Windows has it when nobody sets it. A command counts until it is terminated.
const MAX_COMMANDS: usize = 1000;
/// ErrorCategory.ParserError.
const PARSER_ERROR: i32 = 17;
/// DSP0226 6.2, MS-WSMV 3.1.4.1.7.
const SMALLEST_ENVELOPE: usize = 8 * 1024;
/// More than the envelope of an answer to Receive has around its streams.
const AROUND: usize = 2048;
/// More than a stream has around its base64.
const AROUND_STREAM: usize = 128;
const WINDOWS_FRAGMENT: usize = 32 * 1024 + 21;
