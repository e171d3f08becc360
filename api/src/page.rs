//! Pages of long lists, with cursors that mean nothing to callers.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A page, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// What is on it.
    pub(crate) items: Vec<T>,
    /// Send it as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "AZNhsn86fGGaVQx747D00Q")]
    next_cursor: Option<Cursor>,
}

/// Everything there is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// All of them.
    pub(crate) items: Vec<T>,
}

/// Where a page ends.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Cursor(Uuid);

/// How many rows a page has.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "i64")]
pub(crate) struct Limit(i64);

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<i64> for Limit {
    type Error = &'static str;
    fn try_from(rows: i64) -> Result<Self, Self::Error> {
        if (1..=200).contains(&rows) { Ok(Self(rows)) } else { Err("a page has 1 to 200 rows") }
    }
}

impl Limit {
    /// The rows that a page may have.
    pub(crate) fn rows(self) -> i64 {
        self.0
    }

    /// What to ask the database for: one row more than is shown tells whether there is another page.
    pub(crate) fn after(self, cursor: Option<Cursor>) -> db::Page {
        db::Page { before: cursor.map(|Cursor(id)| id), limit: self.0 + 1 }
    }
}

impl<T> Page<T> {
    /// The page of these rows, which may be one more than it shows.
    pub(crate) fn of(mut rows: Vec<T>, limit: Limit, id: impl Fn(&T) -> Uuid) -> Self {
        let shown = usize::try_from(limit.0).unwrap_or(usize::MAX);
        let more = rows.len() > shown;
        rows.truncate(shown);
        let next_cursor = rows.last().filter(|_| more).map(|row| Cursor(id(row)));
        Self { items: rows, next_cursor }
    }
}

impl TryFrom<String> for Cursor {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| Uuid::from_slice(&bytes).ok());
        bytes.map(Self).ok_or("this cursor does not come from `next_cursor`")
    }
}

impl From<Cursor> for String {
    fn from(Cursor(id): Cursor) -> Self {
        URL_SAFE_NO_PAD.encode(id.as_bytes())
    }
}
