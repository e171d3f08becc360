//! The client against the server of this crate, in memory: every envelope is real, nothing is timed.

use crate::server::{Handled, Language, RunId, Server, ServerEvent, ServerOptions, Waiting};
use crate::{Command, Object, Secret, Value, wsman};

use super::*;

/// A client and a server, and what the client has been told.
struct Wire {
    pool: Pool,
    server: Server,
    /// The Receive that the server holds.
    held: Option<Waiting>,
    /// The largest request and the largest answer so far.
    largest: (usize, usize),
    operations: Vec<Operation>,
    events: Vec<Event>,
}

impl Wire {
    fn new(max_envelope_size: usize) -> Self {
        let options = Options { max_envelope_size, ..Options::new("https://ex01/PowerShell", Configuration::Exchange) };
        let server = ServerOptions {
            configuration: Configuration::Exchange,
            max_envelope_size,
            max_shells: 2,
            language: Language::NoLanguage,
        };
        Self {
            pool: Pool::new(options),
            server: Server::new(server),
            held: None,
            largest: (0, 0),
            operations: Vec::new(),
            events: Vec::new(),
        }
    }

    fn opened() -> Self {
        let mut wire = Self::new(500 * 1024);
        wire.settle().unwrap();
        assert_eq!(wire.take(), [Event::Opened]);
        wire
    }

    /// Carries envelopes to and fro until the client has nothing to send or the server has nothing to say.
    fn settle(&mut self) -> Result<(), ClientError> {
        loop {
            let reply = if let Some(waiting) = self.held.take() {
                match self.server.receive(&waiting) {
                    Some(reply) => reply,
                    None => {
                        self.held = Some(waiting);
                        return Ok(());
                    }
                }
            } else {
                let Some(transmit) = self.pool.poll_transmit() else { return Ok(()) };
                self.operations.push(transmit.operation);
                self.largest.0 = self.largest.0.max(transmit.body.len());
                match self.server.handle(&transmit.body) {
                    Handled::Reply(reply) => reply,
                    Handled::Wait(waiting) => {
                        self.held = Some(waiting);
                        continue;
                    }
                }
            };
            self.answer(reply.status, &reply.body)?;
        }
    }

    fn answer(&mut self, status: u16, body: &[u8]) -> Result<(), ClientError> {
        self.largest.1 = self.largest.1.max(body.len());
        let outcome = self.pool.handle_response(status, body);
        self.events.extend(std::iter::from_fn(|| self.pool.poll_event()));
        outcome
    }

    fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Starts a pipeline and gives what the server was asked to run.
    fn start(&mut self, pipeline: impl Into<Pipeline>) -> (RunId, Pipeline) {
        let id = self.pool.start(pipeline.into()).unwrap();
        self.settle().unwrap();
        match self.server.poll_event() {
            Some(ServerEvent::Start { run, pipeline }) if run.pipeline == id => (run, pipeline),
            other => panic!("{other:?}"),
        }
    }

    fn finish(&mut self, run: RunId, end: PipelineEnd) {
        self.server.finish(run, end);
        self.settle().unwrap();
    }

    fn held(&mut self) -> Waiting {
        self.held.take().expect("the server holds a Receive")
    }
}

impl Wire {
    /// Answers the held Receive with a message that this crate's server never sends.
    fn tell(&mut self, kind: MessageType, pipeline: Option<Uuid>, data: &str) -> Result<(), ClientError> {
        let held = self.held();
        let data = data.as_bytes().to_vec();
        let message = Message { destination: Destination::Client, kind, pool: self.pool.id, pipeline, data };
        let stream = |data| Stream { name: "stdout".to_owned(), command: held.pipeline, data };
        let streams = split(self.server.take_number(), &message.encode(), 100).into_iter().map(stream).collect();
        let body = wsman::ResponseBody::Received { streams, state: None };
        self.answer(200, &wsman::Response { relates_to: None, body }.write())
    }
}

fn failure() -> ErrorRecord {
    ErrorRecord {
        message: "It is not there.".to_owned(),
        exception: "Microsoft.Exchange.Configuration.Tasks.ManagementObjectNotFoundException".to_owned(),
        fully_qualified_error_id: "[Server=EX01,RequestId=1] 1A2B3C,Get-X".to_owned(),
        category: 13,
        activity: "Get-X".to_owned(),
        reason: "ManagementObjectNotFoundException".to_owned(),
        ..ErrorRecord::default()
    }
}

#[test]
fn a_pool_opens_runs_a_command_cleans_up_and_closes() {
    let mut wire = Wire::opened();
    assert_eq!(wire.server.shells(), 1);
    let command = Command::new("Get-AuthConfig").with("Server", "ex01").with("Confirm", false);
    let (run, pipeline) = wire.start(command.clone());
    assert_eq!(pipeline, Pipeline::from(command));
    let output: Value = Object::of_type("Deserialized.X").with("Thumbprint", "AB01").shown_as("x").into();
    wire.server.push(run, Record::Output(output.clone()));
    wire.finish(run, PipelineEnd::Completed);
    let pipeline = run.pipeline;
    assert_eq!(
        wire.take(),
        [
            Event::Record { pipeline, record: Record::Output(output) },
            Event::Ended { pipeline, end: PipelineEnd::Completed }
        ]
    );
    assert_eq!(wire.operations.last(), Some(&Operation::Signal), "the server may forget the pipeline");
    wire.pool.close();
    wire.settle().unwrap();
    assert_eq!((wire.take(), wire.server.shells()), (vec![Event::Closed], 0));
    assert_eq!(wire.server.poll_event(), Some(ServerEvent::Closed { shell: run.shell }));
    assert_eq!(wire.pool.start(Pipeline::default()), Err(ClientError::NotOpen));
}

#[test]
fn a_certificate_of_200_kb_and_its_password_travel_in_envelopes_of_either_size() {
    for (limit, sends) in [(500 * 1024, 0), (150 * 1024, 2)] {
        let mut wire = Wire::new(limit);
        let pfx: Vec<u8> = (0..200_000).map(|n: u32| (n * 7 % 251) as u8).collect();
        let command = Command::new("Import-ExchangeCertificate")
            .with("FileData", pfx)
            .with_secret("Password", Secret::new("pässword \u{1F511}"))
            .switch("Force");
        // Before the pool is open, so that everything comes in its order.
        let (_, pipeline) = wire.start(command.clone());
        assert_eq!(pipeline, Pipeline::from(command));
        assert!(wire.largest.0 <= limit, "{} of {limit}", wire.largest.0);
        let first_send = wire.operations.iter().position(|o| *o == Operation::Send).unwrap();
        let after = wire.operations.iter().skip_while(|o| **o != Operation::Command).skip(1);
        assert_eq!(after.filter(|o| **o == Operation::Send).count(), sends);
        assert!(Some(first_send) < wire.operations.iter().position(|o| *o == Operation::Command), "the key goes first");
    }
}

#[test]
fn every_stream_arrives_in_order_and_large_output_in_pieces() {
    let mut wire = Wire::new(150 * 1024);
    let (run, _) = wire.start(Command::new("Get-X"));
    let large = "ä€\u{1D11E}_x0041_\r\n".repeat(30_000);
    let records = [
        Record::Verbose("detail".to_owned()),
        Record::Warning("careful".to_owned()),
        Record::Debug("inside".to_owned()),
        Record::Error(failure()),
        Record::Output(large.into()),
        Record::Output(Value::Null),
    ];
    for record in records.clone() {
        wire.server.push(run, record);
    }
    wire.finish(run, PipelineEnd::Completed);
    let pipeline = run.pipeline;
    let mut expected: Vec<Event> = records.map(|record| Event::Record { pipeline, record }).into();
    expected.insert(0, Event::Opened);
    expected.push(Event::Ended { pipeline, end: PipelineEnd::Completed });
    assert_eq!(wire.take(), expected);
    assert!(wire.largest.1 <= 150 * 1024, "{}", wire.largest.1);
}

#[test]
fn information_and_progress_arrive() {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Get-X"));
    let progress = Object::default().with_member("Activity", "busy").with_member("PercentComplete", 50);
    wire.server.push(run, Record::Progress(progress.into()));
    wire.server.push(run, Record::Information(Object::default().with("MessageData", "so").into()));
    wire.settle().unwrap();
    let events = wire.take();
    let [Event::Record { record: Record::Progress(p), .. }, Event::Record { record: Record::Information(i), .. }] =
        events.as_slice()
    else {
        panic!("{events:?}");
    };
    assert_eq!(p.property("PercentComplete").and_then(Value::as_i64), Some(50));
    assert_eq!(i.property("MessageData").and_then(Value::as_str), Some("so"));
}

#[test]
fn a_terminating_error_keeps_its_id_and_the_output_before_it() {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Get-X"));
    wire.server.push(run, Record::Output(1.into()));
    wire.finish(run, PipelineEnd::Failed(failure()));
    let pipeline = run.pipeline;
    let end = PipelineEnd::Failed(failure());
    let expected = [Event::Record { pipeline, record: Record::Output(1.into()) }, Event::Ended { pipeline, end }];
    assert_eq!(wire.take(), expected);
}

#[test]
fn pipelines_run_one_after_another_and_the_key_is_exchanged_once() {
    let mut wire = Wire::opened();
    for _ in 0..2 {
        let secret = Command::new("Export-ExchangeCertificate").with_secret("Password", Secret::new("x"));
        let (run, _) = wire.start(secret);
        assert_eq!(wire.pool.start(Pipeline::default()), Err(ClientError::Busy));
        wire.finish(run, PipelineEnd::Completed);
    }
    assert_eq!(wire.operations.iter().filter(|o| **o == Operation::Send).count(), 1);
    assert_eq!(wire.operations.iter().filter(|o| **o == Operation::Signal).count(), 2);
}

#[test]
fn the_next_pipeline_may_be_started_before_the_last_is_cleaned_up() {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Get-X"));
    wire.server.finish(run, PipelineEnd::Completed);
    let waiting = wire.held();
    let reply = wire.server.receive(&waiting).unwrap();
    wire.answer(reply.status, &reply.body).unwrap();
    wire.operations.clear();
    wire.start(Command::new("Get-Y"));
    assert_eq!(wire.operations, [Operation::Signal, Operation::Command, Operation::Receive]);
}

#[test]
fn a_stop_goes_beside_the_receive_and_the_pipeline_says_that_it_has_stopped() {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Test-PeerSleep"));
    let stop = wire.pool.stop_transmit().unwrap();
    assert_eq!(stop.operation, Operation::Signal);
    assert!(matches!(wire.server.handle(&stop.body), Handled::Reply(reply) if reply.status == 200));
    assert_eq!(wire.server.poll_event(), Some(ServerEvent::Stop { run }));
    wire.settle().unwrap();
    assert_eq!(wire.take(), [], "not before the server says so");
    wire.finish(run, PipelineEnd::Stopped);
    assert_eq!(wire.take(), [Event::Ended { pipeline: run.pipeline, end: PipelineEnd::Stopped }]);
    assert_eq!(wire.pool.stop_transmit(), None);
    wire.start(Command::new("Get-X"));
}

#[test]
fn what_was_never_sent_is_stopped_without_a_signal() {
    let mut wire = Wire::opened();
    let pipeline = wire.pool.start(Command::new("Get-X").into()).unwrap();
    assert_eq!(wire.pool.stop_transmit(), None);
    assert_eq!(wire.pool.poll_event(), Some(Event::Ended { pipeline, end: PipelineEnd::Stopped }));
    assert_eq!(wire.pool.poll_transmit(), None);
}

#[test]
fn a_receive_that_timed_out_is_asked_again() {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Test-PeerSleep"));
    for _ in 0..3 {
        let waiting = wire.held();
        assert_eq!(waiting.operation_timeout, Duration::from_secs(20));
        let reply = wire.server.time_out(&waiting);
        assert_eq!(reply.status, 500);
        wire.answer(reply.status, &reply.body).unwrap();
        wire.settle().unwrap();
    }
    wire.finish(run, PipelineEnd::Completed);
    assert_eq!(wire.take(), [Event::Ended { pipeline: run.pipeline, end: PipelineEnd::Completed }]);
}

#[test]
fn a_shell_that_is_gone_ends_the_pool_and_needs_no_delete() {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Get-X"));
    wire.server.close_shell(run.shell);
    assert_eq!(wire.settle(), Err(ClientError::ShellGone));
    assert_eq!(wire.pool.poll_transmit(), None);
    assert_eq!(wire.pool.start(Pipeline::default()), Err(ClientError::NotOpen));
    wire.pool.close();
    assert_eq!((wire.pool.poll_event(), wire.pool.poll_transmit()), (Some(Event::Closed), None));
}

#[test]
fn a_delete_of_a_shell_that_is_gone_has_done_its_work() {
    let mut wire = Wire::opened();
    wire.server.close_shell(wire.pool.shell_id().unwrap());
    wire.pool.close();
    wire.settle().unwrap();
    assert_eq!(wire.take(), [Event::Closed]);
}

#[test]
fn a_lost_answer_is_never_taken_for_success() {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Set-AuthConfig"));
    wire.server.finish(run, PipelineEnd::Completed);
    let waiting = wire.held();
    let lost = wire.server.receive(&waiting).unwrap();
    assert_eq!(wire.pool.poll_transmit(), None, "nothing is sent twice");
    assert_eq!(wire.take(), []);
    wire.pool.close();
    wire.settle().unwrap();
    assert_eq!((wire.take(), wire.server.shells()), (vec![Event::Closed], 0));
    assert!(matches!(wire.pool.handle_response(200, &lost.body), Err(ClientError::Protocol(_))));
}

#[test]
fn a_shell_whose_create_was_not_answered_can_be_deleted() {
    let mut wire = Wire::new(500 * 1024);
    let create = wire.pool.poll_transmit().unwrap();
    wire.server.handle(&create.body);
    assert_eq!(wire.server.shells(), 1);
    wire.pool.close();
    wire.settle().unwrap();
    assert_eq!((wire.take(), wire.server.shells()), (vec![Event::Closed], 0));
}

#[test]
fn a_command_that_is_done_without_saying_how_is_a_protocol_error() {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Get-X"));
    let answer = |state| {
        let body = wsman::ResponseBody::Received { streams: Vec::new(), state };
        wsman::Response { relates_to: None, body }.write()
    };
    wire.held();
    wire.answer(200, &answer(None)).unwrap();
    assert_eq!(wire.take(), []);
    wire.settle().unwrap();
    wire.held();
    let done = answer(Some(wsman::CommandState::Done { command: Some(run.pipeline) }));
    assert!(matches!(wire.answer(200, &done), Err(ClientError::Protocol(_))));
    assert_eq!(wire.take(), []);
}

#[test]
fn a_host_call_that_waits_gets_an_answer_that_changes_nothing() {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Get-X"));
    let pipeline = Some(run.pipeline);
    let mut call = |number: i32, arguments: &str| {
        let data = format!(
            "<Obj RefId=\"0\"><MS><I64 N=\"ci\">1</I64><I32 N=\"mi\">{number}</I32>\
             <Obj N=\"mp\" RefId=\"1\"><LST>{arguments}</LST></Obj></MS></Obj>"
        );
        wire.operations.clear();
        wire.tell(MessageType::PipelineHostCall, pipeline, &data).unwrap();
        wire.settle().unwrap();
        (wire.take(), wire.operations.clone())
    };
    let event = |method: &str, answer| vec![Event::HostCall { pipeline, method: method.to_owned(), answer }];
    let asks = vec![Operation::Send, Operation::Receive];
    assert_eq!(call(16, "<S>shown</S>"), (event("WriteLine2", HostAnswer::Ignored), vec![Operation::Receive]));
    assert_eq!(call(25, "<S>Who?</S>"), (event("PromptForCredential2", HostAnswer::Refused), asks.clone()));
    let confirm = "<S>Confirm</S><S>Remove it?</S><Obj RefId=\"2\"><LST><S>Ja</S><S>Alle</S><S>Nein</S><S>Keine</S></LST></Obj><I32>0</I32>";
    let no = HostAnswer::No { question: "Confirm: Remove it?".to_owned() };
    assert_eq!(call(26, confirm), (event("PromptForChoice", no), asks.clone()));
    let colours = "<S>Colour</S><S>Which?</S><Obj RefId=\"2\"><LST><S>a</S><S>b</S><S>c</S></LST></Obj><I32>0</I32>";
    assert_eq!(call(26, colours), (event("PromptForChoice", HostAnswer::Refused), asks.clone()));
    assert_eq!(call(26, ""), (event("PromptForChoice", HostAnswer::Refused), asks));
}

#[test]
fn messages_that_are_not_known_or_of_another_pipeline_are_ignored() {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Get-X"));
    let (this, other) = (Some(run.pipeline), Some(Uuid::new_v4()));
    for (kind, pipeline, data) in [
        (MessageType::Unknown(0x0004_1FFF), this, "<not CLIXML"),
        (MessageType::UserEvent, None, "<Obj RefId=\"0\"/>"),
        (MessageType::RunspaceAvailability, None, "<Obj RefId=\"0\"/>"),
        (MessageType::PipelineState, other, "<Obj RefId=\"0\"><MS><I32 N=\"PipelineState\">4</I32></MS></Obj>"),
        (MessageType::PipelineState, this, "<Obj RefId=\"0\"><MS><I32 N=\"PipelineState\">2</I32></MS></Obj>"),
    ] {
        wire.tell(kind, pipeline, data).unwrap();
        wire.settle().unwrap();
    }
    assert_eq!(wire.take(), []);
    wire.finish(run, PipelineEnd::Completed);
    assert_eq!(wire.take().len(), 1);
}

#[test]
fn a_key_that_the_server_asks_for_is_exchanged_while_the_pipeline_waits() {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Get-X"));
    wire.operations.clear();
    wire.tell(MessageType::PublicKeyRequest, None, "<S></S>").unwrap();
    wire.settle().unwrap();
    assert_eq!(wire.operations, [Operation::Send, Operation::Receive, Operation::Receive]);
    let secret = Record::Output(Secret::new("of the server").into());
    wire.server.push(run, secret.clone());
    wire.settle().unwrap();
    assert_eq!(wire.take(), [Event::Record { pipeline: run.pipeline, record: secret }]);
}

#[test]
fn a_pool_that_breaks_says_why() {
    let mut wire = Wire::opened();
    wire.start(Command::new("Get-X"));
    let state = payload::runspace_pool_state(&payload::PoolState::Broken(Box::new(failure())));
    let told = wire.tell(MessageType::RunspacePoolState, None, &state);
    assert_eq!(told, Err(ClientError::PoolBroken(Box::new(failure()))));
    assert_eq!(wire.pool.stop_transmit(), None);
}

#[test]
fn a_shell_that_was_refused_needs_no_delete() {
    let mut wire = Wire::opened();
    for expected in [Ok(()), Err(Fault::TOO_MANY_SHELLS)] {
        let options = Options::new("https://ex01/PowerShell", Configuration::Exchange);
        wire.pool = Pool::new(options);
        let outcome = wire.settle().map_err(|error| match error {
            ClientError::Fault(fault) => fault.code,
            other => panic!("{other}"),
        });
        assert_eq!(outcome, expected);
    }
    wire.pool.close();
    assert_eq!((wire.pool.poll_event(), wire.pool.poll_transmit()), (Some(Event::Closed), None));
}

#[test]
fn a_shell_is_deleted_unless_its_create_was_certainly_refused() {
    let timed_out = Fault::timed_out().write(None);
    for (status, body, deleted) in
        [(401, &b""[..], false), (403, b"", false), (500, &timed_out, true), (503, b"", true), (200, b"<cut", true)]
    {
        let mut pool = Pool::new(Options::new("https://ex01/PowerShell", Configuration::Exchange));
        pool.poll_transmit().unwrap();
        pool.handle_response(status, body).unwrap_err();
        pool.close();
        let next = pool.poll_transmit().map(|transmit| transmit.operation);
        assert_eq!(next, deleted.then_some(Operation::Delete), "{status}");
    }
}

#[test]
fn an_end_that_comes_before_the_output_is_no_end() {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Get-X"));
    let held = wire.held();
    wire.server.push(run, Record::Output("x".into()));
    wire.server.finish(run, PipelineEnd::Completed);
    let reply = wire.server.receive(&held).unwrap();
    let mut response = wsman::Response::parse(Operation::Receive, &reply.body).unwrap().unwrap();
    let wsman::ResponseBody::Received { streams, .. } = &mut response.body else { panic!("another answer") };
    assert_eq!(streams.len(), 2);
    streams.reverse();
    assert!(matches!(wire.answer(200, &response.write()), Err(ClientError::Protocol(_))));
}

#[test]
fn answers_of_others_are_told_apart() {
    let refused = |status, body: &[u8]| {
        let mut wire = Wire::opened();
        wire.start(Command::new("Get-X"));
        wire.held();
        wire.answer(status, body).unwrap_err()
    };
    let excerpt = "<html>Unauthorized".to_owned();
    assert_eq!(refused(401, excerpt.as_bytes()), ClientError::Http { status: 401, excerpt });
    assert!(matches!(refused(200, b"<html/>"), ClientError::Protocol(_)));
    assert!(matches!(refused(503, b""), ClientError::Http { status: 503, .. }));
    let fault = Fault::new("w:AccessDenied", 5, "no");
    assert_eq!(refused(500, &fault.write(None)), ClientError::Fault(fault));
    let other = wsman::ResponseBody::Received { streams: Vec::new(), state: None };
    let other = wsman::Response { relates_to: Some(Uuid::new_v4()), body: other };
    assert!(matches!(refused(200, &other.write()), ClientError::Protocol(_)));
}

/// A client that waits for this last answer of a pipeline.
fn last_answer() -> (Wire, Vec<u8>) {
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Get-X"));
    wire.server.push(run, Record::Output("some output".into()));
    wire.server.finish(run, PipelineEnd::Failed(failure()));
    let waiting = wire.held();
    let reply = wire.server.receive(&waiting).unwrap();
    (wire, reply.body)
}

#[test]
fn damaged_answers_are_errors_or_less_but_never_a_panic_and_never_success() {
    let length = last_answer().1.len();
    for at in (0..length).step_by(17) {
        for change in [None, Some(b'<'), Some(b'A'), Some(0xFF)] {
            let (mut wire, mut body) = last_answer();
            match change {
                None => body.truncate(at),
                Some(byte) => body[at] = byte,
            }
            let _ = wire.answer(200, &body);
            let success = |event: &Event| matches!(event, Event::Ended { end: PipelineEnd::Completed, .. });
            assert!(!wire.take().iter().any(success), "byte {at} as {change:?}");
        }
    }
}

#[test]
fn all_values_of_one_answer_together_are_limited() {
    let copies =
        format!("<Obj RefId=\"0\"><LST>{}</LST></Obj>", "<Nil/>".repeat(1000)) + &"<Ref RefId=\"0\"/>".repeat(600);
    let bomb = format!("<Obj><LST>{copies}</LST></Obj>");
    let mut wire = Wire::opened();
    let (run, _) = wire.start(Command::new("Get-X"));
    let held = wire.held();
    let message = Message {
        destination: Destination::Client,
        kind: MessageType::PipelineOutput,
        pool: wire.pool.id,
        pipeline: Some(run.pipeline),
        data: bomb.into_bytes(),
    };
    let mut numbers = 1_000_000..;
    let mut answer = |messages: usize| {
        let numbers = numbers.by_ref().take(messages);
        let data = numbers.flat_map(|n| split(n, &message.encode(), 100_000)).flatten().collect();
        let streams = vec![Stream { name: "stdout".to_owned(), command: held.pipeline, data }];
        let body = wsman::ResponseBody::Received { streams, state: None };
        wsman::Response { relates_to: None, body }.write()
    };
    for _ in 0..2 {
        wire.answer(200, &answer(2)).unwrap();
        assert_eq!(wire.take().len(), 2, "what was taken makes room");
        wire.pool.poll_transmit().unwrap();
    }
    assert!(matches!(wire.answer(200, &answer(10)), Err(ClientError::Protocol(_))));
    assert!(wire.take().len() < 4);
}

#[test]
fn debug_output_shows_no_parameters() {
    let mut wire = Wire::opened();
    wire.pool.start(Command::new("Get-Secretive").into()).unwrap();
    let transmit = wire.pool.poll_transmit();
    let shown = format!("{:?} {transmit:?}", wire.pool);
    assert!(!shown.contains("Secretive") && shown.contains("bytes: "), "{shown}");
}
