//! Following a renewal.

use std::time::Duration;

use reqwest::{Method, Response, header};
use serde_json::{Value, json};

use crate::support::{ALICE, Answer, BOB, Service};

/// Far longer than anything here takes: a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// One event: its id, its name, its entry.
type Event = (i64, String, Value);

/// A stream that is read as it comes.
struct Events {
    response: Response,
    text: String,
}

impl Events {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next event; `None` when the stream is over. Comments and settings are passed over.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let event = parse(block);
                self.text = rest.to_owned();
                if event.is_some() {
                    return event;
                }
                continue;
            }
            let chunk =
                tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("an event comes").unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Everything until the end.
    async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn parse(block: &str) -> Option<Event> {
    let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let data: Value = serde_json::from_str(line("data:")?).unwrap();
    Some((line("id:")?.parse().unwrap(), line("event:")?.to_owned(), data))
}

#[tokio::test]
async fn a_stream_tells_what_happens_and_ends_with_the_renewal() {
    let service = Service::start().await;
    let url = service.raise().await;
    let path = format!("{url}/events");
    let mut events = Events::of(service.request(ALICE, Method::GET, &path)).await;
    assert_eq!(events.next().await.unwrap().1, "renewal.requested");
    let digest = service.plan(&url).await.digest().to_string();
    assert_eq!(events.next().await.unwrap().1, "renewal.planning");
    service.decide(BOB, &url, "reject", &digest).await.expect(201);
    let rest = events.rest().await;
    let names: Vec<_> = rest.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["step.started", "plan.made", "renewal.awaiting_approval", "decision.rejected", "renewal.rejected"]
    );
    for (id, name, entry) in &rest {
        assert_eq!((&entry["sequence"], &entry["action"]), (&json!(id), &json!(name)));
    }
    service.stop().await;
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_that_was_received() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    service.decide(BOB, &url, "reject", &digest).await.expect(201);
    let path = format!("{url}/events");
    let all = Events::of(service.request(ALICE, Method::GET, &path)).await.rest().await;
    assert_eq!(all.iter().map(|e| e.0).collect::<Vec<_>>(), (1..=all.len() as i64).collect::<Vec<_>>());
    let resumed = service.request(ALICE, Method::GET, &path).header("Last-Event-ID", "3");
    assert_eq!(Events::of(resumed).await.rest().await, all[3..]);
    let after = service.request(ALICE, Method::GET, &format!("{path}?after=5"));
    assert_eq!(Events::of(after).await.rest().await, all[5..]);
    let both = service.request(ALICE, Method::GET, &format!("{path}?after=1")).header("Last-Event-ID", "4");
    assert_eq!(Events::of(both).await.rest().await, all[4..]);
    let bad = service.request(ALICE, Method::GET, &path).header("Last-Event-ID", "seven");
    Answer::of(bad.send().await.unwrap()).await.problem(400, "invalid_parameter");
    service.get(ALICE, "/v1/renewals/019361b2-7f3a-7c61-9a55-0c7be3b0f4d1/events").await.problem(404, "not_found");
    service.stop().await;
}

#[tokio::test]
async fn a_long_poll_answers_when_something_happens() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    let poll = |query: &str| {
        let request = service.request(ALICE, Method::GET, &format!("{url}/events?{query}"));
        let answer = request.header(header::ACCEPT, "application/json").send();
        async {
            Answer::of(tokio::time::timeout(PATIENCE, answer).await.expect("an answer comes").unwrap())
                .await
                .expect(200)
        }
    };
    let there = poll("").await;
    let last = there["items"].as_array().unwrap().last().unwrap()["sequence"].as_i64().unwrap();
    assert_eq!(poll(&format!("after={last}")).await["items"], json!([]));
    let query = format!("after={last}&wait_seconds=60");
    let (news, _) = tokio::join!(poll(&query), service.decide(BOB, &url, "reject", &digest));
    assert_eq!(news["items"][0]["action"], "decision.rejected");
    service.stop().await;
}

#[tokio::test]
async fn streams_end_when_the_service_stops() {
    let service = Service::start().await;
    let url = service.raise().await;
    let mut events = Events::of(service.request(ALICE, Method::GET, &format!("{url}/events"))).await;
    assert!(events.next().await.is_some());
    service.shutdown.cancel();
    assert!(events.rest().await.is_empty());
    service.stop().await;
}
