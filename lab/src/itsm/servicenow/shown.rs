//! Records as the APIs show them: values, display values, or both.

use chrono::{NaiveDateTime, TimeDelta};
use serde_json::{Map, Value, json};

use super::{Record, ServiceNow, field};
use crate::itsm::Ask;

/// How far the clock of the integration's user is from UTC: display values are in that zone.
const ZONE: TimeDelta = TimeDelta::hours(-8);

/// `sysparm_display_value`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Display {
    Values,
    Displayed,
    Both,
}

impl Display {
    pub(super) fn of(ask: &Ask) -> Self {
        match ask.query("sysparm_display_value") {
            Some("true") => Self::Displayed,
            Some("all") => Self::Both,
            _ => Self::Values,
        }
    }
}

/// The table that a field refers to.
fn refers_to(name: &str) -> Option<&'static str> {
    match name {
        "approver" | "requested_by" | "assigned_to" | "opened_by" => Some("sys_user"),
        "sysapproval" | "change_request" => Some("change_request"),
        _ => None,
    }
}

pub(super) fn state_label(value: &str) -> &'static str {
    match value {
        "-5" => "New",
        "-4" => "Assess",
        "-3" => "Authorize",
        "-2" => "Scheduled",
        "-1" => "Implement",
        "0" => "Review",
        "3" => "Closed",
        "4" => "Canceled",
        _ => "",
    }
}

impl ServiceNow {
    /// The value of a field, also one of another record: `approver.email`. None if there is no such field in any record of the table.
    pub(super) fn value(&self, table: &str, record: &Record, path: &str) -> Option<String> {
        let Some((name, rest)) = path.split_once('.') else {
            let known = |record: &Record| record.contains_key(path);
            let anywhere = || self.tables.get(table).is_some_and(|records| records.iter().any(known));
            return record.get(path).cloned().or_else(|| anywhere().then(String::new));
        };
        let other = refers_to(name)?;
        self.find(other, field(record, name)).and_then(|found| self.value(other, found, rest)).or(Some(String::new()))
    }

    /// A record, as the Table API shows it.
    pub(super) fn shown(&self, ask: &Ask, table: &str, record: &Record) -> Value {
        let display = Display::of(ask);
        let names: Vec<String> = match ask.query("sysparm_fields").filter(|names| !names.is_empty()) {
            Some(names) => names.split(',').map(|name| name.trim().to_owned()).collect(),
            None => record.keys().cloned().collect(),
        };
        let link = (ask.query("sysparm_exclude_reference_link") != Some("true")).then_some(ask.base.as_str());
        let shown = names.into_iter().filter_map(|name| {
            let value = self.value(table, record, &name)?;
            let shown = self.shown_value(&name, &value, display, link);
            Some((name, shown))
        });
        Value::Object(shown.collect::<Map<_, _>>())
    }

    fn shown_value(&self, name: &str, value: &str, display: Display, base: Option<&str>) -> Value {
        // Journals are written and never read back here.
        let value = if matches!(name, "work_notes" | "comments") { "" } else { value };
        let target = refers_to(name).filter(|_| !value.is_empty());
        let link = target.and_then(|table| base.map(|base| format!("{base}/api/now/table/{table}/{value}")));
        let displayed = self.displayed(name, value);
        match (display, link) {
            (Display::Values, Some(link)) => json!({ "link": link, "value": value }),
            (Display::Values, None) => json!(value),
            (Display::Displayed, Some(link)) => json!({ "link": link, "display_value": displayed }),
            (Display::Displayed, None) => json!(displayed),
            (Display::Both, Some(link)) => json!({ "display_value": displayed, "link": link, "value": value }),
            (Display::Both, None) => json!({ "display_value": displayed, "value": value }),
        }
    }

    /// A record, as `sn_chg_rest` shows it: both values always, and those of choices as numbers (itsm.md 5.1).
    pub(super) fn shown_change(&self, record: &Record) -> Value {
        let shown = record.iter().map(|(name, value)| {
            let value = if matches!(name.as_str(), "work_notes" | "comments") { "" } else { value };
            let number = matches!(name.as_str(), "state" | "risk" | "impact" | "priority")
                .then(|| value.parse::<i64>().ok())
                .flatten();
            let mut both = json!({ "display_value": self.displayed(name, value), "value": value });
            if let Some(number) = number {
                both["value"] = number.into();
            }
            if NaiveDateTime::parse_from_str(value, "%Y-%m-%d %H:%M:%S").is_ok() {
                both["display_value_internal"] = both["display_value"].clone();
            }
            (name.clone(), both)
        });
        Value::Object(shown.collect::<Map<_, _>>())
    }

    fn displayed(&self, name: &str, value: &str) -> String {
        if let Some(found) = refers_to(name).and_then(|table| self.find(table, value)) {
            let named = [field(found, "number"), field(found, "name")].into_iter().find(|name| !name.is_empty());
            return named.unwrap_or(value).to_owned();
        }
        if let Ok(at) = NaiveDateTime::parse_from_str(value, "%Y-%m-%d %H:%M:%S") {
            return (at + ZONE).format("%Y-%m-%d %H:%M:%S").to_string();
        }
        match (name, value) {
            ("state", state) if !state_label(state).is_empty() => state_label(state).to_owned(),
            ("approval", "not requested") => "Not Yet Requested".to_owned(),
            ("state" | "approval", "not_required") => "No Longer Required".to_owned(),
            ("approval" | "type" | "state", word) => capitalized(word),
            ("risk", "1") => "High".to_owned(),
            ("risk", "2") => "Moderate".to_owned(),
            ("risk", "3") => "Low".to_owned(),
            ("close_code", "successful") => "Successful".to_owned(),
            ("close_code", "successful_issues") => "Successful with issues".to_owned(),
            ("close_code", "unsuccessful") => "Unsuccessful".to_owned(),
            _ => value.to_owned(),
        }
    }
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
