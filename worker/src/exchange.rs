//! Exchange's cmdlets as typed calls: the only place that knows their parameters and the shapes of what they write (domain.md 1.10, 1.11, 6.5).

use chrono::{DateTime, Utc};
use domain::{
    Thumbprint, Trouble,
    progress::{KDC_UNREACHABLE, SERVER_UNREACHABLE},
    snapshot::{AuthConfig, Version},
};
use psrp::{Command, ErrorRecord, Secret, Value};
use secrecy::{ExposeSecret as _, SecretString};

use crate::connectors::{Answer, Session, WireError};

/// Why a cmdlet did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The cmdlet says no.
    #[error("{cmdlet} failed: {}", said(.error))]
    Failed {
        /// Its name.
        cmdlet: String,
        /// What it said.
        error: Box<ErrorRecord>,
    },
    /// The cmdlet wrote something else than it is known to.
    #[error("{cmdlet} wrote something unexpected: {what}")]
    Unexpected {
        /// Its name.
        cmdlet: String,
        /// What was looked for.
        what: String,
    },
    /// No answer came back.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// The cmdlets that a run may need. All are looked for before anything is made.
pub(crate) const NEEDED: [&str; 9] = [
    "Get-AuthConfig",
    "Get-ExchangeCertificate",
    "Get-ExchangeServer",
    "Get-HybridConfiguration",
    "Export-ExchangeCertificate",
    "Import-ExchangeCertificate",
    "Remove-ExchangeCertificate",
    "Set-ADServerSettings",
    "Set-AuthConfig",
];

/// Number of the error category PermissionDenied (domain.md 6.6).
const PERMISSION_DENIED: i32 = 18;

impl CommandError {
    /// Whether the account lacks a right.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Failed { error, .. } if error.category == PERMISSION_DENIED)
    }

    /// Whether the object that was named does not exist: the type of the exception is the same in every language.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Failed { error, .. } if error.reason == "ManagementObjectNotFoundException")
    }

    /// The failure in words, with what to do.
    pub(crate) fn trouble(&self) -> Trouble {
        let (code, action) = match self {
            Self::Failed { .. } if self.is_denied() => {
                ("permission_denied", "Give the account the right that the cmdlet needs, then retry")
            }
            Self::Failed { .. } => ("cmdlet_failed", "Look at the server's event log, repair it, then retry"),
            Self::Unexpected { .. } => {
                ("unexpected_answer", "Retry; if it stays, report it with the Exchange version of the server")
            }
            Self::Wire(WireError::NotSent { .. }) => {
                (SERVER_UNREACHABLE, "Start the server or repair the way to it; the step is tried again by itself")
            }
            Self::Wire(WireError::NoKdc { .. }) => (
                KDC_UNREACHABLE,
                "Set kdc, and realm if the user name does not say it, or let krb5.conf or the DNS (SRV records _kerberos._tcp.<realm>) name a KDC \
                 that this machine reaches on TCP port 88; what waits for it is tried again by itself",
            ),
            Self::Wire(WireError::Refused { code, action, .. }) => (*code, *action),
            Self::Wire(WireError::UnknownOutcome { .. }) => {
                ("unknown_outcome", "Nothing to do: the step looks at the state first when it is tried again")
            }
        };
        Trouble::new(code, self.to_string(), action)
    }
}

pub(crate) type Result<T> = std::result::Result<T, CommandError>;

/// A server as `Get-ExchangeServer -Status` tells it.
#[derive(Clone, Debug)]
pub(crate) struct ExchangeServer {
    /// Fully qualified name, lower case.
    pub(crate) fqdn: String,
    /// Active Directory site; empty when unknown.
    pub(crate) site: String,
    pub(crate) version: Version,
    /// Mailbox or client access role, version 15, not Edge.
    pub(crate) takes_part: bool,
    /// The domain controller that it reads its configuration from.
    pub(crate) domain_controller: Option<String>,
}

/// Makes an error out of the first error that a pipeline wrote.
pub(crate) fn succeed(cmdlet: &str, answer: Answer) -> Result<Answer> {
    match answer.errors.into_iter().next_back() {
        Some(error) => Err(CommandError::Failed { cmdlet: cmdlet.to_owned(), error: Box::new(error) }),
        None => Ok(Answer { errors: Vec::new(), ..answer }),
    }
}

/// Runs a cmdlet; an error that it writes is its failure.
pub(crate) async fn run(session: &mut Session, command: Command) -> Result<Answer> {
    let cmdlet = command.name.clone();
    succeed(&cmdlet, session.invoke(command).await?)
}

/// Widens what the session sees to the whole forest (session state, domain.md 1.1).
pub(crate) async fn view_entire_forest(session: &mut Session) -> Result<()> {
    run(session, Command::new("Set-ADServerSettings").with("ViewEntireForest", true)).await.map(drop)
}

/// How the id of an error begins that says that there is no such cmdlet, for this account at least.
const NOT_FOUND: &str = "CommandNotFoundException";

/// Which of these cmdlets the account may not run: its role assignments decide what the endpoint offers.
pub(crate) async fn not_permitted(session: &mut Session, cmdlets: &[&str]) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for cmdlet in cmdlets {
        let answer = session.invoke(Command::new("Get-Command").with("Name", *cmdlet)).await?;
        if !answer.output.is_empty() {
            continue;
        }
        // Whatever else went wrong says nothing about rights.
        if answer.errors.iter().all(|e| e.fully_qualified_error_id.starts_with(NOT_FOUND)) {
            missing.push((*cmdlet).to_owned());
        } else {
            succeed("Get-Command", answer)?;
        }
    }
    Ok(missing)
}

/// `AuthConfig` as one domain controller has it; as the server's own has it when none is named.
pub(crate) async fn auth_config(session: &mut Session, domain_controller: Option<&str>) -> Result<AuthConfig> {
    let command = Command::new("Get-AuthConfig");
    let command = match domain_controller {
        Some(name) => command.with("DomainController", name),
        None => command,
    };
    let answer = run(session, command).await?;
    let value = answer.output.first().ok_or_else(|| unexpected("Get-AuthConfig", "no object"))?;
    read_auth_config(value, domain_controller)
}

fn read_auth_config(value: &Value, asked: Option<&str>) -> Result<AuthConfig> {
    let thumbprint = |name: &str| {
        let text = value.property(name).map(Value::text).unwrap_or_default();
        Thumbprint::parse_optional(&text).map_err(|_| unexpected("Get-AuthConfig", name))
    };
    let next = thumbprint("NextCertificateThumbprint")?;
    // A date may be left behind by what it belonged to: then it is of nothing.
    let date = value.property("NextCertificateEffectiveDate").and_then(Value::as_date_time);
    let answered = value.property("OriginatingServer").map(Value::text).filter(|name| !name.is_empty());
    Ok(AuthConfig {
        domain_controller: asked.map(str::to_owned).or(answered).unwrap_or_default().to_ascii_lowercase(),
        current: thumbprint("CurrentCertificateThumbprint")?,
        previous: thumbprint("PreviousCertificateThumbprint")?,
        next_effective_at: date.filter(|_| next.is_some()),
        next,
        changed_at: value.property("WhenChangedUTC").and_then(Value::as_date_time),
    })
}

/// Every Exchange server, by name.
pub(crate) async fn servers(session: &mut Session) -> Result<Vec<ExchangeServer>> {
    // A server that is down makes -Status write an error beside the objects of all: the objects count.
    let answer = session.invoke(Command::new("Get-ExchangeServer").switch("Status")).await?;
    if answer.output.is_empty() {
        succeed("Get-ExchangeServer", answer)?;
        return Ok(Vec::new());
    }
    let mut servers = answer.output.iter().map(read_server).collect::<Result<Vec<_>>>()?;
    servers.sort_by(|a, b| a.fqdn.cmp(&b.fqdn));
    Ok(servers)
}

fn read_server(value: &Value) -> Result<ExchangeServer> {
    let text = |name: &str| value.property(name).map(Value::text).filter(|text| !text.is_empty());
    let flag = |name: &str| value.property(name).and_then(Value::as_bool).unwrap_or(false);
    let fqdn = text("Fqdn").ok_or_else(|| unexpected("Get-ExchangeServer", "Fqdn"))?.to_ascii_lowercase();
    let version = value.property("AdminDisplayVersion").and_then(read_version);
    let version = version.ok_or_else(|| unexpected("Get-ExchangeServer", "AdminDisplayVersion"))?;
    let has_role = flag("IsMailboxServer") || flag("IsClientAccessServer");
    Ok(ExchangeServer {
        fqdn,
        site: text("Site").map(|path| path.rsplit('/').next().unwrap_or_default().to_owned()).unwrap_or_default(),
        version,
        takes_part: has_role && !flag("IsEdgeServer") && version.major == 15,
        domain_controller: text("CurrentConfigDomainController").map(|name| name.to_ascii_lowercase()),
    })
}

/// The numbers, or the text `Version 15.1 (Build 2507.18)`.
fn read_version(value: &Value) -> Option<Version> {
    let number = |name: &str| value.property(name).and_then(Value::as_i64).and_then(|n| u32::try_from(n).ok());
    if let (Some(major), Some(minor), Some(build), Some(revision)) =
        (number("Major"), number("Minor"), number("Build"), number("Revision"))
    {
        return Some(Version { major, minor, build, revision });
    }
    let text = value.text();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Version { major: next()?, minor: next()?, build: next()?, revision: next()? })
}

/// Whether this is a hybrid organization.
pub(crate) async fn is_hybrid(session: &mut Session) -> Result<bool> {
    Ok(!run(session, Command::new("Get-HybridConfiguration")).await?.output.is_empty())
}

/// The DER form of every certificate in a server's store.
pub(crate) async fn certificates(session: &mut Session, server: &str) -> Result<Vec<Vec<u8>>> {
    let command = Command::new("Get-ExchangeCertificate").with("Server", server);
    Ok(raw_data(&run(session, command).await?))
}

/// The DER form of one certificate; `None` when the server answers that it has none.
pub(crate) async fn certificate(
    session: &mut Session,
    server: &str,
    thumbprint: &Thumbprint,
) -> Result<Option<Vec<u8>>> {
    let command =
        Command::new("Get-ExchangeCertificate").with("Server", server).with("Thumbprint", thumbprint.as_str());
    match run(session, command).await {
        Ok(answer) => Ok(raw_data(&answer).into_iter().find(|der| Thumbprint::of_der(der) == *thumbprint)),
        // Which error means "no such certificate" differs, and none proves that the store answered (domain.md 6.5): the list does.
        Err(CommandError::Failed { .. }) => {
            let all = certificates(session, server).await?;
            Ok(all.into_iter().find(|der| Thumbprint::of_der(der) == *thumbprint))
        }
        Err(error) => Err(error),
    }
}

/// Only `RawData` is certain to be there in a remote session (domain.md 1.11).
fn raw_data(answer: &Answer) -> Vec<Vec<u8>> {
    let bytes = |value: &Value| value.property("RawData").and_then(Value::as_bytes).map(<[u8]>::to_vec);
    answer.output.iter().filter_map(bytes).collect()
}

/// A certificate with its key as a PFX under this password.
pub(crate) async fn export(
    session: &mut Session,
    server: &str,
    thumbprint: &Thumbprint,
    password: &SecretString,
) -> Result<Vec<u8>> {
    let answer = run(session, export_command(server, thumbprint, password)).await?;
    let data = answer.output.iter().find_map(|value| value.property("FileData").and_then(Value::as_bytes));
    data.map(<[u8]>::to_vec).ok_or_else(|| unexpected("Export-ExchangeCertificate", "FileData"))
}

fn export_command(server: &str, thumbprint: &Thumbprint, password: &SecretString) -> Command {
    Command::new("Export-ExchangeCertificate")
        .with("Server", server)
        .with("Thumbprint", thumbprint.as_str())
        .switch("BinaryEncoded")
        .with_secret("Password", Secret::new(password.expose_secret()))
}

/// Brings a PFX into a server's store; its key stays exportable, so that the server can be a source for others.
pub(crate) fn import(server: &str, pfx: &[u8], password: &SecretString) -> Command {
    Command::new("Import-ExchangeCertificate")
        .with("Server", server)
        .with("FileData", pfx.to_vec())
        .with_secret("Password", Secret::new(password.expose_secret()))
        .with("PrivateKeyExportable", true)
}

/// Stages a certificate, or moves the date of the one that is staged.
pub(crate) fn stage(thumbprint: &Thumbprint, effective_at: DateTime<Utc>, domain_controller: &str) -> Command {
    Command::new("Set-AuthConfig")
        .with("NewCertificateThumbprint", thumbprint.as_str())
        .with("NewCertificateEffectiveDate", effective_at)
        .switch("Force")
        .with("DomainController", domain_controller)
}

/// Takes the staged certificate out again.
pub(crate) fn clear_next(domain_controller: &str) -> Command {
    Command::new("Set-AuthConfig")
        .with("NewCertificateThumbprint", Value::Null)
        .switch("Force")
        .with("DomainController", domain_controller)
}

/// Makes the staged certificate current.
pub(crate) fn publish(domain_controller: &str) -> Command {
    Command::new("Set-AuthConfig")
        .switch("PublishCertificate")
        .switch("Force")
        .with("DomainController", domain_controller)
}

/// Gives up the previous certificate.
pub(crate) fn clear_previous(domain_controller: &str) -> Command {
    Command::new("Set-AuthConfig")
        .switch("ClearPreviousCertificate")
        .switch("Force")
        .with("DomainController", domain_controller)
}

/// Removes a certificate and its key from a server's store.
pub(crate) fn remove(server: &str, thumbprint: &Thumbprint) -> Command {
    Command::new("Remove-ExchangeCertificate")
        .with("Server", server)
        .with("Thumbprint", thumbprint.as_str())
        .with("Confirm", false)
}

fn unexpected(cmdlet: &str, what: &str) -> CommandError {
    CommandError::Unexpected { cmdlet: cmdlet.to_owned(), what: what.to_owned() }
}

/// The text of an error with what does not depend on the server's language.
fn said(error: &ErrorRecord) -> String {
    let reason = if error.reason.is_empty() { "no reason given" } else { error.reason.as_str() };
    format!("{} [{reason}]", error.message.trim_end())
}

#[cfg(test)]
mod tests {
    use psrp::Object;

    use super::*;

    #[test]
    fn versions_are_read_from_numbers_and_from_text() {
        let expected = Version { major: 15, minor: 1, build: 2507, revision: 18 };
        assert_eq!(read_version(&"Version 15.1 (Build 2507.18)".into()), Some(expected));
        let numbers = Object::default().with("Major", 15).with("Minor", 1).with("Build", 2507).with("Revision", 18);
        assert_eq!(read_version(&numbers.into()), Some(expected));
        assert_eq!(read_version(&"Version 15".into()), None);
    }

    #[test]
    fn a_date_without_a_staged_certificate_is_of_nothing() {
        let date = DateTime::parse_from_rfc3339("2026-11-28T10:00:00Z").unwrap().to_utc();
        let read = |next: &str| {
            let value = Object::default()
                .with("CurrentCertificateThumbprint", "9F3B6C1D2E4A5B60718293A4B5C6D7E8F9011223")
                .with("NextCertificateThumbprint", next)
                .with("NextCertificateEffectiveDate", date);
            read_auth_config(&value.into(), Some("dc01")).unwrap().next_effective_at
        };
        assert_eq!(read("1111111111111111111111111111111111111111"), Some(date));
        assert_eq!(read(""), None);
    }

    #[test]
    fn an_empty_thumbprint_means_none_and_a_strange_one_is_refused() {
        let auth = |next: &str| {
            Object::default()
                .with("CurrentCertificateThumbprint", "9F3B6C1D2E4A5B60718293A4B5C6D7E8F9011223")
                .with("PreviousCertificateThumbprint", "")
                .with("NextCertificateThumbprint", next)
                .with("NextCertificateEffectiveDate", Value::Null)
                .with("OriginatingServer", "DC01.contoso.example")
                .into()
        };
        let read = read_auth_config(&auth(""), None).unwrap();
        assert_eq!((read.next, read.previous, read.next_effective_at), (None, None, None));
        assert_eq!(read.domain_controller, "dc01.contoso.example");
        assert!(matches!(read_auth_config(&auth("nonsense"), None), Err(CommandError::Unexpected { .. })));
    }
}
