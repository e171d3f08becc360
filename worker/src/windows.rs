//! A server's Windows PowerShell endpoint: key provider, processes, restarts, clock. Optional: without it those checks are reported as not made.

use chrono::{DateTime, Utc};
use domain::{Thumbprint, snapshot::Key, step::Process};
use psrp::{Command, Value};

use crate::{
    connectors::{Answer, Session},
    exchange::{CommandError, Result, succeed},
};

/// The cmdlets that a run may need.
pub(crate) const NEEDED: [&str; 4] = ["Get-CimInstance", "Get-Item", "Restart-Service", "Restart-WebAppPool"];

/// The process behind the service that publishes and distributes (domain.md 1.9).
const SERVICE_PROCESS: &str = "Microsoft.Exchange.ServiceHost.exe";
/// The process behind an application pool.
const POOL_PROCESS: &str = "w3wp.exe";

async fn run(session: &mut Session, command: Command) -> Result<Answer> {
    let cmdlet = command.name.clone();
    succeed(&cmdlet, session.invoke(command).await?)
}

/// What is known of the private key of a certificate that Exchange shows. Exchange signs with legacy providers only (domain.md 2.1).
pub(crate) async fn key(session: &mut Session, thumbprint: &Thumbprint) -> Result<Key> {
    let path = format!("Cert:\\LocalMachine\\My\\{thumbprint}");
    let answer = run(session, Command::new("Get-Item").with("LiteralPath", path)).await?;
    let certificate = answer.output.first().unwrap_or(&Value::Null);
    if certificate.property("HasPrivateKey").and_then(Value::as_bool) != Some(true) {
        return Ok(Key::Missing);
    }
    let types = certificate.property("PrivateKey").and_then(Value::as_object).map(|key| key.type_names.clone());
    let legacy = types.is_some_and(|names| names.iter().any(|name| name.ends_with("RSACryptoServiceProvider")));
    // .NET gives no legacy key object for a key in a key storage provider, but $null or an RSACng.
    Ok(if legacy { Key::Csp } else { Key::Ksp })
}

async fn operating_system(session: &mut Session, property: &str) -> Result<Option<Value>> {
    let command = Command::new("Get-CimInstance").with("ClassName", "Win32_OperatingSystem");
    let answer = run(session, command).await?;
    Ok(answer.output.first().and_then(|value| value.property(property)).cloned())
}

/// What the server runs, e.g. `Microsoft Windows Server 2022 Datacenter`.
pub(crate) async fn version(session: &mut Session) -> Result<Option<String>> {
    Ok(operating_system(session, "Caption").await?.map(|caption| caption.text().trim().to_owned()))
}

/// The server's own time.
pub(crate) async fn clock(session: &mut Session) -> Result<DateTime<Utc>> {
    let time = operating_system(session, "LocalDateTime").await?;
    time.as_ref().and_then(Value::as_date_time).ok_or_else(|| CommandError::Unexpected {
        cmdlet: "Get-CimInstance".to_owned(),
        what: "LocalDateTime".to_owned(),
    })
}

/// When the processes that cache keys were started; one that does not run is not in the list.
pub(crate) async fn processes(session: &mut Session, service: &str, pools: &[&str]) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for (started_at, _) in instances(session, SERVICE_PROCESS).await? {
        found.push(Process { name: service.to_owned(), started_at });
    }
    for (started_at, command_line) in instances(session, POOL_PROCESS).await? {
        let pool = pools.iter().find(|pool| command_line.contains(&format!("\"{pool}\"")));
        found.extend(pool.map(|pool| Process { name: (*pool).to_owned(), started_at }));
    }
    Ok(found)
}

async fn instances(session: &mut Session, name: &str) -> Result<Vec<(DateTime<Utc>, String)>> {
    let command =
        Command::new("Get-CimInstance").with("ClassName", "Win32_Process").with("Filter", format!("Name = '{name}'"));
    let answer = run(session, command).await?;
    let read = |value: &Value| {
        let started = value.property("CreationDate").and_then(Value::as_date_time)?;
        Some((started, value.property("CommandLine").map(Value::text).unwrap_or_default()))
    };
    Ok(answer.output.iter().filter_map(read).collect())
}

/// Restarts a service and waits until it runs.
pub(crate) fn restart_service(name: &str) -> Command {
    Command::new("Restart-Service").with("Name", name)
}

/// Recycles an application pool.
pub(crate) fn restart_app_pool(name: &str) -> Command {
    Command::new("Restart-WebAppPool").with("Name", name)
}
