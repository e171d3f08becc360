//! A client and a server that talk to each other, for somebody in between to disturb.

use psrp::client::{ClientError, Configuration, Event, Options, Pool};
use psrp::fragment::split;
use psrp::message::{Destination, Message, MessageType};
use psrp::server::{Handled, Language, Reply, RunId, Server, ServerEvent, ServerOptions, Waiting};
use psrp::wsman::{Fault, Header, Request, RequestBody, Response, ResponseBody, Stream};
use psrp::{Command, Pipeline, PipelineEnd, Record};
use uuid::Uuid;

/// Parts of an input: what is to be done, and with what. NUL separates them, which no text of the protocol holds.
pub(crate) fn steps(input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    input.split(|byte| *byte == 0).filter_map(|step| step.split_first()).map(|(kind, rest)| (*kind, rest))
}

pub(crate) struct Wire {
    pool: Pool,
    server: Server,
    /// What the client waits for an answer to.
    asked: Option<Asked>,
    /// What the client has started and not heard the end of.
    started: Option<Uuid>,
    /// What the server was asked to run last.
    running: Option<RunId>,
    closed: bool,
    makes_keys: bool,
    /// Of the fragments that are made here; far above those of the two sides.
    next_object: u64,
}

struct Asked {
    request: Request,
    body: Vec<u8>,
    /// When the server holds it.
    waiting: Option<Waiting>,
}

impl Wire {
    /// A key pair takes a hundred times as long to make as everything else, so only some clients may be asked for one.
    pub(crate) fn new(makes_keys: bool) -> Self {
        let server = ServerOptions {
            configuration: Configuration::Exchange,
            max_envelope_size: ENVELOPE,
            max_shells: MAX_SHELLS,
            language: Language::NoLanguage,
        };
        let options = Options { max_envelope_size: ENVELOPE, ..Options::new(TO, Configuration::Exchange) };
        Self {
            pool: Pool::new(options),
            server: Server::new(server),
            asked: None,
            started: None,
            running: None,
            closed: false,
            makes_keys,
            next_object: 1 << 32,
        }
    }

    /// Has the client start a command, if it can.
    pub(crate) fn start(&mut self, command: Command) {
        if let Ok(id) = self.pool.start(Pipeline::from(command)) {
            assert_eq!(self.started.replace(id), None, "one pipeline at a time");
        }
    }

    /// Has the client stop what it started.
    pub(crate) fn stop(&mut self) {
        if let Some(transmit) = self.pool.stop_transmit() {
            self.ask(&transmit.body);
        }
        self.hear();
    }

    /// Has the client give up.
    pub(crate) fn close(&mut self) {
        self.pool.close();
        self.asked = None;
        self.started = None;
        self.hear();
    }

    /// Has the server run what it was asked to run: one line of output and the end.
    pub(crate) fn run(&mut self, output: &str) {
        if let Some(run) = self.running.take() {
            self.server.push(run, Record::Output(output.into()));
            self.server.push(run, Record::Warning(output.to_owned()));
            self.server.finish(run, PipelineEnd::Completed);
        }
    }

    /// Has both sides talk until the client has nothing to ask or the server nothing to answer.
    pub(crate) fn settle(&mut self) {
        for _ in 0..MOST_ROUNDS {
            let Some(mut asked) = self.next_request() else { return };
            let handled = match asked.waiting.take() {
                Some(waiting) => self.server.receive(&waiting).map_or_else(|| Handled::Wait(waiting), Handled::Reply),
                None => self.ask(&asked.body),
            };
            match handled {
                Handled::Reply(reply) => self.answer(reply.status, &reply.body),
                Handled::Wait(waiting) => {
                    self.asked = Some(Asked { waiting: Some(waiting), ..asked });
                    return;
                }
            }
        }
        panic!("client and server talk without an end");
    }

    /// Answers what the client asks next in the server's place.
    pub(crate) fn answer_with(&mut self, status: u16, body: &[u8]) {
        if let Some(asked) = self.next_request() {
            let body = self.filled_in(body, asked.request.header.message);
            self.answer(status, &body);
        }
    }

    /// Answers the client's Receive with a message from nowhere.
    pub(crate) fn tell_client(&mut self, is_of_pipeline: bool, text: &[u8]) {
        self.settle();
        let Some(asked) = self.asked.take() else { return };
        let RequestBody::Receive { command } = asked.request.body else { return };
        let pipeline = self.started.filter(|_| is_of_pipeline);
        let Some(fragments) = self.fragments(Destination::Client, pipeline, text) else { return };
        let stream = |data| Stream { name: "stdout".to_owned(), command, data };
        let body = ResponseBody::Received { streams: fragments.into_iter().map(stream).collect(), state: None };
        let relates_to = Some(asked.request.header.message);
        self.answer(200, &Response { relates_to, body }.write());
    }

    /// Sends the server a request that is not the client's.
    pub(crate) fn ask_with(&mut self, body: &[u8]) {
        let body = self.filled_in(body, Uuid::new_v4());
        self.ask(&body);
    }

    /// Sends the server a message from nowhere, to the running pipeline or to the pool.
    pub(crate) fn tell_server(&mut self, is_of_pipeline: bool, text: &[u8]) {
        let command = self.started.filter(|_| is_of_pipeline);
        let Some(fragments) = self.fragments(Destination::Server, command, text) else { return };
        let stream = |data| Stream { name: "stdin".to_owned(), command, data };
        self.request(RequestBody::Send { streams: fragments.into_iter().map(stream).collect() });
    }

    /// Sends the server a command of which all is said by one message.
    pub(crate) fn command_server(&mut self, text: &[u8]) {
        let command = Some(Uuid::new_v4());
        let Some(fragments) = self.fragments(Destination::Server, command, text) else { return };
        let arguments = Stream { name: "stdin".to_owned(), command, data: fragments.concat() };
        self.request(RequestBody::Command { command, arguments });
    }

    fn request(&mut self, body: RequestBody) {
        let header = Header {
            to: TO.to_owned(),
            resource_uri: Configuration::Exchange.resource_uri().to_owned(),
            shell: self.pool.shell_id(),
            message: Uuid::new_v4(),
            session: None,
            max_envelope_size: ENVELOPE,
            operation_timeout: std::time::Duration::from_secs(20),
        };
        self.ask(&Request { header, body }.write());
    }

    /// What the client waits for an answer to, or asks now.
    fn next_request(&mut self) -> Option<Asked> {
        self.asked.take().or_else(|| {
            let body = self.pool.poll_transmit()?.body;
            assert!(body.len() <= ENVELOPE, "a request of {} bytes", body.len());
            let request = Request::parse(&body).expect("what the client sends can be read");
            Some(Asked { request, body, waiting: None })
        })
    }

    fn answer(&mut self, status: u16, body: &[u8]) {
        if let Err(error) = self.pool.handle_response(status, body) {
            assert!(self.pool.poll_transmit().is_none(), "asks on after {error}");
            assert_eq!(self.pool.start(Command::new("Get-X").into()), Err(ClientError::NotOpen));
            self.started = None;
        }
        self.hear();
    }

    fn hear(&mut self) {
        while let Some(event) = self.pool.poll_event() {
            let _ = format!("{event:?}");
            match event {
                Event::Ended { pipeline, .. } => assert_eq!(self.started.take(), Some(pipeline), "an end of its own"),
                Event::Record { pipeline, .. } => assert_eq!(self.started, Some(pipeline), "a record of nobody"),
                Event::Closed => assert!(!std::mem::replace(&mut self.closed, true), "closed twice"),
                Event::Opened | Event::HostCall { .. } => {}
            }
        }
    }

    fn ask(&mut self, body: &[u8]) -> Handled {
        let handled = self.server.handle(body);
        if let Handled::Reply(reply) = &handled {
            is_readable(body, reply);
        }
        assert!(self.server.shells() <= MAX_SHELLS);
        while let Some(event) = self.server.poll_event() {
            if let ServerEvent::Start { run, .. } = event {
                self.running = Some(run);
            }
        }
        handled
    }

    /// Eight hexadecimal digits of a message type, then CLIXML.
    fn fragments(&mut self, destination: Destination, pipeline: Option<Uuid>, text: &[u8]) -> Option<Vec<Vec<u8>>> {
        let (digits, data) = text.split_at_checked(8)?;
        let number = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        let kind = MessageType::from(number);
        if kind == MessageType::PublicKeyRequest && !self.makes_keys {
            return None;
        }
        let message = Message { destination, kind, pool: Uuid::nil(), pipeline, data: data.to_vec() };
        self.next_object += 1;
        Some(split(self.next_object, &message.encode(), 500))
    }

    /// Puts ids, which are others in each run, to the places that a file in the corpus leaves for them.
    fn filled_in(&self, body: &[u8], message: Uuid) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(body) else { return body.to_vec() };
        let shell = self.pool.shell_id().unwrap_or_default();
        let ids = [("{MESSAGE}", message), ("{SHELL}", shell), ("{PIPELINE}", self.started.unwrap_or_default())];
        ids.iter().fold(text.to_owned(), |text, (place, id)| text.replace(place, &id.to_string())).into_bytes()
    }
}

/// What the server says, the client can read.
fn is_readable(body: &[u8], reply: &Reply) {
    if reply.status == 500 {
        assert!(matches!(Fault::parse(&reply.body), Ok(Some(_))), "a fault that cannot be read");
    } else {
        let request = Request::parse(body).expect("what was answered could be read");
        let read = Response::parse(request.body.operation(), &reply.body).expect("an answer can be read");
        assert_eq!(read.map(|response| response.relates_to), Ok(Some(request.header.message)));
    }
}

const TO: &str = "https://ex01.contoso.example/PowerShell";
/// The smallest that there is, so that small inputs reach its limits.
const ENVELOPE: usize = 8 * 1024;
const MAX_SHELLS: usize = 2;
const MOST_ROUNDS: usize = 1000;
