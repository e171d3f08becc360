//! How much is answered: each credential has its own account, each address one for failures, and the record stays small.

use std::num::NonZeroU32;

use api::{BasicUser, Grants, Identity, Limits, Role};
use reqwest::{Method, header::AUTHORIZATION};
use serde_json::json;

use crate::support::{ALICE, Answer, BOB, Service};

fn few() -> Limits {
    let number = |number| NonZeroU32::new(number).unwrap();
    Limits { requests_per_minute: number(1), burst: number(4), failures_per_minute: number(3), streams: 2 }
}

async fn start() -> Service {
    Service::start_as(|state| state.with_limits(few())).await
}

#[tokio::test]
async fn a_credential_that_asks_too_much_waits_and_others_do_not() {
    let service = start().await;
    for left in (0..4).rev() {
        let answer = service.get(ALICE, "/v1/renewals").await;
        answer.expect(200);
        assert_eq!(answer.header("ratelimit-policy"), "\"requests\";q=4;w=240");
        assert!(answer.header("ratelimit").starts_with(&format!("\"requests\";r={left};t=")), "{answer:?}");
    }
    for _ in 0..3 {
        let answer = service.get(ALICE, "/v1/renewals").await;
        answer.problem(429, "too_many_requests");
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        assert!(answer.header("ratelimit").starts_with("\"requests\";r=0;t="));
    }
    service.get(BOB, "/v1/renewals").await.expect(200);
    Answer::of(service.anonymous(Method::GET, "/healthz").send().await.unwrap()).await.expect(200);
    let db = service.db.clone();
    service.stop().await;
    let told: Vec<_> = Service::recorded(&db).await.into_iter().map(|entry| (entry.actor, entry.detail)).collect();
    let [(last, counted), (first, written)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((last.as_str(), first.as_str()), (ALICE.name, ALICE.name));
    assert_eq!((&written["problem"], &counted["repeated"]), (&json!("too_many_requests"), &json!(2)));
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_stopped_and_good_tokens_are_not() {
    let user = BasicUser {
        username: "mid".to_owned(),
        password: "correct horse battery".into(),
        grants: Grants { roles: vec![Role::Requester], ..Grants::default() },
    };
    let identity = Identity { basic: vec![user], ..Identity::default() };
    let service = Service::start_as(|state| state.with_identity(identity).unwrap().with_limits(few())).await;
    let guess = async |password: &str| {
        let request = service.anonymous(Method::GET, "/v1/whoami").basic_auth("mid", Some(password));
        Answer::of(request.send().await.unwrap()).await
    };
    for password in ["a", "b", "c"] {
        guess(password).await.problem(401, "unauthenticated");
    }
    guess("d").await.problem(429, "too_many_failures");
    let right = guess("correct horse battery").await;
    right.problem(429, "too_many_failures");
    assert!(right.header("retry-after").parse::<u64>().unwrap() >= 1, "nobody learns that this one was right");
    service.get(ALICE, "/v1/whoami").await.expect(200);
    service.stop().await;
}

#[tokio::test]
async fn a_flood_of_refused_requests_leaves_a_few_lines_in_the_record() {
    let service = Service::start_as(|state| state.with_limits(Limits::default())).await;
    for number in 0..150 {
        let request = service
            .anonymous(Method::GET, &format!("/v1/renewals/{number}"))
            .header(AUTHORIZATION, format!("Bearer x.y.{number}"));
        let status = request.send().await.unwrap().status();
        assert!(status == 401 || status == 429, "{status}");
    }
    let db = service.db.clone();
    service.stop().await;
    let entries = Service::recorded(&db).await;
    assert!(entries.len() <= 4, "{entries:#?}");
    assert!(entries.iter().all(|entry| entry.actor == "anonymous" && entry.detail["address"] == "127.0.0.1"));
    let counted: u64 = entries.iter().map(|entry| entry.detail["repeated"].as_u64().unwrap_or(1)).sum();
    assert_eq!(counted, 150, "none is forgotten");
}

#[tokio::test]
async fn who_waits_for_too_many_events_is_refused() {
    let limits =
        Limits { requests_per_minute: NonZeroU32::new(6000).unwrap(), burst: NonZeroU32::new(1000).unwrap(), ..few() };
    let service = Service::start_as(|state| state.with_limits(limits)).await;
    let url = format!("{}/events", service.raise().await);
    let follow = async || service.request(ALICE, Method::GET, &url).send().await.unwrap();
    let (first, second) = (follow().await, follow().await);
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    Answer::of(follow().await).await.problem(429, "too_many_streams");
    assert_eq!(service.request(BOB, Method::GET, &url).send().await.unwrap().status(), 200);
    service.stop().await;
}
