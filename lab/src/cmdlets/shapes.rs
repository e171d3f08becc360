//! What results look like on the wire (domain.md 1.11).

use chrono::{DateTime, FixedOffset, Utc};
use psrp::{Base, Object, Value};
use uuid::Uuid;

use super::Endpoint;
use crate::{
    certificate::{Certificate, Thumbprint},
    directory::Controller,
    organization::{ORGANIZATION_GUID, Role},
    server::{Entry, Process, ProcessKind, Provider, Server},
};

/// The lab's servers stand in Amsterdam and Berlin, in winter.
const OFFSET_SECONDS: i32 = 3600;

pub(super) fn auth_config(controller: &Controller, organization: &str) -> Value {
    let config = &controller.auth_config;
    let text = |thumbprint: &Option<Thumbprint>| thumbprint.as_ref().map_or("", Thumbprint::as_str).to_owned();
    let name = "Auth Configuration";
    typed("Microsoft.Exchange.Data.Directory.SystemConfiguration.AuthConfig")
        .shown_as(name)
        .with("CurrentCertificateThumbprint", text(&config.current))
        .with("PreviousCertificateThumbprint", text(&config.previous))
        .with("NextCertificateThumbprint", text(&config.next))
        .with("NextCertificateEffectiveDate", config.next_effective.map_or(Value::Null, local))
        .with("ServiceName", "00000002-0000-0ff1-ce00-000000000000")
        .with("Realm", "")
        .with("DeploymentId", "")
        .with("IssuerIdentifier", "")
        .with("Name", name)
        .with(
            "DistinguishedName",
            format!(
                "CN={name},CN={organization},CN=Microsoft Exchange,CN=Services,CN=Configuration,DC=contoso,DC=example"
            ),
        )
        .with("Guid", Uuid::from_u128(0x5d3a_64f1_2c1e_4b86_9d0a_31c1_5ef2_77aa))
        .with("WhenChanged", local(config.when_changed))
        .with("WhenChangedUTC", config.when_changed)
        .with("OriginatingServer", controller.fqdn.as_str())
        .with("IsValid", true)
        .with("ObjectState", enumeration("Microsoft.Exchange.Data.ObjectState", "Unchanged", 1))
        .into()
}

/// Only the bytes travel; everything else is lost on the way.
pub(super) fn exchange_certificate(certificate: &Certificate, computer: &str) -> Value {
    let text = format!(
        "[Subject]\n  {}\n\n[Issuer]\n  {}\n\n[Serial Number]\n  {}\n\n[Not Before]\n  {}\n\n[Not After]\n  {}\n\n[Thumbprint]\n  {}\n",
        certificate.subject,
        certificate.issuer,
        certificate.serial,
        certificate.not_before.format("%m/%d/%Y %H:%M:%S"),
        certificate.not_after.format("%m/%d/%Y %H:%M:%S"),
        certificate.thumbprint
    );
    typed("Microsoft.Exchange.Management.SystemConfigurationTasks.ExchangeCertificate")
        .shown_as(text)
        .with("RawData", certificate.der.clone())
        .with_member("PSComputerName", computer)
        .with_member("RunspaceId", Uuid::new_v4())
        .into()
}

pub(super) fn exported(bytes: Vec<u8>, computer: &str) -> Value {
    typed("Microsoft.Exchange.Management.SystemConfigurationTasks.BinaryFileDataObject")
        .with("FileData", bytes)
        .with_member("PSComputerName", computer)
        .into()
}

pub(super) fn exchange_server(server: &Server, controller: Option<&Controller>) -> Object {
    let [major, minor, build, revision] = server.spec.version;
    let version = typed("Microsoft.Exchange.Data.ServerVersion")
        .shown_as(format!("Version {major}.{minor} (Build {build}.{revision})"))
        .with("Major", major)
        .with("Minor", minor)
        .with("Build", build)
        .with("Revision", revision);
    let site = typed("Microsoft.Exchange.Data.Directory.ADObjectId")
        .shown_as(format!("contoso.example/Configuration/Sites/{}", server.spec.site))
        .with("Name", server.spec.site.as_str());
    let role = match server.spec.role {
        Role::Mailbox => ("Mailbox", 16439),
        Role::ClientAccess => ("ClientAccess", 16385),
        Role::Edge => ("Edge", 64),
    };
    let status = controller.map_or(Value::Null, |c| Value::from(c.fqdn.as_str()));
    typed("Microsoft.Exchange.Data.Directory.Management.ExchangeServer")
        .shown_as(server.spec.name.as_str())
        .with("Name", server.spec.name.as_str())
        .with("Fqdn", server.spec.fqdn.as_str())
        .with("Domain", "contoso.example")
        .with("IsMailboxServer", server.spec.role == Role::Mailbox)
        .with("IsClientAccessServer", server.spec.role != Role::Edge)
        .with("IsEdgeServer", server.spec.role == Role::Edge)
        .with("IsHubTransportServer", server.spec.role == Role::Mailbox)
        .with("IsE15OrLater", true)
        .with("AdminDisplayVersion", version)
        .with("Site", if server.spec.role == Role::Edge { Value::Null } else { site.into() })
        .with("ServerRole", enumeration("Microsoft.Exchange.Data.Directory.Management.ServerRole", role.0, role.1))
        .with("CurrentConfigDomainController", status)
}

pub(super) fn process(server: &Server, process: &Process) -> Value {
    let id = 4_000 + 400 * process.kind as u32 + 4 * process.generation;
    let name = executable(process.kind);
    let line = match process.kind {
        ProcessKind::ServiceHost => {
            format!(r#""C:\Program Files\Microsoft\Exchange Server\V15\Bin\{name}""#)
        }
        ProcessKind::Owa | ProcessKind::Ecp => {
            let pool = process.kind.name();
            format!(r#"c:\windows\system32\inetsrv\{name} -ap "{pool}" -v "v4.0" -l "webengine4.dll""#)
        }
    };
    cim("Win32_Process", server)
        .shown_as(format!("Win32_Process: {name} (Handle = \"{id}\")"))
        .with("Name", name)
        .with("ProcessId", Value::U32(id))
        .with("Handle", id.to_string())
        .with("CommandLine", line)
        .with("CreationDate", local(server.local_time(process.started)))
        .into()
}

pub(super) fn executable(kind: ProcessKind) -> &'static str {
    match kind {
        ProcessKind::ServiceHost => "Microsoft.Exchange.ServiceHost.exe",
        ProcessKind::Owa | ProcessKind::Ecp => "w3wp.exe",
    }
}

pub(super) fn operating_system(server: &Server, now: DateTime<Utc>) -> Value {
    let build = server.spec.windows_build;
    cim("Win32_OperatingSystem", server)
        .shown_as("Win32_OperatingSystem: Microsoft Windows Server")
        .with("Caption", format!("Microsoft Windows Server {} Datacenter", release(build)))
        .with("CSName", server.spec.name.as_str())
        .with("Version", format!("10.0.{build}"))
        .with("BuildNumber", build.to_string())
        .with("LocalDateTime", local(server.local_time(now)))
        .into()
}

/// A certificate as the provider `Cert:` shows it.
pub(super) fn store_certificate(server: &Server, entry: &Entry) -> Value {
    let Certificate { thumbprint, not_before, not_after, subject, issuer, .. } = &*entry.certificate;
    let parent = r"Microsoft.PowerShell.Security\Certificate::LocalMachine\My";
    typed("System.Security.Cryptography.X509Certificates.X509Certificate2")
        .shown_as(format!("[Subject]\n  {subject}\n\n[Thumbprint]\n  {thumbprint}\n"))
        .with("Subject", subject.as_str())
        .with("Issuer", issuer.as_str())
        .with("Thumbprint", thumbprint.as_str())
        .with("FriendlyName", entry.friendly_name.as_str())
        .with("NotBefore", local(*not_before))
        .with("NotAfter", local(*not_after))
        .with("HasPrivateKey", entry.key.is_some())
        .with("PrivateKey", entry.key.as_ref().map_or(Value::Null, |key| private_key(&key.provider)))
        .with("RawData", entry.certificate.der.clone())
        .with_member("PSPath", format!(r"{parent}\{thumbprint}"))
        .with_member("PSParentPath", parent)
        .with_member("PSChildName", thumbprint.as_str())
        .with_member("PSComputerName", server.spec.fqdn.as_str())
        .into()
}

/// Only the type of the key object tells a key that Exchange can use from one that it cannot (domain.md 2.1).
fn private_key(provider: &Provider) -> Value {
    let (class, base, provider) = match provider {
        Provider::Csp(name) => ("RSACryptoServiceProvider", "RSA", name),
        Provider::Ksp(name) => ("RSACng", "RSA", name),
    };
    let class = format!("System.Security.Cryptography.{class}");
    let key = Object {
        type_names: [class.as_str(), &format!("System.Security.Cryptography.{base}"), "System.Object"]
            .map(|name| format!("Deserialized.{name}"))
            .to_vec(),
        ..Object::default()
    };
    let container = typed("Deserialized.System.Security.Cryptography.CspKeyContainerInfo")
        .shown_as("System.Security.Cryptography.CspKeyContainerInfo")
        .with("ProviderName", provider.as_str())
        .with("MachineKeyStore", true);
    let key = key.shown_as(class.clone()).with("KeySize", 2048);
    if class.ends_with("RSACng") { key.into() } else { key.with("CspKeyContainerInfo", container).into() }
}

pub(super) fn command(name: &str, endpoint: Endpoint) -> Value {
    let kind = match endpoint {
        Endpoint::Exchange => ("Function", 2),
        Endpoint::Windows => ("Cmdlet", 8),
    };
    typed(&format!("System.Management.Automation.{}Info", kind.0))
        .shown_as(name)
        .with("Name", name)
        .with("CommandType", enumeration("System.Management.Automation.CommandTypes", kind.0, kind.1))
        .into()
}

pub(super) fn organization(name: &str) -> Value {
    typed("Microsoft.Exchange.Data.Directory.Management.OrganizationConfig")
        .shown_as(name)
        .with("Name", name)
        .with("Guid", ORGANIZATION_GUID)
        .with("IsValid", true)
        .into()
}

/// An instant as a server in the lab's time zone writes it.
pub(super) fn local(at: DateTime<Utc>) -> Value {
    let zone = FixedOffset::east_opt(OFFSET_SECONDS);
    zone.map_or_else(|| at.into(), |zone| Value::DateTime(at.with_timezone(&zone)))
}

pub(super) fn enumeration(type_name: &str, text: &str, number: i32) -> Value {
    let type_names = [type_name, "System.Enum", "System.ValueType", "System.Object"].map(str::to_owned).to_vec();
    Object { type_names, base: Base::Primitive(Value::I32(number)), ..Object::default() }.shown_as(text).into()
}

/// Every list of type names ends with that of the base class; pypsrp for one reads no object without it.
pub(super) fn typed(name: &str) -> Object {
    Object { type_names: [name, "System.Object"].map(str::to_owned).to_vec(), ..Object::default() }
}

fn cim(class: &str, server: &Server) -> Object {
    typed(&format!("Microsoft.Management.Infrastructure.CimInstance#root/cimv2/{class}"))
        .with_member("PSComputerName", server.spec.fqdn.as_str())
}

fn release(build: u32) -> u32 {
    match build {
        ..17763 => 2016,
        17763..20348 => 2019,
        20348..26100 => 2022,
        _ => 2025,
    }
}
