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
