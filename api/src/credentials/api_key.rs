//! API keys: `rk_<id>_<secret>`, for programs.
//!
//! Of the secret, 256 random bits, only the SHA-256 is kept. A slow hash with a salt protects passwords, which people choose from few that can be
//! tried; nobody can try 2^256 secrets, so a fast hash is as safe here, and lets every request be checked.

use aws_lc_rs::{constant_time, digest, rand};
use chrono::{DateTime, Utc};
use db::{ApiKey, Db};
use domain::ids::hex;
use uuid::Uuid;

use super::{Cause, Rejected};
use crate::{
    Grants, Role,
    caller::{Caller, Credential},
};

const PREFIX: &str = "rk_";

/// A new key: its text is told once, and its hash kept.
pub(crate) struct IssuedKey {
    pub(crate) id: Uuid,
    pub(crate) text: String,
    pub(crate) secret_hash: Vec<u8>,
}

impl IssuedKey {
    /// A key of which nobody knows anything. `None` when the system has no random numbers.
    pub(crate) fn new() -> Option<Self> {
        let mut secret = [0; 32];
        rand::fill(&mut secret).ok()?;
        let (id, secret) = (Uuid::now_v7(), hex(&secret));
        Some(Self { id, text: format!("{PREFIX}{}_{secret}", id.simple()), secret_hash: hash(&secret) })
    }
}

/// Whether a text looks like an API key of this service.
pub(super) fn is_key(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// The owner of a key.
pub(super) async fn caller(db: &Db, text: &str, now: DateTime<Utc>) -> Result<Caller, Rejected> {
    let (id, secret) = parse(text).ok_or(Cause::UnknownApiKey)?;
    let found = db.read(async |tx| tx.api_key(id).await).await.map_err(unanswered)?;
    let key = found.filter(|key| is_secret_of(secret, key)).ok_or(Cause::UnknownApiKey)?;
    let subject = subject(&key.name);
    let rejected = |cause| Rejected { cause, subject: Some(subject.clone()) };
    if let Some(at) = key.revoked_at {
        return Err(rejected(Cause::Revoked(at)));
    }
    if key.expires_at <= now {
        return Err(rejected(Cause::ApiKeyExpired(key.expires_at)));
    }
    note_use(db, &key, now).await;
    let roles = key.grants.roles.iter().filter_map(|word| word.parse::<Role>().ok()).collect();
    let grants = Grants { roles, groups: key.grants.groups, organizations: key.grants.organizations };
    let expires_at = Some(key.expires_at);
    Ok(Caller { subject, grants, credential: Credential::ApiKey, expires_at, notice: None })
}

/// The name in the record. People's names have no such beginning: a key is never taken for one of them.
pub(crate) fn subject(name: &str) -> String {
    format!("api_key:{name}")
}

fn parse(text: &str) -> Option<(Uuid, &str)> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let plain = id.len() == 32 && secret.len() == 64;
    Some((Uuid::try_parse(id).ok().filter(|_| plain)?, secret))
}

fn hash(secret: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, secret.as_bytes()).as_ref().to_vec()
}

fn is_secret_of(secret: &str, key: &ApiKey) -> bool {
    constant_time::verify_slices_are_equal(&hash(secret), &key.secret_hash).is_ok()
}

/// A request is answered also when this cannot be written.
async fn note_use(db: &Db, key: &ApiKey, now: DateTime<Utc>) {
    if !key.use_is_news(now) {
        return;
    }
    let noted = db.write(async |tx| tx.note_use_of_api_key(key.id, domain::timeline::micros(now)).await);
    if let Err(error) = noted.await {
        tracing::warn!(%error, "The use of an API key could not be noted: {error}");
    }
}

fn unanswered(error: db::Error) -> Cause {
    tracing::error!(%error, "An API key could not be looked up: {error}");
    Cause::Database
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_and_nothing_else_is_one() {
        let key = IssuedKey::new().unwrap();
        let (id, secret) = parse(&key.text).unwrap();
        assert_eq!((id, hash(secret)), (key.id, key.secret_hash.clone()));
        let cut = &key.text[..key.text.len() - 1];
        for bad in ["", "rk_", "rk_1_2", cut, &key.text.replace("rk_", "xk_"), &format!("{}0", key.text)] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_ne!(IssuedKey::new().unwrap().secret_hash, key.secret_hash);
    }
}
