//! `[[source]]`: who may send records, and how they are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use api::{Accept, Source};
use chrono::TimeDelta;
use domain::{
    OrganizationId, TicketWord,
    intake::{self, Name, SourceKind},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::secrets::Reference;

/// A source as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSource {
    id: String,
    kind: SourceKind,
    organization: Option<OrganizationId>,
    ticket_system: Option<String>,
    accept: Option<BTreeSet<Accept>>,
    #[serde(default)]
    secrets: Vec<String>,
    tolerance_seconds: Option<i64>,
    #[serde(default)]
    fields: BTreeMap<Name, String>,
    #[serde(default)]
    states: BTreeMap<String, TicketWord>,
}

/// Checks the sources of a file.
pub(super) fn build(
    files: Vec<FileSource>,
    organizations: &[&OrganizationId],
    folder: &Path,
) -> anyhow::Result<Vec<Source>> {
    let mut sources: Vec<Source> = Vec::new();
    for file in files {
        let id = file.id.clone();
        let source = configured(file, organizations, folder).with_context(|| format!("source {id}"))?;
        if sources.iter().any(|other| other.id() == id) {
            bail!("source {id} stands there twice: give each its own id");
        }
        sources.push(source);
    }
    Ok(sources)
}

fn configured(file: FileSource, organizations: &[&OrganizationId], folder: &Path) -> anyhow::Result<Source> {
    let plain = file.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    ensure!(plain && (1..=40).contains(&file.id.len()), "id is `{}`: use 1 to 40 of a-z, 0-9 and -", file.id);
    if let Some(organization) = &file.organization {
        ensure!(organizations.contains(&organization), "organization {organization} is not configured");
    }
    if let Some((name, pointer)) = file.fields.iter().find(|(_, pointer)| !pointer.starts_with('/')) {
        bail!("fields: {name:?} is `{pointer}`: use a JSON Pointer, which begins with /");
    }
    let tolerance = file.tolerance_seconds.unwrap_or(300);
    ensure!((30..=86_400).contains(&tolerance), "tolerance_seconds is {tolerance}: use 30 to 86400");
    let secrets = file.secrets.iter().map(|text| Reference::parse(text, folder)?.read());
    let secrets: Vec<SecretString> = secrets.collect::<anyhow::Result<_>>().context("secrets")?;
    let reading = intake::Source {
        ticket_system: file.ticket_system.unwrap_or_else(|| file.id.clone()),
        id: file.id,
        kind: file.kind,
        organization: file.organization,
        fields: file.fields,
        states: file.states.into_iter().map(|(state, word)| (state.to_lowercase(), word)).collect(),
    };
    ensure!((1..=40).contains(&reading.ticket_system.chars().count()), "ticket_system has 1 to 40 characters");
    let accept = file.accept.unwrap_or_else(|| BTreeSet::from([Accept::Signature]));
    let secrets = secrets.iter().map(SecretString::expose_secret);
    Ok(Source::new(reading, secrets, TimeDelta::seconds(tolerance), accept)?)
}

#[cfg(test)]
mod tests {
    use crate::config::{
        KEYS,
        tests::{ORGANIZATION, parse},
    };

    /// `PATH` is set everywhere, and is text as Jira takes it.
    const SOURCE: &str = r#"
        [[source]]
        id = "acme"
        kind = "jira"
        organization = "contoso"
        secrets = ["env:PATH"]
        fields = { start = "/fields/customfield_10051" }
        states = { "In Arbeit" = "ready" }
    "#;

    #[test]
    fn mistakes_in_sources_are_named() {
        let with = |from: &str, to: &str| format!("{ORGANIZATION}\n{}", SOURCE.replace(from, to));
        assert_eq!(parse(&with("", "")).unwrap().sources.len(), 1);
        let cases = [
            (with("\"acme\"", "\"Acme\""), "use 1 to 40 of a-z"),
            (with("\"jira\"", "\"bmc\""), "unknown variant `bmc`"),
            (with("\"jira\"", "\"servicenow\""), "a secret is not `whsec_` and base64"),
            (with("\"contoso\"\n        secrets", "\"fabrikam\"\n        secrets"), "fabrikam is not configured"),
            (with("[\"env:PATH\"]", "[\"hunter2-hunter2-hunter2\"]"), "by reference"),
            (with("[\"env:PATH\"]", "[]"), "there are no secrets"),
            (with("fields =", "accept = [\"bearer\"]\n        fields ="), "there are secrets, but accept has no"),
            (with("fields =", "accept = []\n        fields ="), "accept is empty"),
            (with("fields =", "tolerance_seconds = 5\n        fields ="), "use 30 to 86400"),
            (with("\"/fields", "\"fields"), "use a JSON Pointer"),
            (with("start =", "begin ="), "unknown variant `begin`"),
            (with("\"ready\"", "\"go\""), "unknown variant `go`"),
            (format!("{}\n{SOURCE}", with("", "")), "stands there twice"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(&text).expect_err(&text));
            assert!(error.contains(expected), "{text}\n{error}");
            assert!(!error.contains("hunter2"), "a secret in clear is not repeated: {error}");
        }
    }

    #[test]
    fn every_key_of_sources_is_in_the_help() {
        for key in ["id", "kind", "organization", "ticket_system", "accept", "secrets", "tolerance_seconds"] {
            assert!(KEYS.contains(&format!("  {key} =")), "{key}");
        }
    }
}
