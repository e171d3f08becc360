//! Table `idempotency`: the answer that a key got.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::RenewalId;
use sqlx::QueryBuilder;

use crate::{
    Result, Tx,
    connection::{is_usual, on},
};

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
    /// The answers that these keys got before, by caller and key.
    pub(crate) async fn answers(&mut self, keys: &[&IdempotencyKey]) -> Result<HashMap<(String, String), Answer>> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let found: Vec<Found> = on!(self, |db| {
            let mut look = QueryBuilder::new(
                "SELECT caller, key, request_hash, renewal_id, status, body FROM idempotency WHERE (caller, key) IN (",
            );
            look.push_values(keys, |mut row, key| {
                row.push_bind(&key.caller).push_bind(&key.key);
            });
            look.push(")").build_query_as().persistent(is_usual(keys.len())).fetch_all(db).await
        })?;
        Ok(found.into_iter().map(|found| ((found.caller, found.key), found.answer)).collect())
    }

    /// Keeps the answers of keys, each from a time on. A unique violation says that the same key is being answered at this moment.
    pub(crate) async fn insert_answers(
        &mut self,
        answers: &[(&(IdempotencyKey, Answer), DateTime<Utc>)],
    ) -> Result<()> {
        if answers.is_empty() {
            return Ok(());
        }
        on!(self, |db| {
            let mut insert = QueryBuilder::new(
                "INSERT INTO idempotency (caller, key, request_hash, renewal_id, status, body, created_at) ",
            );
            insert.push_values(answers, |mut row, ((key, answer), at)| {
                row.push_bind(&key.caller).push_bind(&key.key).push_bind(&answer.request_hash);
                row.push_bind(answer.renewal_id).push_bind(answer.status).push_bind(&answer.body).push_bind(*at);
            });
            insert.build().persistent(is_usual(answers.len())).execute(db).await.map(drop)
        })?;
        Ok(())
    }
}

/// An answer with its key.
#[derive(sqlx::FromRow)]
struct Found {
    caller: String,
    key: String,
    #[sqlx(flatten)]
    answer: Answer,
}
