//! Against the lab's ticket systems, over their wire.

use std::time::Duration;

use lab::{
    Lab, Options,
    faults::Fault,
    itsm::{TicketDisturbance, TicketRequests, TicketSystem},
};
use serde_json::{Value as Json, json};

use super::{jira::Verdict, servicenow::Closing, *};

/// An instance, people in it, and the way to it.
struct Place {
    lab: Lab,
    servicenow: ServiceNow,
    jira: Jira,
}

fn way(lab: &Lab, url: &str, credentials: TicketCredentials) -> TicketWay {
    TicketWay {
        url: url.parse().unwrap(),
        credentials,
        trust: Trust::ca(lab.ca_pem().as_bytes()),
        allow: AllowList::parse(["127.0.0.0/8:*"]).unwrap(),
        patience: TicketPatience { tries: 3, first: Duration::from_millis(5), longest: Duration::from_secs(2) },
    }
}

fn secret(text: &lab::Secret) -> SecretString {
    SecretString::from(text.expose().to_owned())
}

impl Place {
    async fn start() -> Self {
        let lab = Lab::start(Options { tickets: true, ..Options::default() }).await.unwrap();
        let told = lab.tickets().unwrap();
        let client_id = told.servicenow_user.clone();
        let oauth =
            TicketCredentials::ClientCredentials { client_id, client_secret: secret(&told.servicenow_password) };
        let basic = TicketCredentials::Basic { username: told.jira_user.clone(), password: secret(&told.jira_token) };
        let servicenow = ServiceNow::new(way(&lab, &told.servicenow_url, oauth)).unwrap();
        let jira = Jira::new(way(&lab, &told.jira_url, basic)).unwrap();
        Self { lab, servicenow, jira }
    }

    async fn act(&self, system: &str, what: Json) -> Json {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}/tickets/{system}", self.lab.control_url());
        http.post(url).json(&what).send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    }

    /// A change that may be carried out; its `sys_id`.
    async fn scheduled(&self) -> String {
        let change = self.act("servicenow", json!({ "do": "create", "fields": { "type": "standard" } })).await;
        let number = change["number"].clone();
        self.act("servicenow", json!({ "do": "update", "ticket": number, "fields": { "state": "-2" } })).await;
        change["sys_id"].as_str().unwrap().to_owned()
    }

    fn disturb(&self, method: &str, about: &str, disturbance: TicketDisturbance) {
        let requests = TicketRequests {
            system: Some(TicketSystem::Servicenow),
            method: Some(method.to_owned()),
            about: Some(about.to_owned()),
            skip: 0,
            times: 1,
        };
        self.lab.apply(Fault::Ticket { requests, disturbance }).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_begun_and_closed() {
    let place = Place::start().await;
    let id = place.scheduled().await;
    let servicenow = &place.servicenow;
    servicenow.move_to(&id, "-1", None).await.unwrap();
    servicenow.move_to(&id, "0", None).await.unwrap();
    let closing = Closing { code: "successful", notes: "Renewed" };
    servicenow.move_to(&id, "3", Some(&closing)).await.unwrap();
    let change = servicenow.change(&id).await.unwrap();
    assert_eq!((change.state.as_str(), change.close_code.as_str()), ("3", "successful"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_not_taken_is_seen() {
    let place = Place::start().await;
    let id = place.scheduled().await;
    place.disturb("PATCH", &id, TicketDisturbance::Abort);
    let error = place.servicenow.move_to(&id, "-1", None).await.unwrap_err();
    assert_eq!(error.trouble.code, "ticket_desync");
    assert!(error.may_pass() && error.trouble.message.contains("is in state -2 and did not become -1"), "{error}");
    let error = place.servicenow.move_to(&id, "3", None).await.unwrap_err();
    assert_eq!(error.trouble.code, "ticket_desync", "the model knows no such way");
    place.servicenow.move_to(&id, "-1", None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_whose_answer_is_lost_is_written_once() {
    let place = Place::start().await;
    let id = place.scheduled().await;
    place.disturb("PATCH", &id, TicketDisturbance::DropAfter);
    let error = place.servicenow.note(&id, "Begun [one]", "one").await.unwrap_err();
    assert_eq!(error.failure, Failure::UnknownOutcome);
    place.servicenow.note(&id, "Begun [one]", "one").await.unwrap();
    let change = place.servicenow.change(&id).await.unwrap();
    assert_eq!(change.sys_mod_count, "2", "one for the state, one for the note");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_only_waits_in_a_queue_is_not_taken_for_done() {
    let place = Place::start().await;
    let id = place.scheduled().await;
    place.disturb("PATCH", &id, TicketDisturbance::SessionQueue);
    let error = place.servicenow.note(&id, "Begun [one]", "one").await.unwrap_err();
    assert_eq!(error.trouble.code, "ticket_queue_full");
    place.disturb("GET", &id, TicketDisturbance::Throttle(1));
    assert_eq!(place.servicenow.change(&id).await.unwrap().state, "-2", "it waits as it is told");
    place.disturb("GET", &id, TicketDisturbance::Throttle(60));
    let error = place.servicenow.change(&id).await.unwrap_err();
    assert_eq!(error.failure, Failure::Again { after: Some(Duration::from_secs(60)) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_taken_any_more_is_replaced() {
    let place = Place::start().await;
    let id = place.scheduled().await;
    place.servicenow.change(&id).await.unwrap();
    place.lab.apply(Fault::TicketTokens).unwrap();
    place.servicenow.change(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_wrong_are_told_and_not_shown() {
    let place = Place::start().await;
    let told = place.lab.tickets().unwrap();
    let wrong = TicketCredentials::ApiKey(SecretString::from("now_not-the-key"));
    let servicenow = ServiceNow::new(way(&place.lab, &told.servicenow_url, wrong)).unwrap();
    let error = servicenow.change(&"0".repeat(32)).await.unwrap_err();
    assert_eq!((error.failure, error.trouble.code.as_str()), (Failure::Refused, "ticket_sign_in_refused"));
    assert!(!format!("{error:?} {servicenow:?}").contains("not-the-key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_on_this_machine_is_asked_only_if_the_configuration_says_so() {
    let place = Place::start().await;
    let told = place.lab.tickets().unwrap();
    let key = || TicketCredentials::ApiKey(secret(&told.servicenow_password));
    let address = TicketWay { allow: AllowList::default(), ..way(&place.lab, &told.servicenow_url, key()) };
    let refused = ServiceNow::new(address).unwrap_err();
    assert!(matches!(refused, InvalidTicketWay::NotAllowed(_)), "{refused}");
    // Its name is configured; that it leads to this machine is not.
    let mut url: Url = told.servicenow_url.parse().unwrap();
    url.set_host(Some("localhost")).unwrap();
    let named = TicketWay { allow: AllowList::default(), ..way(&place.lab, url.as_str(), key()) };
    let error = ServiceNow::new(named).unwrap().change(&place.scheduled().await).await.unwrap_err();
    assert_eq!(error.trouble.code, "ticket_system_unreachable");
    assert!(error.trouble.message.contains("belongs to this machine or its cloud"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_none_reaches_no_path() {
    let place = Place::start().await;
    for id in ["", "CHG0030022", "../sys_user", "0f4ac6c4b750230096c3e4f6ee11a9f^"] {
        let error = place.servicenow.change(id).await.unwrap_err();
        assert_eq!(error.trouble.code, "ticket_id_invalid", "{id}");
    }
    for key in ["", "CHG-1/../..", "CHG 1"] {
        assert_eq!(place.jira.verdict(key).await.unwrap_err().trouble.code, "ticket_id_invalid", "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_attached_once() {
    let place = Place::start().await;
    let id = place.scheduled().await;
    let issue = place.act("jira", json!({ "do": "create" })).await;
    let key = issue["key"].as_str().unwrap();
    for _ in 0..2 {
        place.servicenow.attach(&id, "plan.json", "application/json", b"{}").await.unwrap();
        place.jira.attach(key, "plan.json", "application/json", b"{}").await.unwrap();
    }
    let expected = [Attachment { name: "plan.json".to_owned(), size: 2 }];
    assert_eq!(place.servicenow.attachments(&id).await.unwrap(), expected);
    assert_eq!(place.jira.attachments(key).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_is_led_through_its_workflow_and_its_approvals_are_read() {
    let place = Place::start().await;
    let issue = place.act("jira", json!({ "do": "create" })).await;
    let key = issue["key"].as_str().unwrap();
    assert_eq!(place.jira.verdict(key).await.unwrap(), Verdict::NotAsked);
    place.jira.move_to(key, "Authorize").await.unwrap();
    assert_eq!(place.jira.verdict(key).await.unwrap(), Verdict::Pending);
    let error = place.jira.move_to(key, "Implementing").await.unwrap_err();
    assert_eq!(error.trouble.code, "ticket_desync");
    place.act("jira", json!({ "do": "approve", "ticket": key })).await;
    assert_eq!(place.jira.verdict(key).await.unwrap(), Verdict::Approved);
    place.jira.move_to(key, "implementing").await.unwrap();
    place.act("jira", json!({ "do": "hold", "ticket": key })).await;
    assert!(place.jira.issue(key, "customfield_10021").await.unwrap().on_hold);
}
