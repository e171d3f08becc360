//! Members of records: the shapes in which ticket systems write one and the same value.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::Value;

use crate::storable::HOLDS_NUL;

use super::{Envelope, Fault, Name, Source, SourceKind};

/// A member: strings, numbers, booleans or objects with `value` for the same thing (itsm.md 5.1).
#[derive(Debug, Default)]
enum Field {
    /// Left out, null or an empty string.
    #[default]
    Empty,
    /// Its value.
    Text(String),
    /// Only how it is shown to somebody.
    DisplayOnly,
}

impl Field {
    fn of(value: &Value) -> Result<Self, &'static str> {
        let (value, display) = match value {
            Value::Object(object) => (object.get("value"), object.get("display_value")),
            value => (Some(value), None),
        };
        match value {
            Some(Value::String(text)) if text.trim().is_empty() => Ok(Self::Empty),
            Some(Value::String(text)) if text.contains('\0') => Err(HOLDS_NUL),
            Some(Value::String(text)) => Ok(Self::Text(text.trim().to_owned())),
            Some(Value::Number(number)) => Ok(Self::Text(number.to_string())),
            Some(Value::Bool(yes)) => Ok(Self::Text(yes.to_string())),
            None if display.is_some() => Ok(Self::DisplayOnly),
            None | Some(Value::Null) => Ok(Self::Empty),
            Some(_) => Err("expected a string, a number, a boolean or an object with `value`"),
        }
    }
}

impl Field {
    /// Remarks and addresses may be long; what names something is looked up by it, and no index takes any length.
    fn limited(self, name: Name) -> Result<Self, &'static str> {
        match &self {
            Self::Text(text) if !matches!(name, Name::Note | Name::Url) && text.chars().count() > LONGEST_NAME => {
                Err("is longer than 255 characters")
            }
            _ => Ok(self),
        }
    }
}

/// Characters of what names something.
const LONGEST_NAME: usize = 255;

/// A record that is being read, and what was wrong in it so far.
#[derive(Debug)]
pub(super) struct Record<'a> {
    source: &'a Source,
    value: &'a Value,
    /// JSON Pointer of the record.
    place: &'a str,
    faults: Vec<Fault>,
}

impl<'a> Record<'a> {
    pub(super) fn new(source: &'a Source, envelope: &'a Envelope<'_>) -> Self {
        Self { source, value: envelope.record, place: &envelope.place, faults: Vec::new() }
    }

    /// What was wrong since this was asked for the last time.
    pub(super) fn faults_so_far(&mut self) -> Vec<Fault> {
        std::mem::take(&mut self.faults)
    }

    /// Something is wrong with a member.
    pub(super) fn complain(&mut self, name: Name, detail: impl Into<String>) {
        let found = self.places(name).find(|place| self.value.pointer(place).is_some_and(|value| !value.is_null()));
        let place = found.or_else(|| self.places(name).next()).unwrap_or_default();
        self.faults.push(Fault::new(format!("{}{place}", self.place), detail));
    }

    fn places(&self, name: Name) -> impl Iterator<Item = &'a str> + use<'a> {
        let configured = self.source.fields.get(&name).map(String::as_str);
        let usual: &[&str] = if configured.is_some() { &[] } else { self.source.places(name) };
        configured.into_iter().chain(usual.iter().copied())
    }

    fn field(&mut self, name: Name) -> Field {
        for place in self.places(name) {
            let read = self.value.pointer(place).map_or(Ok(Field::Empty), Field::of);
            match read.and_then(|field| field.limited(name)) {
                Ok(Field::Empty) => {}
                Ok(field) => return field,
                Err(detail) => {
                    self.faults.push(Fault::new(format!("{}{place}", self.place), detail));
                    return Field::Empty;
                }
            }
        }
        Field::Empty
    }

    pub(super) fn text(&mut self, name: Name) -> Option<String> {
        match self.field(name) {
            Field::Text(text) => Some(text),
            Field::Empty | Field::DisplayOnly => None,
        }
    }

    pub(super) fn required(&mut self, name: Name, missing: &str) -> Option<String> {
        let before = self.faults.len();
        let text = self.text(name);
        if text.is_none() && self.faults.len() == before {
            self.complain(name, missing);
        }
        text
    }

    pub(super) fn flag(&mut self, name: Name) -> bool {
        let text = self.text(name).unwrap_or_default().to_lowercase();
        match text.as_str() {
            "true" | "1" | "yes" => true,
            "" | "false" | "0" | "no" => false,
            _ => {
                self.complain(name, "expected true or false");
                false
            }
        }
    }

    pub(super) fn number(&mut self, name: Name) -> Option<i64> {
        let text = self.text(name)?;
        let number = text.parse().ok().filter(|number| *number >= 0);
        if number.is_none() {
            self.complain(name, "expected a whole number");
        }
        number
    }

    /// Naive times are UTC in `value` of ServiceNow; what is formatted for display is in the zone of some user (itsm.md 5.2).
    pub(super) fn time(&mut self, name: Name) -> Option<DateTime<Utc>> {
        let text = match self.field(name) {
            Field::Empty => return None,
            Field::DisplayOnly => {
                let detail = "only the display value was sent, which has no time zone: send `value`, which is UTC";
                self.complain(name, detail);
                return None;
            }
            Field::Text(text) => text,
        };
        let naive = match self.source.kind {
            SourceKind::ServiceNow => NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S").ok(),
            SourceKind::Generic | SourceKind::Jira => None,
        };
        let zoned = || DateTime::parse_from_rfc3339(&text).or_else(|_| DateTime::parse_from_str(&text, JIRA_TIME));
        let read = naive.map(|utc| utc.and_utc()).or_else(|| Some(zoned().ok()?.to_utc()));
        if read.is_none() {
            self.complain(
                name,
                match self.source.kind {
                    SourceKind::ServiceNow => "send yyyy-MM-dd HH:mm:ss in UTC, or RFC 3339 with a time zone",
                    SourceKind::Generic | SourceKind::Jira => "send RFC 3339 with a time zone",
                },
            );
        }
        read
    }
}

/// Jira writes `2026-10-08T09:15:02.000+0000`, which RFC 3339 does not allow.
const JIRA_TIME: &str = "%Y-%m-%dT%H:%M:%S%.f%z";
