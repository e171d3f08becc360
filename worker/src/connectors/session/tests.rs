//! Against an independent server: psrpcore's state machine behind a WS-Management layer that counts violations of the protocol.

mod logons;
mod peer;
mod warm;

use std::collections::BTreeMap;

use chrono::{TimeZone as _, Utc};
use domain::Thumbprint;
use psrp::{Command, Secret, client::Configuration};
use serde_json::json;

use self::peer::{PASSWORD, Peer, basic};
use super::*;
use crate::{
    certificate::{AuthCertificate, KeySize, Request},
    connectors::{Credentials, Trust, WindowsProtocol},
    exchange, pfx,
};

async fn text(session: &mut Session, command: Command) -> String {
    let answer = session.invoke(command).await.unwrap();
    assert!(answer.errors.is_empty(), "{:?}", answer.errors);
    answer.output.first().map(Value::text).unwrap_or_default()
}

/// What the peer says that it was given, by name.
async fn echo(session: &mut Session, command: Command) -> BTreeMap<String, Value> {
    let answer = session.invoke(command).await.unwrap();
    assert!(answer.errors.is_empty(), "{:?}", answer.errors);
    answer.output.into_iter().map(|value| (value.property("Name").unwrap().text(), value)).collect()
}

#[tokio::test]
async fn cmdlets_run_over_https_with_our_own_authority_and_over_http_on_this_machine() {
    let peer = Peer::start(&["--strict"]);
    for endpoint in [peer.https(), peer.http()] {
        let mut session = Session::open(&endpoint).await.unwrap();
        let seen = exchange::auth_config(&mut session, None).await.unwrap();
        assert!(seen.current.is_some());
        let servers = session.invoke(Command::new("Get-ExchangeServer")).await.unwrap();
        assert!(!servers.output.is_empty() && servers.errors.is_empty());
        for number in 0..3 {
            assert_eq!(text(&mut session, Command::new("Test-PeerSleep").with("Seconds", 0)).await, "", "{number}");
        }
        session.close().await;
    }
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn every_type_is_read_as_it_was_written() {
    let peer = Peer::start(&["--strict"]);
    let mut session = Session::open(&peer.https()).await.unwrap();
    let answer = session.invoke(Command::new("Test-PeerTypes")).await.unwrap();
    let types = &answer.output[0];
    let value = |name: &str| types.property(name).unwrap();
    assert_eq!(value("Int64").as_i64(), Some(-9_000_000_000_000_000_000));
    assert_eq!(value("UInt64"), &Value::U64(18_000_000_000_000_000_000));
    assert_eq!(value("Byte"), &Value::U8(200));
    assert_eq!(value("Decimal"), &Value::Decimal("79228162514264337593543950335".to_owned()));
    assert_eq!(value("String").as_str(), Some("line1\r\nline2\ttab <&>\"' _x0041_ \u{e9} \u{1d11e} \u{1} end "));
    assert_eq!(value("Bytes").as_bytes().unwrap().len(), 256);
    let when = Utc.with_ymd_and_hms(2026, 11, 23, 9, 25, 51).unwrap();
    assert_eq!(value("DateTimeOffset").as_date_time().unwrap().timestamp(), when.timestamp());
    assert_eq!(value("Enum").text(), "Changed");
    assert_eq!(value("Array").as_list().unwrap().len(), 5);
    assert_eq!(value("SameNested").property("Deep").unwrap().property("Value").and_then(Value::as_i64), Some(42));
    assert_eq!(value("Note").as_str(), Some("an extended property"));
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn a_pfx_and_its_password_arrive_as_they_were_sent() {
    let peer = Peer::start(&["--strict"]);
    let mut session = Session::open(&peer.https()).await.unwrap();
    let request = Request { key_size: KeySize::Rsa2048, lifetime_days: 1826, now: Utc::now() };
    let made = AuthCertificate::generate(&request).unwrap();
    let name = pfx::FriendlyName::parse("Microsoft Exchange Server Auth Certificate").unwrap();
    let contents = pfx::Contents {
        certificate_der: &made.certificate_der,
        private_key_pkcs8: &made.private_key_pkcs8,
        friendly_name: &name,
    };
    let password = pfx::random_password().unwrap();
    let file = pfx::encode(&contents, &password, pfx::Algorithm::Aes256Sha256).unwrap();
    let answer = session.invoke(exchange::import("EX01", &file, &password)).await.unwrap();
    assert!(answer.errors.is_empty(), "{:?}", answer.errors);
    let held = exchange::certificate(&mut session, "EX01", &made.thumbprint).await.unwrap();
    assert_eq!(held, Some(made.certificate_der));
    let absent = Thumbprint::parse(&"0".repeat(40)).unwrap();
    assert_eq!(exchange::certificate(&mut session, "EX01", &absent).await.unwrap(), None);
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn two_hundred_kilobytes_and_a_secret_fit_through_envelopes_of_the_usual_size() {
    let peer = Peer::start(&["--strict"]);
    let mut session = Session::open(&peer.https()).await.unwrap();
    let large: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let when = Utc.with_ymd_and_hms(2026, 11, 25, 10, 0, 0).unwrap();
    let command = Command::new("Test-PeerEcho")
        .with("FileData", large.clone())
        .with_secret("Password", Secret::new("pa\u{df}word \u{1d11e}"))
        .with("When", when)
        .with("Flag", true)
        .with("Nothing", Value::Null);
    let echoed = echo(&mut session, command).await;
    assert_eq!(echoed["FileData"].property("Length").and_then(Value::as_i64), Some(200_000));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &large);
    assert!(
        echoed["FileData"].property("Sha256").unwrap().text().eq_ignore_ascii_case(&domain::ids::hex(digest.as_ref()))
    );
    let secret = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, "pa\u{df}word \u{1d11e}".as_bytes());
    assert!(
        echoed["Password"].property("Sha256").unwrap().text().eq_ignore_ascii_case(&domain::ids::hex(secret.as_ref()))
    );
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn two_hundred_kilobytes_fit_through_the_smaller_envelopes_of_old_servers() {
    let peer = Peer::start(&["--strict", "--max-envelope-kb", "150"]);
    let mut endpoint = peer.https();
    endpoint.max_envelope_size = 150 * 1024;
    let mut session = Session::open(&endpoint).await.unwrap();
    let echoed = echo(&mut session, Command::new("Test-PeerEcho").with("FileData", vec![7; 200_000])).await;
    assert_eq!(echoed["FileData"].property("Length").and_then(Value::as_i64), Some(200_000));
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn how_small_envelopes_must_be_is_found_out() {
    let large = || Command::new("Test-PeerEcho").with("FileData", vec![7; 200_000]);
    let peer = Peer::start(&["--strict", "--max-envelope-kb", "150"]);
    let mut session = Session::open(&peer.https()).await.unwrap();
    let echoed = echo(&mut session, large()).await;
    assert_eq!(echoed["FileData"].property("Length").and_then(Value::as_i64), Some(200_000));
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
    let peer = Peer::start(&["--strict", "--max-envelope-kb", "64"]);
    let refused = Session::open(&peer.https()).await.unwrap().invoke(large()).await;
    assert!(matches!(refused, Err(WireError::Refused { code: TOO_LARGE, .. })), "{refused:?}");
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn errors_are_told_with_what_does_not_depend_on_the_language() {
    let peer = Peer::start(&["--strict"]);
    let mut session = Session::open(&peer.https()).await.unwrap();
    let streams = session.invoke(Command::new("Test-PeerStreams")).await.unwrap();
    assert_eq!(streams.output.iter().map(Value::text).collect::<Vec<_>>(), ["before the error", "after the error"]);
    assert_eq!(streams.warnings, ["a warning"]);
    let error = &streams.errors[0];
    assert_eq!(error.fully_qualified_error_id, "PeerFailure,Test-PeerStreams");
    assert_eq!((error.category, error.reason.as_str()), (7, "InvalidOperationException"));
    let thrown = session.invoke(Command::new("Test-PeerThrow").with("Message", "no")).await.unwrap();
    assert_eq!(thrown.output[0].text(), "output before the throw");
    assert_eq!(thrown.errors[0].fully_qualified_error_id, "PeerTerminating,Test-PeerThrow");
    let script = session.invoke(Command::script("Get-Process")).await.unwrap();
    assert!(script.errors[0].fully_qualified_error_id.contains("ScriptsNotAllowed"), "{:?}", script.errors);
    assert!(exchange::auth_config(&mut session, None).await.is_ok(), "the session is good after errors");
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn long_silence_and_large_answers_are_waited_for() {
    let peer = Peer::start(&["--strict", "--max-timeout", "0.3"]);
    let mut session = Session::open(&peer.https()).await.unwrap();
    let slept = session.invoke(Command::new("Test-PeerSleep").with("Seconds", 1)).await.unwrap();
    assert_eq!(slept.output.len(), 1);
    let large = Command::new("Test-PeerLarge").with("Count", 3).with("Size", 700_000);
    let large = session.invoke(large).await.unwrap();
    let sizes: Vec<_> = large.output.iter().map(|v| v.property("Data").unwrap().as_bytes().unwrap().len()).collect();
    assert_eq!(sizes, [700_000; 3]);
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn six_sessions_at_once_do_not_disturb_each_other() {
    let peer = Peer::start(&["--strict"]);
    let endpoint = peer.https();
    let one = |number: i32| {
        let endpoint = endpoint.clone();
        async move {
            let mut session = Session::open(&endpoint).await.unwrap();
            let echoed = echo(&mut session, Command::new("Test-PeerEcho").with("Number", number)).await;
            session.close().await;
            echoed["Number"].property("Text").unwrap().text()
        }
    };
    let answers = futures_util::future::join_all((0..6).map(one)).await;
    assert_eq!(answers, ["0", "1", "2", "3", "4", "5"]);
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn who_refuses_and_who_is_not_there_are_told_apart() {
    let peer = Peer::start(&[]);
    let wrong_password = peer.endpoint("https", basic("wrong"));
    assert!(matches!(refusal(&wrong_password).await, WireError::Refused { code: "credentials_refused", .. }));
    let mut stranger = peer.https();
    let key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem();
    stranger.tls = Trust::ca(other.as_bytes()).build().unwrap();
    let WireError::Refused { code: "certificate_not_trusted", why, .. } = refusal(&stranger).await else {
        panic!("the server was trusted");
    };
    assert!(why.contains("issued by `") && why.contains("SHA-256 "), "it names what the server presented: {why}");
    let mut wrong_name = peer.endpoints("https://ex99.example.com/PowerShell/", basic(PASSWORD));
    let address = format!("127.0.0.1:{}", peer.port("https"));
    wrong_name.connect_to.insert("ex99.example.com:443".to_owned(), address);
    let wrong_name = wrong_name.exchange().next().unwrap();
    assert!(matches!(refusal(&wrong_name).await, WireError::Refused { code: "certificate_not_trusted", .. }));
    let gone = peer.https();
    drop(peer);
    assert!(matches!(refusal(&gone).await, WireError::NotSent { .. }));
}

async fn refusal(endpoint: &Endpoint) -> WireError {
    match Session::open(endpoint).await {
        Ok(_) => panic!("the session was opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_after_the_command_was_sent_is_never_taken_for_one() {
    for (action, fault) in [
        ("Command", json!("drop-after")),
        ("Command", json!("timeout")),
        ("Receive", json!("drop")),
        ("Receive", json!("drop-after")),
        ("Receive", json!("kill-shell")),
        ("Receive", json!({"status": 503})),
    ] {
        let peer = Peer::start(&[]);
        let mut session = Session::open(&peer.https()).await.unwrap();
        peer.inject(json!({"action": action, "count": 1, "do": fault})).await;
        let answer = session.invoke(Command::new("Get-AuthConfig")).await;
        assert!(matches!(answer, Err(WireError::UnknownOutcome { .. })), "{action} {fault}: {answer:?}");
        session.close().await;
        peer.has_no_shell().await;
    }
}

#[tokio::test]
async fn what_goes_wrong_before_the_command_is_sent_changes_nothing() {
    for fault in [json!("drop"), json!("drop-after"), json!("timeout"), json!({"status": 503})] {
        let peer = Peer::start(&[]);
        peer.inject(json!({"action": "Create", "count": 1, "do": fault})).await;
        let error = refusal(&peer.https()).await;
        assert!(matches!(error, WireError::NotSent { .. }), "{fault}: {error:?}");
        peer.has_no_shell().await;
    }
}

#[tokio::test]
async fn a_session_that_is_refused_while_it_opens_leaves_no_shell_behind() {
    for fault in [json!({"status": 403}), json!({"fault": {"code": 5, "subcode": "w:AccessDenied", "reason": "No."}})] {
        let peer = Peer::start(&[]);
        peer.inject(json!({"action": "Receive", "count": 1, "do": fault})).await;
        assert!(matches!(refusal(&peer.https()).await, WireError::Refused { code: "access_denied", .. }), "{fault}");
        peer.has_no_shell().await;
    }
}

#[tokio::test]
async fn a_farewell_that_was_not_heard_is_said_again() {
    for fault in [json!("drop"), json!("drop-after"), json!("timeout"), json!({"status": 503})] {
        let peer = Peer::start(&[]);
        let session = Session::open(&peer.https()).await.unwrap();
        peer.inject(json!({"action": "Delete", "count": 1, "do": fault})).await;
        session.close().await;
        peer.has_no_shell().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_has_nothing_to_say_yet_is_asked_again() {
    let peer = Peer::start(&["--strict"]);
    let mut session = Session::open(&peer.https()).await.unwrap();
    peer.inject(json!({"action": "Receive", "count": 2, "do": "timeout"})).await;
    assert!(exchange::auth_config(&mut session, None).await.is_ok());
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn a_command_that_does_not_end_is_stopped_and_its_outcome_is_unknown() {
    let peer = Peer::start_with(&["--strict", "--auth", "ntlm,negotiate"], None);
    for scheme in ["https", "http"] {
        let logon = peer::windows(WindowsProtocol::Ntlm);
        let endpoint = peer.endpoint(scheme, Credentials::Windows(logon));
        let mut session = Session::open(&endpoint).await.unwrap();
        assert_eq!(session.invoke(Command::new("Get-AuthConfig")).await.unwrap().output.len(), 1);
        session.patience = Duration::from_millis(500);
        let answer = session.invoke(Command::new("Test-PeerSleep").with("Seconds", 3600)).await;
        assert!(
            matches!(&answer, Err(WireError::UnknownOutcome { why, .. }) if why.ends_with("it was told to stop")),
            "{answer:?}"
        );
        session.close().await;
    }
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn commands_take_arrays_and_hand_on_to_others() {
    let peer = Peer::start(&["--strict"]);
    let mut session = Session::open(&peer.https()).await.unwrap();
    let current = exchange::auth_config(&mut session, None).await.unwrap().current.unwrap();
    let services = Value::from(vec![Value::from("SMTP"), Value::from("IIS")]);
    let enable =
        Command::new("Enable-ExchangeCertificate").with("Thumbprint", current.as_str()).with("Services", services);
    assert!(session.invoke(enable.switch("Force")).await.unwrap().errors.is_empty());
    let get = Command::new("Get-ExchangeCertificate").with("Thumbprint", current.as_str());
    let found = session.invoke(get).await.unwrap().output;
    assert!(["IIS, SMTP", "SMTP, IIS"].contains(&found[0].property("Services").unwrap().text().as_str()), "{found:?}");
    let select =
        Command::new("Select-Object").with("Property", Value::from(vec![Value::from("Thumbprint")])).with("First", 1);
    let piped = session.invoke(Pipeline::from(Command::new("Get-ExchangeCertificate")).then(select)).await.unwrap();
    assert_eq!(piped.output.len(), 1);
    assert_eq!(piped.output[0].property("Thumbprint").unwrap().text().len(), 40);
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn commands_that_are_wrong_are_told_from_those_that_failed() {
    let peer = Peer::start(&["--strict"]);
    let mut session = Session::open(&peer.https()).await.unwrap();
    for (command, id) in [
        (Command::new("Get-Nothing"), "CommandNotFoundException"),
        (Command::new("Set-AuthConfig").with("Nope", 1), "NamedParameterNotFound,Set-AuthConfig"),
        (Command::new("Get-Mailbox").with("ErrorAction", "Stop"), "ManagementObjectNotFound"),
        (
            Command::new("Import-ExchangeCertificate").with("FileData", vec![0; 10]).with("Password", "not secret"),
            "ParameterArgumentTransformationError",
        ),
    ] {
        let answer = session.invoke(command).await.unwrap();
        assert!(answer.errors[0].fully_qualified_error_id.contains(id), "{id}: {:?}", answer.errors);
    }
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn windows_is_reached_over_plain_http_as_exchange_is() {
    let peer = Peer::start_with(&["--strict", "--auth", "ntlm,negotiate"], None);
    let logon = Credentials::Windows(peer::windows(WindowsProtocol::Ntlm));
    let mut endpoint = peer.endpoint("http", logon);
    endpoint.url = format!("http://localhost:{}/wsman", peer.port("http")).parse().unwrap();
    endpoint.configuration = Configuration::Windows;
    let mut session = Session::open(&endpoint).await.unwrap();
    let version = session.invoke(Command::script("$PSVersionTable.PSVersion")).await.unwrap();
    assert!(version.output[0].text().contains("5.1"), "{version:?}");
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_stop_talking_is_not_listened_to_for_ever() {
    let peer = Peer::start(&["--strict"]);
    let mut session = Session::open(&peer.https()).await.unwrap();
    let large = Command::new("Test-PeerLarge").with("Count", 12).with("Size", 6_000_000);
    let answer = session.invoke(large).await;
    assert!(matches!(&answer, Err(WireError::UnknownOutcome { why, .. }) if why.contains("64 MiB")), "{answer:?}");
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}
