//! Changes of Jira Service Management: read, told about, moved (itsm.md 5.6).

use std::collections::BTreeMap;

use chrono::TimeDelta;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    Attachment, InvalidTicketWay, Result, TicketError, TicketWay, desync,
    http::{Body, Call, Http},
};

/// Issues that are read at a time, and how many times at most.
const PAGE: &str = "50";
const PAGES: usize = 20;

/// A site that can be asked.
#[derive(Debug)]
pub struct Jira {
    http: Http,
}

/// An issue as it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issue {
    /// `CHG-1`.
    pub key: String,
    /// The name of its status.
    pub status: String,
    /// Whether the field that says so is filled: a flag, or a checkbox.
    pub on_hold: bool,
}

/// What those who were asked say of an issue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// All of the latest approval.
    Approved,
    /// One of them.
    Declined,
    /// Nobody was asked.
    NotAsked,
    /// Not yet.
    Pending,
}

impl Verdict {
    /// The word, as in details of a standing.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Declined => "declined",
            Self::NotAsked => "not requested",
            Self::Pending => "requested",
        }
    }
}

#[derive(Deserialize)]
struct Read {
    key: String,
    fields: BTreeMap<String, Json>,
}

#[derive(Deserialize)]
struct Approvals {
    #[serde(default)]
    values: Vec<Approval>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Approval {
    final_decision: String,
}

#[derive(Deserialize)]
struct Transitions {
    #[serde(default)]
    transitions: Vec<Transition>,
}

#[derive(Deserialize)]
struct Transition {
    id: String,
    to: To,
}

#[derive(Deserialize)]
struct To {
    name: String,
}

#[derive(Deserialize)]
struct Comments {
    #[serde(default)]
    comments: Vec<Comment>,
}

#[derive(Deserialize)]
struct Comment {
    body: Json,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    #[serde(default)]
    issues: Vec<Json>,
    #[serde(default)]
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
struct File {
    filename: String,
    size: u64,
}

impl Jira {
    /// The site at the end of this way. Nothing is sent yet.
    pub fn new(way: TicketWay) -> std::result::Result<Self, InvalidTicketWay> {
        Ok(Self { http: Http::new(way)? })
    }

    /// Where people read an issue.
    #[must_use]
    pub fn record_url(&self, key: &str) -> String {
        format!("{}/browse/{key}", self.http.base().as_str().trim_end_matches('/'))
    }

    /// An issue as it stands. `hold_field` is the field that says that somebody holds it.
    pub async fn issue(&self, key: &str, hold_field: &str) -> Result<Issue> {
        let path = ["rest", "api", "2", "issue", valid_key(key)?];
        let fields = format!("status,{hold_field}");
        let read: Read = self.http.ask(&Call::get(&path, &[("fields", &fields)])).await?.json()?;
        let status = read.fields.get("status").and_then(|status| status["name"].as_str()).unwrap_or_default();
        let on_hold = read.fields.get(hold_field).is_some_and(is_filled);
        Ok(Issue { key: read.key, status: status.to_owned(), on_hold })
    }

    /// An issue with all its fields, as the intake reads it.
    pub async fn whole(&self, key: &str) -> Result<Json> {
        let path = ["rest", "api", "2", "issue", valid_key(key)?];
        self.http.ask(&Call::get(&path, &[("fields", "*all")])).await?.json()
    }

    /// What those who were asked last say of an issue. Read, never given.
    pub async fn verdict(&self, key: &str) -> Result<Verdict> {
        let path = ["rest", "servicedeskapi", "request", valid_key(key)?, "approval"];
        let told: Approvals = self.http.ask(&Call::get(&path, &[("limit", PAGE)])).await?.json()?;
        Ok(match told.values.last().map(|approval| approval.final_decision.as_str()) {
            None => Verdict::NotAsked,
            Some("approved") => Verdict::Approved,
            Some("declined") => Verdict::Declined,
            Some(_) => Verdict::Pending,
        })
    }

    /// Issues that a query takes and that were updated in the time before now, the oldest update first, whole. JQL knows minutes and the caller's zone:
    /// a span says it without either.
    pub async fn updated_issues(&self, jql: &str, within: TimeDelta) -> Result<Vec<Json>> {
        let minutes = within.num_minutes().max(0) + 1;
        let jql = format!("{jql} AND updated >= -{minutes}m ORDER BY updated ASC");
        let path = ["rest", "api", "3", "search", "jql"];
        let (mut found, mut page): (Vec<Json>, Option<String>) = (Vec::new(), None);
        for _ in 0..PAGES {
            let mut query = vec![("jql", jql.as_str()), ("fields", "*all"), ("maxResults", PAGE)];
            query.extend(page.as_deref().map(|page| ("nextPageToken", page)));
            let told: Found = self.http.ask(&Call::get(&path, &query)).await?.json()?;
            found.extend(told.issues);
            page = told.next_page_token;
            if page.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// Writes an internal comment, unless one that holds `mark` stands there.
    pub async fn note(&self, key: &str, text: &str, mark: &str) -> Result<()> {
        if self.has_note(key, mark).await? {
            return Ok(());
        }
        let path = ["rest", "servicedeskapi", "request", valid_key(key)?, "comment"];
        let body = json!({ "body": text, "public": false });
        self.http.once(&Call::json(Method::POST, &path, &body)).await.map(drop)
    }

    async fn has_note(&self, key: &str, mark: &str) -> Result<bool> {
        let path = ["rest", "api", "2", "issue", valid_key(key)?, "comment"];
        let query = [("orderBy", "-created"), ("maxResults", "100")];
        let told: Comments = self.http.ask(&Call::get(&path, &query)).await?.json()?;
        Ok(told.comments.iter().any(|comment| comment.body.to_string().contains(mark)))
    }

    /// Links an issue to its renewal; the same link again changes nothing.
    pub async fn correlate(&self, key: &str, renewal: Uuid, url: &str) -> Result<()> {
        let path = ["rest", "api", "2", "issue", valid_key(key)?, "remotelink"];
        let body = json!({
            "globalId": format!("rekey={renewal}"),
            "application": { "type": "rekey", "name": "rekey" },
            "object": { "url": url, "title": format!("Renewal {renewal}") },
        });
        self.http.ask(&Call::json(Method::POST, &path, &body)).await.map(drop)
    }

    /// Moves an issue to a status by the transition that leads there, and looks whether it is there.
    pub async fn move_to(&self, key: &str, status: &str) -> Result<()> {
        let before = self.status(key).await?;
        if before.eq_ignore_ascii_case(status) {
            return Ok(());
        }
        let path = ["rest", "api", "2", "issue", valid_key(key)?, "transitions"];
        let told: Transitions = self.http.ask(&Call::get(&path, &[])).await?.json()?;
        let leads = told.transitions.iter().find(|transition| transition.to.name.eq_ignore_ascii_case(status));
        let possible = || told.transitions.iter().map(|transition| transition.to.name.clone()).collect::<Vec<_>>();
        let Some(leads) = leads else { return Err(desync(key, status, &before, &possible())) };
        let body = json!({ "transition": { "id": leads.id } });
        self.http.once(&Call::json(Method::POST, &path, &body)).await?;
        let after = self.status(key).await?;
        if after.eq_ignore_ascii_case(status) { Ok(()) } else { Err(desync(key, status, &after, &possible())) }
    }

    async fn status(&self, key: &str) -> Result<String> {
        Ok(self.issue(key, "status").await?.status)
    }

    /// Puts a file at an issue, unless one of that name and size is there.
    pub async fn attach(&self, key: &str, name: &str, content_type: &str, content: &[u8]) -> Result<()> {
        let file = Attachment { name: name.to_owned(), size: content.len() as u64 };
        if self.attachments(key).await?.contains(&file) {
            return Ok(());
        }
        let boundary = format!("rekey-{}", Uuid::new_v4().simple());
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: {content_type}\r\n\r\n"
        );
        let whole = [head.as_bytes(), content, format!("\r\n--{boundary}--\r\n").as_bytes()].concat();
        let kind = format!("multipart/form-data; boundary={boundary}");
        let path = ["rest", "api", "2", "issue", valid_key(key)?, "attachments"];
        let call = Call { method: Method::POST, path: &path, query: &[], body: Body::Raw(&kind, &whole) };
        self.http.once(&call).await.map(drop)
    }

    /// The files at an issue.
    pub async fn attachments(&self, key: &str) -> Result<Vec<Attachment>> {
        let path = ["rest", "api", "2", "issue", valid_key(key)?];
        let mut read: Read = self.http.ask(&Call::get(&path, &[("fields", "attachment")])).await?.json()?;
        let files = read.fields.remove("attachment").unwrap_or_else(|| json!([]));
        let files: Vec<File> =
            serde_json::from_value(files).map_err(|error| TicketError::unexpected(self.http.host(), error))?;
        Ok(files.into_iter().map(|file| Attachment { name: file.filename, size: file.size }).collect())
    }
}

/// Whether a field says something: a flag is a list, a checkbox an object.
#[must_use]
pub fn is_filled(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => false,
        Json::Array(values) => !values.is_empty(),
        _ => true,
    }
}

/// A key, or the number of an issue: it becomes a part of paths.
fn valid_key(key: &str) -> Result<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !key.is_empty() && key.len() <= 255 && key.bytes().all(plain) {
        return Ok(key);
    }
    Err(TicketError::refused(
        "ticket_id_invalid",
        "The ticket has no key like CHG-1",
        "Raise the renewal from the issue itself, or with its key",
    ))
}
