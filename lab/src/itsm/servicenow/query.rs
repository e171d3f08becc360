//! Encoded queries: `state=-1^numberSTARTSWITHCHG^ORDERBYDESCsys_updated_on`.

use super::Record;

/// A query, read.
#[derive(Debug, Default)]
pub(super) struct Query {
    /// Any of these (`^NQ`), each all of its groups (`^`), each any of its conditions (`^OR`).
    any: Vec<Vec<Vec<Condition>>>,
    /// Fields to sort by, and whether the greatest comes first.
    order: Vec<(String, bool)>,
}

#[derive(Debug)]
struct Condition {
    field: String,
    operator: &'static str,
    value: String,
}

/// The longer ones first: `!=` is no `=`.
const OPERATORS: [&str; 16] = [
    "ISNOTEMPTY",
    "STARTSWITH",
    "ENDSWITH",
    "CONTAINS",
    "NOT LIKE",
    "ISEMPTY",
    "NOT IN",
    "LIKE",
    "!=",
    ">=",
    "<=",
    "IN",
    "=",
    ">",
    "<",
    "ANYTHING",
];

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for part in text.split("^NQ") {
            let mut groups: Vec<Vec<Condition>> = Vec::new();
            for piece in part.split('^').filter(|piece| !piece.is_empty() && *piece != "EQ") {
                if let Some(field) = piece.strip_prefix("ORDERBYDESC") {
                    query.order.push((field.to_owned(), true));
                } else if let Some(field) = piece.strip_prefix("ORDERBY") {
                    query.order.push((field.to_owned(), false));
                } else if let Some(or) = piece.strip_prefix("OR").and_then(Condition::parse) {
                    match groups.last_mut() {
                        Some(group) => group.push(or),
                        None => groups.push(vec![or]),
                    }
                } else if let Some(condition) = Condition::parse(piece) {
                    groups.push(vec![condition]);
                }
            }
            query.any.push(groups);
        }
        query
    }

    /// Whether a record is meant; `value` walks to fields of other records. A condition on a field that nobody knows is left out, as an instance does
    /// unless `glide.invalid_query.returns_no_rows` is set.
    pub(super) fn takes(&self, value: &dyn Fn(&str) -> Option<String>) -> bool {
        let holds = |condition: &Condition| value(&condition.field).is_none_or(|value| condition.holds(&value));
        self.any.iter().any(|groups| groups.iter().all(|group| group.iter().any(holds)))
    }

    pub(super) fn sort(&self, records: &mut [&Record]) {
        for (field, descending) in self.order.iter().rev() {
            records.sort_by(|one, other| {
                let order = super::field(one, field).cmp(super::field(other, field));
                if *descending { order.reverse() } else { order }
            });
        }
    }
}

impl Condition {
    /// The operator is the first that stands in the text after the name of a field.
    fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.')))?;
        let (field, rest) = text.split_at(end);
        let operator = OPERATORS.into_iter().find(|operator| rest.starts_with(operator))?;
        Some(Self { field: field.to_owned(), operator, value: rest[operator.len()..].to_owned() })
    }

    fn holds(&self, value: &str) -> bool {
        let wanted = self.value.as_str();
        let holds = |one: &str, other: &str| one.to_lowercase().contains(&other.to_lowercase());
        match self.operator {
            "=" => value == wanted,
            "!=" => value != wanted,
            ">" => value > wanted,
            ">=" => value >= wanted,
            "<" => value < wanted,
            "<=" => value <= wanted,
            "IN" => wanted.split(',').any(|one| one == value),
            "NOT IN" => !wanted.split(',').any(|one| one == value),
            "STARTSWITH" => value.to_lowercase().starts_with(&wanted.to_lowercase()),
            "ENDSWITH" => value.to_lowercase().ends_with(&wanted.to_lowercase()),
            "LIKE" | "CONTAINS" => holds(value, wanted),
            "NOT LIKE" => !holds(value, wanted),
            "ISEMPTY" => value.is_empty(),
            "ISNOTEMPTY" => !value.is_empty(),
            _ => true,
        }
    }
}
