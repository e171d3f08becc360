//! The trust probe: whoever signs tokens keeps signing and whoever checks them keeps checking. One refusal is one gap in trust.
//!
//! Each leg (cloud.md 3.5) has signers and verifiers of its own, and each verifier learns keys in its own time. The probe asks: would a
//! token signed now be accepted there?

mod cloud;
#[cfg(test)]
mod interleavings;
mod partner;
mod servers;
#[cfg(test)]
mod tests;
mod token;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde::Serialize;

use self::{partner::Partner, token::Token};
pub(crate) use self::{servers::signing_entry, token::x5t};
use crate::{
    certificate::{Certificate, Thumbprint},
    hybrid::Cloud,
    organization::PartnerRules,
    server::{Entry, ProcessKind, Server},
};

/// What the probe has seen so far.
#[derive(Debug, Default)]
pub struct TrustProbe {
    legs: BTreeMap<Leg, LegTotal>,
    refusals: Vec<Refusal>,
    tokens: HashMap<u64, Option<Token>>,
    verdicts: HashMap<u64, HashMap<Thumbprint, bool>>,
    partner: Option<Partner>,
}

/// Who signs for whom.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Leg {
    /// A: servers for Entra, by the keys of the dedicated application.
    Dedicated,
    /// A': servers for Entra, by the keys of the shared principal; only where the organization is still on it.
    Shared,
    /// B: the tenant for servers. A renewal cannot break it: it tells when the objects between the two are broken.
    FromCloud,
    /// C: each server for every other.
    Servers,
    /// D: servers for a partner that reads their metadata documents.
    Partner,
}

impl Leg {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dedicated => "servers to Entra, dedicated application",
            Self::Shared => "servers to Entra, shared principal",
            Self::FromCloud => "tenant to servers",
            Self::Servers => "servers to each other",
            Self::Partner => "servers to a partner",
        }
    }
}

/// What a leg has seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct LegTotal {
    /// Tokens that somebody should sign and somebody accept.
    pub checked: u64,
    /// Those that were not signed or not accepted.
    pub refused: u64,
}

/// What the probe tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Trust {
    /// Tokens that somebody should sign and somebody accept, on all legs together.
    pub checked: u64,
    /// Those that were not signed or not accepted.
    pub refused: u64,
    /// The first of them.
    pub refusals: Vec<Refusal>,
    /// The same by leg: those that were looked at.
    pub legs: BTreeMap<Leg, LegTotal>,
}

/// A token that was not accepted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refusal {
    /// Virtual time.
    pub at: DateTime<Utc>,
    /// Who signs for whom.
    pub leg: Leg,
    /// Who should have signed.
    pub signer: String,
    /// Who should have accepted.
    pub verifier: String,
    /// What the signer takes for the current certificate.
    pub thumbprint: Option<Thumbprint>,
    /// What the verifier accepts.
    pub accepted: Vec<Thumbprint>,
    /// How old the verifier's view is, in virtual seconds.
    pub view_age_seconds: i64,
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

/// Somebody who signs, and with what.
struct Signer<'a> {
    name: &'a dyn Fn() -> String,
    thumbprint: Option<&'a Thumbprint>,
    signs: Result<&'a Entry, Reason>,
}

/// Somebody who accepts what certain keys have signed, since when.
struct Verifier<'a> {
    name: &'a dyn Fn() -> String,
    accepted: &'a [Arc<Certificate>],
    read: DateTime<Utc>,
}

impl TrustProbe {
    /// One that looks at a partner, too, if there is one.
    #[must_use]
    pub fn new(partner: Option<PartnerRules>) -> Self {
        Self { partner: partner.map(Partner::new), ..Self::default() }
    }

    /// Lets everybody sign and verify.
    pub fn look(&mut self, now: DateTime<Utc>, servers: &[Server], cloud: Option<&Cloud>) {
        self.look_at_servers(now, servers);
        if let Some(cloud) = cloud {
            self.look_at_cloud(now, servers, cloud);
            self.look_at_partner(now, servers);
        }
    }

    /// What was seen so far.
    #[must_use]
    pub fn report(&self) -> Trust {
        let sum = |of: fn(&LegTotal) -> u64| self.legs.values().map(of).sum();
        let (checked, refused) = (sum(|leg| leg.checked), sum(|leg| leg.refused));
        Trust { checked, refused, refusals: self.refusals.clone(), legs: self.legs.clone() }
    }

    /// Lets one sign for one other, and counts.
    fn check(&mut self, now: DateTime<Utc>, leg: Leg, signer: &Signer<'_>, verifier: &Verifier<'_>) {
        let verdict = signer.signs.and_then(|entry| self.verify(now, entry, verifier.accepted));
        self.count(now, leg, signer, verifier, verdict);
    }

    fn count(
        &mut self,
        now: DateTime<Utc>,
        leg: Leg,
        signer: &Signer<'_>,
        verifier: &Verifier<'_>,
        verdict: Result<(), Reason>,
    ) {
        let total = self.legs.entry(leg).or_default();
        total.checked += 1;
        let Err(reason) = verdict else { return };
        total.refused += 1;
        if self.refusals.len() < TOLD {
            self.refusals.push(Refusal {
                at: now,
                leg,
                signer: (signer.name)(),
                verifier: (verifier.name)(),
                thumbprint: signer.thumbprint.cloned(),
                accepted: verifier.accepted.iter().map(|certificate| certificate.thumbprint.clone()).collect(),
                view_age_seconds: (now - verifier.read).num_seconds(),
                reason,
            });
        }
    }

    fn verify(&mut self, now: DateTime<Utc>, entry: &Entry, accepted: &[Arc<Certificate>]) -> Result<(), Reason> {
        let thumbprint = &entry.certificate.thumbprint;
        let known = accepted.iter().find(|c| c.thumbprint == *thumbprint).ok_or(Reason::UnknownKey)?;
        if !known.is_valid_at(now) {
            return Err(Reason::Expired);
        }
        let genuine = match self.verdicts.get(&entry.id).and_then(|verdicts| verdicts.get(thumbprint)) {
            Some(genuine) => *genuine,
            None => self.verify_signature(entry, known)?,
        };
        if genuine { Ok(()) } else { Err(Reason::BadSignature) }
    }

    /// Once for each copy of a key and each certificate.
    fn verify_signature(&mut self, entry: &Entry, known: &Certificate) -> Result<bool, Reason> {
        let token = self.tokens.entry(entry.id).or_insert_with(|| Token::sign(entry));
        let token = token.as_ref().ok_or(Reason::NoPrivateKey)?;
        let genuine = token.is_signed_by(known);
        self.verdicts.entry(entry.id).or_default().insert(known.thumbprint.clone(), genuine);
        Ok(genuine)
    }
}
