//! The trust probe: every server keeps signing tokens and every other keeps verifying them. One refusal is one gap in trust.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    certificate::{Certificate, Thumbprint},
    organization::Role,
    server::{Entry, Process, ProcessKind, Provider, Server},
};

/// What the probe has seen so far.
#[derive(Debug, Default)]
pub struct TrustProbe {
    checked: u64,
    refused: u64,
    refusals: Vec<Refusal>,
    tokens: HashMap<u64, Option<Token>>,
    verdicts: HashMap<(u64, Thumbprint), bool>,
}

/// What the probe tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Trust {
    /// Tokens that a process of one server should sign and a process of another accept.
    pub checked: u64,
    /// Those that were not signed or not accepted.
    pub refused: u64,
    /// The first of them.
    pub refusals: Vec<Refusal>,
}

/// A token that was not accepted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refusal {
    /// Virtual time.
    pub at: DateTime<Utc>,
    /// Server and application pool that should have signed.
    pub signer: String,
    /// Server and application pool that should have accepted.
    pub verifier: String,
    /// What the signer takes for the current certificate.
    pub thumbprint: Option<Thumbprint>,
    /// Why not.
    pub reason: Reason,
}

/// Why a token was not accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The signature is by another key.
    BadSignature,
    /// The certificate is not valid now.
    Expired,
    /// The key is in a key storage provider, with which Exchange cannot sign.
    KeyStorageProvider,
    /// The signer lacks the current certificate or its key.
    NoPrivateKey,
    /// The verifier knows no such key.
    UnknownKey,
}

/// The application pools that sign and verify.
const POOLS: [ProcessKind; 2] = [ProcessKind::Owa, ProcessKind::Ecp];

/// How many refusals are told in full.
const TOLD: usize = 100;

struct Token {
    text: String,
    signature: Vec<u8>,
}

/// Hand-written so that nobody replays what a test run printed.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("text", &self.text).finish_non_exhaustive()
    }
}

impl TrustProbe {
    /// Lets every running server sign and every other verify.
    pub fn look(&mut self, now: DateTime<Utc>, servers: &[Server]) {
        let active = |s: &&Server| s.is_up() && s.spec.role != Role::Edge;
        for signer in servers.iter().filter(active) {
            for pool in POOLS {
                let verifiers = servers.iter().filter(active).filter(|v| v.spec.fqdn != signer.spec.fqdn);
                self.check(now, signer, signer.process(pool), verifiers);
            }
        }
    }

    /// What was seen so far.
    #[must_use]
    pub fn report(&self) -> Trust {
        Trust { checked: self.checked, refused: self.refused, refusals: self.refusals.clone() }
    }

    fn check<'a>(
        &mut self,
        now: DateTime<Utc>,
        signer: &Server,
        process: &Process,
        verifiers: impl Iterator<Item = &'a Server>,
    ) {
        let signed = signing_entry(now, signer, process);
        for (verifier, pool) in verifiers.flat_map(|v| POOLS.map(|pool| (v, pool))) {
            let accepted = &verifier.process(pool).keys.accepted;
            let verdict = signed.and_then(|entry| self.verify(now, entry, accepted));
            self.checked += 1;
            if let Err(reason) = verdict {
                self.refuse(Refusal {
                    at: now,
                    signer: format!("{}/{}", signer.spec.fqdn, process.kind.name()),
                    verifier: format!("{}/{}", verifier.spec.fqdn, pool.name()),
                    thumbprint: process.keys.current.clone(),
                    reason,
                });
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refused += 1;
        if self.refusals.len() < TOLD {
            self.refusals.push(refusal);
        }
    }

    fn verify(&mut self, now: DateTime<Utc>, entry: &Entry, accepted: &[Arc<Certificate>]) -> Result<(), Reason> {
        let thumbprint = &entry.certificate.thumbprint;
        let known = accepted.iter().find(|c| c.thumbprint == *thumbprint).ok_or(Reason::UnknownKey)?;
        if !known.is_valid_at(now) {
            return Err(Reason::Expired);
        }
        let token = self.tokens.entry(entry.id).or_insert_with(|| Token::sign(entry));
        let token = token.as_ref().ok_or(Reason::NoPrivateKey)?;
        let verdict = self.verdicts.entry((entry.id, thumbprint.clone()));
        let genuine = *verdict.or_insert_with(|| known.verifies(token.text.as_bytes(), &token.signature));
        if genuine { Ok(()) } else { Err(Reason::BadSignature) }
    }
}

impl Token {
    /// A token as Exchange issues them, without a lifetime: the probe signs once per key.
    fn sign(entry: &Entry) -> Option<Self> {
        let digits = entry.certificate.thumbprint.as_str();
        let header = serde_json::json!({ "alg": "RS256", "typ": "JWT", "x5t": x5t(digits) });
        let issuer = "00000002-0000-0ff1-ce00-000000000000@contoso.example";
        let claims = serde_json::json!({ "iss": issuer, "nameid": "00000002-0000-0ff1-ce00-000000000000" });
        let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = entry.key.as_ref()?.key.sign(text.as_bytes())?;
        Some(Self { text, signature })
    }
}

/// A thumbprint as tokens and metadata documents write it: base64url of its bytes.
#[must_use]
pub(crate) fn x5t(thumbprint: &str) -> String {
    let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
    URL_SAFE_NO_PAD.encode(thumbprint.as_bytes().chunks(2).filter_map(byte).collect::<Vec<_>>())
}

fn signing_entry<'a>(now: DateTime<Utc>, signer: &'a Server, process: &Process) -> Result<&'a Entry, Reason> {
    let current = process.keys.current.as_ref().ok_or(Reason::NoPrivateKey)?;
    let entry = signer.store.find(current).ok_or(Reason::NoPrivateKey)?;
    match &entry.key {
        None => Err(Reason::NoPrivateKey),
        Some(_) if !entry.certificate.is_valid_at(now) => Err(Reason::Expired),
        Some(key) if matches!(key.provider, Provider::Ksp(_)) => Err(Reason::KeyStorageProvider),
        Some(_) => Ok(entry),
    }
}
