//! What answers mean to the client.

use uuid::Uuid;

use crate::clixml::{Size, decode_among};
use crate::message::payload::{self, PoolState};
use crate::message::{Message, MessageType};
use crate::wsman::{CommandState, Fault, RequestBody, Response, ResponseBody, Signal, Stream, excerpt};
use crate::{ErrorRecord, PipelineEnd, Value};

use super::{ClientError, Event, HOST_RESPONSES, HostAnswer, InFlight, Keys, Operation, Pool, Stage, Work};

impl Pool {
    /// Takes the answer to the last transmit.
    ///
    /// # Errors
    /// See [`ClientError`]. The pool can then only be closed.
    pub fn handle_response(&mut self, status: u16, body: &[u8]) -> Result<(), ClientError> {
        let Some(request) = self.in_flight.take() else {
            return Err(ClientError::Protocol("an answer to nothing".to_owned()));
        };
        let outcome = self.answer(request, status, body);
        if let Err(error) = &outcome {
            self.fail(request.operation, error);
        }
        outcome
    }

    fn answer(&mut self, request: InFlight, status: u16, body: &[u8]) -> Result<(), ClientError> {
        let success = (200..300).contains(&status);
        if success && body.is_empty() && request.operation == Operation::Delete {
            self.closed();
            return Ok(());
        }
        match Response::parse(request.operation, body) {
            Ok(Err(fault)) => self.fault(request.operation, fault),
            Ok(Ok(response)) if success => {
                if response.relates_to.is_some_and(|id| id != request.message) {
                    return Err(ClientError::Protocol("the answer to another request".to_owned()));
                }
                self.accept(request, response.body)
            }
            Err(malformed) if success => Err(ClientError::protocol(malformed)),
            _ => Err(ClientError::Http { status, excerpt: excerpt(&String::from_utf8_lossy(body)) }),
        }
    }

    fn fault(&mut self, operation: Operation, fault: Fault) -> Result<(), ClientError> {
        match operation {
            Operation::Receive if fault.is_timeout() => Ok(()),
            // How the pipeline ended is known. Whether the server could forget it now, or had done so already, changes nothing.
            Operation::Signal => Ok(()),
            Operation::Delete if fault.is_gone() => {
                self.closed();
                Ok(())
            }
            Operation::Create => Err(ClientError::Fault(fault)),
            _ if fault.is_gone() => Err(ClientError::ShellGone),
            _ => Err(ClientError::Fault(fault)),
        }
    }

    fn fail(&mut self, operation: Operation, error: &ClientError) {
        self.queue.clear();
        self.work = Work::Idle;
        let gone = match error {
            ClientError::ShellGone => true,
            // A Create that was refused has made nothing; one that took too long may come to an end all the same.
            ClientError::Fault(fault) => operation == Operation::Create && !fault.is_timeout(),
            ClientError::Http { status: 400..500, .. } => operation == Operation::Create,
            _ => false,
        };
        self.stage = if gone { Stage::Gone } else { Stage::Failed };
    }

    fn accept(&mut self, request: InFlight, body: ResponseBody) -> Result<(), ClientError> {
        match body {
            ResponseBody::Created { shell, .. } => self.shell = shell,
            ResponseBody::Accepted { command } if Some(command) != request.command => {
                return Err(ClientError::Protocol("the command got another id than asked for".to_owned()));
            }
            ResponseBody::Accepted { .. } | ResponseBody::Sent | ResponseBody::Signalled => {}
            ResponseBody::Received { streams, state } => self.received(request.command, streams, state)?,
            ResponseBody::Deleted => self.closed(),
        }
        Ok(())
    }

    fn received(
        &mut self,
        command: Option<Uuid>,
        streams: Vec<Stream>,
        state: Option<CommandState>,
    ) -> Result<(), ClientError> {
        self.received = Size::default();
        for stream in streams {
            let reassembler = match command {
                Some(_) => &mut self.pipeline_reassembler,
                None => &mut self.reassembler,
            };
            for message in reassembler.push(&stream.data).map_err(ClientError::protocol)? {
                self.message(&Message::decode(&message).map_err(ClientError::protocol)?)?;
            }
        }
        let done = command.is_some() && matches!(state, Some(CommandState::Done { .. }));
        if done && matches!(self.work, Work::Running { .. }) {
            return Err(ClientError::Protocol("the command is done but did not say how its pipeline ended".to_owned()));
        }
        Ok(())
    }

    /// Messages that are not known, or not for a client that shows nothing, are ignored.
    fn message(&mut self, message: &Message) -> Result<(), ClientError> {
        match message.kind {
            MessageType::RunspacePoolState => self.pool_state(message),
            MessageType::EncryptedSessionKey => self.session_key(message),
            MessageType::PublicKeyRequest => Ok(self.want_key()?),
            MessageType::RunspacePoolHostCall => self.host_call(None, message),
            _ => match self.work {
                Work::Running { id } if message.pipeline == Some(id) => self.pipeline_message(id, message),
                _ => Ok(()),
            },
        }
    }

    fn pipeline_message(&mut self, id: Uuid, message: &Message) -> Result<(), ClientError> {
        match message.kind {
            MessageType::PipelineState => {
                let state = payload::read_pipeline_state(&self.value(message)?);
                if let Some(end) = state.map_err(ClientError::protocol)? {
                    self.ended(id, end);
                }
            }
            MessageType::PipelineHostCall => self.host_call(Some(id), message)?,
            kind => {
                if let Some(record) = payload::read_record(kind, || self.value(message))? {
                    self.events.push_back(Event::Record { pipeline: id, record });
                }
            }
        }
        Ok(())
    }

    fn pool_state(&mut self, message: &Message) -> Result<(), ClientError> {
        match payload::read_runspace_pool_state(&self.value(message)?).map_err(ClientError::protocol)? {
            PoolState::Opened if self.stage == Stage::Opening => {
                self.stage = Stage::Open;
                self.events.push_back(Event::Opened);
            }
            PoolState::Broken(error) => return Err(ClientError::PoolBroken(error)),
            PoolState::Closed | PoolState::Closing => {
                let message = "the server closed the pool".to_owned();
                return Err(ClientError::PoolBroken(Box::new(ErrorRecord { message, ..ErrorRecord::default() })));
            }
            _ => {}
        }
        Ok(())
    }

    /// There is no host. What only shows something is ignored, a request for confirmation is denied, what else waits for an answer gets an error.
    fn host_call(&mut self, pipeline: Option<Uuid>, message: &Message) -> Result<(), ClientError> {
        let call = payload::read_host_call(&self.value(message)?).map_err(ClientError::protocol)?;
        let no = call.question.as_ref().and_then(|question| Some((question.no()?, question)));
        let (data, answer) = match no {
            _ if !call.wants_answer() => (None, HostAnswer::Ignored),
            Some((place, question)) => {
                let question = format!("{}: {}", question.caption.trim(), question.message.trim());
                (Some(payload::host_choice(&call, place)), HostAnswer::No { question })
            }
            None => (Some(payload::host_refusal(&call)), HostAnswer::Refused),
        };
        if let Some(data) = data {
            let kind = match pipeline {
                None => MessageType::RunspacePoolHostResponse,
                Some(_) => MessageType::PipelineHostResponse,
            };
            self.queue_message(kind, pipeline, data, HOST_RESPONSES);
        }
        self.events.push_back(Event::HostCall { pipeline, method: call.method, answer });
        Ok(())
    }

    /// Tells it, and has the server forget the pipeline.
    fn ended(&mut self, id: Uuid, end: PipelineEnd) {
        self.work = Work::Idle;
        self.events.push_back(Event::Ended { pipeline: id, end });
        self.queue.push_back(RequestBody::Signal { command: id, signal: Signal::Terminate });
    }

    fn session_key(&mut self, message: &Message) -> Result<(), ClientError> {
        let value = self.value(message)?;
        let Keys::Asked(exchange) = &self.keys else { return Ok(()) };
        let key = payload::read_encrypted_session_key(&value).map_err(ClientError::protocol)?;
        self.keys = Keys::Held(exchange.accept(key)?);
        if let Work::WaitingForKey { id, pipeline } = &self.work {
            let (id, data) = (*id, payload::create_pipeline(pipeline, self.keys.session_key())?);
            self.make_ready(id, data);
        }
        Ok(())
    }

    /// What a message says, without NUL.
    fn value(&mut self, message: &Message) -> Result<Value, ClientError> {
        let mut value =
            decode_among(&message.data, self.keys.session_key(), &mut self.received).map_err(ClientError::protocol)?;
        value.replace_nul();
        Ok(value)
    }
}
