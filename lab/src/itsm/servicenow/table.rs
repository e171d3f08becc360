//! The Table API and the Attachment API.

use std::cmp::min;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Record, Refusal, ServiceNow, field, query::Query};
use crate::itsm::{Ask, Reply, random_id};

/// Rows that an answer has at most, unless it is told otherwise.
const ROWS: usize = 10_000;

impl ServiceNow {
    pub(super) fn on_table(&mut self, ask: &Ask, table: &str) -> Result<Reply, Refusal> {
        match ask.method {
            Method::GET => self.list(ask, table),
            Method::POST => {
                let fields = fields(ask)?;
                let id = self.insert(ask, table, fields)?;
                let record = self.find(table, &id).ok_or_else(Refusal::no_record)?;
                let place = format!("{}/api/now/table/{table}/{id}", ask.base);
                let told = json!({ "result": self.shown(ask, table, record) });
                Ok(Reply::json(StatusCode::CREATED, told).with("location", place))
            }
            _ => Err(not_allowed(ask)),
        }
    }

    pub(super) fn on_record(&mut self, ask: &Ask, table: &str, id: &str) -> Result<Reply, Refusal> {
        self.table(table)?;
        self.find(table, id).ok_or_else(Refusal::no_record)?;
        match ask.method {
            Method::GET => {}
            Method::PATCH | Method::PUT => self.update(table, id, fields(ask)?, Self::USER, ask.now, ask.aborts)?,
            Method::DELETE => return Err(Refusal::new(StatusCode::FORBIDDEN, "Operation Failed", "ACL Exception")),
            _ => return Err(not_allowed(ask)),
        }
        if ask.header("x-no-response-body").is_some_and(|value| value == "true") && ask.method != Method::GET {
            return Ok(Reply::empty(StatusCode::NO_CONTENT));
        }
        let record = self.find(table, id).ok_or_else(Refusal::no_record)?;
        Ok(Reply::ok(json!({ "result": self.shown(ask, table, record) })))
    }

    fn list(&self, ask: &Ask, table: &str) -> Result<Reply, Refusal> {
        let found = self.found(ask, table)?;
        let shown: Vec<Value> = page(ask, &found).iter().map(|record| self.shown(ask, table, record)).collect();
        Ok(Reply::ok(json!({ "result": shown })).with("x-total-count", found.len()))
    }

    /// The records that are asked for: by `sysparm_query`, or by fields in the URL itself.
    fn found<'a>(&'a self, ask: &Ask, table: &str) -> Result<Vec<&'a Record>, Refusal> {
        let mut text = ask.query("sysparm_query").unwrap_or_default().to_owned();
        for (name, value) in ask.query.iter().filter(|(name, _)| !name.starts_with("sysparm_")) {
            text = format!("{text}^{name}={value}");
        }
        let query = Query::parse(&text);
        let records = self.table(table)?.iter();
        let mut found: Vec<_> = records.filter(|record| query.takes(&|name| self.value(table, record, name))).collect();
        query.sort(&mut found);
        Ok(found)
    }

    fn insert(&mut self, ask: &Ask, table: &str, fields: Record) -> Result<String, Refusal> {
        match table {
            "change_request" => Ok(self.add_change(fields, Self::USER, ask.now)),
            "change_task" => Ok(self.add("change_task", with_defaults(fields), Self::USER, ask.now)),
            name => {
                self.table(name)?;
                Err(Refusal::new(StatusCode::FORBIDDEN, "Operation Failed", "ACL Exception Insert Failed"))
            }
        }
    }

    pub(super) fn on_attachment(&mut self, ask: &Ask, rest: &[&str]) -> Result<Reply, Refusal> {
        match (&ask.method, rest) {
            (&Method::GET, []) => self.list(ask, "sys_attachment"),
            (&Method::POST, ["file"]) => self.attach(ask),
            (&Method::GET, [id]) => {
                let record = self.find("sys_attachment", id).ok_or_else(Refusal::no_record)?;
                Ok(Reply::ok(json!({ "result": record })))
            }
            (&Method::GET, [id, "file"]) => {
                let record = self.find("sys_attachment", id).ok_or_else(Refusal::no_record)?;
                let file = self.files.get(*id).cloned().unwrap_or_default();
                Ok(Reply::file(field(record, "content_type"), file))
            }
            _ => Err(not_allowed(ask)),
        }
    }

    fn attach(&mut self, ask: &Ask) -> Result<Reply, Refusal> {
        let given = |name: &str| {
            ask.query(name)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
                .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, format!("Missing parameter {name}"), ""))
        };
        let (name, table, record) = (given("file_name")?, given("table_name")?, given("table_sys_id")?);
        self.find(&table, &record).ok_or_else(Refusal::no_record)?;
        let fields = [
            ("file_name", name),
            ("table_name", table),
            ("table_sys_id", record),
            ("content_type", ask.content_type()),
            ("size_bytes", ask.body.len().to_string()),
            ("hash", random_id()),
        ];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let id = self.add("sys_attachment", fields, Self::USER, ask.now);
        self.files.insert(id.clone(), ask.body.clone());
        let link = format!("{}/api/now/attachment/{id}/file", ask.base);
        let told = self.find_mut("sys_attachment", &id).ok_or_else(Refusal::no_record)?;
        told.insert("download_link".to_owned(), link);
        let told = json!({ "result": told });
        let place = format!("{}/api/now/attachment/{id}", ask.base);
        Ok(Reply::json(StatusCode::CREATED, told).with("location", place))
    }
}

fn page<'a, 'b>(ask: &Ask, found: &'b [&'a Record]) -> &'b [&'a Record] {
    let number = |name: &str| ask.query(name).and_then(|text| text.parse::<usize>().ok());
    let from = min(number("sysparm_offset").unwrap_or(0), found.len());
    let to = min(from + number("sysparm_limit").unwrap_or(ROWS), found.len());
    &found[from..to]
}

/// The fields of a body: whatever JSON has for them becomes text.
pub(super) fn fields(ask: &Ask) -> Result<Record, Refusal> {
    match ask.json() {
        Some(Value::Object(fields)) => Ok(fields.into_iter().map(|(name, value)| (name, text(value))).collect()),
        _ => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "Exception while reading request",
            "The payload is not valid JSON",
        )),
    }
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        Value::Object(object) => object.get("value").cloned().map(text).unwrap_or_default(),
        value => value.to_string(),
    }
}

fn with_defaults(mut task: Record) -> Record {
    task.entry("active".to_owned()).or_insert_with(|| "true".to_owned());
    task.entry("state".to_owned()).or_insert_with(|| "1".to_owned());
    task
}

pub(super) fn not_allowed(ask: &Ask) -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Method not supported", ask.method.to_string())
}
