//! Every way to log on.

use super::{
    super::*,
    echo,
    peer::{PASSWORD, Peer, basic, kerberos, password, windows},
    refusal,
};
use crate::{
    certificate::{AuthCertificate, KeySize, Request},
    connectors::{Credentials, Proof, Trust, WindowsLogon, WindowsProtocol},
    exchange, pfx,
};
use chrono::{TimeDelta, Utc};
use peers::Kdc;
use psrp::{Command, Secret};
use serde_json::{Value as Json, json};

/// What a renewal does on one server, and 200 kB with a secret; then nothing is left behind and nothing was objected to.
async fn renews(peer: &Peer, endpoint: &Endpoint) {
    let mut session = Session::open(endpoint).await.unwrap();
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
    let (thumbprint, controller) = (&made.thumbprint, "dc01.example.com");
    for command in [
        exchange::import("EX01", &file, &password),
        exchange::stage(thumbprint, Utc::now() + TimeDelta::days(3), controller),
        exchange::publish(controller),
    ] {
        let answer = session.invoke(command).await.unwrap();
        assert!(answer.errors.is_empty(), "{:?}", answer.errors);
    }
    assert_eq!(exchange::auth_config(&mut session, None).await.unwrap().current.as_ref(), Some(thumbprint));
    let back = exchange::export(&mut session, "EX01", thumbprint, &password).await.unwrap();
    assert!(!back.is_empty());
    let large = vec![0x5a; 200_000];
    let command = Command::new("Test-PeerEcho").with("FileData", large).with_secret("Password", Secret::new("pass"));
    assert_eq!(echo(&mut session, command).await["FileData"].property("Length").and_then(Value::as_i64), Some(200_000));
    session.close().await;
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

/// How the requests came in: scheme, TLS, sealed.
async fn seen(peer: &Peer) -> Vec<(String, bool, bool)> {
    let events = peer.ask("/events").await;
    let way = |event: &Json| {
        let scheme = event["auth"].as_str().unwrap_or_default().to_owned();
        (scheme, event["tls"] == json!(true), event["sealed"] == json!(true))
    };
    let mut ways: Vec<_> = events.as_array().unwrap().iter().map(way).collect();
    ways.sort();
    ways.dedup();
    ways
}

fn always(logon: WindowsLogon) -> Credentials {
    Credentials::Windows(WindowsLogon { always_seal: true, ..logon })
}

const SCHEMES: [&str; 3] = ["--strict", "--auth", "basic,ntlm,negotiate,certificate"];

#[tokio::test]
async fn a_renewal_runs_over_ntlm_inside_tls_and_sealed_outside_of_it() {
    let peer = Peer::start_with(&SCHEMES, None);
    let ntlm = || windows(WindowsProtocol::Ntlm);
    for (scheme, credentials) in
        [("https", Credentials::Windows(ntlm())), ("https", always(ntlm())), ("http", Credentials::Windows(ntlm()))]
    {
        renews(&peer, &peer.endpoint(scheme, credentials)).await;
    }
    let way = |tls, sealed| ("negotiate".to_owned(), tls, sealed);
    assert_eq!(seen(&peer).await, [way(false, true), way(true, false), way(true, true)]);
}

#[tokio::test]
async fn ntlm_goes_by_its_own_scheme_where_nothing_else_is_offered() {
    let peer = Peer::start_with(&["--strict", "--auth", "ntlm"], None);
    renews(&peer, &peer.endpoint("http", Credentials::Windows(windows(WindowsProtocol::Ntlm)))).await;
    assert_eq!(seen(&peer).await, [("ntlm".to_owned(), false, true)]);
}

#[tokio::test]
async fn negotiate_falls_back_to_ntlm_when_no_kdc_answers() {
    let peer = Peer::start_with(&SCHEMES, None);
    let mut logon = windows(WindowsProtocol::Negotiate);
    // A port that nobody listens on.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    logon.kerberos.kdc = Some(closed.to_string());
    for scheme in ["https", "http"] {
        renews(&peer, &peer.endpoint(scheme, Credentials::Windows(logon.clone()))).await;
    }
    logon.protocol = WindowsProtocol::Kerberos;
    let error = refusal(&peer.endpoint("https", Credentials::Windows(logon))).await;
    assert!(matches!(&error, WireError::NoKdc { why, .. } if why.contains(&closed.to_string())), "{error:?}");
    let trouble = exchange::CommandError::from(error).trouble();
    assert_eq!(trouble.code, "kdc_unreachable");
    for way_out in ["kdc", "realm", "krb5.conf", "SRV"] {
        assert!(trouble.action.contains(way_out), "{trouble:?}");
    }
}

#[tokio::test]
async fn a_renewal_runs_over_kerberos_with_tickets_of_a_real_kdc() {
    let kdc = Kdc::start(&[]);
    for offered in ["kerberos", "negotiate", "negotiate,kerberos"] {
        let peer = Peer::start_with(&["--strict", "--auth", offered], Some(&kdc));
        for protocol in [WindowsProtocol::Kerberos, WindowsProtocol::Negotiate] {
            let logon = kerberos(&kdc, protocol);
            renews(&peer, &peer.endpoint("http", Credentials::Windows(logon.clone()))).await;
            renews(&peer, &peer.endpoint("https", Credentials::Windows(logon.clone()))).await;
            renews(&peer, &peer.endpoint("https", always(logon))).await;
        }
        let scheme = if offered.contains("kerberos") { "kerberos" } else { "negotiate" };
        let way = |tls, sealed| (scheme.to_owned(), tls, sealed);
        assert_eq!(seen(&peer).await, [way(false, true), way(true, false), way(true, true)], "{offered}");
    }
}

#[tokio::test]
async fn kerberos_says_what_is_wrong_and_does_not_try_a_wrong_password_elsewhere() {
    let kdc = Kdc::start(&[]);
    let peer = Peer::start_with(&["--auth", "kerberos,negotiate,ntlm"], Some(&kdc));
    let endpoint = |logon: WindowsLogon| peer.endpoint("https", Credentials::Windows(logon));
    for protocol in [WindowsProtocol::Kerberos, WindowsProtocol::Negotiate] {
        let wrong = WindowsLogon { proof: password("wrong"), ..kerberos(&kdc, protocol) };
        let error = refusal(&endpoint(wrong)).await;
        assert!(matches!(error, WireError::Refused { code: "kerberos_denied", .. }), "{error:?}");
    }
    let mut elsewhere = kerberos(&kdc, WindowsProtocol::Kerberos);
    elsewhere.kerberos.service_principal = Some("HTTP/mail.example.com".to_owned());
    let error = refusal(&endpoint(elsewhere)).await;
    let WireError::Refused { code: "kerberos_denied", why, action, .. } = &error else { panic!("{error:?}") };
    assert!(why.contains("server not found") && action.contains("service_principal"), "{error:?}");
    let mut nobody = kerberos(&kdc, WindowsProtocol::Kerberos);
    nobody.username = "svc-rotate".to_owned();
    nobody.kerberos.realm = None;
    let error = refusal(&endpoint(nobody)).await;
    assert!(matches!(error, WireError::Refused { code: "realm_unknown", .. }), "{error:?}");
}

#[tokio::test]
async fn a_key_of_a_keytab_takes_the_place_of_the_password() {
    let kdc = Kdc::start(&[]);
    let peer = Peer::start_with(&["--strict", "--auth", "kerberos,negotiate,ntlm"], Some(&kdc));
    let keys = keytab::read(&std::fs::read(kdc.user_keytab()).unwrap()).unwrap();
    let key = keytab::best(&keys, "svc-rotate", "EXAMPLE.COM").unwrap().clone();
    for protocol in [WindowsProtocol::Kerberos, WindowsProtocol::Negotiate] {
        let logon = WindowsLogon { proof: Proof::Key(key.clone()), ..kerberos(&kdc, protocol) };
        renews(&peer, &peer.endpoint("http", Credentials::Windows(logon))).await;
    }
    let mut stale = key.clone();
    stale.key[0] ^= 1;
    let logon = WindowsLogon { proof: Proof::Key(stale), ..kerberos(&kdc, WindowsProtocol::Kerberos) };
    let error = refusal(&peer.endpoint("http", Credentials::Windows(logon))).await;
    assert!(matches!(error, WireError::Refused { code: "kerberos_denied", .. }), "{error:?}");
    let logon = WindowsLogon { proof: Proof::Key(key), ..windows(WindowsProtocol::Ntlm) };
    let error = refusal(&peer.endpoint("http", Credentials::Windows(logon))).await;
    assert!(matches!(&error, WireError::NotSent { why, .. } if why.contains("NTLM needs a password")), "{error:?}");
}

#[tokio::test]
async fn a_certificate_can_be_the_logon() {
    let peer = Peer::start_with(&SCHEMES, None);
    let mut endpoint = peer.endpoint("https", Credentials::Certificate);
    endpoint.tls = Trust { identity: Some(peer.identity()), ..peer.trust() }.build().unwrap();
    renews(&peer, &endpoint).await;
    assert_eq!(seen(&peer).await, [("certificate".to_owned(), true, false)]);
    endpoint.tls = peer.trust().build().unwrap();
    assert!(matches!(refusal(&endpoint).await, WireError::Refused { code: "credentials_refused", .. }));
}

#[tokio::test]
async fn ntlm_is_bound_to_its_connection_where_that_is_demanded() {
    let peer = Peer::start_with(&["--strict", "--cbt", "--auth", "ntlm,negotiate"], None);
    renews(&peer, &peer.endpoint("https", Credentials::Windows(windows(WindowsProtocol::Ntlm)))).await;
}

#[tokio::test]
async fn wrong_passwords_are_refused_and_the_endpoint_says_what_it_offers() {
    let peer = Peer::start_with(&["--auth", "ntlm,negotiate"], None);
    let wrong = WindowsLogon { proof: password("wrong"), ..windows(WindowsProtocol::Ntlm) };
    for scheme in ["http", "https"] {
        let error = refusal(&peer.endpoint(scheme, Credentials::Windows(wrong.clone()))).await;
        assert!(matches!(error, WireError::Refused { code: "credentials_refused", .. }), "{error:?}");
    }
    let peer = Peer::start(&[]);
    let error = refusal(&peer.endpoint("https", Credentials::Windows(windows(WindowsProtocol::Ntlm)))).await;
    let WireError::Refused { code: "authentication_not_offered", why, .. } = &error else { panic!("{error:?}") };
    assert!(why.ends_with("only: Basic"), "{why}");
}

#[tokio::test]
async fn a_pinned_certificate_needs_no_authority_and_no_other_will_do() {
    let peer = Peer::start(&[]);
    let mut endpoint = peer.endpoint("https", basic(PASSWORD));
    endpoint.tls =
        Trust { pins: vec![crate::connectors::Pin::parse(&"00".repeat(32)).unwrap()], ..peer.trust() }.build().unwrap();
    let WireError::Refused { code: "certificate_not_trusted", why, .. } = refusal(&endpoint).await else {
        panic!("a certificate that is not pinned was trusted");
    };
    let presented = why.rsplit(' ').next().unwrap();
    let pins = vec![crate::connectors::Pin::parse(presented).unwrap()];
    endpoint.tls = Trust { pins, ..Trust::default() }.build().unwrap();
    Session::open(&endpoint).await.unwrap().close().await;
    peer.has_no_shell().await;
}
