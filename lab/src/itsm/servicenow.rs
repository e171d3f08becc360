//! An instance of ServiceNow: tables, changes with their states and approvals, attachments (itsm.md 5.2, 5.5).

mod change;
mod query;
mod shown;
mod table;

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Ask, Reply, random_id};

/// A record: fields and their values, as the database has them.
pub(super) type Record = BTreeMap<String, String>;

/// How long a token stands.
const TOKEN: Duration = Duration::from_secs(1800);

/// The instance.
#[derive(Debug)]
pub(crate) struct ServiceNow {
    tables: BTreeMap<&'static str, Vec<Record>>,
    files: BTreeMap<String, Bytes>,
    tokens: HashMap<String, Instant>,
    /// What the integration signs in with.
    pub(crate) password: String,
    pub(crate) api_key: String,
    /// Records of changes that a business rule sends out.
    changed: Vec<Value>,
    numbers: u32,
}

/// A request that is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
    detail: Option<String>,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { status, message: message.into(), detail: Some(detail.into()) }
    }

    fn no_record() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "No Record found",
            "Record doesn't exist or ACL restricts the record retrieval",
        )
    }
}

impl ServiceNow {
    /// The account of the integration, and its client id.
    pub(crate) const USER: &str = "rekey.integration";

    pub(super) fn new() -> Self {
        let tables = ["change_request", "change_task", "sysapproval_approver", "sys_journal_field", "sys_user"];
        let tables = tables.into_iter().chain(["sys_attachment"]).map(|name| (name, Vec::new())).collect();
        let mut instance = Self {
            tables,
            files: BTreeMap::new(),
            tokens: HashMap::new(),
            password: random_id(),
            api_key: format!("now_{}", random_id()),
            changed: Vec::new(),
            numbers: 30_021,
        };
        let people = [(Self::USER, "Rekey Integration"), ("alice", "Alice Requester"), ("carol", "Carol Assessor")];
        for (user, name) in people.into_iter().chain([("dave", "Dave of the CAB"), ("erin", "Erin of the CAB")]) {
            let fields = [("user_name", user), ("name", name), ("email", &format!("{user}@contoso.example"))];
            let fields = fields.into_iter().chain([("active", "true")]);
            let record = fields.map(|(field, value)| (field.to_owned(), value.to_owned())).collect();
            instance.add("sys_user", record, "system", DateTime::UNIX_EPOCH);
        }
        instance
    }

    /// What business rules have sent since this was last asked.
    pub(super) fn changes(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.changed)
    }

    /// Forgets all tokens: they are not taken any more.
    pub(crate) fn forget_tokens(&mut self) {
        self.tokens.clear();
    }

    pub(super) fn answer(&mut self, ask: &Ask) -> Reply {
        if ask.path == "/oauth_token.do" {
            return self.token(ask);
        }
        if !self.lets_in(ask) {
            let detail = Some("Required to provide Auth information");
            return Reply::detailed(StatusCode::UNAUTHORIZED, "User Not Authenticated", detail)
                .with("www-authenticate", "BASIC realm=\"Service-now\"");
        }
        let path = ask.path.replace("/api/now/v1/", "/api/now/").replace("/api/now/v2/", "/api/now/");
        let path = path.replace("/api/sn_chg_rest/v1/", "/api/sn_chg_rest/");
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let done = match parts.as_slice() {
            ["api", "now", "table", table] => self.on_table(ask, table),
            ["api", "now", "table", table, id] => self.on_record(ask, table, id),
            ["api", "now", "attachment", rest @ ..] => self.on_attachment(ask, rest),
            ["api", "sn_chg_rest", "change", rest @ ..] => self.on_change(ask, rest),
            _ => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "Requested URI does not represent any resource",
                ask.path.clone(),
            )),
        };
        done.unwrap_or_else(|refusal| Reply::detailed(refusal.status, &refusal.message, refusal.detail.as_deref()))
    }

    fn lets_in(&self, ask: &Ask) -> bool {
        let basic = ask.basic().is_some_and(|(user, password)| user == Self::USER && password == self.password);
        let key = ask.header("x-sn-apikey").is_some_and(|key| key == self.api_key);
        let token = ask.authorization("Bearer").and_then(|token| self.tokens.get(token));
        basic || key || token.is_some_and(|until| Instant::now() < *until)
    }

    /// Client credentials, or name and password (RFC 6749 4.3, 4.4).
    fn token(&mut self, ask: &Ask) -> Reply {
        let form: HashMap<String, String> = form_urlencoded::parse(&ask.body).into_owned().collect();
        let says = |name: &str, value: &str| form.get(name).is_some_and(|given| given == value);
        let inside = ask.basic().is_some_and(|(id, secret)| id == Self::USER && secret == self.password);
        let client = inside || (says("client_id", Self::USER) && says("client_secret", &self.password));
        let user = says("username", Self::USER) && says("password", &self.password);
        let granted = says("grant_type", "client_credentials") || (says("grant_type", "password") && user);
        if ask.method != Method::POST || !client || !granted {
            let told = json!({ "error": "server_error", "error_description": "access_denied" });
            return Reply::json(StatusCode::UNAUTHORIZED, told);
        }
        let token = random_id();
        self.tokens.insert(token.clone(), Instant::now() + TOKEN);
        Reply::ok(json!({
            "access_token": token, "refresh_token": random_id(), "scope": "useraccount", "token_type": "Bearer", "expires_in": TOKEN.as_secs()
        }))
    }

    fn table(&self, name: &str) -> Result<&Vec<Record>, Refusal> {
        self.tables.get(name).ok_or_else(|| Refusal {
            status: StatusCode::BAD_REQUEST,
            message: format!("Invalid table {name}"),
            detail: None,
        })
    }

    fn find(&self, table: &str, id: &str) -> Option<&Record> {
        self.tables.get(table)?.iter().find(|record| record.get("sys_id").is_some_and(|known| known == id))
    }

    fn find_mut(&mut self, table: &str, id: &str) -> Option<&mut Record> {
        self.tables.get_mut(table)?.iter_mut().find(|record| record.get("sys_id").is_some_and(|known| known == id))
    }

    /// A new record of a table that there is; returns its `sys_id`.
    fn add(&mut self, table: &'static str, mut record: Record, by: &str, now: DateTime<Utc>) -> String {
        let id = random_id();
        let stamp = stamp(now);
        let own = [("sys_id", id.as_str()), ("sys_mod_count", "0"), ("sys_created_by", by), ("sys_updated_by", by)];
        for (name, value) in own.into_iter().chain([("sys_created_on", &*stamp), ("sys_updated_on", &*stamp)]) {
            record.insert(name.to_owned(), value.to_owned());
        }
        self.tables.entry(table).or_default().push(record);
        id
    }

    /// A change as it is now.
    pub(super) fn told(&self, id: &str) -> Value {
        json!(self.find("change_request", id))
    }

    /// Everything about changes, for whoever looks on.
    pub(super) fn state(&self) -> Value {
        let all = |name: &str| self.tables.get(name).cloned().unwrap_or_default();
        json!({
            "change_request": all("change_request"),
            "change_task": all("change_task"),
            "sysapproval_approver": all("sysapproval_approver"),
            "sys_journal_field": all("sys_journal_field"),
            "sys_attachment": all("sys_attachment"),
        })
    }
}

/// A time as ServiceNow stores it, in UTC.
fn stamp(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

fn field<'a>(record: &'a Record, name: &str) -> &'a str {
    record.get(name).map_or("", String::as_str)
}
