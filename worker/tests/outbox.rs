//! What is told to the outside, heard by receivers that others wrote: `tests/peers/receivers.py`.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use db::{Db, Kind, Page};
use domain::{
    Renewal, RenewalId, Request, Ticket, Timeline,
    announcing::PublicUrl,
    outbox::{OutboxMessage, OutboxStatus},
};
use reqwest::Url;
use secrecy::SecretString;
use serde_json::{Value as Json, json};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use worker::{
    Pace,
    connectors::Trust,
    outbox::{
        AllowList, Chat, ChatKind, MailLogin, MailTarget, MailTls, Outbox, SigningKey, Subscription, Target, Webhook,
        run,
    },
};

use crate::{
    database::{Database, kinds},
    support::contoso,
};

/// The longest that a test waits for anything; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(90);

/// Receivers, a database, and a dispatcher between them.
struct Post {
    receivers: peers::Server,
    http: reqwest::Client,
    database: Database,
    db: Db,
    timeline: Timeline,
    running: Option<(JoinHandle<()>, CancellationToken)>,
    _folder: tempfile::TempDir,
}

impl Post {
    async fn new(kind: Kind, scale: f64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut program = peers::python("receivers.py");
        program.arg(folder.path());
        let receivers = peers::Server::start(program);
        let database = Database::new(kind).await;
        let db = database.open().await;
        let origin = Utc::now();
        let timeline = Timeline { real_origin: origin, virtual_origin: origin, scale };
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { receivers, http, database, db, timeline, running: None, _folder: folder }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.receivers.port("port"))
    }

    fn allow(&self) -> AllowList {
        AllowList::parse(["127.0.0.0/8:*", "[::1]:*", "localhost:*"]).unwrap()
    }

    fn webhook(&self, keys: &[&str]) -> Arc<dyn Target> {
        let keys = keys.iter().map(|name| SigningKey::parse(&self.receivers.text(name).into()).unwrap()).collect();
        let client = self.allow().client(&Trust::default()).unwrap();
        Arc::new(Webhook { client, url: Url::parse(&self.url("/hook/rekey")).unwrap(), keys, public_url: base() })
    }

    fn start(&mut self, targets: Vec<(&str, Arc<dyn Target>)>) {
        let subscription = |(id, target): (&str, Arc<dyn Target>)| Subscription {
            id: id.to_owned(),
            organizations: Vec::new(),
            events: Vec::new(),
            ticket_system: None,
            target,
        };
        let subscriptions = targets.into_iter().map(subscription).collect();
        let mut outbox = Outbox::new(self.db.clone(), self.timeline, base(), subscriptions);
        outbox.pace = Pace::of(Duration::from_secs(5));
        let stop = CancellationToken::new();
        self.running = Some((tokio::spawn(run(Arc::new(outbox), stop.clone())), stop));
    }

    /// Ends it as `kill -9` does.
    async fn kill(&mut self) {
        let (running, _) = self.running.take().unwrap();
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
    }

    async fn close(mut self) {
        if let Some((running, stop)) = self.running.take() {
            stop.cancel();
            running.await.unwrap();
        }
        self.db.close().await;
        self.database.remove().await;
    }

    fn now(&self) -> DateTime<Utc> {
        self.timeline.at(self.db.now())
    }

    async fn answers(&self, answers: Json) {
        self.http.post(self.url("/answers")).body(answers.to_string()).send().await.unwrap();
    }

    /// What has come, as soon as it is so much.
    async fn received(&self, path: &str, count: usize) -> Vec<Json> {
        let told =
            self.http.get(self.url(&format!("{path}?count={count}"))).send().await.unwrap().text().await.unwrap();
        let told: Vec<Json> = serde_json::from_str(&told).unwrap();
        assert!(told.len() >= count, "{:#?}", self.outbox().await);
        told
    }

    async fn outbox(&self) -> Vec<OutboxMessage> {
        self.db.read(async |tx| tx.outbox(None, None, Page { before: None, limit: 200 }).await).await.unwrap()
    }

    /// Waits until all messages are as `fits` says. Woken by every write.
    async fn until(&self, fits: impl Fn(&[OutboxMessage]) -> bool) -> Vec<OutboxMessage> {
        let waiting = async {
            loop {
                let woken = self.db.woken();
                let all = self.outbox().await;
                if !all.is_empty() && fits(&all) {
                    return all;
                }
                woken.await;
            }
        };
        match timeout(PATIENCE, waiting).await {
            Ok(all) => all,
            Err(_) => panic!("{:#?}", self.outbox().await),
        }
    }

    async fn ask(&self, ticket: Option<Ticket>) -> RenewalId {
        let now = self.now();
        let request = Request { ticket, ..Request::of(contoso()) };
        let renewal = Renewal::requested(RenewalId(Uuid::now_v7()), "alice", request, now);
        self.db.write(async |tx| tx.create_renewal(&renewal, now).await).await.unwrap();
        renewal.id
    }

    /// Olga holds the renewal, lets it go and stops it: three things to tell.
    async fn pause_resume_cancel(&self, id: RenewalId, reason: &str) {
        let now = self.now();
        self.db.write(async |tx| tx.pause(id, None, "olga", reason, now).await).await.unwrap();
        self.db.write(async |tx| tx.resume(id, None, "olga", now).await).await.unwrap();
        self.db.write(async |tx| tx.cancel(id, None, "olga", reason, now).await).await.unwrap();
    }
}

fn base() -> PublicUrl {
    PublicUrl::parse("https://rekey.contoso.example").unwrap()
}

fn all_are(status: OutboxStatus) -> impl Fn(&[OutboxMessage]) -> bool {
    move |all| all.iter().all(|message| message.status == status)
}

fn types(received: &[Json]) -> Vec<&str> {
    received.iter().map(|one| one["event"]["type"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_an_event_that_is_signed_with_every_key() {
    let mut post = Post::new(Kind::Sqlite, 1.0).await;
    let id = post.ask(None).await;
    post.start(vec![("cmdb", post.webhook(&["key", "next_key"]))]);
    let received = post.received("/received", 1).await;
    let (event, data) = (&received[0]["event"], &received[0]["data"]);
    assert_eq!(received[0]["keys"], json!([0, 1]), "who still has the old key, and who has the new one already");
    assert_eq!(event["type"], "rekey.renewal.requested");
    assert_eq!(event["subject"], format!("renewals/{id}"));
    assert_eq!(event["source"], "https://rekey.contoso.example");
    assert_eq!(event["id"], received[0]["headers"]["webhook-id"]);
    assert_eq!((&data["renewal_id"], &data["status"]), (&json!(id), &json!("requested")));
    assert_eq!(data["urls"]["renewal"], format!("https://rekey.contoso.example/v1/renewals/{id}"));
    post.until(all_are(OutboxStatus::Delivered)).await;
    post.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_about_a_renewal_arrive_in_order_however_often_the_first_fails() {
    for kind in kinds() {
        let mut post = Post::new(kind, 100.0).await;
        let moved = json!([302, { "location": post.url("/hook/elsewhere") }]);
        post.answers(json!({ "answers": [[503, {}], [429, { "retry-after": "1" }], moved, [500, {}]] })).await;
        let id = post.ask(None).await;
        post.pause_resume_cancel(id, "not today").await;
        post.start(vec![("cmdb", post.webhook(&["key"]))]);
        post.until(all_are(OutboxStatus::Delivered)).await;
        let received = post.received("/received", 8).await;
        let first = "rekey.renewal.requested";
        let rest = ["rekey.renewal.paused", "rekey.renewal.resumed", "rekey.renewal.cancelled"];
        assert_eq!(types(&received), [&[first; 5][..], &rest].concat());
        assert!(received[..5].iter().all(|one| one["event"]["id"] == received[0]["event"]["id"]), "one id");
        assert!(received.iter().all(|one| one["path"] == "/hook/rekey"), "no redirect is followed");
        assert!(received.iter().all(|one| one["keys"] == json!([0])));
        post.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_is_tried_for_days_and_told_when_it_is_asked_for() {
    for kind in kinds() {
        let mut post = Post::new(kind, 60_000.0).await;
        post.answers(json!({ "answers": [], "usual": [503, {}] })).await;
        let id = post.ask(None).await;
        post.start(vec![("cmdb", post.webhook(&["key"]))]);
        let dead = post.until(all_are(OutboxStatus::Dead)).await.remove(0);
        assert!(dead.finished_at.unwrap() - dead.created_at > TimeDelta::days(3), "{dead:#?}");
        assert!(dead.failures >= 10 && dead.last_error.as_ref().unwrap().contains("503"), "{dead:#?}");
        post.answers(json!({ "answers": [] })).await;
        let now = post.now();
        post.db.write(async |tx| tx.replay_message(dead.id, "olga", "it is back", now).await).await.unwrap();
        post.until(all_are(OutboxStatus::Delivered)).await;
        let received = post.received("/received", 11).await;
        assert!(received.iter().all(|one| one["event"]["id"] == json!(dead.id)), "one id for ever");
        let record = post.db.read(async |tx| tx.audit_of(id, 0, 100).await).await.unwrap();
        assert!(record.iter().any(|entry| entry.action == "outbox.replayed" && entry.actor == "olga"));
        post.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_is_told_nothing_more() {
    let mut post = Post::new(Kind::Sqlite, 100.0).await;
    post.answers(json!({ "answers": [[410, {}]] })).await;
    let id = post.ask(None).await;
    post.pause_resume_cancel(id, "not today").await;
    post.start(vec![("cmdb", post.webhook(&["key"]))]);
    let dead = post.until(all_are(OutboxStatus::Dead)).await;
    assert_eq!(dead.len(), 4);
    assert!(dead.iter().all(|message| message.last_error.as_ref().unwrap().contains("410")), "{dead:#?}");
    assert_eq!(post.received("/received", 1).await.len(), 1);
    post.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_between_delivery_and_record_leaves_a_message_that_arrives_again_under_its_id() {
    for kind in kinds() {
        let mut post = Post::new(kind, 1.0).await;
        // The receiver has it, but its answer never comes.
        post.answers(json!({ "answers": [null] })).await;
        let id = post.ask(None).await;
        post.start(vec![("cmdb", post.webhook(&["key"]))]);
        post.received("/received", 1).await;
        post.kill().await;
        post.http.post(post.url("/go")).send().await.unwrap();
        post.pause_resume_cancel(id, "not today").await;
        if kind == Kind::Sqlite {
            let now = post.now();
            post.db.write(async |tx| tx.end_all_leases(now).await).await.unwrap();
        }
        post.start(vec![("cmdb", post.webhook(&["key"]))]);
        post.until(all_are(OutboxStatus::Delivered)).await;
        let received = post.received("/received", 5).await;
        assert_eq!(received.len(), 5);
        assert_eq!(received[0]["event"], received[1]["event"], "at least once, and nobody is fooled");
        let rest = ["rekey.renewal.paused", "rekey.renewal.resumed", "rekey.renewal.cancelled"];
        assert_eq!(types(&received[2..]), rest);
        post.close().await;
    }
}

fn mail(post: &Post, password: &str) -> Arc<dyn Target> {
    Arc::new(MailTarget {
        allow: post.allow(),
        server: "localhost".to_owned(),
        port: post.receivers.port("mail_port"),
        tls: MailTls::Starttls,
        ca: Some(post.receivers.text("ca").as_bytes().to_vec()),
        login: Some(MailLogin { username: "rekey".to_owned(), password: SecretString::from(password) }),
        from: "rekey <rekey@contoso.example>".parse().unwrap(),
        to: vec![
            "exchange@contoso.example".parse().unwrap(),
            "\"Change team\" <change@contoso.example>".parse().unwrap(),
        ],
        public_url: base(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_mails_that_say_what_happened_and_nobody_adds_a_header() {
    let mut post = Post::new(Kind::Sqlite, 1.0).await;
    let ticket = Ticket {
        system: "servicenow".to_owned(),
        number: "CHG0030022\r\nBcc: eve@evil.example".to_owned(),
        sys_id: None,
        url: Some("https://acme.service-now.com/x\r\nBcc: eve@evil.example".to_owned()),
    };
    let id = post.ask(Some(ticket)).await;
    let reason = "Zur Überprüfung\r\n.\r\nBcc: eve@evil.example\r\n\r\nRCPT TO:<eve@evil.example>";
    post.pause_resume_cancel(id, reason).await;
    post.start(vec![("mail", mail(&post, "Passw0rd-of-mail"))]);
    let mails = post.received("/mails", 4).await;
    let all = post.until(all_are(OutboxStatus::Delivered)).await;
    for mail in &mails {
        assert_eq!(mail["to"], json!(["exchange@contoso.example", "change@contoso.example"]));
        assert_eq!((&mail["tls"], &mail["login"]), (&json!(true), &json!("rekey")));
        let headers = mail["headers"].as_object().unwrap();
        assert!(!headers.contains_key("bcc"), "{headers:#?}");
        assert_eq!(headers["references"], format!("<{id}@rekey.contoso.example>"));
        let own = headers["message-id"].as_str().unwrap().trim_start_matches('<').split('@').next().unwrap().to_owned();
        assert!(all.iter().any(|message| message.id.to_string() == own), "{own}");
    }
    assert_eq!(mails[1]["headers"]["subject"], "[rekey] contoso: paused");
    let body = mails[1]["body"].as_str().unwrap();
    assert!(body.contains("olga holds the renewal. Reason: Zur Überprüfung"), "{body}");
    assert!(body.contains(&format!("https://rekey.contoso.example/v1/renewals/{id}")), "{body}");
    post.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_refused_is_told_without_it() {
    let mut post = Post::new(Kind::Sqlite, 1.0).await;
    post.ask(None).await;
    post.start(vec![("mail", mail(&post, "canary-hunter2"))]);
    let all = post.until(|all| all[0].failures > 0).await;
    let told = format!("{all:?}");
    assert_eq!(all[0].status, OutboxStatus::Pending, "somebody may put it right: {told}");
    assert!(told.contains("535") && !told.contains("canary-hunter2") && !told.contains("Y2FuYXJ5"), "{told}");
    post.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_are_told_what_they_show() {
    let mut post = Post::new(Kind::Sqlite, 1.0).await;
    post.ask(None).await;
    let client = post.allow().client(&Trust::default()).unwrap();
    let chat = |kind, path| -> Arc<dyn Target> {
        Arc::new(Chat::new(kind, client.clone(), &Url::parse(&post.url(path)).unwrap()))
    };
    let targets = vec![("slack", chat(ChatKind::Slack, "/slack")), ("teams", chat(ChatKind::Teams, "/teams"))];
    post.start(targets);
    let received = post.received("/received", 2).await;
    let of = |path| &received.iter().find(|one| one["path"] == path).unwrap()["json"];
    assert_eq!(of("/slack")["text"], "contoso: renewal requested");
    let card = &of("/teams")["attachments"][0];
    assert_eq!(card["contentType"], "application/vnd.microsoft.card.adaptive");
    assert_eq!(card["content"]["body"][0]["inlines"][0]["text"], "contoso: renewal requested");
    post.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_of_a_chat_is_in_no_error_and_a_place_that_is_not_allowed_is_not_connected_to() {
    let mut post = Post::new(Kind::Sqlite, 1.0).await;
    post.ask(None).await;
    // Its name is allowed; that it leads to this machine is not.
    let named = AllowList::parse(["localhost:*"]).unwrap().client(&Trust::default()).unwrap();
    let port = post.receivers.port("port");
    let url = Url::parse(&format!("http://localhost:{port}/services/canary-hunter2")).unwrap();
    let slack = Chat::new(ChatKind::Slack, named, &url);
    assert!(!format!("{slack:?}").contains("canary"));
    post.start(vec![("slack", Arc::new(slack))]);
    let told = format!("{:?}", post.until(|all| all[0].failures > 0).await);
    assert!(told.contains("belongs to this machine") && !told.contains("canary"), "{told}");
    assert_eq!(post.received("/received", 0).await, Vec::<Json>::new());
    post.close().await;
}
