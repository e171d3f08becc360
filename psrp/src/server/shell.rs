//! One shell: one runspace pool with the pipelines in it.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use uuid::Uuid;

use crate::clixml::{EncodeError, decode};
use crate::fragment::{FragmentError, Reassembler, split};
use crate::message::payload::{self, PoolState};
use crate::message::{Destination, Message, MessageType};
use crate::session_key::SessionKey;
use crate::wsman::Fault;
use crate::{ErrorRecord, Pipeline, PipelineEnd, Record, Value};

/// A pipeline that a client has put together, under its id.
pub(super) type Started = (Uuid, Pipeline);

pub(super) struct Shell {
    /// The client's name for the pool: on every message to it.
    pool: Uuid,
    negotiation: Negotiation,
    key: Option<SessionKey>,
    incoming: Reassembler,
    /// Fragments that concern the pool.
    pub(super) outgoing: VecDeque<Vec<u8>>,
    pub(super) runs: HashMap<Uuid, Run>,
    fragment_size: usize,
    pub(super) next_object: u64,
}

/// How far the opening of the pool has come (MS-PSRP 3.2.1.3.2). No step is made twice: each is answered at length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Negotiation {
    BeforeOpen,
    /// SESSION_CAPABILITY has come.
    Negotiated,
    /// INIT_RUNSPACEPOOL has come.
    Opened,
}

/// One pipeline.
#[derive(Debug)]
pub(super) struct Run {
    incoming: Reassembler,
    pub(super) outgoing: VecDeque<Vec<u8>>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not all of CREATE_PIPELINE is here.
    Arriving,
    Running,
    /// PIPELINE_STATE is among what goes out.
    Ended,
}

impl Run {
    pub(super) fn new() -> Self {
        Self { incoming: Reassembler::new(MESSAGE_LIMIT), outgoing: VecDeque::new(), phase: Phase::Arriving }
    }

    pub(super) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    pub(super) fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }
}

impl Shell {
    pub(super) fn new(fragment_size: usize) -> Self {
        Self {
            pool: Uuid::nil(),
            negotiation: Negotiation::BeforeOpen,
            key: None,
            incoming: Reassembler::new(MESSAGE_LIMIT),
            outgoing: VecDeque::new(),
            runs: HashMap::new(),
            fragment_size,
            next_object: 1,
        }
    }

    /// Takes fragments that the client sent to the pool or to a pipeline. Gives the pipelines that are now to be run.
    pub(super) fn feed(&mut self, target: Option<Uuid>, data: &[u8]) -> Result<Vec<Started>, Fault> {
        if self.held() > MESSAGE_LIMIT {
            return Err(Fault::invalid(FragmentError::TooLarge { limit: MESSAGE_LIMIT }));
        }
        let incoming = match target {
            None => &mut self.incoming,
            Some(id) => &mut self.runs.get_mut(&id).ok_or_else(Fault::no_such_command)?.incoming,
        };
        let messages = incoming.push(data).map_err(Fault::invalid)?;
        let mut started = Vec::new();
        for message in messages {
            let message = Message::decode(&message).map_err(Fault::invalid)?;
            started.extend(self.message(target, &message)?);
        }
        Ok(started)
    }

    /// Messages that are not known here are ignored, e.g. the answers to host calls, which are never made.
    fn message(&mut self, target: Option<Uuid>, message: &Message) -> Result<Option<Started>, Fault> {
        match (message.kind, target) {
            (MessageType::SessionCapability, None) => self.negotiate(message.pool)?,
            (MessageType::InitRunspacePool, None) => self.open()?,
            (MessageType::PublicKey, None) => self.exchange_key(&self.value(message)?)?,
            (MessageType::CreatePipeline, Some(id)) => return self.pipeline(id, message).map(Some),
            _ => {}
        }
        Ok(None)
    }

    /// Bytes of all messages that are not complete.
    fn held(&self) -> usize {
        self.incoming.held() + self.runs.values().map(|run| run.incoming.held()).sum::<usize>()
    }

    fn negotiate(&mut self, pool: Uuid) -> Result<(), Fault> {
        self.advance(Negotiation::BeforeOpen, Negotiation::Negotiated)?;
        self.pool = pool;
        self.queue(None, MessageType::SessionCapability, payload::session_capability());
        Ok(())
    }

    fn open(&mut self) -> Result<(), Fault> {
        self.advance(Negotiation::Negotiated, Negotiation::Opened)?;
        self.queue(None, MessageType::ApplicationPrivateData, payload::application_private_data());
        self.queue(None, MessageType::RunspacePoolState, payload::runspace_pool_state(&PoolState::Opened));
        Ok(())
    }

    fn advance(&mut self, from: Negotiation, to: Negotiation) -> Result<(), Fault> {
        if self.negotiation != from {
            return Err(Fault::invalid("a message of the negotiation that is not due"));
        }
        self.negotiation = to;
        Ok(())
    }

    fn exchange_key(&mut self, value: &Value) -> Result<(), Fault> {
        if self.key.is_some() {
            return Err(Fault::invalid("the session key is exchanged already"));
        }
        let public_key = payload::read_public_key(value).map_err(Fault::invalid)?;
        let key = SessionKey::generate();
        let wrapped = key.wrap_for(public_key).map_err(Fault::invalid)?;
        self.key = Some(key);
        self.queue(None, MessageType::EncryptedSessionKey, payload::encrypted_session_key(&wrapped));
        Ok(())
    }

    fn pipeline(&mut self, id: Uuid, message: &Message) -> Result<Started, Fault> {
        let run = self.runs.get_mut(&id).filter(|run| run.phase == Phase::Arriving && message.pipeline == Some(id));
        let run =
            run.ok_or_else(|| Fault::invalid("a pipeline that is there already, or of another id than the command"))?;
        let value = decode(&message.data, self.key.as_ref()).map_err(Fault::invalid)?;
        let pipeline = payload::read_create_pipeline(&value).map_err(Fault::invalid)?;
        run.phase = Phase::Running;
        Ok((id, pipeline))
    }

    fn value(&self, message: &Message) -> Result<Value, Fault> {
        decode(&message.data, self.key.as_ref()).map_err(Fault::invalid)
    }

    /// Stops a pipeline, or ends it if nothing of it runs yet. Whether it runs.
    pub(super) fn stop(&mut self, id: Uuid) -> Result<bool, Fault> {
        let run = self.runs.get(&id).ok_or_else(Fault::no_such_command)?;
        match run.phase {
            Phase::Arriving => self.finish(id, &PipelineEnd::Stopped),
            Phase::Running => return Ok(true),
            Phase::Ended => {}
        }
        Ok(false)
    }

    pub(super) fn push(&mut self, id: Uuid, record: &Record) {
        if self.runs.get(&id).is_some_and(Run::is_running) {
            match payload::record_to_message(record, self.key.as_ref()) {
                Ok((kind, data)) => self.queue(Some(id), kind, data),
                // Leaving it out in silence would let the pipeline look as if it had written less.
                Err(error) => self.finish(id, &PipelineEnd::Failed(unwritable(&error))),
            }
        }
    }

    pub(super) fn finish(&mut self, id: Uuid, end: &PipelineEnd) {
        let Some(run) = self.runs.get_mut(&id).filter(|run| !run.has_ended()) else { return };
        run.phase = Phase::Ended;
        self.queue(Some(id), MessageType::PipelineState, payload::pipeline_state(end));
    }

    fn queue(&mut self, target: Option<Uuid>, kind: MessageType, data: String) {
        let data = data.into_bytes();
        let message = Message { destination: Destination::Client, kind, pool: self.pool, pipeline: target, data };
        let fragments = split(self.next_object, &message.encode(), self.fragment_size);
        self.next_object += 1;
        match target {
            None => self.outgoing.extend(fragments),
            Some(id) => {
                if let Some(run) = self.runs.get_mut(&id) {
                    run.outgoing.extend(fragments);
                }
            }
        }
    }
}

/// Says nothing of keys and parameters.
impl fmt::Debug for Shell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shell").field("pool", &self.pool).field("runs", &self.runs.keys()).finish_non_exhaustive()
    }
}

fn unwritable(error: &EncodeError) -> ErrorRecord {
    let exception = "System.Management.Automation.PSInvalidOperationException".to_owned();
    let fully_qualified_error_id = "CannotSerialize".to_owned();
    ErrorRecord { message: error.to_string(), exception, fully_qualified_error_id, ..ErrorRecord::default() }
}

/// Of one message, and of all that are incomplete at a time.
const MESSAGE_LIMIT: usize = 64 << 20;
