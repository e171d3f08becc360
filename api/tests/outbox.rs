//! What did not arrive at the outside, and what an operator does about it.

use chrono::{TimeDelta, Utc};
use db::{MessageEnd, Unexpanded};
use serde_json::{Value, json};

use crate::support::{ALICE, BOB, OSCAR, Service, VERA};

/// Plays a worker whose chat refuses everything.
async fn refuse_all(service: &Service) {
    let chat = |_: &Unexpanded| vec!["chat".to_owned()];
    while service.db.expand_announcements(chat, Utc::now()).await.unwrap() {}
    let lease_ends = || Utc::now() + TimeDelta::minutes(5);
    while let Some(claimed) = service.db.claim_messages("chat", 1, lease_ends(), Utc::now()).await.unwrap().pop() {
        let end = MessageEnd::Dead { why: "chat.example answers 400 Bad Request".to_owned() };
        service.db.write(async |tx| tx.finish_message(&claimed, &end, Utc::now()).await).await.unwrap();
    }
}

fn events(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|message| message["event"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn dead_letters_are_listed_sent_again_and_given_up_by_an_operator() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    refuse_all(&service).await;
    let dead = service.get(ALICE, "/v1/outbox?status=dead&target=chat").await.expect(200);
    assert_eq!(events(&dead), ["renewal.awaiting_approval", "renewal.requested"]);
    let place = format!("/v1/outbox/{}", dead["items"][0]["id"].as_str().unwrap());
    let shown = service.get(ALICE, &place).await.expect(200);
    assert_eq!((&shown["news"]["plan_digest"], &shown["news"]["gate"]), (&json!(digest), &json!("execute")));
    assert_eq!(shown["last_error"], "chat.example answers 400 Bad Request");

    service.post(BOB, &format!("{place}/replay"), json!({})).await.problem(403, "forbidden");
    let replayed = service.post(OSCAR, &format!("{place}/replay"), json!({"reason": "The chat is mended"})).await;
    let replayed = replayed.expect(200);
    assert_eq!((&replayed["status"], &replayed["failures"]), (&json!("pending"), &json!(0)));
    let due = service.get(ALICE, &place).await.expect(200);
    assert!(due["lane_due_at"].is_string(), "{due}");

    service.post(OSCAR, &format!("{place}/drop"), json!({})).await.problem(422, "invalid_request");
    let why = json!({"reason": "Everybody knows by now"});
    let dropped = service.post(OSCAR, &format!("{place}/drop"), why.clone()).await.expect(200);
    assert_eq!(dropped["status"], "dropped");
    service.post(OSCAR, &format!("{place}/drop"), why).await.problem(409, "message_is_over");

    let audit = service.get(VERA, &format!("{url}/audit")).await.expect(200);
    let told: Vec<_> = audit["items"].as_array().unwrap().iter().rev().take(2).collect();
    assert_eq!((&told[1]["action"], &told[1]["actor"]), (&json!("outbox.replayed"), &json!(OSCAR.name)));
    assert_eq!(
        (&told[0]["action"], &told[0]["detail"]["reason"]),
        (&json!("outbox.dropped"), &json!("Everybody knows by now"))
    );
    service.stop().await;
}

#[tokio::test]
async fn the_outbox_has_pages_and_says_what_it_does_not_know() {
    let service = Service::start().await;
    service.planned().await;
    refuse_all(&service).await;
    let first = service.get(ALICE, "/v1/outbox?limit=1").await.expect(200);
    let next = format!("/v1/outbox?limit=1&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = service.get(ALICE, &next).await.expect(200);
    assert_eq!([events(&first), events(&second)].concat(), ["renewal.awaiting_approval", "renewal.requested"]);
    assert!(second["next_cursor"].is_null());
    service.get(ALICE, "/v1/outbox?status=lost").await.problem(400, "invalid_parameter");
    service.get(ALICE, &format!("/v1/outbox/{}", uuid::Uuid::nil())).await.problem(404, "not_found");
    service.stop().await;
}
