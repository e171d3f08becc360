//! `[[ticket_system]]`: systems whose tickets are read before each change, told about, moved and closed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use domain::{
    OrganizationId, TicketWord,
    intake::{Name, Source, SourceKind},
};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use worker::{
    connectors::{
        Trust,
        itsm::{Jira, ServiceNow, TicketCredentials, TicketPatience, TicketWay},
    },
    outbox::AllowList,
    tickets::{StateNames, TicketClient, TicketSystem},
};

use crate::secrets::Reference;

/// The field by which Jira's boards flag an issue.
const FLAGGED: &str = "customfield_10021";

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Jira,
    ServiceNow,
}

/// The section as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTicketSystem {
    id: String,
    kind: Kind,
    url: String,
    username: Option<String>,
    password: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    api_key: Option<String>,
    token: Option<String>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    organizations: Vec<OrganizationId>,
    #[serde(default = "yes")]
    move_changes: bool,
    #[serde(default)]
    states: BTreeMap<String, TicketWord>,
    #[serde(default)]
    fields: BTreeMap<Name, String>,
    implement_state: Option<String>,
    review_state: Option<String>,
    closed_state: Option<String>,
    failed_state: Option<String>,
    hold_field: Option<String>,
    query: Option<String>,
    #[serde(default = "half_a_minute")]
    poll_seconds: u64,
    #[serde(default = "five")]
    fresh_seconds: u64,
    #[serde(default = "quarter_of_an_hour")]
    unanswered_minutes: u64,
}

fn yes() -> bool {
    true
}

fn half_a_minute() -> u64 {
    30
}

fn five() -> u64 {
    5
}

fn quarter_of_an_hour() -> u64 {
    15
}

/// All of them: each has its own id, and knows organizations that there are.
pub(super) fn all(
    files: Vec<FileTicketSystem>,
    folder: &Path,
    known: &[&OrganizationId],
    allow: &AllowList,
) -> anyhow::Result<Vec<Arc<TicketSystem>>> {
    let mut systems: Vec<Arc<TicketSystem>> = Vec::new();
    for file in files {
        let id = file.id.clone();
        ensure!(
            systems.iter().all(|system| system.id != id),
            "ticket_system {id} stands there twice: give each its own id"
        );
        if let Some(unknown) = file.organizations.iter().find(|id| !known.contains(id)) {
            bail!("ticket_system {id}: organization {unknown} is not configured");
        }
        systems.push(Arc::new(configured(file, folder, allow).with_context(|| format!("ticket_system {id}"))?));
    }
    Ok(systems)
}

/// A system that can be asked. Nothing is sent yet.
fn configured(file: FileTicketSystem, folder: &Path, allow: &AllowList) -> anyhow::Result<TicketSystem> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        !file.id.is_empty() && file.id.len() <= 63 && file.id.chars().all(plain),
        "id is `{}`: use 1 to 63 of a-z, 0-9 and -",
        file.id
    );
    ensure!((1..=3600).contains(&file.poll_seconds), "poll_seconds is {}: use 1 to 3600", file.poll_seconds);
    ensure!(file.fresh_seconds <= 300, "fresh_seconds is {}: use 0 to 300", file.fresh_seconds);
    ensure!(file.unanswered_minutes <= 24 * 60, "unanswered_minutes is {}: use 0 to 1440", file.unanswered_minutes);
    let grammar = |query: &str| query.contains("ORDERBY") || query.to_ascii_lowercase().contains("order by");
    ensure!(!file.query.as_deref().is_some_and(grammar), "query: leave the order to rekey");
    let hold_field = file.hold_field.clone().unwrap_or_else(|| FLAGGED.to_owned());
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    ensure!(hold_field.chars().all(word), "hold_field is `{hold_field}`: use the id of a field, like {FLAGGED}");
    let trust = match &file.ca_file {
        Some(path) => {
            let path = folder.join(path);
            Trust::ca(&std::fs::read(&path).with_context(|| format!("ca_file: cannot read {}", path.display()))?)
        }
        None => Trust::default(),
    };
    let way = TicketWay {
        url: file.url.parse().with_context(|| format!("url is `{}`: use https://HOST", file.url))?,
        credentials: credentials(&file, folder)?,
        trust,
        allow: allow.clone(),
        patience: TicketPatience::default(),
    };
    let (client, mut states, kind) = match file.kind {
        Kind::Jira => (TicketClient::Jira(Jira::new(way)?), StateNames::jira(), SourceKind::Jira),
        Kind::ServiceNow => {
            (TicketClient::ServiceNow(ServiceNow::new(way)?), StateNames::servicenow(), SourceKind::ServiceNow)
        }
    };
    let mut fields = file.fields;
    if kind == SourceKind::Jira {
        // Not in the issue: what is read beside it stands there.
        fields.entry(Name::Approval).or_insert_with(|| "/rekey/approval".to_owned());
        fields.entry(Name::OnHold).or_insert_with(|| "/rekey/on_hold".to_owned());
    }
    let lower = |(state, word): (String, TicketWord)| (state.to_lowercase(), word);
    let source = Source {
        id: file.id.clone(),
        kind,
        organization: None,
        ticket_system: file.id.clone(),
        fields,
        states: file.states.into_iter().map(lower).collect(),
    };
    states.implement = file.implement_state.unwrap_or(states.implement);
    states.review = file.review_state.map_or(states.review, |state| Some(state).filter(|state| !state.is_empty()));
    states.failed = file.failed_state.or_else(|| file.closed_state.clone()).unwrap_or(states.failed);
    states.closed = file.closed_state.unwrap_or(states.closed);
    Ok(TicketSystem {
        id: file.id,
        source,
        client,
        organizations: file.organizations,
        states,
        moves: file.move_changes,
        hold_field,
        query: file.query.filter(|query| !query.trim().is_empty()),
        poll: Duration::from_secs(file.poll_seconds),
        fresh: Duration::from_secs(file.fresh_seconds),
        unanswered: Duration::from_secs(file.unanswered_minutes * 60),
    })
}

fn credentials(file: &FileTicketSystem, folder: &Path) -> anyhow::Result<TicketCredentials> {
    let read = |key: &str, text: &str| {
        let secret = Reference::parse(text, folder).and_then(|reference| reference.read());
        secret.with_context(|| key.to_owned())
    };
    let bare = |text: &str| !text.is_empty() && !text.contains(':') && !text.chars().any(char::is_control);
    match (&file.username, &file.password, &file.client_id, &file.client_secret, &file.api_key, &file.token) {
        (Some(username), Some(password), None, None, None, None) => {
            ensure!(bare(username), "username: leave colons out");
            Ok(TicketCredentials::Basic { username: username.clone(), password: read("password", password)? })
        }
        (None, None, Some(client_id), Some(secret), None, None) if file.kind == Kind::ServiceNow => {
            let client_secret = read("client_secret", secret)?;
            Ok(TicketCredentials::ClientCredentials { client_id: client_id.clone(), client_secret })
        }
        (None, None, None, None, Some(key), None) if file.kind == Kind::ServiceNow => {
            let key = read("api_key", key)?;
            ensure!(
                key.expose_secret().chars().all(|c| c.is_ascii_graphic()),
                "api_key holds characters that no header takes"
            );
            Ok(TicketCredentials::ApiKey(key))
        }
        (None, None, None, None, None, Some(token)) => Ok(TicketCredentials::Bearer(read("token", token)?)),
        _ => bail!(
            "name one way to sign in: username and password, token, or for ServiceNow client_id and client_secret, or api_key"
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{
        KEYS,
        tests::{ORGANIZATION, parse},
    };

    const SYSTEM: &str = r#"
        [[ticket_system]]
        id = "acme"
        kind = "servicenow"
        url = "https://acme.service-now.com"
        api_key = "env:PATH"
    "#;

    fn with(from: &str, to: &str) -> String {
        format!("{}\n{ORGANIZATION}", SYSTEM.replace(from, to))
    }

    #[test]
    fn a_system_is_read_with_what_is_usual() {
        let config = parse(&with(
            "api_key = \"env:PATH\"",
            "username = \"svc\"\npassword = \"env:PATH\"\nstates = { \"-2\" = \"ready\" }",
        ));
        let system = &config.unwrap().ticket_systems[0];
        assert_eq!((system.id.as_str(), system.states.implement.as_str(), system.moves), ("acme", "-1", true));
        assert_eq!(system.source.ticket_system, "acme");
        assert_eq!(system.source.states["-2"], domain::TicketWord::Ready);
        assert!(system.query.is_none());
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_do() {
        let cases = [
            (with("acme\"\n", "Acme\"\n"), "use 1 to 63 of a-z"),
            (with("https://", "http://"), "use https://HOST"),
            (with("acme.service-now.com", "127.0.0.1:8443"), "belongs to this machine or its cloud"),
            (with("acme.service-now.com", "169.254.169.254"), "belongs to this machine or its cloud"),
            (with("env:PATH", "hunter2"), "by reference"),
            (with("api_key", "color"), "unknown field `color`"),
            (with("api_key = \"env:PATH\"", ""), "name one way to sign in"),
            (with("api_key", "token = \"env:PATH\"\napi_key"), "name one way to sign in"),
            (with("servicenow", "jira"), "name one way to sign in"),
            (with("api_key", "organizations = [\"fabrikam\"]\napi_key"), "organization fabrikam is not configured"),
            (with("api_key", "poll_seconds = 0\napi_key"), "use 1 to 3600"),
            (with("api_key", "query = \"active=true^ORDERBYnumber\"\napi_key"), "leave the order to rekey"),
            (with("api_key", "states = { x = \"fine\" }\napi_key"), "unknown variant `fine`"),
            (format!("{SYSTEM}{SYSTEM}{ORGANIZATION}"), "stands there twice"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(&text).expect_err(&text));
            assert!(error.contains(expected), "{text}\n{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn each_key_is_explained() {
        let keys = [
            "ca_file",
            "organizations",
            "move_changes",
            "implement_state",
            "review_state",
            "closed_state",
            "failed_state",
        ];
        let more = [
            "hold_field",
            "states",
            "fields",
            "query",
            "poll_seconds",
            "fresh_seconds",
            "unanswered_minutes",
            "api_key",
            "token",
        ];
        for key in keys.into_iter().chain(more) {
            assert!(KEYS.contains(&format!("  {key} =")), "{key}");
        }
    }
}
