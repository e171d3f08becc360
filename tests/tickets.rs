//! Tickets, from outside: a change in ServiceNow or Jira becomes a renewal, is told about, holds it, and is closed with the evidence at it.

use std::path::Path;

use chrono::{DateTime, Datelike as _, TimeDelta, Utc};
use lab::{Lab, Options, journal::EffectKind};
use reqwest::StatusCode;
use serde_json::{Value as Json, json};

use crate::support::{Database, Person, Rekey, people, until};

/// Four hours in a second.
const SCALE: f64 = 14_400.0;
/// What signs the messages of ServiceNow.
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A lab with its ticket systems, and rekey.
struct Place {
    lab: Lab,
    rekey: Rekey,
    requester: Person,
    approver: Person,
    http: reqwest::Client,
    folder: tempfile::TempDir,
}

impl Place {
    async fn start() -> Self {
        Self::start_under(|_| String::new()).await
    }

    /// With rules of the organization that may depend on the lab's time.
    async fn start_under(policy: impl FnOnce(DateTime<Utc>) -> String) -> Self {
        Self::start_on(None, policy).await
    }

    /// On this database; the SQLite of the configuration if none.
    async fn start_on(database: Option<&Database>, policy: impl FnOnce(DateTime<Utc>) -> String) -> Self {
        let lab = Lab::start(Options { scale: SCALE, tickets: true, ..Options::default() }).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let files = lab.write_files(folder.path()).unwrap();
        add_sources(&files.config, folder.path());
        let text = std::fs::read_to_string(&files.config).unwrap();
        std::fs::write(&files.config, format!("{text}{}", policy(lab.now()))).unwrap();
        let mut command = Rekey::command(&files.config, "serve");
        if let Some(database) = database {
            command.env("REKEY_DATABASE", database.url());
        }
        let rekey = Rekey::start(&mut command).await;
        let [requester, approver] = people(&files.config, [("alice", "administrator"), ("bob", "approver")]).await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { lab, rekey, requester, approver, http, folder }
    }

    async fn control(&self, path: &str, what: Json) -> Json {
        let request = self.http.post(format!("{}{path}", self.lab.control_url())).json(&what);
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{what}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn tickets(&self) -> Json {
        let answer = self.http.get(format!("{}/tickets", self.lab.control_url())).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.json().await.unwrap()
    }

    /// Lets a system send what changes.
    async fn hook(&self, system: &str) {
        let url = format!("{}/v1/hooks/{system}/{system}", self.rekey.url());
        self.control("/tickets/hooks", json!({ "system": system, "url": url, "secret": SECRET })).await;
    }

    async fn change(&self, what: &str, ticket: &Json) -> Json {
        self.control("/tickets/servicenow", json!({ "do": what, "ticket": ticket["number"] })).await
    }

    async fn issue(&self, what: &str, ticket: &Json) -> Json {
        self.control("/tickets/jira", json!({ "do": what, "ticket": ticket["key"] })).await
    }

    /// The renewal of a ticket, once there is one.
    async fn renewal_of(&self, number: &str) -> String {
        let mine = async || {
            let page = self.approver.get(&self.rekey, "/v1/renewals").await;
            let renewals = page["items"].as_array().unwrap().clone();
            renewals.into_iter().find(|renewal| renewal["request"]["ticket"]["number"] == number)
        };
        until("the change becomes a renewal", async || mine().await.is_some()).await;
        mine().await.unwrap()["id"].as_str().unwrap().to_owned()
    }

    async fn renewal(&self, id: &str) -> Json {
        self.approver.get(&self.rekey, &format!("/v1/renewals/{id}")).await
    }

    async fn until_state(&self, id: &str, what: &str, is_so: impl Fn(&Json) -> bool) -> Json {
        until(what, async || {
            let state = self.renewal(id).await["state"].clone();
            assert!(!matches!(state["status"].as_str(), Some("failed" | "cancelled")), "{state:#}");
            is_so(&state)
        })
        .await;
        self.renewal(id).await["state"].clone()
    }

    /// When a phase was first under way, in the lab's time.
    async fn began(&self, id: &str, phase: &str) -> DateTime<Utc> {
        let page = self.approver.get(&self.rekey, &format!("/v1/renewals/{id}/audit?limit=200")).await;
        let entries = page["items"].as_array().unwrap().clone();
        let running =
            |entry: &&Json| entry["action"] == "renewal.running" && entry["detail"]["state"]["phase"] == phase;
        let times = entries.iter().filter(running).map(|entry| entry["at"].as_str().unwrap().parse().unwrap());
        times.min().unwrap()
    }

    async fn until_tickets(&self, what: &str, is_so: impl Fn(&Json) -> bool) -> Json {
        until(what, async || is_so(&self.tickets().await)).await;
        self.tickets().await
    }
}

/// The same configuration, with senders of hooks.
fn add_sources(config: &Path, folder: &Path) {
    std::fs::write(folder.join("hook-secret"), SECRET).unwrap();
    let text = std::fs::read_to_string(config).unwrap();
    let (before, after) = text.split_once("[[organization]]").unwrap();
    // Whoever waits here asks again and again.
    let sources = r#"
[limits]
requests_per_minute = 100000
burst = 100000

[[source]]
id = "servicenow"
kind = "servicenow"
secrets = ["file:hook-secret"]

[[source]]
id = "jira"
kind = "jira"
secrets = ["file:hook-secret"]
fields = { organization = "/fields/customfield_10050" }

[[organization]]"#;
    std::fs::write(config, format!("{before}{sources}{after}")).unwrap();
}

fn change_of<'a>(tickets: &'a Json, number: &str) -> &'a Json {
    let all = tickets["servicenow"]["change_request"].as_array().unwrap();
    all.iter().find(|change| change["number"] == number).unwrap()
}

fn notes_of(tickets: &Json, sys_id: &Json) -> Vec<String> {
    let all = tickets["servicenow"]["sys_journal_field"].as_array().unwrap();
    let of = all.iter().filter(|entry| &entry["element_id"] == sys_id);
    of.map(|entry| entry["value"].as_str().unwrap().to_owned()).collect()
}

fn files_of(tickets: &Json, sys_id: &Json) -> Vec<String> {
    let all = tickets["servicenow"]["sys_attachment"].as_array().unwrap();
    let of = all.iter().filter(|file| &file["table_sys_id"] == sys_id);
    of.map(|file| file["file_name"].as_str().unwrap().to_owned()).collect()
}

fn new_change() -> Json {
    json!({ "do": "create", "by": "alice", "fields": {
        "short_description": "Renew the Exchange Auth certificate", "type": "normal", "u_organization": "contoso"
    } })
}

/// Through the approvals that ServiceNow asks for.
async fn approve_there(place: &Place, change: &Json) {
    place
        .control(
            "/tickets/servicenow",
            json!({ "do": "update", "ticket": change["number"], "fields": { "state": "-4" } }),
        )
        .await;
    place.change("approve", change).await;
    place.change("approve", change).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_servicenow_is_told_of_each_phase_and_closed_with_its_evidence() {
    let mut place = Place::start().await;
    place.hook("servicenow").await;
    let change = place.control("/tickets/servicenow", new_change()).await;
    let number = change["number"].as_str().unwrap();
    let id = place.renewal_of(number).await;
    let open = place.until_state(&id, "the plan is made", |state| state["gate"] == "execute").await;
    let digest = open["digest"].as_str().unwrap().to_owned();
    let told = place
        .until_tickets("the plan stands there", |tickets| {
            notes_of(tickets, &change["sys_id"]).iter().any(|note| note.contains(&digest))
        })
        .await;
    assert_eq!(change_of(&told, number)["correlation_id"], id.as_str());
    assert!(files_of(&told, &change["sys_id"]).iter().any(|name| name.starts_with("rekey-plan-")), "{told:#}");
    approve_there(&place, &change).await;
    until("the ticket is ready", async || place.renewal(&id).await["ticket_standing"]["word"] == "ready").await;
    place.approver.approve_all(&place.rekey, &id).await;
    let told = place.until_tickets("it is closed", |tickets| change_of(tickets, number)["state"] == "3").await;
    assert_eq!(change_of(&told, number)["close_code"], "successful", "{:#}", change_of(&told, number));
    assert!(!change_of(&told, number)["work_start"].as_str().unwrap().is_empty());
    let files = files_of(&told, &change["sys_id"]);
    assert_eq!(files.iter().filter(|name| name.starts_with("rekey-evidence-")).count(), 1, "{files:?}");
    let notes = notes_of(&told, &change["sys_id"]);
    for phase in ["generate", "distribute", "stage", "publish", "restart", "soak", "clear_previous"] {
        let of_phase = |note: &&String| {
            ["has begun", "waits"].iter().any(|what| note.starts_with(&format!("contoso: {phase} {what}")))
        };
        assert_eq!(notes.iter().filter(of_phase).count(), 1, "{phase}: {notes:#?}");
    }
    let asked = told["asked"].as_array().unwrap();
    let gives = |asked: &Json| asked["method"] != "GET" && asked["path"].as_str().unwrap().contains("approv");
    assert!(!asked.iter().any(gives), "approvals are read and never given");
    let sent = told["sent"].as_array().unwrap();
    assert!(sent.len() > 3 && sent.iter().all(|sent| sent["status"].as_u64().unwrap() < 300), "{sent:#?}");
    let log = place.rekey.stop().await;
    let secret = place.lab.tickets().unwrap().servicenow_password.expose();
    assert!(!log.contains(secret), "the secret stands in the log");
    drop(place.folder);
}

/// Whole days, beginning with the third from now: the window opens after two to three days, which are 12 to 18 seconds.
fn days_from_the_third(now: DateTime<Utc>) -> String {
    let days = (3..=6).map(|days| (now + TimeDelta::days(days)).weekday().to_string().to_lowercase());
    let days: Vec<_> = days.map(|day| format!("{day:?}")).collect();
    format!("\n[[organization.policy.window]]\ndays = [{}]\nfrom = \"00:00:00\"\nto = \"00:00:00\"\n", days.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_servicenow_that_is_approved_in_both_places_waits_for_its_window() {
    let place = Place::start_under(days_from_the_third).await;
    place.hook("servicenow").await;
    let change = place.control("/tickets/servicenow", new_change()).await;
    let number = change["number"].as_str().unwrap();
    let id = place.renewal_of(number).await;
    let open = place.until_state(&id, "the plan is made", |state| state["gate"] == "execute").await;
    let digest = open["digest"].as_str().unwrap().to_owned();
    place
        .until_tickets("the plan stands there", |tickets| {
            notes_of(tickets, &change["sys_id"]).iter().any(|note| note.contains(&digest))
        })
        .await;
    place.approver.approve(&place.rekey, &id, &open).await;
    approve_there(&place, &change).await;
    until("the ticket is ready", async || place.renewal(&id).await["ticket_standing"]["word"] == "ready").await;
    let waits = place.renewal(&id).await["state"].clone();
    assert_eq!(waits["status"], "scheduled", "{waits:#}");
    let opens: DateTime<Utc> = waits["until"].as_str().unwrap().parse().unwrap();
    assert_eq!(change_of(&place.tickets().await, number)["state"], "-2", "it is still scheduled there");
    assert!(!place.lab.report().counts.contains_key(&EffectKind::NewCertificate), "nothing is done before the window");
    for gate in ["publish", "clear_previous"] {
        let open = place.until_state(&id, gate, |state| state["gate"] == gate).await;
        place.approver.approve(&place.rekey, &id, &open).await;
    }
    place.until_state(&id, "it succeeds", |state| state["status"] == "succeeded").await;
    let told = place.until_tickets("it is closed", |tickets| change_of(tickets, number)["state"] == "3").await;
    assert_eq!(change_of(&told, number)["close_code"], "successful");
    let began: DateTime<Utc> = place.began(&id, "generate").await;
    assert!(began >= opens, "began {began}, the window opened {opens}");
    let notes = notes_of(&told, &change["sys_id"]);
    let begun = |note: &&String| note.starts_with("contoso: generate has begun");
    assert_eq!(notes.iter().filter(begun).count(), 1, "{notes:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_moved_to_implement_when_the_run_begins_and_not_when_rekey_is_approved() {
    let place = Place::start().await;
    place.hook("servicenow").await;
    let change = place.control("/tickets/servicenow", new_change()).await;
    let number = change["number"].as_str().unwrap();
    let id = place.renewal_of(number).await;
    let open = place.until_state(&id, "the plan is made", |state| state["gate"] == "execute").await;
    place.approver.approve(&place.rekey, &id, &open).await;
    let waits = |state: &Json| state["reason"]["waiting_for"] == "ticket_not_ready";
    place.until_state(&id, "it waits for the ticket", waits).await;
    let told = place
        .until_tickets("that is told", |tickets| {
            notes_of(tickets, &change["sys_id"]).iter().any(|note| note.contains("the ticket is not ready"))
        })
        .await;
    assert_eq!(change_of(&told, number)["state"], "-5", "it is where people have left it");
    let begun = |tickets: &Json| {
        let notes = notes_of(tickets, &change["sys_id"]);
        notes.iter().filter(|note| note.starts_with("contoso: generate has begun")).count()
    };
    assert_eq!(begun(&told), 0);
    approve_there(&place, &change).await;
    let told = place.until_tickets("it begins", |tickets| change_of(tickets, number)["state"] == "-1").await;
    assert!(!place.lab.report().counts.contains_key(&EffectKind::Publish));
    let told =
        if begun(&told) == 1 { told } else { place.until_tickets("that is told", |told| begun(told) == 1).await };
    assert_eq!(begun(&told), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_used_is_kept_once_as_a_refused_delivery() {
    let place = Place::start().await;
    let mut unusable = new_change();
    unusable["fields"]["u_organization"] = json!("northwind");
    let change = place.control("/tickets/servicenow", unusable).await;
    let kept = async || {
        let page = place.requester.get(&place.rekey, "/v1/deliveries?source=servicenow&verdict=refused").await;
        page["items"].as_array().unwrap().clone()
    };
    until("it is asked for", async || !kept().await.is_empty()).await;
    let delivery = kept().await.remove(0);
    assert_eq!((&delivery["ticket_number"], &delivery["problem"]), (&change["number"], &json!("invalid_request")));
    assert!(delivery["detail"].as_str().unwrap().contains("northwind"), "{delivery:#}");
    // A change that comes after it is read in a later look, or in the same: the first is found again, and not kept again.
    let next = place.control("/tickets/servicenow", new_change()).await;
    place.renewal_of(next["number"].as_str().unwrap()).await;
    assert_eq!(kept().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_a_database_cannot_hold_keep_no_other_from_being_read() {
    for database in [None, Some(Database::create().await)] {
        let place = Place::start_on(database.as_ref(), |_| String::new()).await;
        if let Some(database) = &database {
            // Somebody has made the database refuse it.
            let rule = "ALTER TABLE renewal ADD CONSTRAINT refused CHECK (request->>'note' <> 'Not this one')";
            database.run(rule).await;
            let mut refused = new_change();
            refused["fields"]["short_description"] = json!("Not this one");
            place.control("/tickets/servicenow", refused).await;
        }
        let mut odd = new_change();
        odd["fields"]["short_description"] = json!("Renew the\0certificate");
        let odd = place.control("/tickets/servicenow", odd).await;
        let id = place.renewal_of(odd["number"].as_str().unwrap()).await;
        assert_eq!(place.renewal(&id).await["request"]["note"], "Renew the\u{FFFD}certificate");
        let refused = "/v1/deliveries?source=servicenow&verdict=refused";
        let kept = place.requester.get(&place.rekey, refused).await;
        let kept: Vec<_> = kept["items"].as_array().unwrap().iter().map(|one| &one["problem"]).collect();
        assert_eq!(kept, vec!["not_storable"; usize::from(database.is_some())], "once, however often it is found");
        // What is on hold is seen although the change that cannot be stored is found in each look.
        place.change("hold", &odd).await;
        until("it is on hold", async || place.renewal(&id).await["ticket_standing"]["word"] == "on_hold").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_hook_was_lost_is_asked_for() {
    let place = Place::start().await;
    place.hook("servicenow").await;
    place.control("/faults", json!({ "kind": "ticket_hooks", "lose": 100 })).await;
    let change = place.control("/tickets/servicenow", new_change()).await;
    let id = place.renewal_of(change["number"].as_str().unwrap()).await;
    place.until_state(&id, "the plan is made", |state| state["gate"] == "execute").await;
    approve_there(&place, &change).await;
    until("the ticket is ready", async || place.renewal(&id).await["ticket_standing"]["word"] == "ready").await;
    place.change("hold", &change).await;
    until("it is on hold", async || place.renewal(&id).await["ticket_standing"]["word"] == "on_hold").await;
    place.change("resume", &change).await;
    until("it is ready again", async || place.renewal(&id).await["ticket_standing"]["word"] == "ready").await;
    let renewals = place.requester.get(&place.rekey, "/v1/renewals").await;
    assert_eq!(renewals["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_state_is_seen_and_made_up_for_when_the_rule_lets_it() {
    let place = Place::start().await;
    let abort = json!({ "kind": "ticket", "system": "servicenow", "method": "PATCH", "about": "change_request", "skip": 0, "times": 2, "do": "abort" });
    let change = place.control("/tickets/servicenow", new_change()).await;
    let number = change["number"].as_str().unwrap();
    let id = place.renewal_of(number).await;
    place.until_state(&id, "the plan is made", |state| state["gate"] == "execute").await;
    place
        .until_tickets("the plan stands there", |tickets| {
            notes_of(tickets, &change["sys_id"]).iter().any(|note| note.contains("approval needed"))
        })
        .await;
    approve_there(&place, &change).await;
    place.control("/faults", abort).await;
    place.approver.approve_all(&place.rekey, &id).await;
    place.until_tickets("it is closed", |tickets| change_of(tickets, number)["state"] == "3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_of_jira_is_told_of_each_phase_and_completed() {
    let place = Place::start().await;
    place.hook("jira").await;
    let fields = json!({ "summary": "Renew the Exchange Auth certificate", "labels": ["rekey"], "customfield_10050": "contoso" });
    let issue = place.control("/tickets/jira", json!({ "do": "create", "fields": fields })).await;
    let key = issue["key"].as_str().unwrap();
    let id = place.renewal_of(key).await;
    let open = place.until_state(&id, "the plan is made", |state| state["gate"] == "execute").await;
    let digest = open["digest"].as_str().unwrap().to_owned();
    let comments = |tickets: &Json| tickets["jira"][0]["comments"].as_array().unwrap().clone();
    place
        .until_tickets("the plan stands there", |tickets| {
            comments(tickets).iter().any(|comment| comment["body"].as_str().unwrap().contains(&digest))
        })
        .await;
    place.control("/tickets/jira", json!({ "do": "update", "ticket": key, "fields": { "status": "Authorize" } })).await;
    place.issue("approve", &issue).await;
    place.approver.approve_all(&place.rekey, &id).await;
    let status = |tickets: &Json| tickets["jira"][0]["issue"]["fields"]["status"]["name"].clone();
    let told = place.until_tickets("it is completed", |tickets| status(tickets) == "Completed").await;
    assert!(comments(&told).iter().all(|comment| comment["public"] == false));
    let files: Vec<_> =
        told["jira"][0]["attachments"].as_array().unwrap().iter().map(|file| &file["filename"]).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    assert_eq!(told["jira"][0]["links"][0]["globalId"], format!("rekey={id}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stops_while_its_change_is_on_hold_and_goes_on_after_it() {
    let place = Place::start().await;
    place.hook("servicenow").await;
    let change = place.control("/tickets/servicenow", new_change()).await;
    let number = change["number"].as_str().unwrap();
    let id = place.renewal_of(number).await;
    approve_there(&place, &change).await;
    for gate in ["execute", "publish"] {
        let open = place.until_state(&id, gate, |state| state["gate"] == gate).await;
        if gate == "publish" {
            place.change("hold", &change).await;
            until("it is on hold", async || place.renewal(&id).await["ticket_standing"]["word"] == "on_hold").await;
        }
        place.approver.approve(&place.rekey, &id, &open).await;
    }
    place.until_state(&id, "it waits for the ticket", |state| state["reason"]["waiting_for"] == "ticket_on_hold").await;
    assert!(!place.lab.report().counts.contains_key(&EffectKind::Publish), "nothing is published while it is held");
    place.change("resume", &change).await;
    let open = place.until_state(&id, "clear_previous", |state| state["gate"] == "clear_previous").await;
    place.approver.approve(&place.rekey, &id, &open).await;
    place.until_state(&id, "it succeeds", |state| state["status"] == "succeeded").await;
    place.until_tickets("it is closed", |tickets| change_of(tickets, number)["state"] == "3").await;
}
