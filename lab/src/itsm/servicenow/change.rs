//! Changes: their model of states, approvals, being on hold, and the Change Management API (itsm.md 5.2, 5.5).

use chrono::{DateTime, Utc};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Record, Refusal, ServiceNow, field,
    shown::state_label,
    stamp,
    table::{fields, not_allowed},
};
use crate::itsm::{Ask, Reply};

const NEW: &str = "-5";
const ASSESS: &str = "-4";
const AUTHORIZE: &str = "-3";
const SCHEDULED: &str = "-2";
const IMPLEMENT: &str = "-1";
const REVIEW: &str = "0";
const CLOSED: &str = "3";
const CANCELED: &str = "4";

/// Fields that nobody writes.
const READ_ONLY: [&str; 7] =
    ["sys_id", "number", "sys_mod_count", "sys_created_on", "sys_created_by", "sys_updated_on", "sys_updated_by"];
/// What business rules send out is sent when one of these has changed.
const WATCHED: [&str; 6] = ["state", "approval", "on_hold", "start_date", "end_date", "close_code"];

/// What the model of a type of change lets follow, beside cancelling and going back to New.
fn follows(kind: &str, state: &str) -> Option<&'static str> {
    match (kind, state) {
        ("standard", NEW) => Some(SCHEDULED),
        ("emergency", NEW) => Some(AUTHORIZE),
        (_, NEW) => Some(ASSESS),
        (_, SCHEDULED) => Some(IMPLEMENT),
        (_, IMPLEMENT) => Some(REVIEW),
        (_, REVIEW) => Some(CLOSED),
        // Approvals lead on from Assess and Authorize.
        _ => None,
    }
}

impl ServiceNow {
    pub(in crate::itsm) fn add_change(&mut self, fields: Record, by: &str, now: DateTime<Utc>) -> String {
        self.numbers += 1;
        let requester = self.user(by).unwrap_or_default();
        let defaults = [
            ("number", format!("CHG{:07}", self.numbers)),
            ("state", NEW.to_owned()),
            ("approval", "not requested".to_owned()),
            ("type", "normal".to_owned()),
            ("on_hold", "false".to_owned()),
            ("active", "true".to_owned()),
            ("risk", "3".to_owned()),
            ("requested_by", requester),
        ];
        let empty =
            ["on_hold_reason", "close_code", "close_notes", "correlation_id", "correlation_display", "start_date"];
        let more =
            ["end_date", "work_start", "work_end", "short_description", "description", "cmdb_ci", "u_organization"];
        let empty = empty.into_iter().chain(more).chain(["u_reason", "work_notes", "comments"]);
        let mut record: Record = empty.map(|name| (name.to_owned(), String::new())).collect();
        record.extend(defaults.map(|(name, value)| (name.to_owned(), value)));
        record.extend(fields.into_iter().filter(|(name, _)| !READ_ONLY.contains(&name.as_str())));
        record.insert("chg_model".to_owned(), field(&record, "type").to_owned());
        let id = self.add("change_request", record, by, now);
        self.send(&id);
        id
    }

    /// Writes fields of a record. A change of state that the model does not know is aborted, and nobody is told (KB0759295).
    pub(in crate::itsm) fn update(
        &mut self,
        table: &str,
        id: &str,
        fields: Record,
        by: &str,
        now: DateTime<Utc>,
        aborts: bool,
    ) -> Result<(), Refusal> {
        let before = self.find(table, id).ok_or_else(Refusal::no_record)?.clone();
        let mut after = before.clone();
        let writable = |name: &str| !READ_ONLY.contains(&name) && !matches!(name, "work_notes" | "comments");
        after.extend(
            fields.iter().filter(|(name, _)| writable(name)).map(|(name, value)| (name.clone(), value.clone())),
        );
        if aborts {
            return Ok(());
        }
        if table == "change_request" && !self.may_become(&before, &after)? {
            return Ok(());
        }
        let notes: Vec<_> = ["work_notes", "comments"]
            .into_iter()
            .filter_map(|name| Some((name, fields.get(name).filter(|text| !text.is_empty())?)))
            .collect();
        for (name, text) in &notes {
            let entry = [("name", table), ("element_id", id), ("element", name), ("value", text)];
            let entry = entry.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            self.add("sys_journal_field", entry, by, now);
        }
        if after == before && notes.is_empty() {
            return Ok(());
        }
        if table == "change_request" {
            self.follow(&before, &mut after, now);
        }
        let count = field(&before, "sys_mod_count").parse::<u64>().unwrap_or(0) + 1;
        after.insert("sys_mod_count".to_owned(), count.to_string());
        after.insert("sys_updated_on".to_owned(), stamp(now));
        after.insert("sys_updated_by".to_owned(), by.to_owned());
        let watched = WATCHED.into_iter().any(|name| before.get(name) != after.get(name));
        if let Some(record) = self.find_mut(table, id) {
            *record = after.clone();
        }
        if table == "sysapproval_approver" {
            self.count_approvals(field(&after, "sysapproval").to_owned().as_str(), now);
        }
        if table == "change_request" && watched {
            self.send(id);
        }
        Ok(())
    }

    /// Whether the model lets a change become so; an error where a data policy says what is missing.
    fn may_become(&self, before: &Record, after: &Record) -> Result<bool, Refusal> {
        let (from, to) = (field(before, "state"), field(after, "state"));
        if field(after, "on_hold") == "true" && field(after, "on_hold_reason").is_empty() {
            return Err(mandatory("On hold reason"));
        }
        if from == to {
            return Ok(true);
        }
        if field(before, "on_hold") == "true" && field(after, "on_hold") == "true" && to != CANCELED {
            return Ok(false);
        }
        let known = match to {
            CANCELED => !matches!(from, REVIEW | CLOSED | CANCELED),
            NEW => matches!(from, ASSESS | AUTHORIZE | SCHEDULED),
            to => follows(field(before, "type"), from) == Some(to),
        };
        if !known || (to == CLOSED && self.has_open_tasks(field(before, "sys_id"))) {
            return Ok(false);
        }
        let missing = ["close_code", "close_notes"].into_iter().find(|name| field(after, name).is_empty());
        match missing.filter(|_| to == CLOSED) {
            Some(name) => Err(mandatory(name)),
            None => Ok(true),
        }
    }

    /// What follows from a new state, or from being held.
    fn follow(&mut self, before: &Record, after: &mut Record, now: DateTime<Utc>) {
        let id = field(before, "sys_id").to_owned();
        let (from, to) = (field(before, "state"), field(after, "state").to_owned());
        let mut set = |name: &str, value: &str| after.insert(name.to_owned(), value.to_owned());
        if from != to {
            match to.as_str() {
                ASSESS | AUTHORIZE => drop(set("approval", "requested")),
                NEW => drop(set("approval", "not requested")),
                SCHEDULED => drop(set("approval", "approved")),
                IMPLEMENT => drop(set("work_start", &stamp(now))),
                REVIEW => drop(set("work_end", &stamp(now))),
                CLOSED | CANCELED => drop(set("active", "false")),
                _ => {}
            }
            match to.as_str() {
                ASSESS => self.ask_for(&id, &["carol"], now),
                AUTHORIZE => self.ask_for(&id, &["dave", "erin"], now),
                NEW | CANCELED => self.mark_approvals(&id, "requested", "cancelled", now),
                _ => {}
            }
        }
        match (field(before, "on_hold"), field(after, "on_hold")) {
            ("false", "true") => self.mark_approvals(&id, "requested", "not_required", now),
            ("true", "false") => self.mark_approvals(&id, "not_required", "requested", now),
            _ => {}
        }
    }

    fn ask_for(&mut self, change: &str, users: &[&str], now: DateTime<Utc>) {
        for user in users {
            let approver = self.user(user).unwrap_or_default();
            let stage = self.find("change_request", change).map_or("", |record| field(record, "state")).to_owned();
            let row =
                [("sysapproval", change), ("approver", &approver), ("state", "requested"), ("wf_activity", &stage)];
            let row = row.into_iter().chain([("comments", "")]);
            let row = row.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            self.add("sysapproval_approver", row, "system", now);
        }
    }

    fn mark_approvals(&mut self, change: &str, from: &str, to: &str, now: DateTime<Utc>) {
        for row in self.tables.get_mut("sysapproval_approver").into_iter().flatten() {
            if field(row, "sysapproval") == change && field(row, "state") == from {
                row.insert("state".to_owned(), to.to_owned());
                row.insert("sys_updated_on".to_owned(), stamp(now));
            }
        }
    }

    /// Any rejection rejects the change and sends it back to New; when all have approved, it goes on.
    fn count_approvals(&mut self, change: &str, now: DateTime<Utc>) {
        let Some(record) = self.find("change_request", change) else { return };
        let state = field(record, "state").to_owned();
        let rows = self.tables.get("sysapproval_approver").into_iter().flatten();
        let asked_now = |row: &&Record| field(row, "sysapproval") == change && field(row, "wf_activity") == state;
        let states: Vec<_> = rows.filter(asked_now).map(|row| field(row, "state").to_owned()).collect();
        if states.iter().any(|state| state == "rejected") && matches!(state.as_str(), ASSESS | AUTHORIZE) {
            self.mark_approvals(change, "requested", "cancelled", now);
            return self.lead_to(change, NEW, "rejected", now);
        }
        if states.iter().any(|state| state == "requested" || state == "not_required") {
            return;
        }
        match state.as_str() {
            ASSESS => {
                self.lead_to(change, AUTHORIZE, "requested", now);
                self.ask_for(change, &["dave", "erin"], now);
            }
            AUTHORIZE => self.lead_to(change, SCHEDULED, "approved", now),
            _ => {}
        }
    }

    /// The workflow moves a change on.
    fn lead_to(&mut self, change: &str, state: &str, approval: &str, now: DateTime<Utc>) {
        let Some(record) = self.find_mut("change_request", change) else { return };
        let count = field(record, "sys_mod_count").parse::<u64>().unwrap_or(0) + 1;
        let written = [("state", state), ("approval", approval), ("sys_mod_count", &count.to_string())];
        for (name, value) in written.into_iter().chain([("sys_updated_on", &*stamp(now)), ("sys_updated_by", "system")])
        {
            record.insert(name.to_owned(), value.to_owned());
        }
        self.send(change);
    }

    fn has_open_tasks(&self, change: &str) -> bool {
        let tasks = self.tables.get("change_task").into_iter().flatten();
        tasks.filter(|task| field(task, "active") == "true").any(|task| field(task, "change_request") == change)
    }

    pub(in crate::itsm) fn user(&self, name: &str) -> Option<String> {
        let users = self.tables.get("sys_user").into_iter().flatten();
        let mut users = users.filter(|user| field(user, "user_name") == name);
        users.next().map(|user| field(user, "sys_id").to_owned())
    }

    /// The record of a change by its number or id.
    pub(in crate::itsm) fn named(&self, name: &str) -> Option<String> {
        let changes = self.tables.get("change_request").into_iter().flatten();
        let mut named = changes.filter(|record| field(record, "number") == name || field(record, "sys_id") == name);
        named.next().map(|record| field(record, "sys_id").to_owned())
    }

    /// The open approvals of a change that somebody has to give.
    pub(in crate::itsm) fn approvals_of(&self, change: &str, user: Option<&str>) -> Vec<String> {
        let user = user.and_then(|user| self.user(user));
        let rows = self.tables.get("sysapproval_approver").into_iter().flatten();
        rows.filter(|row| field(row, "sysapproval") == change && field(row, "state") == "requested")
            .filter(|row| user.as_deref().is_none_or(|user| field(row, "approver") == user))
            .map(|row| field(row, "sys_id").to_owned())
            .collect()
    }

    /// What a business rule sends of a change: the contract of itsm.md 5.1, all strings.
    fn send(&mut self, id: &str) {
        let Some(record) = self.find("change_request", id) else { return };
        let text = |name: &str| Value::from(field(record, name));
        let mut told = json!({
            "source": "servicenow", "instance": "lab", "table": "change_request",
            "event": format!("change.{}", state_label(field(record, "state")).to_lowercase()),
            "inputs": { "organization": text("u_organization"), "reason": text("u_reason"), "action": "rotate_auth_certificate" },
        });
        let sent =
            ["sys_id", "number", "sys_mod_count", "sys_updated_on", "type", "chg_model", "state", "approval", "risk"];
        let more =
            ["on_hold", "start_date", "end_date", "requested_by", "cmdb_ci", "correlation_id", "short_description"];
        for name in sent.into_iter().chain(more) {
            told[name] = text(name);
        }
        let email = self.value("change_request", record, "requested_by.email").unwrap_or_default();
        told["requested_by_email"] = email.into();
        self.changed.push(told);
    }

    pub(super) fn on_change(&mut self, ask: &Ask, rest: &[&str]) -> Result<Reply, Refusal> {
        let ([id] | [id, ..]) = rest else { return Err(not_allowed(ask)) };
        let missing = || {
            let told = format!("Record not found, sys_id: {id}");
            Refusal::new(StatusCode::NOT_FOUND, told, "Failed API level ACL Validation or record does not exist")
        };
        let id =
            self.find("change_request", id).map(|record| field(record, "sys_id").to_owned()).ok_or_else(missing)?;
        match (&ask.method, &rest[1..]) {
            (&Method::GET, []) => {}
            (&Method::PATCH, []) => {
                self.update("change_request", &id, fields(ask)?, Self::USER, ask.now, ask.aborts)?;
            }
            (&Method::GET, ["nextstates"]) => return Ok(Reply::ok(json!({ "result": self.next_states(&id) }))),
            (&Method::GET, ["task"]) => {
                let tasks = self.tables.get("change_task").into_iter().flatten();
                let tasks: Vec<_> = tasks
                    .filter(|task| field(task, "change_request") == id)
                    .map(|task| self.shown_change(task))
                    .collect();
                return Ok(Reply::ok(json!({ "result": tasks })));
            }
            (&Method::PATCH | &Method::POST, ["approvals"]) => return self.approve_as_caller(ask, &id),
            _ => return Err(not_allowed(ask)),
        }
        let record = self.find("change_request", &id).ok_or_else(missing)?;
        Ok(Reply::ok(json!({ "result": self.shown_change(record) })))
    }

    /// Acts as whoever calls: an integration that uses it gives approvals.
    fn approve_as_caller(&mut self, ask: &Ask, change: &str) -> Result<Reply, Refusal> {
        let word = field(&fields(ask)?, "state").to_owned();
        for approval in self.approvals_of(change, Some(Self::USER)) {
            let written = [("state".to_owned(), word.clone())].into();
            self.update("sysapproval_approver", &approval, written, Self::USER, ask.now, false)?;
        }
        Ok(Reply::ok(json!({ "result": {} })))
    }

    fn next_states(&self, id: &str) -> Value {
        let Some(record) = self.find("change_request", id) else { return json!({}) };
        let from = field(record, "state");
        let all = [NEW, ASSESS, AUTHORIZE, SCHEDULED, IMPLEMENT, REVIEW, CLOSED, CANCELED];
        let after = |to: &str| {
            let mut after = record.clone();
            after.insert("state".to_owned(), to.to_owned());
            for name in ["close_code", "close_notes"] {
                // What must be filled in is asked for when it is written.
                after.entry(name.to_owned()).and_modify(|value| value.push('-'));
            }
            after
        };
        let possible = |to: &str| to == from || self.may_become(record, &after(to)).unwrap_or(false);
        let available: Vec<_> = all.into_iter().filter(|to| possible(to)).collect();
        let transition = |to: &str| {
            json!({
                "sys_id": format!("{id}{to}"), "display_value": format!("{} to {}", state_label(from), state_label(to)),
                "from_state": from, "to_state": to, "transition_available": possible(to), "automatic_transition": false,
                "conditions": [{ "passed": possible(to), "condition": { "name": "Model of the change", "description": "" } }]
            })
        };
        let transitions: Vec<_> = all.into_iter().filter(|to| *to != from).map(|to| json!([transition(to)])).collect();
        let labels: serde_json::Map<_, _> =
            available.iter().map(|state| ((*state).to_owned(), state_label(state).into())).collect();
        json!({ "available_states": available, "state_transitions": transitions, "state_label": labels })
    }
}

fn mandatory(name: &str) -> Refusal {
    let detail = format!("Data Policy Exception:\n The following fields are mandatory: {name}");
    Refusal::new(StatusCode::FORBIDDEN, "Operation Failed", detail)
}
