//! Changes of ServiceNow: read, told about, moved, closed (itsm.md 5.2, 5.5).

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{
    Attachment, InvalidTicketWay, Result, TicketError, TicketWay, desync,
    http::{Body, Call, Http},
};

/// Rows of a list that are read at most.
const ROWS: &str = "200";
/// What of a change is read.
const FIELDS: &str = "sys_id,number,state,approval,on_hold,sys_mod_count,sys_updated_on,close_code,correlation_id";
/// What the intake reads of a change; the same as a business rule sends (itsm.md 5.1).
const INTAKE: &str = "sys_id,number,sys_mod_count,sys_updated_on,type,chg_model,state,approval,risk,on_hold,start_date,end_date,requested_by,\
                      requested_by.email,cmdb_ci,correlation_id,short_description,u_organization,u_reason";

/// An instance that can be asked.
#[derive(Debug)]
pub struct ServiceNow {
    http: Http,
}

/// A change as it stands.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Change {
    /// 32 hexadecimal digits.
    pub sys_id: String,
    /// `CHG0030022`.
    pub number: String,
    /// The value of the state: `-1`, or whatever the change model says.
    pub state: String,
    /// `not requested`, `requested`, `approved`, `rejected`.
    pub approval: String,
    /// `true` or `false`.
    pub on_hold: String,
    /// Grows with every update.
    pub sys_mod_count: String,
    /// The code it was closed with.
    #[serde(default)]
    pub close_code: String,
    /// The renewal that it belongs to, if rekey has written it.
    #[serde(default)]
    pub correlation_id: String,
}

impl Change {
    /// Whether somebody holds it.
    #[must_use]
    pub fn is_on_hold(&self) -> bool {
        self.on_hold == "true"
    }
}

/// What somebody who was asked says of a change.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Approval {
    /// Who was asked, by name; empty if the account of rekey may not see it.
    #[serde(default, rename = "approver.name")]
    pub approver: String,
    /// `requested`, `approved`, `rejected`, `cancelled`, `not_required` …
    pub state: String,
}

/// How a change is closed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Closing<'a> {
    /// `successful`, `successful_issues`, `unsuccessful`.
    pub code: &'a str,
    /// What happened.
    pub notes: &'a str,
}

#[derive(Deserialize)]
struct One<T> {
    result: T,
}

#[derive(Deserialize)]
struct NextStates {
    #[serde(default)]
    available_states: Vec<String>,
}

#[derive(Deserialize)]
struct Task {
    number: String,
}

#[derive(Deserialize)]
struct File {
    file_name: String,
    size_bytes: String,
}

impl ServiceNow {
    /// The instance at the end of this way. Nothing is sent yet.
    pub fn new(way: TicketWay) -> std::result::Result<Self, InvalidTicketWay> {
        Ok(Self { http: Http::new(way)? })
    }

    /// Where people read a change.
    #[must_use]
    pub fn record_url(&self, sys_id: &str) -> String {
        format!("{}/change_request.do?sys_id={sys_id}", self.http.base().as_str().trim_end_matches('/'))
    }

    /// A change as it stands.
    pub async fn change(&self, sys_id: &str) -> Result<Change> {
        let path = ["api", "now", "table", "change_request", valid_id(sys_id)?];
        let query = [("sysparm_fields", FIELDS), ("sysparm_exclude_reference_link", "true")];
        Ok(self.http.ask(&Call::get(&path, &query)).await?.json::<One<Change>>()?.result)
    }

    /// A change as the intake reads it.
    pub async fn record(&self, sys_id: &str) -> Result<Json> {
        let path = ["api", "now", "table", "change_request", valid_id(sys_id)?];
        let query = [("sysparm_fields", INTAKE), ("sysparm_exclude_reference_link", "true")];
        Ok(self.for_intake(self.http.ask(&Call::get(&path, &query)).await?.json::<One<Json>>()?.result))
    }

    /// With what a business rule would add: the instance, and the requester's address without a dot-walk in its name.
    fn for_intake(&self, mut record: Json) -> Json {
        record["requested_by_email"] = record["requested_by.email"].take();
        // A host name without a dot is short for one of service-now.com.
        if self.http.host().contains('.') && self.http.base().port().is_none() {
            record["instance"] = json!(self.http.host());
        }
        record
    }

    /// Changes that a query takes and that were updated at or after an instant, the oldest update first, as the intake reads them.
    pub async fn updated_changes(&self, query: &str, since: DateTime<Utc>) -> Result<Vec<Json>> {
        let since = since.format("%Y-%m-%d %H:%M:%S");
        let query = format!("{query}^sys_updated_on>={since}^ORDERBYsys_updated_on");
        let records: Vec<Json> = self.rows("change_request", &query, INTAKE).await?;
        Ok(records.into_iter().map(|record| self.for_intake(record)).collect())
    }

    /// The number of the change that a renewal was written into, if there is one.
    pub async fn correlated(&self, correlation_id: &str) -> Result<Option<Change>> {
        let query = format!("correlation_id={}^correlation_display=rekey", plain(correlation_id)?);
        Ok(self.rows("change_request", &query, FIELDS).await?.pop())
    }

    /// What those who were asked say of a change. Read, never given.
    pub async fn approvals(&self, sys_id: &str) -> Result<Vec<Approval>> {
        let query = format!("sysapproval={}^ORDERBYsys_created_on", valid_id(sys_id)?);
        self.rows("sysapproval_approver", &query, "approver.name,state").await
    }

    /// The numbers of tasks that are open: a change with such cannot be closed.
    pub async fn open_tasks(&self, sys_id: &str) -> Result<Vec<String>> {
        let query = format!("change_request={}^active=true", valid_id(sys_id)?);
        let tasks: Vec<Task> = self.rows("change_task", &query, "number").await?;
        Ok(tasks.into_iter().map(|task| task.number).collect())
    }

    async fn rows<T: serde::de::DeserializeOwned>(&self, table: &str, query: &str, fields: &str) -> Result<Vec<T>> {
        let path = ["api", "now", "table", table];
        let asked = [
            ("sysparm_query", query),
            ("sysparm_fields", fields),
            ("sysparm_exclude_reference_link", "true"),
            ("sysparm_limit", ROWS),
        ];
        Ok(self.http.ask(&Call::get(&path, &asked)).await?.json::<One<Vec<T>>>()?.result)
    }

    /// Writes a work note, unless one that holds `mark` stands there: nobody knows whether a request without an answer was carried out, and journals
    /// read back empty (itsm.md 5.2).
    pub async fn note(&self, sys_id: &str, text: &str, mark: &str) -> Result<()> {
        if self.has_note(sys_id, mark).await? {
            return Ok(());
        }
        self.patch(sys_id, &json!({ "work_notes": text })).await?;
        if self.has_note(sys_id, mark).await? {
            return Ok(());
        }
        Err(TicketError::again(
            "ticket_note_lost",
            "The instance took a work note and does not show it in sys_journal_field",
            "Let the account of rekey read sys_journal_field, and see which business rule aborts updates; then replay this message",
        ))
    }

    async fn has_note(&self, sys_id: &str, mark: &str) -> Result<bool> {
        let query = format!("element_id={}^element=work_notes^valueLIKE{}", valid_id(sys_id)?, plain(mark)?);
        Ok(!self.rows::<Json>("sys_journal_field", &query, "sys_id").await?.is_empty())
    }

    /// Writes which renewal a change belongs to, unless it says so.
    pub async fn correlate(&self, change: &Change, correlation_id: &str) -> Result<()> {
        if change.correlation_id == correlation_id {
            return Ok(());
        }
        let fields = json!({ "correlation_id": plain(correlation_id)?, "correlation_display": "rekey" });
        self.patch(&change.sys_id, &fields).await.map(drop)
    }

    /// Moves a change to a state, with what that state asks for, and looks whether it is there: a transition that the model does not allow is answered as
    /// if it had been made.
    pub async fn move_to(&self, sys_id: &str, state: &str, closing: Option<&Closing<'_>>) -> Result<()> {
        let before = self.change(sys_id).await?;
        if before.state == state {
            return Ok(());
        }
        let possible = self.next_states(sys_id).await?;
        if !possible.iter().any(|one| one == state) {
            return Err(desync(&before.number, state, &before.state, &possible));
        }
        let mut fields = json!({ "state": state });
        if let Some(Closing { code, notes }) = closing {
            fields["close_code"] = json!(code);
            fields["close_notes"] = json!(notes);
        }
        self.patch(sys_id, &fields).await?;
        let after = self.change(sys_id).await?;
        if after.state == state {
            return Ok(());
        }
        Err(desync(&after.number, state, &after.state, &self.next_states(sys_id).await?))
    }

    /// The states that a change can be moved to from where it is, itself left out.
    pub async fn next_states(&self, sys_id: &str) -> Result<Vec<String>> {
        let path = ["api", "sn_chg_rest", "change", valid_id(sys_id)?, "nextstates"];
        let told: One<NextStates> = self.http.ask(&Call::get(&path, &[])).await?.json()?;
        Ok(told.result.available_states)
    }

    async fn patch(&self, sys_id: &str, fields: &Json) -> Result<()> {
        let path = ["api", "now", "table", "change_request", valid_id(sys_id)?];
        let query = [("sysparm_fields", "sys_id,sys_mod_count")];
        let call = Call { method: Method::PATCH, path: &path, query: &query, body: Body::Json(fields) };
        // Whether it was carried out is looked at by who asked, so it is asked once only.
        self.http.once(&call).await.map(drop)
    }

    /// The files at a change.
    pub async fn attachments(&self, sys_id: &str) -> Result<Vec<Attachment>> {
        let path = ["api", "now", "attachment"];
        let query = format!("table_name=change_request^table_sys_id={}", valid_id(sys_id)?);
        let call = [("sysparm_query", query.as_str()), ("sysparm_limit", ROWS)];
        let files: One<Vec<File>> = self.http.ask(&Call::get(&path, &call)).await?.json()?;
        let read = |file: File| Attachment { name: file.file_name, size: file.size_bytes.parse().unwrap_or(0) };
        Ok(files.result.into_iter().map(read).collect())
    }

    /// Puts a file at a change, unless one of that name and size is there.
    pub async fn attach(&self, sys_id: &str, name: &str, content_type: &str, content: &[u8]) -> Result<()> {
        let file = Attachment { name: name.to_owned(), size: content.len() as u64 };
        if self.attachments(sys_id).await?.contains(&file) {
            return Ok(());
        }
        let path = ["api", "now", "attachment", "file"];
        let query = [("file_name", name), ("table_name", "change_request"), ("table_sys_id", valid_id(sys_id)?)];
        let call = Call { method: Method::POST, path: &path, query: &query, body: Body::Raw(content_type, content) };
        self.http.once(&call).await.map(drop)
    }
}

/// An id becomes a part of paths and queries.
fn valid_id(sys_id: &str) -> Result<&str> {
    if sys_id.len() == 32 && sys_id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(sys_id);
    }
    Err(TicketError::refused(
        "ticket_id_invalid",
        "The ticket has no sys_id of 32 hexadecimal digits",
        "Raise the renewal from the record itself, or with its sys_id",
    ))
}

/// A text that is a value of an encoded query and no part of its grammar.
fn plain(text: &str) -> Result<&str> {
    if text.contains('^') || text.chars().any(char::is_control) {
        return Err(TicketError::refused(
            "ticket_value_invalid",
            "A value would change the meaning of a query",
            "Report this with the log",
        ));
    }
    Ok(text)
}
