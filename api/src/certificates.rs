//! The thumbprint matrix: one row for each Auth certificate, one cell for each server that takes part.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use domain::{
    Snapshot, Tenant, Thumbprint,
    snapshot::{AuthConfig, Certificate, Key, Server, Store},
};
use serde::Serialize;
use utoipa::ToSchema;

/// A certificate, and where it is.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct CertificateRow {
    /// SHA-1 of the certificate.
    thumbprint: Thumbprint,
    /// What `AuthConfig` of any domain controller calls it; empty when none names it.
    #[schema(example = json!(["current"]))]
    named: Vec<Name>,
    /// Start of validity; absent when no server that answered has it.
    #[schema(example = "2021-12-01T08:00:00Z")]
    not_before: Option<DateTime<Utc>>,
    /// End of validity; absent when no server that answered has it.
    #[schema(example = "2027-01-07T08:00:00Z")]
    not_after: Option<DateTime<Utc>>,
    /// One for each server that takes part.
    servers: Vec<Cell>,
    /// Whether the dedicated application in Entra has its key; absent when the tenant was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    entra: Option<Presence>,
}

/// What `AuthConfig` calls a certificate.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(example = "current")]
pub(crate) enum Name {
    /// The one that signs.
    Current,
    /// The one that is staged.
    Next,
    /// The one that signed before.
    Previous,
}

/// Whether a server has a certificate.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Cell {
    /// The server.
    #[schema(example = "ex01.contoso.example")]
    fqdn: String,
    /// Whether it has it.
    presence: Presence,
    /// What is known of the private key there.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Key>,
    /// Departures from what Exchange needs of an Auth certificate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!([]))]
    findings: Vec<String>,
}

/// Whether something is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(example = "present")]
pub(crate) enum Presence {
    /// It is not.
    Absent,
    /// It is.
    Present,
    /// The server's store did not answer.
    Unknown,
}

/// The rows of `snapshot`: named certificates first, the current one before the staged and the previous one.
pub(crate) fn matrix(snapshot: &Snapshot) -> Vec<CertificateRow> {
    let named = snapshot.auth_config.iter().flat_map(|a| a.thumbprints()).flatten();
    let stored = snapshot.participants().flat_map(certificates).map(|c| &c.thumbprint);
    let all: BTreeSet<&Thumbprint> = named.chain(stored).collect();
    let mut rows: Vec<_> = all.into_iter().map(|thumbprint| row(snapshot, thumbprint)).collect();
    rows.sort_by_key(|row| (row.named.first().copied().map_or(u8::MAX, |name| name as u8), row.not_after));
    rows
}

fn row(snapshot: &Snapshot, thumbprint: &Thumbprint) -> CertificateRow {
    let copy = snapshot.participants().find_map(|server| server.certificate(thumbprint));
    let names: BTreeSet<Name> = snapshot.auth_config.iter().flat_map(|a| names(a, thumbprint)).collect();
    CertificateRow {
        thumbprint: thumbprint.clone(),
        named: names.into_iter().collect(),
        not_before: copy.map(|c| c.not_before),
        not_after: copy.map(|c| c.not_after),
        servers: snapshot.participants().map(|server| cell(server, thumbprint)).collect(),
        entra: snapshot.tenant.as_ref().map(|tenant| in_entra(tenant, thumbprint)),
    }
}

fn in_entra(tenant: &Tenant, thumbprint: &Thumbprint) -> Presence {
    match tenant {
        Tenant::Unreachable { .. } => Presence::Unknown,
        Tenant::Read { application: Some(application), .. } if application.key_of(thumbprint).is_some() => {
            Presence::Present
        }
        Tenant::Read { .. } => Presence::Absent,
    }
}

fn names<'a>(auth_config: &'a AuthConfig, thumbprint: &'a Thumbprint) -> impl Iterator<Item = Name> + 'a {
    let places = [Name::Current, Name::Previous, Name::Next].into_iter().zip(auth_config.thumbprints());
    places.filter(move |(_, named)| *named == Some(thumbprint)).map(|(name, _)| name)
}

fn cell(server: &Server, thumbprint: &Thumbprint) -> Cell {
    let copy = server.certificate(thumbprint);
    let presence = match copy {
        Some(_) => Presence::Present,
        None if server.is_reachable() => Presence::Absent,
        None => Presence::Unknown,
    };
    let findings = copy.map(|c| c.findings.clone()).unwrap_or_default();
    Cell { fqdn: server.fqdn.clone(), presence, key: copy.map(|c| c.key), findings }
}

fn certificates(server: &Server) -> &[Certificate] {
    match &server.store {
        Store::Read { certificates } => certificates,
        Store::NotAsked | Store::Unreachable { .. } => &[],
    }
}
