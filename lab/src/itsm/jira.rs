//! A site of Jira Service Management with one project of changes: issues, transitions, approvals, comments, attachments (itsm.md 5.6).

mod jql;

use std::collections::BTreeMap;

use anyhow::Context as _;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    Ask, Reply,
    control::{Act, What},
    random_id,
};
use jql::Jql;

/// The key of the project.
const PROJECT: &str = "CHG";

/// Statuses of a change: id and name.
const STATUSES: [(&str, &str); 7] = [
    ("10001", "Planning"),
    ("10002", "Authorize"),
    ("10003", "Awaiting implementation"),
    ("10004", "Implementing"),
    ("10005", "Completed"),
    ("10006", "Failed"),
    ("10007", "Canceled"),
];
/// Ways between them: id, name, where from, where to. Approvals lead from Authorize to Awaiting implementation.
const TRANSITIONS: [(&str, &str, &[&str], &str); 6] = [
    ("11", "Request approval", &["Planning"], "Authorize"),
    ("31", "Start implementation", &["Awaiting implementation"], "Implementing"),
    ("41", "Complete", &["Implementing"], "Completed"),
    ("51", "Fail", &["Implementing"], "Failed"),
    ("61", "Cancel", &["Planning", "Authorize", "Awaiting implementation", "Implementing"], "Canceled"),
    ("71", "Back to planning", &["Authorize", "Awaiting implementation"], "Planning"),
];
/// The field by which the boards flag an issue: it is on hold.
const FLAGGED: &str = "customfield_10021";

/// The site.
#[derive(Debug)]
pub(crate) struct Jira {
    issues: Vec<Issue>,
    files: BTreeMap<String, (String, Bytes)>,
    pub(crate) token: String,
    changed: Vec<(usize, &'static str, Vec<Value>)>,
    ids: u32,
}

#[derive(Debug)]
struct Issue {
    id: String,
    key: String,
    /// Everything but the status and what belongs to lists.
    fields: Map<String, Value>,
    status: &'static str,
    created: DateTime<Utc>,
    updated: DateTime<Utc>,
    comments: Vec<Value>,
    approvals: Vec<Approval>,
    attachments: Vec<Value>,
    links: Vec<Value>,
}

#[derive(Debug)]
struct Approval {
    id: String,
    created: DateTime<Utc>,
    /// `None` while it is pending.
    decided: Option<&'static str>,
    /// Who is asked, and what they said.
    approvers: Vec<(&'static str, &'static str)>,
}

type Answered = Result<Reply, Reply>;

impl Jira {
    /// The mail address of the integration.
    pub(crate) const USER: &str = "rekey@contoso.example";

    pub(super) fn new() -> Self {
        Self {
            issues: Vec::new(),
            files: BTreeMap::new(),
            token: format!("ATATT{}", random_id()),
            changed: Vec::new(),
            ids: 10_000,
        }
    }

    pub(super) fn state(&self) -> Value {
        let told = |issue: &Issue| {
            json!({
                "issue": issue.shown("", None), "comments": issue.comments, "attachments": issue.attachments,
                "approvals": issue.approvals.iter().map(Approval::shown).collect::<Vec<_>>(), "links": issue.links
            })
        };
        self.issues.iter().map(told).collect()
    }

    /// Messages about what has changed since this was last asked.
    pub(super) fn changes(&mut self, now: DateTime<Utc>) -> Vec<Value> {
        let changed = std::mem::take(&mut self.changed);
        let told = changed.into_iter().map(|(issue, event, items)| {
            json!({
                "timestamp": now.timestamp_millis(), "webhookEvent": event, "issue": self.issues[issue].shown("", None),
                "user": person(Self::USER), "changelog": { "id": random_id(), "items": items }
            })
        });
        told.collect()
    }

    pub(super) fn answer(&mut self, ask: &Ask) -> Reply {
        let basic = ask.basic().is_some_and(|(user, token)| user == Self::USER && token == self.token);
        if !basic && ask.authorization("Bearer") != Some(&self.token) {
            return refused(StatusCode::UNAUTHORIZED, "Client must be authenticated to access this resource.");
        }
        let path = ask.path.replace("/rest/api/2/", "/rest/api/3/").replace("/rest/api/latest/", "/rest/api/3/");
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let answered = match parts.as_slice() {
            ["rest", "api", "3", "myself"] => Ok(Reply::ok(person(Self::USER))),
            ["rest", "api", "3", "search", "jql"] => self.search(ask),
            ["rest", "api", "3", "issue"] => self.create_by(ask),
            ["rest", "api", "3", "issue", key, rest @ ..] => self.find(key).and_then(|at| self.on_issue(ask, at, rest)),
            ["rest", "api", "3", "attachment", "content", id] => {
                let file = self.files.get(*id);
                file.map(|(kind, file)| Reply::file(kind, file.clone())).ok_or_else(not_found)
            }
            ["rest", "servicedeskapi", "request", key, rest @ ..] => {
                self.find(key).and_then(|at| self.on_request(ask, at, rest))
            }
            _ => Err(refused(StatusCode::NOT_FOUND, "null for uri")),
        };
        answered.unwrap_or_else(|refusal| refusal)
    }

    fn find(&self, name: &str) -> Result<usize, Reply> {
        self.issues.iter().position(|issue| issue.key == name || issue.id == name).ok_or_else(not_found)
    }

    fn next_id(&mut self) -> String {
        self.ids += 1;
        self.ids.to_string()
    }

    fn create_by(&mut self, ask: &Ask) -> Answered {
        let body = body(ask)?;
        let Some(fields) = body["fields"].as_object() else { return Err(bad("fields is missing")) };
        let at = self.create(fields.clone(), Self::USER, ask.now);
        let issue = &self.issues[at];
        let place = format!("{}/rest/api/3/issue/{}", ask.base, issue.id);
        Ok(Reply::json(StatusCode::CREATED, json!({ "id": issue.id, "key": issue.key, "self": place })))
    }

    fn create(&mut self, mut fields: Map<String, Value>, by: &str, now: DateTime<Utc>) -> usize {
        let id = self.next_id();
        fields.entry("reporter").or_insert_with(|| person(by));
        fields.entry("labels").or_insert_with(|| json!([]));
        fields.entry("summary").or_insert_with(|| json!(""));
        fields.entry(FLAGGED).or_insert(Value::Null);
        fields.insert("project".to_owned(), json!({ "id": "10000", "key": PROJECT, "name": "Changes" }));
        fields.insert("issuetype".to_owned(), json!({ "id": "10100", "name": "[System] Change", "subtask": false }));
        self.issues.push(Issue {
            key: format!("{PROJECT}-{}", self.issues.len() + 1),
            id,
            fields,
            status: "Planning",
            created: now,
            updated: now,
            comments: Vec::new(),
            approvals: Vec::new(),
            attachments: Vec::new(),
            links: Vec::new(),
        });
        self.changed.push((self.issues.len() - 1, "jira:issue_created", Vec::new()));
        self.issues.len() - 1
    }

    fn on_issue(&mut self, ask: &Ask, at: usize, rest: &[&str]) -> Answered {
        match (&ask.method, rest) {
            (&Method::GET, []) => Ok(Reply::ok(self.issues[at].shown(&ask.base, ask.query("fields")))),
            (&Method::PUT, []) => {
                let body = body(ask)?;
                let fields = body["fields"].as_object().cloned().unwrap_or_default();
                self.write(at, fields, ask.now);
                Ok(Reply::empty(StatusCode::NO_CONTENT))
            }
            (&Method::GET, ["transitions"]) => Ok(Reply::ok(self.issues[at].transitions())),
            (&Method::POST, ["transitions"]) => {
                let body = body(ask)?;
                let id = &body["transition"]["id"];
                let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
                let (_, _, from, to) = TRANSITIONS
                    .into_iter()
                    .find(|(known, ..)| *known == id)
                    .ok_or_else(|| bad("The transition is not known."))?;
                if !from.contains(&self.issues[at].status) {
                    return Err(bad("It seems that you have tried to perform an illegal workflow operation."));
                }
                if !ask.aborts {
                    self.lead_to(at, to, ask.now);
                }
                Ok(Reply::empty(StatusCode::NO_CONTENT))
            }
            (&Method::GET, ["comment"]) => {
                let comments = &self.issues[at].comments;
                Ok(Reply::ok(
                    json!({ "comments": comments, "total": comments.len(), "startAt": 0, "maxResults": 5000 }),
                ))
            }
            (&Method::POST, ["comment"]) => {
                let text = body(ask)?["body"].clone();
                Ok(Reply::json(StatusCode::CREATED, self.comment(at, text, true, ask.now)))
            }
            (&Method::POST, ["attachments"]) => self.attach(ask, at),
            (&Method::POST, ["remotelink"]) => self.link(ask, at),
            (&Method::GET, ["remotelink"]) => Ok(Reply::ok(json!(self.issues[at].links))),
            _ => Err(refused(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")),
        }
    }

    fn on_request(&mut self, ask: &Ask, at: usize, rest: &[&str]) -> Answered {
        match (&ask.method, rest) {
            (&Method::GET, ["approval"]) => {
                let values: Vec<_> = self.issues[at].approvals.iter().map(Approval::shown).collect();
                Ok(Reply::ok(
                    json!({ "size": values.len(), "start": 0, "limit": 50, "isLastPage": true, "values": values }),
                ))
            }
            (&Method::POST, ["comment"]) => {
                let body = body(ask)?;
                let public = body["public"].as_bool().unwrap_or(true);
                Ok(Reply::json(StatusCode::CREATED, self.comment(at, body["body"].clone(), public, ask.now)))
            }
            (&Method::POST, ["approval", _]) => {
                Err(refused(StatusCode::FORBIDDEN, "You are not one of the approvers of this request."))
            }
            _ => Err(refused(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")),
        }
    }

    fn comment(&mut self, at: usize, text: Value, public: bool, now: DateTime<Utc>) -> Value {
        let id = self.next_id();
        let told = json!({
            "id": id, "body": text, "author": person(Self::USER), "created": stamp(now), "updated": stamp(now), "jsdPublic": public, "public": public
        });
        let issue = &mut self.issues[at];
        issue.comments.push(told.clone());
        issue.updated = now;
        told
    }

    fn attach(&mut self, ask: &Ask, at: usize) -> Answered {
        if ask.header("x-atlassian-token") != Some("no-check") {
            return Err(refused(StatusCode::FORBIDDEN, "XSRF check failed"));
        }
        let files = parts_of(&ask.content_type(), &ask.body).ok_or_else(|| bad("no multipart/form-data"))?;
        let mut told = Vec::new();
        for (name, kind, bytes) in files {
            let id = self.next_id();
            let link = format!("{}/rest/api/3/attachment/content/{id}", ask.base);
            let attachment = json!({
                "id": id, "filename": name, "mimeType": kind, "size": bytes.len(), "content": link, "created": stamp(ask.now),
                "author": person(Self::USER)
            });
            self.files.insert(id, (kind, bytes));
            self.issues[at].attachments.push(attachment.clone());
            told.push(attachment);
        }
        self.issues[at].updated = ask.now;
        Ok(Reply::ok(json!(told)))
    }

    /// A link of the same global id takes the place of the one before.
    fn link(&mut self, ask: &Ask, at: usize) -> Answered {
        let mut link = body(ask)?;
        let issue = &mut self.issues[at];
        let known =
            issue.links.iter().position(|known| known["globalId"] == link["globalId"] && known["globalId"].is_string());
        let id = known.map_or_else(|| json!(issue.links.len() + 1), |known| issue.links[known]["id"].clone());
        link["id"] = id.clone();
        match known {
            Some(known) => issue.links[known] = link,
            None => issue.links.push(link),
        }
        issue.updated = ask.now;
        let status = if known.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        let place = format!("{}/rest/api/3/issue/{}/remotelink/{id}", ask.base, issue.key);
        Ok(Reply::json(status, json!({ "id": id, "self": place })))
    }

    fn search(&mut self, ask: &Ask) -> Answered {
        let asked = if ask.method == Method::POST { body(ask)? } else { Value::Null };
        let given = |name: &str| {
            let text = asked[name].as_str().map(str::to_owned);
            text.or_else(|| asked[name].as_u64().map(|n| n.to_string())).or_else(|| ask.query(name).map(str::to_owned))
        };
        let jql = Jql::parse(&given("jql").unwrap_or_default(), ask.now).map_err(|told| bad(&told))?;
        let mut found: Vec<&Issue> = self.issues.iter().filter(|issue| jql.takes(issue)).collect();
        jql.sort(&mut found);
        let from = given("nextPageToken").and_then(|token| token.parse().ok()).unwrap_or(0_usize).min(found.len());
        let most = given("maxResults").and_then(|most| most.parse().ok()).unwrap_or(50_usize);
        let to = (from + most).min(found.len());
        let listed = asked["fields"]
            .as_array()
            .map(|names| names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
        let fields = listed.or_else(|| ask.query("fields").map(str::to_owned)).unwrap_or_else(|| "id".to_owned());
        let shown: Vec<_> = found[from..to].iter().map(|issue| issue.shown(&ask.base, Some(&fields))).collect();
        let mut told = json!({ "issues": shown, "isLast": to == found.len() });
        if to < found.len() {
            told["nextPageToken"] = json!(to.to_string());
        }
        Ok(Reply::ok(told))
    }

    fn write(&mut self, at: usize, fields: Map<String, Value>, now: DateTime<Utc>) {
        let issue = &mut self.issues[at];
        let item = |(name, value): (&String, &Value)| {
            let before = issue.fields.get(name).unwrap_or(&Value::Null);
            (before != value).then(|| {
                json!({ "field": name, "fieldId": name, "fromString": before.to_string(), "toString": value.to_string() })
            })
        };
        let items: Vec<_> = fields.iter().filter_map(item).collect();
        if !items.is_empty() {
            issue.fields.extend(fields);
            issue.updated = now;
            self.changed.push((at, "jira:issue_updated", items));
        }
    }

    fn lead_to(&mut self, at: usize, to: &'static str, now: DateTime<Utc>) {
        let approval = (to == "Authorize").then(|| Approval {
            id: self.next_id(),
            created: now,
            decided: None,
            approvers: vec![("dave@contoso.example", "pending"), ("erin@contoso.example", "pending")],
        });
        let issue = &mut self.issues[at];
        let item = json!({ "field": "status", "fieldId": "status", "fromString": issue.status, "toString": to });
        (issue.status, issue.updated) = (to, now);
        if matches!(to, "Planning" | "Canceled") {
            // Whoever has not decided is not asked any more.
            issue.approvals.retain(|approval| approval.decided.is_some());
        }
        issue.approvals.extend(approval);
        self.changed.push((at, "jira:issue_updated", vec![item]));
    }

    /// What somebody does in the site.
    pub(super) fn act(&mut self, act: &Act, now: DateTime<Utc>) -> anyhow::Result<Value> {
        let fields: Map<String, Value> = act.fields.clone().into_iter().collect();
        let at = if act.what == What::Create {
            self.create(fields, act.by.as_deref().unwrap_or("alice@contoso.example"), now)
        } else {
            let at = self.find(&act.ticket).ok().with_context(|| format!("there is no issue {}", act.ticket))?;
            match act.what {
                What::Approve => self.decide(at, act.by.as_deref(), "approved", now)?,
                What::Reject => self.decide(at, act.by.as_deref(), "declined", now)?,
                What::Cancel => self.lead_to(at, "Canceled", now),
                What::Revert => self.lead_to(at, "Planning", now),
                What::Hold => self.write(at, flag(json!([{ "id": "10019", "value": "Impediment" }])), now),
                What::Resume => self.write(at, flag(Value::Null), now),
                What::Create | What::Update => self.update(at, fields, now),
            }
            at
        };
        Ok(self.issues[at].shown("", None))
    }

    /// A field `status` leads to another status, whatever the workflow says.
    fn update(&mut self, at: usize, mut fields: Map<String, Value>, now: DateTime<Utc>) {
        let status = fields.remove("status");
        self.write(at, fields, now);
        let named = |(_, name): &&(&str, &'static str)| status.as_ref().is_some_and(|status| status == *name);
        if let Some((_, name)) = STATUSES.iter().find(named) {
            self.lead_to(at, name, now);
        }
    }

    fn decide(&mut self, at: usize, by: Option<&str>, verdict: &'static str, now: DateTime<Utc>) -> anyhow::Result<()> {
        let issue = &mut self.issues[at];
        let open = issue.approvals.iter_mut().find(|approval| approval.decided.is_none());
        let open = open.context("nobody is asked to approve it")?;
        let meant = |who: &str| by.is_none_or(|by| who == by || who.split('@').next() == Some(by));
        for (_, decision) in open.approvers.iter_mut().filter(|(who, _)| meant(who)) {
            *decision = verdict;
        }
        let declined = open.approvers.iter().any(|(_, decision)| *decision == "declined");
        let approved = open.approvers.iter().all(|(_, decision)| *decision == "approved");
        issue.updated = now;
        if declined || approved {
            open.decided = Some(if declined { "declined" } else { "approved" });
            self.lead_to(at, if declined { "Planning" } else { "Awaiting implementation" }, now);
        }
        Ok(())
    }
}

fn flag(value: Value) -> Map<String, Value> {
    [(FLAGGED.to_owned(), value)].into_iter().collect()
}

impl Issue {
    fn shown(&self, base: &str, fields: Option<&str>) -> Value {
        let id = STATUSES.iter().find(|(_, name)| *name == self.status).map_or("", |(id, _)| id);
        let done = matches!(self.status, "Completed" | "Failed" | "Canceled");
        let category =
            if done { json!({ "id": 3, "key": "done" }) } else { json!({ "id": 4, "key": "indeterminate" }) };
        let mut all = self.fields.clone();
        all.insert("status".to_owned(), json!({ "id": id, "name": self.status, "statusCategory": category }));
        all.insert("created".to_owned(), json!(stamp(self.created)));
        all.insert("updated".to_owned(), json!(stamp(self.updated)));
        all.insert("attachment".to_owned(), json!(self.attachments));
        all.insert("comment".to_owned(), json!({ "comments": self.comments, "total": self.comments.len() }));
        if let Some(names) = fields.filter(|names| !names.split(',').any(|name| matches!(name, "*all" | "*navigable")))
        {
            all.retain(|known, _| names.split(',').any(|name| name.trim() == known));
        }
        let place = format!("{base}/rest/api/3/issue/{}", self.id);
        json!({ "id": self.id, "key": self.key, "self": place, "fields": all })
    }

    fn transitions(&self) -> Value {
        let possible = TRANSITIONS.into_iter().filter(|(_, _, from, _)| from.contains(&self.status));
        let shown: Vec<_> = possible
            .map(|(id, name, _, to)| {
                let status = STATUSES.iter().find(|(_, known)| *known == to).map_or("", |(id, _)| id);
                json!({ "id": id, "name": name, "isAvailable": true, "hasScreen": false, "to": { "id": status, "name": to } })
            })
            .collect();
        json!({ "expand": "transitions", "transitions": shown })
    }
}

impl Approval {
    fn shown(&self) -> Value {
        let approvers: Vec<_> = self
            .approvers
            .iter()
            .map(|(who, decision)| json!({ "approver": person(who), "approverDecision": decision }))
            .collect();
        json!({
            "id": self.id, "name": "Waiting for approval", "finalDecision": self.decided.unwrap_or("pending"),
            "canAnswerApproval": false, "approvers": approvers, "createdDate": { "iso8601": stamp(self.created) }
        })
    }
}

fn person(email: &str) -> Value {
    let name = email.split('@').next().unwrap_or(email);
    json!({ "accountId": format!("712020:{name}"), "displayName": name, "emailAddress": email, "active": true })
}

fn stamp(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.3f+0000").to_string()
}

fn refused(status: StatusCode, message: &str) -> Reply {
    Reply::json(status, json!({ "errorMessages": [message], "errors": {} }))
}

fn bad(message: &str) -> Reply {
    refused(StatusCode::BAD_REQUEST, message)
}

fn not_found() -> Reply {
    refused(StatusCode::NOT_FOUND, "Issue does not exist or you do not have permission to see it.")
}

fn body(ask: &Ask) -> Result<Value, Reply> {
    ask.json().ok_or_else(|| bad("There was an error parsing JSON. Check that your request body is valid."))
}

/// The files of multipart/form-data (RFC 7578): name, type, content.
fn parts_of(content_type: &str, body: &[u8]) -> Option<Vec<(String, String, Bytes)>> {
    let boundary = content_type.split("boundary=").nth(1)?.trim_matches('"');
    let (start, end) = (format!("--{boundary}"), format!("\r\n--{boundary}"));
    let mut rest = body.get(find(body, start.as_bytes())? + start.len()..)?;
    let mut files = Vec::new();
    while !rest.starts_with(b"--") {
        let head_ends = find(rest, b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&rest[..head_ends]).into_owned();
        let content = rest.get(head_ends + 4..)?;
        let ends = find(content, end.as_bytes())?;
        let name = head.split("filename=\"").nth(1).and_then(|name| name.split('"').next());
        let kind = head.lines().find_map(|line| {
            let (header, value) = line.split_once(':')?;
            header.eq_ignore_ascii_case("content-type").then(|| value.trim().to_owned())
        });
        if let Some(name) = name {
            let kind = kind.unwrap_or_else(|| "application/octet-stream".to_owned());
            files.push((name.to_owned(), kind, Bytes::copy_from_slice(&content[..ends])));
        }
        rest = content.get(ends + end.len()..)?;
    }
    Some(files)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
