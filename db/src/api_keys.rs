//! Table `api_key`: what programs call the API with. Never the secret itself.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use domain::{OrganizationId, audit::NewAudit};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use crate::{Error, Page, Result, Tx, connection::on};

/// An API key as it is kept.
#[derive(Clone, PartialEq, sqlx::FromRow)]
pub struct ApiKey {
    /// UUIDv7; stands in the key, too.
    pub id: Uuid,
    /// What people call it.
    pub name: String,
    /// SHA-256 of the secret, 32 bytes.
    pub secret_hash: Vec<u8>,
    /// What it allows.
    #[sqlx(json)]
    pub grants: Grants,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Not accepted from then on.
    pub expires_at: DateTime<Utc>,
    /// When it was used last, to the minute; absent when it never was.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Who revoked it.
    pub revoked_by: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// What a key allows: the words are the business of the API.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Grants {
    /// Roles.
    pub roles: Vec<String>,
    /// Groups that its user counts as a member of.
    pub groups: Vec<String>,
    /// The only organizations that it reaches; all when absent.
    pub organizations: Option<BTreeSet<OrganizationId>>,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

const COLUMNS: &str =
    "id, name, secret_hash, grants, created_by, created_at, expires_at, last_used_at, revoked_by, revoked_at";

/// How exactly it is known when a key was used last: not every request is a write.
const USE_IS_NOTED_EVERY: TimeDelta = TimeDelta::minutes(1);

impl Tx {
    /// Keeps a new key. The record tells of it at `at`, in the time that renewals live in; the key's own times are real.
    pub async fn insert_api_key(&mut self, key: &ApiKey, at: DateTime<Utc>) -> Result<()> {
        on!(self, |db| {
            sqlx::query(
            "INSERT INTO api_key (id, name, secret_hash, grants, created_by, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)"
        )
        .bind(key.id)
        .bind(&key.name)
        .bind(&key.secret_hash)
        .bind(Json(&key.grants))
        .bind(&key.created_by)
        .bind(key.created_at)
        .bind(key.expires_at)
        .execute(db)
        .await
        .map(drop)
        })?;
        let detail = json!({ "id": key.id, "name": key.name, "grants": key.grants, "expires_at": key.expires_at });
        self.audit_outside(None, NewAudit::new(&key.created_by, "api_key.created", detail), at).await
    }

    /// The key of that id, also one that is revoked or has expired.
    pub async fn api_key(&mut self, id: Uuid) -> Result<Option<ApiKey>> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM api_key WHERE id = $1"));
        Ok(on!(self, |db| sqlx::query_as(sql).bind(id).fetch_optional(db).await)?)
    }

    /// A page of keys, newest first.
    pub async fn api_keys(&mut self, page: Page) -> Result<Vec<ApiKey>> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM api_key WHERE id < $1 ORDER BY id DESC LIMIT $2"));
        Ok(on!(self, |db| sqlx::query_as(sql).bind(page.end()).bind(page.limit).fetch_all(db).await)?)
    }

    /// Ends a key at `now`, which the record tells of at `at`. One that is revoked already stays as it is.
    pub async fn revoke_api_key(&mut self, id: Uuid, by: &str, now: DateTime<Utc>, at: DateTime<Utc>) -> Result<()> {
        let revoked: Option<String> = on!(self, |db| {
            sqlx::query_scalar(
            "UPDATE api_key SET revoked_by = $2, revoked_at = $3 WHERE id = $1 AND revoked_at IS NULL RETURNING name"
        )
        .bind(id)
        .bind(by)
        .bind(now)
        .fetch_optional(db)
        .await
        })?;
        let Some(name) = revoked else {
            return self.api_key(id).await?.map(drop).ok_or(Error::NotFound("API key"));
        };
        self.audit_outside(None, NewAudit::new(by, "api_key.revoked", json!({ "id": id, "name": name })), at).await
    }

    /// Notes that a key was used.
    pub async fn note_use_of_api_key(&mut self, id: Uuid, now: DateTime<Utc>) -> Result<()> {
        on!(self, |db| sqlx::query("UPDATE api_key SET last_used_at = $2 WHERE id = $1")
            .bind(id)
            .bind(now)
            .execute(db)
            .await
            .map(drop))?;
        Ok(())
    }
}

impl ApiKey {
    /// Whether a use at `now` should be noted: once in a while is enough.
    #[must_use]
    pub fn use_is_news(&self, now: DateTime<Utc>) -> bool {
        self.last_used_at.is_none_or(|last| now - last >= USE_IS_NOTED_EVERY)
    }
}
