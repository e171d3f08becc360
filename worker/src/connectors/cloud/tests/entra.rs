use futures_util::{FutureExt as _, future::join_all};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::{super::*, peer::*};

#[tokio::test]
async fn one_token_serves_everybody_until_shortly_before_it_ends() {
    let peer = Peer::start().await;
    let cloud = peer.cloud();
    join_all((0..8).map(|_| cloud.token(Scope::Graph))).await.into_iter().for_each(|token| drop(token.unwrap()));
    cloud.token(Scope::Graph).await.unwrap();
    assert_eq!(peer.asked("token", "POST").await.len(), 1);
    cloud.token(Scope::ExchangeOnline).await.unwrap();
    assert_eq!(peer.asked("token", "POST").await.len(), 2, "each service has its own");
}

#[tokio::test]
async fn a_token_is_replaced_before_it_ends_and_used_on_while_that_fails() {
    let peer = Peer::start().await;
    peer.tell("/lifetime", json!({ "seconds": 0 })).await;
    let cloud = peer.cloud();
    cloud.token(Scope::Graph).await.unwrap();
    peer.tell("/lifetime", json!({ "seconds": 3600 })).await;
    cloud.token(Scope::Graph).await.unwrap();
    assert_eq!(peer.asked("token", "POST").await.len(), 2);

    peer.fault(json!({ "on": "token", "count": 1000, "status": 503, "body": "" })).await;
    let now = Utc::now();
    let hour = TimeDelta::hours(1);
    cloud.hold(Scope::Graph, "stands", now - hour, now + hour);
    assert_eq!(cloud.token(Scope::Graph).await.unwrap().expose_secret(), "stands");
    cloud.hold(Scope::Graph, "has ended", now - hour, now - hour);
    assert_eq!(cloud.token(Scope::Graph).await.unwrap_err().trouble.code, "cloud_unavailable");
}

#[tokio::test]
async fn nobody_waits_for_a_new_token_while_the_old_one_stands() {
    let peer = Peer::start().await;
    let cloud = peer.cloud();
    let (now, hour) = (Utc::now(), TimeDelta::hours(1));
    cloud.hold(Scope::Graph, "stands", now - hour, now + hour);
    let mut fetching = Box::pin(cloud.token(Scope::Graph));
    assert!(futures_util::poll!(&mut fetching).is_pending());
    let meanwhile = cloud.token(Scope::Graph).now_or_never().unwrap();
    assert_eq!(meanwhile.unwrap().expose_secret(), "stands");
    assert_ne!(fetching.await.unwrap().expose_secret(), "stands");
    assert_eq!(peer.asked("token", "POST").await.len(), 1);
}

#[tokio::test]
async fn each_refusal_says_what_the_administrator_must_do() {
    let peer = Peer::start().await;
    let (expired, other) = (pair_of(40, 20), pair());
    peer.client(EXCHANGE_APP, &[&expired]).await;
    let cloud = peer.cloud();
    let refused = async |pair| {
        let signer = Signer::from_pair(pair).unwrap();
        match cloud.accepts(EXCHANGE_APP, &signer).await {
            Ok(Acceptance::NotYet(trouble)) => trouble,
            Ok(Acceptance::Accepted) => panic!("it is accepted"),
            Err(error) => {
                assert_eq!(error.failure, Failure::Refused);
                error.trouble
            }
        }
    };
    let trouble = refused(&expired).await;
    assert_eq!(trouble.code, "key_expired");
    assert!(trouble.action.contains(expired.thumbprint().as_str()) && trouble.action.contains(EXCHANGE_APP));
    let trouble = refused(&other).await;
    assert_eq!(trouble.code, "key_not_registered");
    assert!(trouble.action.contains(other.thumbprint().as_str()));
    assert!(!trouble.message.contains("eyJ"), "{}", trouble.message);
    assert!(trouble.message.contains("AADSTS700027") && trouble.message.contains("[redacted]"));
    assert!(!trouble.message.contains("Trace ID"));

    let mut late = peer.way();
    late.timeline.virtual_origin += TimeDelta::hours(-1);
    let signer = Signer::from_pair(&peer.own).unwrap();
    let error = Cloud::new(late).unwrap().accepts(CLIENT, &signer).await.unwrap_err();
    assert_eq!(error.trouble.code, "assertion_out_of_time");

    let error = cloud.accepts(OBJECT, &signer).await.unwrap_err();
    assert_eq!(error.trouble.code, "application_unknown");

    let mut elsewhere = peer.way();
    elsewhere.tenant = "00000000-0000-0000-0000-000000000000".to_owned();
    let error = Cloud::new(elsewhere).unwrap().accepts(CLIENT, &signer).await.unwrap_err();
    assert_eq!(error.trouble.code, "tenant_unknown");

    let mut wrong = peer.way();
    wrong.endpoints.exchange_online_resource = "https://outlook.office365.us".to_owned();
    let error = Cloud::new(wrong).unwrap().accepts(CLIENT, &signer).await.unwrap_err();
    assert_eq!(error.trouble.code, "scope_invalid");
}

/// As after a change of the certificate that rekey signs in with.
#[tokio::test]
async fn a_key_of_rekeys_own_that_not_every_machine_of_entra_knows_yet_is_tried_again() {
    let peer = Peer::start().await;
    let cloud = peer.cloud();
    let unknown = |count: u32| {
        let body = json!({
            "error": "invalid_client", "error_codes": [700_027],
            "error_description": "AADSTS700027: The certificate is not registered on application. [Reason - The key was not found.]\r\nTrace ID: x",
        });
        json!({ "on": "token", "count": count, "status": 401, "body": body.to_string() })
    };
    peer.fault(unknown(2)).await;
    cloud.token(Scope::Graph).await.unwrap();
    assert_eq!(peer.asked("token", "POST").await.len(), 3);
    peer.fault(unknown(1000)).await;
    let error = cloud.token(Scope::ExchangeOnline).await.unwrap_err();
    assert_eq!((error.may_pass(), error.trouble.code.as_str()), (true, "key_not_registered"));
}

#[tokio::test]
async fn refusals_that_only_a_text_tells_apart_are_told_apart() {
    let peer = Peer::start().await;
    let cloud = peer.cloud();
    let signer = Signer::from_pair(&peer.own).unwrap();
    for (number, code, expected) in [
        (7_000_215, "invalid_client", "secret_refused"),
        (7_000_222, "invalid_client", "secret_refused"),
        (53_003, "access_denied", "token_refused"),
    ] {
        let body = json!({
            "error": code, "error_description": format!("AADSTS{number}: No. Assertion was {{assertion}}.\r\nTrace ID: x"),
            "error_codes": [number], "timestamp": "2026-11-26 06:00:00Z", "trace_id": "x", "correlation_id": "y"
        });
        peer.fault(json!({ "on": "token", "status": 401, "body": body })).await;
        let error = cloud.accepts(CLIENT, &signer).await.unwrap_err();
        assert_eq!((error.failure, error.trouble.code.as_str()), (Failure::Refused, expected), "{number}");
        assert!(error.trouble.message.contains(&number.to_string()) && !error.to_string().contains("eyJ"), "{error}");
        assert!(!format!("{error:?}").contains("eyJ"));
    }
}

#[tokio::test]
async fn trouble_of_the_token_service_is_waited_for() {
    let peer = Peer::start().await;
    peer.fault(json!({ "on": "token", "status": 503, "body": "<html>busy</html>" })).await;
    peer.fault(json!({ "on": "token", "status": 429, "headers": { "Retry-After": "1" }, "body": "" })).await;
    peer.fault(json!({ "on": "token", "do": "drop" })).await;
    let begun = std::time::Instant::now();
    peer.cloud().token(Scope::Graph).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "the service has asked for a second");
    assert_eq!(peer.asked("token", "POST").await.len(), 4);
}

#[tokio::test]
async fn a_service_that_is_not_there_or_not_trusted_is_told_apart() {
    let peer = Peer::start().await;
    let mut way = peer.way();
    way.patience.tries = 1;
    way.tls = crate::connectors::Trust::ca(certificate_pem(&peer.own).as_bytes()).build().unwrap();
    let error = Cloud::new(way).unwrap().token(Scope::Graph).await.unwrap_err();
    assert_eq!((error.failure, error.trouble.code.as_str()), (Failure::Refused, "certificate_not_trusted"));
    assert!(error.trouble.message.contains("cloud peer"), "{error}");

    let mut way = peer.way();
    way.patience.tries = 1;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    way.endpoints.login = Url::parse(&format!("https://{nobody}/")).unwrap();
    let error = Cloud::new(way).unwrap().token(Scope::Graph).await.unwrap_err();
    assert_eq!((error.may_pass(), error.trouble.code.as_str()), (true, "cloud_unreachable"));
}

#[tokio::test]
async fn our_assertion_and_those_of_microsofts_libraries_pass_the_same_check() {
    let peer = Peer::start().await;
    peer.cloud().token(Scope::Graph).await.unwrap();
    for how in ["msal", "msal-x5c", "azure-identity"] {
        let mut program = peers::python("sign_in.py");
        // They would beat the authority that the library is given.
        program.env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE");
        program.env("NO_PROXY", "localhost");
        let given = json!({
            "how": how, "authority": peer.base(), "tenant": TENANT, "client_id": CLIENT, "certificate": peer.file("own.pem"),
            "key": peer.file("own.key"), "ca": peer.file("ca.pem"), "scope": "https://graph.microsoft.com/.default"
        });
        let (succeeded, said) = peers::run(program, &given.to_string());
        assert!(succeeded && said.contains("signed in"), "{how}: {said}");
    }
    assert_eq!(peer.asked("token", "POST").await.len(), 4);
}

#[tokio::test]
async fn nothing_shows_a_secret() {
    let peer = Peer::start().await;
    let cloud = peer.cloud();
    let token = cloud.token(Scope::Graph).await.unwrap();
    let shown = format!("{cloud:?} {token:?} {:?}", peer.way());
    assert!(shown.contains(CLIENT) && !shown.contains("eyJ") && !shown.contains("PRIVATE"), "{shown}");
}
