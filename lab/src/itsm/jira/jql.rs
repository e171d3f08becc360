//! The few words of JQL that integrations ask with: `project = CHG AND labels = rekey AND updated >= -15m ORDER BY updated ASC`.

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};

use super::Issue;

/// A query, read.
#[derive(Debug)]
pub(super) struct Jql {
    all: Vec<Clause>,
    /// By `updated` or `created`; whether the latest comes first.
    order: Option<(bool, bool)>,
}

#[derive(Debug)]
enum Clause {
    Project(String),
    Label(Vec<String>),
    Status { is: bool, names: Vec<String> },
    Updated(DateTime<Utc>),
}

impl Jql {
    pub(super) fn parse(text: &str, now: DateTime<Utc>) -> Result<Self, String> {
        let lower = text.to_lowercase();
        let (clauses, order) = match lower.find("order by") {
            Some(at) => (&text[..at], Some(lower[at + 8..].trim().to_owned())),
            None => (text, None),
        };
        let order = order.map(|order| (order.starts_with("updated"), order.ends_with("desc")));
        let mut all = Vec::new();
        for clause in split_and(clauses) {
            all.push(Clause::parse(&clause, now).ok_or_else(|| format!("Error in the JQL Query: {clause}"))?);
        }
        if all.is_empty() {
            // Unbounded queries are refused by the enhanced search.
            return Err("Unbounded JQL queries are not allowed here. Please add a search restriction.".to_owned());
        }
        Ok(Self { all, order })
    }

    pub(super) fn takes(&self, issue: &Issue) -> bool {
        self.all.iter().all(|clause| clause.takes(issue))
    }

    pub(super) fn sort(&self, issues: &mut [&Issue]) {
        let Some((by_updated, descending)) = self.order else { return };
        issues.sort_by_key(|issue| if by_updated { issue.updated } else { issue.created });
        if descending {
            issues.reverse();
        }
    }
}

fn split_and(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let clauses = words.split(|word| word.eq_ignore_ascii_case("and"));
    clauses.map(|words| words.join(" ")).filter(|clause| !clause.is_empty()).collect()
}

impl Clause {
    fn parse(text: &str, now: DateTime<Utc>) -> Option<Self> {
        let operator = ["not in", "!=", ">=", "=", " in "].into_iter().find(|operator| text.contains(operator))?;
        let (name, value) = text.split_once(operator)?;
        let values = || {
            let values = value.trim().trim_matches(['(', ')']).split(',');
            values.map(|value| value.trim().trim_matches('"').to_owned()).collect::<Vec<_>>()
        };
        match (name.trim().to_lowercase().as_str(), operator) {
            ("project", "=") => values().pop().map(Self::Project),
            ("labels", "=" | " in ") => Some(Self::Label(values())),
            ("status", "=" | " in ") => Some(Self::Status { is: true, names: values() }),
            ("status", "!=" | "not in") => Some(Self::Status { is: false, names: values() }),
            ("updated", ">=") => instant(values().first()?, now).map(Self::Updated),
            _ => None,
        }
    }

    fn takes(&self, issue: &Issue) -> bool {
        match self {
            Self::Project(key) => key == super::PROJECT,
            Self::Label(names) => {
                let labels = issue.fields["labels"].as_array().into_iter().flatten();
                labels.filter_map(|label| label.as_str()).any(|label| names.iter().any(|name| name == label))
            }
            Self::Status { is, names } => names.iter().any(|name| name == issue.status) == *is,
            Self::Updated(since) => issue.updated >= *since,
        }
    }
}

/// `-15m`, or `2026-11-26 09:53` in the zone of the caller, which is UTC here. Jira knows no seconds.
fn instant(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if let Some(span) = text.strip_prefix('-') {
        let (number, unit) = span.split_at(span.len().checked_sub(1)?);
        let number: i64 = number.parse().ok()?;
        let span = match unit {
            "m" => TimeDelta::try_minutes(number),
            "h" => TimeDelta::try_hours(number),
            "d" => TimeDelta::try_days(number),
            "w" => TimeDelta::try_weeks(number),
            _ => None,
        };
        return now.checked_sub_signed(span?);
    }
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").ok().map(|at| at.and_utc())
}
