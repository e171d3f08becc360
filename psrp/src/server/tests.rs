//! The server with requests that this crate's client never makes; the rest is in the client's tests.

use crate::client::{Event, Options, Pool, Transmit};
use crate::fragment::split;
use crate::message::{Destination, Message, MessageType, payload};
use crate::session_key::KeyExchange;
use crate::wsman::stdin;
use crate::{Command, wsman};

use super::*;

fn options() -> ServerOptions {
    ServerOptions {
        configuration: Configuration::Exchange,
        max_envelope_size: 500 * 1024,
        max_shells: 2,
        language: Language::NoLanguage,
    }
}

fn header(shell: Uuid) -> Header {
    Header {
        to: "https://ex01/PowerShell".to_owned(),
        resource_uri: Configuration::Exchange.resource_uri().to_owned(),
        shell: Some(shell),
        message: Uuid::new_v4(),
        session: None,
        max_envelope_size: 500 * 1024,
        operation_timeout: Duration::from_secs(20),
    }
}

fn client() -> Pool {
    Pool::new(Options::new("https://ex01/PowerShell", Configuration::Exchange))
}

/// Runs the client until it has nothing to send or has to wait.
fn settle(server: &mut Server, pool: &mut Pool) -> Option<Waiting> {
    while let Some(Transmit { body, .. }) = pool.poll_transmit() {
        match server.handle(&body) {
            Handled::Reply(reply) => pool.handle_response(reply.status, &reply.body).unwrap(),
            Handled::Wait(waiting) => return Some(waiting),
        }
    }
    None
}

fn opened() -> (Server, Pool, Uuid) {
    let (mut server, mut pool) = (Server::new(options()), client());
    assert!(settle(&mut server, &mut pool).is_none());
    assert_eq!(pool.poll_event(), Some(Event::Opened));
    let shell = pool.shell_id().unwrap();
    (server, pool, shell)
}

fn asked(server: &mut Server, header: Header, body: RequestBody) -> Result<Handled, Fault> {
    let id = header.message;
    match server.handle(&Request { header, body }.write()) {
        Handled::Reply(reply) if reply.status == 500 => {
            let text = String::from_utf8(reply.body.clone()).unwrap();
            assert!(text.to_lowercase().contains(&id.to_string()), "a fault relates to its request");
            Err(Fault::parse(&reply.body).unwrap().unwrap())
        }
        other => Ok(other),
    }
}

fn refused(server: &mut Server, header: Header, body: RequestBody) -> (u32, String) {
    let fault = asked(server, header, body).unwrap_err();
    (fault.code, fault.subcode)
}

#[test]
fn shells_and_commands_that_do_not_exist_are_refused() {
    let (mut server, _pool, shell) = opened();
    let gone = (2_150_858_843, "w:InvalidSelectors".to_owned());
    let other = Uuid::new_v4();
    let bodies = || {
        let stream = Stream { name: "stdin".to_owned(), command: Some(other), data: Vec::new() };
        [
            RequestBody::Receive { command: Some(other) },
            RequestBody::Signal { command: other, signal: Signal::Stop },
            RequestBody::Signal { command: other, signal: Signal::Terminate },
            RequestBody::Send { streams: vec![stream] },
        ]
    };
    for body in bodies() {
        assert_eq!(refused(&mut server, header(shell), body), gone);
    }
    for body in bodies().into_iter().chain([RequestBody::Delete, RequestBody::Receive { command: None }]) {
        assert_eq!(refused(&mut server, header(other), body), gone);
    }
}

#[test]
fn no_more_shells_than_allowed() {
    let (mut server, _first, _) = opened();
    settle(&mut server, &mut client());
    let create = client().poll_transmit().unwrap();
    let Handled::Reply(reply) = server.handle(&create.body) else { panic!("a Create is answered at once") };
    let fault = Fault::parse(&reply.body).unwrap().unwrap();
    assert_eq!((reply.status, fault.code, fault.subcode.as_str()), (500, 2_150_859_173, "w:QuotaLimit"));
    assert_eq!(server.shells(), 2);
}

#[test]
fn what_is_too_large_or_no_xml_or_for_another_configuration_is_refused() {
    let (mut server, _pool, shell) = opened();
    let fault = |server: &mut Server, body: &[u8]| match server.handle(body) {
        Handled::Reply(reply) => Fault::parse(&reply.body).unwrap().unwrap().subcode,
        Handled::Wait(_) => panic!("it is answered at once"),
    };
    assert_eq!(fault(&mut server, &vec![b' '; 500 * 1024 + 1]), "w:EncodingLimit");
    assert_eq!(fault(&mut server, b"<html>"), "w:SchemaValidationError");
    assert_eq!(fault(&mut server, b""), "w:SchemaValidationError");
    let windows = Header { resource_uri: Configuration::Windows.resource_uri().to_owned(), ..header(shell) };
    assert_eq!(refused(&mut server, windows, RequestBody::Delete).1, "w:DestinationUnreachable");
    let small = Header { max_envelope_size: 8191, ..header(shell) };
    assert_eq!(refused(&mut server, small, RequestBody::Delete).1, "w:EncodingLimit");
}

#[test]
fn a_script_fails_where_no_language_is_spoken_and_runs_elsewhere() {
    for language in [Language::NoLanguage, Language::FullLanguage] {
        let (mut server, mut pool) = (Server::new(ServerOptions { language, ..options() }), client());
        pool.start(Command::script("1+1").into()).unwrap();
        settle(&mut server, &mut pool);
        let events: Vec<_> = std::iter::from_fn(|| pool.poll_event()).collect();
        match (language, server.poll_event(), events.as_slice()) {
            (Language::NoLanguage, None, [_, Event::Ended { end: PipelineEnd::Failed(error), .. }]) => {
                assert_eq!(error.fully_qualified_error_id, "ScriptsNotAllowed");
            }
            (Language::FullLanguage, Some(ServerEvent::Start { .. }), [_]) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_pipeline_that_is_terminated_while_it_runs_is_to_be_stopped_and_its_output_is_dropped() {
    let (mut server, mut pool, shell) = opened();
    let pipeline = pool.start(Command::new("Get-X").into()).unwrap();
    let waiting = settle(&mut server, &mut pool).unwrap();
    let run = RunId { shell, pipeline };
    assert!(matches!(server.poll_event(), Some(ServerEvent::Start { .. })));
    let terminate = RequestBody::Signal { command: pipeline, signal: Signal::Terminate };
    asked(&mut server, header(shell), terminate).unwrap();
    assert_eq!(server.poll_event(), Some(ServerEvent::Stop { run }));
    server.push(run, Record::Output(1.into()));
    server.finish(run, PipelineEnd::Completed);
    let reply = server.receive(&waiting).unwrap();
    assert_eq!(Fault::parse(&reply.body).unwrap().map(|fault| fault.code), Some(Fault::NO_SUCH_SHELL));
}

#[test]
fn a_pipeline_that_is_not_all_there_is_stopped_without_ever_running() {
    let (mut server, mut pool, shell) = opened();
    let command = Command::new("Import-ExchangeCertificate").with("FileData", vec![1; 600_000]);
    let pipeline = pool.start(command.into()).unwrap();
    let Transmit { body, operation } = pool.poll_transmit().unwrap();
    assert_eq!(operation, wsman::Operation::Command);
    assert!(matches!(server.handle(&body), Handled::Reply(_)));
    let stop = RequestBody::Signal { command: pipeline, signal: Signal::Stop };
    asked(&mut server, header(shell), stop).unwrap();
    assert_eq!(server.poll_event(), None);
    let receive = RequestBody::Receive { command: Some(pipeline) };
    let Ok(Handled::Reply(reply)) = asked(&mut server, header(shell), receive) else { panic!("it has ended") };
    let text = String::from_utf8(reply.body).unwrap();
    assert!(text.contains("CommandState/Done"), "{text}");
}

#[test]
fn a_secret_that_cannot_be_written_fails_its_pipeline() {
    let (mut server, mut pool, shell) = opened();
    let pipeline = pool.start(Command::new("Get-X").into()).unwrap();
    let waiting = settle(&mut server, &mut pool).unwrap();
    server.push(RunId { shell, pipeline }, Record::Output(crate::Secret::new("hidden").into()));
    server.finish(RunId { shell, pipeline }, PipelineEnd::Completed);
    let reply = server.receive(&waiting).unwrap();
    pool.handle_response(reply.status, &reply.body).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| pool.poll_event()).collect();
    let [Event::Ended { end: PipelineEnd::Failed(error), .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(error.fully_qualified_error_id, "CannotSerialize");
}

#[test]
fn the_state_comes_only_with_the_last_of_the_output() {
    let (mut server, mut pool, shell) = opened();
    let pipeline = pool.start(Command::new("Get-X").into()).unwrap();
    settle(&mut server, &mut pool).unwrap();
    let run = RunId { shell, pipeline };
    server.push(run, Record::Output("x".repeat(30_000).into()));
    server.finish(run, PipelineEnd::Completed);
    let mut states = Vec::new();
    while states.last() != Some(&true) {
        let small = Header { max_envelope_size: 8192, ..header(shell) };
        let receive = RequestBody::Receive { command: Some(pipeline) };
        let Ok(Handled::Reply(reply)) = asked(&mut server, small, receive) else { panic!("there is more") };
        states.push(String::from_utf8(reply.body).unwrap().contains("CommandState/Done"));
    }
    assert!(states.len() > 1, "one fragment at a time: {states:?}");
}

/// A whole message to the pool.
fn to_pool(kind: MessageType, data: String) -> RequestBody {
    let message =
        Message { destination: Destination::Server, kind, pool: Uuid::nil(), pipeline: None, data: data.into_bytes() };
    RequestBody::Send { streams: vec![stdin(None, split(1000, &message.encode(), 100_000).concat())] }
}

#[test]
fn no_step_of_the_negotiation_is_answered_twice() {
    let (mut server, _pool, shell) = opened();
    let exchange = KeyExchange::generate().unwrap();
    let public_key = || to_pool(MessageType::PublicKey, payload::public_key(exchange.public_key()));
    assert!(asked(&mut server, header(shell), public_key()).is_ok());
    for again in [
        to_pool(MessageType::SessionCapability, payload::session_capability()),
        to_pool(MessageType::InitRunspacePool, payload::init_runspace_pool()),
        public_key(),
    ] {
        assert_eq!(refused(&mut server, header(shell), again).0, Fault::INVALID);
    }
}

#[test]
fn a_shell_takes_as_many_commands_as_windows_allows() {
    let (mut server, _pool, shell) = opened();
    let command = || RequestBody::Command { command: Some(Uuid::new_v4()), arguments: stdin(None, Vec::new()) };
    for _ in 0..1000 {
        assert!(asked(&mut server, header(shell), command()).is_ok());
    }
    assert_eq!(refused(&mut server, header(shell), command()), (2_150_859_241, "w:QuotaLimit".to_owned()));
}

#[test]
fn what_all_commands_of_a_shell_hold_together_is_limited() {
    let (mut server, _pool, shell) = opened();
    let beginning = split(1, &vec![0; 1 << 20], 350_000).swap_remove(0);
    let mut begin = || {
        let command = Some(Uuid::new_v4());
        let arguments = stdin(command, beginning.clone());
        asked(&mut server, header(shell), RequestBody::Command { command, arguments }).map(drop)
    };
    let fault = (0..250).find_map(|_| begin().err()).expect("64 MiB are reached");
    assert!(fault.message.contains("67108864"), "{fault}");
}

#[test]
fn damaged_requests_are_faults_and_never_a_panic() {
    let (mut server, mut pool, shell) = opened();
    let command = pool.start(Command::new("Get-X").with("A", "b").into()).unwrap();
    let original = pool.poll_transmit().unwrap().body;
    for at in (0..original.len()).step_by(7) {
        for change in [None, Some(b'<'), Some(b'A'), Some(b'z'), Some(0xFF)] {
            let mut body = original.clone();
            match change {
                None => body.truncate(at),
                Some(byte) => body[at] = byte,
            }
            server.handle(&body);
            // Damage that changed nothing of meaning has started the command; it must not keep the next from being read.
            let _ = asked(&mut server, header(shell), RequestBody::Signal { command, signal: Signal::Terminate });
        }
    }
}
