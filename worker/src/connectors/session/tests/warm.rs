//! Sessions that stay open between steps.

use psrp::Command;
use serde_json::json;

use super::{super::*, peer::Peer};
use crate::connectors::Sessions;

async fn auth_config(endpoint: &Endpoint) -> Result<usize, WireError> {
    let mut session = endpoint.session().await?;
    Ok(session.invoke(Command::new("Get-AuthConfig")).await?.output.len())
}

async fn shells(peer: &Peer) -> usize {
    peer.ask("/state").await["shells"].as_object().unwrap().len()
}

/// How many shells were opened in all.
async fn created(peer: &Peer) -> usize {
    let events = peer.ask("/events").await;
    events.as_array().unwrap().iter().filter(|event| event["action"] == "Create").count()
}

#[tokio::test]
async fn a_session_is_used_again_while_it_is_warm_and_given_back_at_the_end() {
    let peer = Peer::start(&["--strict"]);
    let endpoint = peer.https();
    for _ in 0..3 {
        assert_eq!(auth_config(&endpoint).await.unwrap(), 1);
    }
    assert_eq!((created(&peer).await, shells(&peer).await), (1, 1));
    endpoint.sessions.close().await;
    peer.has_no_shell().await;
    assert!(matches!(auth_config(&endpoint).await, Err(WireError::NotSent { .. })), "none are given out any more");
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn no_more_sessions_are_open_than_allowed_and_others_wait_their_turn() {
    let peer = Peer::start(&["--strict", "--max-shells", "3"]);
    let sessions = Sessions::new(3);
    let endpoints: Vec<Endpoint> = (0..12)
        .map(|number| {
            let mut endpoint = if number % 2 == 0 { peer.https() } else { peer.http() };
            endpoint.sessions = sessions.clone();
            endpoint
        })
        .collect();
    let answers = futures_util::future::join_all(endpoints.iter().map(auth_config)).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(1))), "{answers:?}");
    assert!(sessions.open() <= 3, "{sessions:?}");
    let faults = peer.ask("/events").await;
    assert!(faults.as_array().unwrap().iter().all(|event| event.get("fault").is_none_or(serde_json::Value::is_null)));
    sessions.close().await;
    assert_eq!(sessions.open(), 0);
    peer.has_no_shell().await;
    peer.has_nothing_to_object().await;
}

#[tokio::test]
async fn a_warm_session_that_was_lost_meanwhile_is_opened_anew() {
    for fault in [json!("kill-shell"), json!("drop")] {
        let peer = Peer::start(&[]);
        let endpoint = peer.https();
        auth_config(&endpoint).await.unwrap();
        peer.inject(json!({"action": "Command", "count": 1, "do": fault})).await;
        if fault == json!("drop") {
            // The command left, or may have: nobody says that it did not.
            assert!(matches!(auth_config(&endpoint).await, Err(WireError::UnknownOutcome { .. })));
        }
        assert_eq!(auth_config(&endpoint).await.unwrap(), 1, "{fault}");
        endpoint.sessions.close().await;
        peer.has_no_shell().await;
    }
}

#[tokio::test]
async fn a_session_that_is_dropped_in_the_middle_is_closed() {
    let peer = Peer::start(&[]);
    let endpoint = peer.https();
    let mut session = endpoint.session().await.unwrap();
    let sleeping = session.invoke(Command::new("Test-PeerSleep").with("Seconds", 60));
    let running = async {
        while peer.ask("/events").await.as_array().unwrap().iter().all(|event| event["action"] != "Receive") {
            tokio::task::yield_now().await;
        }
        while peer.ask("/commands").await.as_array().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = sleeping => panic!("it sleeps for a minute"),
        () = running => {}
    }
    drop(session);
    endpoint.sessions.close().await;
    peer.has_no_shell().await;
}

#[tokio::test]
async fn the_limit_of_the_server_is_understood_and_passes() {
    let peer = Peer::start(&["--max-shells", "1"]);
    let (first, second) = (peer.https(), peer.https());
    let held = first.session().await.unwrap();
    let Err(WireError::NotSent { why, .. }) = second.session().await.map(drop) else { panic!("it can be tried again") };
    assert!(why.contains("end by themselves"), "{why}");
    drop(held);
    first.sessions.close().await;
    assert_eq!(auth_config(&second).await.unwrap(), 1);
    second.sessions.close().await;
    peer.has_no_shell().await;
}
