//! The tenant: applications and principals whose keys reach each replica of the directory later than the one before, and the token
//! service beside each replica, which believes what it read there for a while (cloud.md 2.4, domain.md 6.7).
//!
//! Pure: every view is computed from the writes and the instant that is asked about.

mod assertion;
mod graph_error;
mod keys;
mod policy;
#[cfg(test)]
mod tests;
mod token;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use self::assertion::{Assertion, Padding};
pub use self::{
    graph_error::GraphError,
    keys::{KeyCredential, Shown},
    policy::{DEFAULT_POLICY, Lifetime},
    token::{Caller, Resource, TokenError, TokenRequest},
};
use crate::{
    certificate::{self, Certificate, PrivateKey, Request, Thumbprint},
    organization::{AppPath, Hybrid, ORGANIZATION_GUID, Permission},
};

/// The application id of Exchange Online, whose principal every tenant has.
pub const EXCHANGE_ONLINE: Uuid = Uuid::from_u128(0x0000_0002_0000_0ff1_ce00_0000_0000_0000);
/// The audience of proofs for `addKey` and `removeKey` (cloud.md 2.3).
const PROOF_AUDIENCE: &str = "00000002-0000-0000-c000-000000000000";

/// The tenant.
#[derive(Debug)]
pub struct Tenant {
    /// How it was to be.
    pub spec: Hybrid,
    /// What rekey's application may do now.
    pub permissions: BTreeSet<Permission>,
    /// How far a clock may be off. More than the five minutes of the real service where time runs faster than requests do.
    pub slack: TimeDelta,
    /// The default policy on keys.
    pub default_lifetime: Option<Lifetime>,
    /// A policy that is assigned to the dedicated application; it goes before the default one.
    pub application_lifetime: Option<Lifetime>,
    objects: Vec<DirectoryObject>,
    started: DateTime<Utc>,
    /// What access tokens, and the tokens for servers, are signed with.
    signing: (Arc<Certificate>, PrivateKey),
    /// What rekey's application signs in with.
    client: (Arc<Certificate>, PrivateKey),
    /// Each kind of caller goes from replica to replica.
    reads: usize,
    token_requests: usize,
}

/// An application or a principal.
#[derive(Debug)]
pub struct DirectoryObject {
    /// Which of the two.
    pub kind: ObjectKind,
    /// Its object id.
    pub id: Uuid,
    /// The application id.
    pub app_id: Uuid,
    /// Its name.
    pub display_name: String,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// Whether rekey's application owns it.
    pub owned: bool,
    writes: Vec<Write>,
}

/// What an object of the directory is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// The registration.
    Application,
    /// What stands for it in a tenant.
    ServicePrincipal,
}

impl ObjectKind {
    /// The collection that holds it.
    #[must_use]
    pub fn collection(self) -> &'static str {
        match self {
            Self::Application => "applications",
            Self::ServicePrincipal => "servicePrincipals",
        }
    }
}

/// One version of the keys of an object. The first one is everywhere from the beginning.
#[derive(Debug)]
struct Write {
    at: DateTime<Utc>,
    /// When each replica takes it in.
    arrives: Vec<DateTime<Utc>>,
    keys: Vec<KeyCredential>,
}

/// What is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum View {
    /// A replica as it is.
    Replica(usize),
    /// As it was before the last write, wherever that has arrived.
    Stale,
}

/// What a write did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// Keys that are new.
    pub added: Vec<Thumbprint>,
    /// Keys that are gone.
    pub removed: Vec<Thumbprint>,
    /// When a verifier sees it: the instants at which something is different for somebody.
    pub seen_at: Vec<DateTime<Utc>>,
}

impl Tenant {
    /// The tenant of an organization whose current certificate is this one.
    pub fn new(spec: Hybrid, current: &Arc<Certificate>, now: DateTime<Utc>) -> anyhow::Result<Self> {
        anyhow::ensure!(spec.replicas > 0, "a tenant needs a replica");
        let [signing, client, (other, _)] = tenant_keys()?;
        let default_lifetime =
            spec.key_lifetime.as_deref().map(|max| Lifetime::parse(DEFAULT_POLICY, max)).transpose()?;
        let mut tenant = Self {
            permissions: spec.permissions.clone(),
            slack: TimeDelta::minutes(5),
            default_lifetime,
            application_lifetime: None,
            objects: Vec::new(),
            started: now,
            signing,
            client,
            reads: 0,
            token_requests: 0,
            spec,
        };
        tenant.furnish(current, other);
        Ok(tenant)
    }

    fn furnish(&mut self, current: &Arc<Certificate>, other: Arc<Certificate>) {
        let auth_key = || KeyCredential::of(current.clone(), "Exchange Server Auth Certificate");
        let is_shared = self.spec.path == AppPath::Shared;
        let shared_keys = if is_shared || self.spec.leftover_keys { vec![auth_key()] } else { Vec::new() };
        if !is_shared {
            let name = self.spec.application_name();
            let keys = vec![KeyCredential::of(other, "Mailbox migration"), auth_key()];
            self.register(name, dedicated_app_id(), true, keys);
        }
        self.make(ObjectKind::ServicePrincipal, "Office 365 Exchange Online", EXCHANGE_ONLINE, false, shared_keys);
        let own = KeyCredential::of(self.client.0.clone(), "rekey");
        self.register("rekey".to_owned(), self.spec.client_id, false, vec![own]);
    }

    fn register(&mut self, name: String, app_id: Uuid, owned: bool, keys: Vec<KeyCredential>) {
        self.make(ObjectKind::Application, &name, app_id, owned, keys);
        self.make(ObjectKind::ServicePrincipal, &name, app_id, owned, Vec::new());
    }

    fn make(&mut self, kind: ObjectKind, name: &str, app_id: Uuid, owned: bool, keys: Vec<KeyCredential>) {
        let created = self.started - TimeDelta::days(400);
        let first = Write { at: created, arrives: vec![created; self.spec.replicas.into()], keys };
        // The same in every lab, so that a configuration can name it.
        let id = Uuid::from_u128(app_id.as_u128() ^ (0x0b1ec7 + kind as u128));
        let writes = vec![first];
        self.objects.push(DirectoryObject { kind, id, app_id, display_name: name.to_owned(), created, owned, writes });
    }

    /// The certificate and key by which rekey's application signs in.
    #[must_use]
    pub fn client(&self) -> (&Certificate, &PrivateKey) {
        (&self.client.0, &self.client.1)
    }

    /// The certificate whose key signs what the tenant issues.
    #[must_use]
    pub fn signing_certificate(&self) -> &Arc<Certificate> {
        &self.signing.0
    }

    pub(crate) fn signing_key(&self) -> &PrivateKey {
        &self.signing.1
    }

    /// Whether a text names this tenant: its id or its domain.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        let by_id = Uuid::parse_str(name).is_ok_and(|id| id == self.spec.tenant_id);
        by_id || name.eq_ignore_ascii_case(&self.spec.tenant_domain)
    }

    /// Applications and principals.
    #[must_use]
    pub fn objects(&self) -> &[DirectoryObject] {
        &self.objects
    }

    /// The object of a kind with that object id.
    #[must_use]
    pub fn find(&self, kind: ObjectKind, id: Uuid) -> Option<usize> {
        self.objects.iter().position(|object| object.kind == kind && object.id == id)
    }

    /// The object of a kind with that application id.
    #[must_use]
    pub fn find_app(&self, kind: ObjectKind, app_id: Uuid) -> Option<usize> {
        self.objects.iter().position(|object| object.kind == kind && object.app_id == app_id)
    }

    /// The object whose keys the servers' tokens are checked against, by the path that they take.
    #[must_use]
    pub fn verifying(&self, path: AppPath) -> Option<usize> {
        match path {
            AppPath::Dedicated => self.find_app(ObjectKind::Application, dedicated_app_id()),
            AppPath::Shared => self.find_app(ObjectKind::ServicePrincipal, EXCHANGE_ONLINE),
        }
    }

    /// The next read goes to this replica.
    pub fn next_replica(&mut self) -> usize {
        self.reads += 1;
        self.reads % self.replicas()
    }

    /// How many replicas there are.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.spec.replicas.into()
    }

    /// The keys of an object as they are seen.
    #[must_use]
    pub fn keys(&self, object: usize, view: View, now: DateTime<Utc>) -> &[KeyCredential] {
        let writes = &self.objects[object].writes;
        let newest = match view {
            View::Replica(replica) => writes.iter().rev().find(|write| write.arrives[replica] <= now),
            View::Stale => writes.iter().rev().nth(1),
        };
        newest.or_else(|| writes.first()).map_or(&[], |write| &write.keys)
    }

    /// When the token service beside a replica last read the keys.
    #[must_use]
    pub fn keys_read(&self, replica: usize, now: DateTime<Utc>) -> DateTime<Utc> {
        let period = self.spec.key_cache.num_milliseconds();
        if period <= 0 {
            return now;
        }
        let phase = self.phase(replica, period);
        let passed = (now - self.started).num_milliseconds() - phase;
        self.started + TimeDelta::milliseconds(passed.div_euclid(period) * period + phase)
    }

    /// They do not all read at the same time.
    fn phase(&self, replica: usize, period: i64) -> i64 {
        period * i64::try_from(replica).unwrap_or(0) / i64::from(self.spec.replicas)
    }

    /// The keys of an object as the token service beside a replica knows them, and since when.
    #[must_use]
    pub fn trusted_keys(&self, object: usize, replica: usize, now: DateTime<Utc>) -> (&[KeyCredential], DateTime<Utc>) {
        let read = self.keys_read(replica, now);
        (self.keys(object, View::Replica(replica), read), read)
    }

    /// The key of a certificate as an object holds it, or held it last.
    #[must_use]
    pub fn held_once(&self, object: usize, thumbprint: &Thumbprint) -> Option<KeyCredential> {
        let written = self.objects[object].writes.iter().rev().flat_map(|write| &write.keys);
        written.into_iter().find(|key| key.certificate.thumbprint == *thumbprint).cloned()
    }

    /// Whether rekey's application may write an object.
    #[must_use]
    pub fn may_write(&self, roles: &BTreeSet<String>, object: usize) -> bool {
        let has = |permission: Permission| permission.role().is_some_and(|role| roles.contains(role));
        let owned = self.objects[object].owned && has(Permission::ApplicationReadWriteOwnedBy);
        owned || has(Permission::ApplicationReadWriteAll)
    }

    /// Replaces the keys of an object (`PATCH`).
    pub fn replace_keys(&mut self, object: usize, wanted: &Value, now: DateTime<Utc>) -> Result<Written, GraphError> {
        self.refuse_haste(object, now)?;
        let keys = keys::replaced(
            self.objects[object].kind,
            self.keys(object, View::Replica(0), now),
            wanted,
            self.lifetime(object),
            now,
        )?;
        Ok(self.write(object, keys, now))
    }

    /// Adds a key (`addKey`): the caller proves that it holds another one.
    pub fn add_key(
        &mut self,
        object: usize,
        wanted: &Value,
        proof: &str,
        now: DateTime<Utc>,
    ) -> Result<(KeyCredential, Written), GraphError> {
        self.refuse_haste(object, now)?;
        self.check_proof(object, proof, now)?;
        let key = keys::added(wanted, self.lifetime(object), now)?;
        let mut keys = self.keys(object, View::Replica(0), now).to_vec();
        keys.push(key.clone());
        Ok((key, self.write(object, keys, now)))
    }

    /// Removes a key (`removeKey`).
    pub fn remove_key(
        &mut self,
        object: usize,
        key: Uuid,
        proof: &str,
        now: DateTime<Utc>,
    ) -> Result<Written, GraphError> {
        self.refuse_haste(object, now)?;
        self.check_proof(object, proof, now)?;
        let mut keys = self.keys(object, View::Replica(0), now).to_vec();
        let before = keys.len();
        keys.retain(|held| held.key_id != key);
        if keys.len() == before {
            return Err(GraphError::bad_request(format!("No credentials found to be removed: {key}.")));
        }
        Ok(self.write(object, keys, now))
    }

    /// Somebody else writes, whatever rules there are.
    pub fn write(&mut self, object: usize, keys: Vec<KeyCredential>, now: DateTime<Utc>) -> Written {
        let before = self.keys(object, View::Replica(0), now);
        let thumbprint = |key: &KeyCredential| key.certificate.thumbprint.clone();
        let without = |these: &[KeyCredential], those: &[KeyCredential]| -> Vec<Thumbprint> {
            these.iter().filter(|key| !those.iter().any(|other| other.key_id == key.key_id)).map(thumbprint).collect()
        };
        let (added, removed) = (without(&keys, before), without(before, &keys));
        let replica = |number: u16| now + self.spec.replica_lag * i32::from(number);
        let arrives: Vec<_> = (0..self.spec.replicas).map(replica).collect();
        let reads = |(replica, at): (usize, &DateTime<Utc>)| self.next_keys_read(replica, *at);
        let seen_at = arrives.iter().enumerate().map(reads).collect();
        self.objects[object].writes.push(Write { at: now, arrives, keys });
        Written { added, removed, seen_at }
    }

    /// The first time at or after `at` when the token service beside a replica reads the keys.
    fn next_keys_read(&self, replica: usize, at: DateTime<Utc>) -> DateTime<Utc> {
        let last = self.keys_read(replica, at);
        if last == at { at } else { last + self.spec.key_cache }
    }

    /// The restriction on the life of new keys of an object.
    #[must_use]
    pub fn lifetime(&self, object: usize) -> Option<&Lifetime> {
        let dedicated = self.objects[object].app_id == dedicated_app_id();
        self.application_lifetime.as_ref().filter(|_| dedicated).or(self.default_lifetime.as_ref())
    }

    /// The default policy, as Graph shows it.
    #[must_use]
    pub fn default_policy(&self) -> Value {
        let restrictions = policy::restrictions(self.default_lifetime.as_ref());
        json!({
            "id": DEFAULT_POLICY,
            "displayName": "Default app management tenant policy",
            "description": "Default tenant policy that enforces app management restrictions on applications and service principals.",
            "isEnabled": self.default_lifetime.is_some(),
            "applicationRestrictions": restrictions,
            "servicePrincipalRestrictions": restrictions,
        })
    }

    /// The policies that are assigned to an object, as Graph shows them.
    #[must_use]
    pub fn assigned_policies(&self, object: usize) -> Vec<Value> {
        let dedicated = self.objects[object].app_id == dedicated_app_id();
        let policy = |limit: &Lifetime| {
            json!({
                "id": limit.policy,
                "displayName": "Contoso app management policy",
                "description": "",
                "isEnabled": true,
                "restrictions": policy::restrictions(Some(limit)),
            })
        };
        self.application_lifetime.iter().filter(|_| dedicated).map(policy).collect()
    }

    fn refuse_haste(&self, object: usize, now: DateTime<Utc>) -> Result<(), GraphError> {
        let last = self.objects[object].writes.last();
        let hasty = last.is_some_and(|write| now - write.at < self.spec.write_gap);
        if hasty { Err(GraphError::conflict()) } else { Ok(()) }
    }

    /// A token that a valid key of the object itself has signed (cloud.md 2.3).
    fn check_proof(&self, object: usize, proof: &str, now: DateTime<Utc>) -> Result<(), GraphError> {
        let proof = Assertion::read(proof, Padding::Refused).map_err(|_| GraphError::bad_proof())?;
        let id = self.objects[object].id;
        let meant = proof.claims.aud == PROOF_AUDIENCE && Uuid::parse_str(&proof.claims.iss).is_ok_and(|iss| iss == id);
        let checked = proof.check(self.keys(object, View::Replica(0), now), now);
        if meant && proof.is_timely(now, self.slack) && checked.is_ok() { Ok(()) } else { Err(GraphError::bad_proof()) }
    }
}

impl DirectoryObject {
    /// How Graph shows it.
    #[must_use]
    pub fn json(&self, keys: &[KeyCredential], shown: Shown) -> Value {
        let keys: Vec<_> = keys.iter().map(|key| key.json(shown)).collect();
        let created = self.created.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        match self.kind {
            ObjectKind::Application => json!({
                "id": self.id, "appId": self.app_id, "displayName": self.display_name, "createdDateTime": created,
                "signInAudience": "AzureADMyOrg", "keyCredentials": keys, "passwordCredentials": [],
            }),
            ObjectKind::ServicePrincipal => json!({
                "id": self.id, "appId": self.app_id, "displayName": self.display_name, "createdDateTime": created,
                "appDisplayName": self.display_name, "servicePrincipalType": "Application", "accountEnabled": true,
                "keyCredentials": keys, "passwordCredentials": [],
            }),
        }
    }
}

/// A certificate and its key.
type Pair = (Arc<Certificate>, PrivateKey);

/// What the tenant signs with, what rekey's application signs in with, and somebody else's key, which must outlive every renewal. Made once
/// in a process, for all times that a lab may show.
fn tenant_keys() -> anyhow::Result<[Pair; 3]> {
    static MADE: Mutex<Option<[Pair; 3]>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(made) = &*made {
        return Ok(made.clone());
    }
    let issue = |name| -> anyhow::Result<Pair> {
        let year = |year| Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).single().unwrap_or_default();
        let request =
            Request { not_before: year(2020), not_after: year(2049), ..Request::five_years(name, year(2020)) };
        let (certificate, key) = certificate::issue(&request)?;
        Ok((Arc::new(certificate), key))
    };
    let pairs = [issue("accounts.accesscontrol.windows.net")?, issue("rekey")?, issue("Contoso mailbox migration")?];
    Ok(made.insert(pairs).clone())
}

/// The application id of the dedicated application.
#[must_use]
pub fn dedicated_app_id() -> Uuid {
    Uuid::from_u128(ORGANIZATION_GUID.as_u128() ^ 0xde_d1ca_7ed0)
}
