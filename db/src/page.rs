//! Pages of long lists.

use uuid::Uuid;

/// A page, newest first. Ids are UUIDv7, so the id is the cursor.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Rows older than this one; all when absent.
    pub before: Option<Uuid>,
    /// At most this many rows.
    pub limit: i64,
}

impl Page {
    /// What every row of it is older than: a first page and a later one are one statement.
    pub(crate) fn end(self) -> Uuid {
        self.before.unwrap_or(Uuid::max())
    }
}
