//! Table `idempotency`: the answer that a key got.

use chrono::{DateTime, Utc};
use domain::RenewalId;

use crate::{Result, Tx, connection::on};

/// A caller's key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdempotencyKey {
    /// Who sent it: keys of different callers do not meet.
    pub caller: String,
    /// What they sent as `Idempotency-Key`.
    pub key: String,
    /// Digest of the request that came with it.
    pub request_hash: String,
}

/// The answer that a key got.
#[derive(Clone, Debug, Eq, PartialEq, sqlx::FromRow)]
pub struct Answer {
    /// Digest of the request that came with it.
    pub request_hash: String,
    /// The renewal that the request made.
    pub renewal_id: RenewalId,
    /// HTTP status.
    pub status: i32,
    /// Response body, JSON.
    pub body: String,
}

impl Tx {
    /// The answer that this key got before.
    pub async fn answer(&mut self, key: &IdempotencyKey) -> Result<Option<Answer>> {
        Ok(on!(self, |db| sqlx::query_as(
            "SELECT request_hash, renewal_id, status, body FROM idempotency WHERE caller = $1 AND key = $2"
        )
        .bind(&key.caller)
        .bind(&key.key)
        .fetch_optional(db)
        .await)?)
    }

    /// Keeps the answer of a key. A unique violation says that the same key is being answered at this moment.
    pub async fn insert_answer(&mut self, key: &IdempotencyKey, answer: &Answer, now: DateTime<Utc>) -> Result<()> {
        on!(self, |db| {
            sqlx::query("INSERT INTO idempotency (caller, key, request_hash, renewal_id, status, body, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)")
            .bind(&key.caller)
            .bind(&key.key)
            .bind(&answer.request_hash)
            .bind(answer.renewal_id)
            .bind(answer.status)
            .bind(&answer.body)
            .bind(now)
            .execute(db)
            .await
            .map(drop)
        })?;
        Ok(())
    }
}
