//! Processes: the binary that is measured, the others, and what `/proc` says of them.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{Settings, database::Database};

/// Nothing takes longer, unless it has failed.
const PATIENCE: Duration = Duration::from_secs(180);
/// Kernel clock ticks in a second, as `/proc` counts: the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

const CONFIG: &str = "rekey.toml";

/// Configuration that lets one credential ask for all: what is measured is not how often it may ask.
pub(crate) const NO_LIMITS: &str = "[limits]\nrequests_per_minute = 1000000\nburst = 1000000\n";

/// A running rekey. Ended when dropped.
#[derive(Debug)]
pub(crate) struct Rekey {
    child: Child,
    folder: Arc<TempDir>,
    pub(crate) id: u32,
    /// Where its API listens.
    pub(crate) address: String,
}

impl Rekey {
    /// Starts a role with this configuration and waits until it is ready.
    pub(crate) async fn start(
        settings: &Settings,
        role: &str,
        config: &str,
        database: Option<&Database>,
    ) -> anyhow::Result<Self> {
        let folder = Arc::new(tempfile::tempdir()?);
        std::fs::write(folder.path().join(CONFIG), config)?;
        std::fs::write(folder.path().join("password"), "Passw0rd!")?;
        std::fs::write(folder.path().join("ca.pem"), include_str!("ca.pem"))?;
        Self::start_in(folder, settings, role, database).await
    }

    /// Starts a role with the `rekey.toml` of a folder. It logs as it does by default, to a file.
    pub(crate) async fn start_in(
        folder: Arc<TempDir>,
        settings: &Settings,
        role: &str,
        database: Option<&Database>,
    ) -> anyhow::Result<Self> {
        let log = folder.path().join(format!("{role}.log"));
        let mut command = Self::command(settings, &folder.path().join(CONFIG), database);
        command.arg(role).stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?);
        let child = command.spawn().with_context(|| format!("cannot start {}", settings.rekey.display()))?;
        let id = child.id().context("it has ended")?;
        let mut rekey = Self { child, folder, id, address: String::new() };
        rekey.address = tokio::time::timeout(PATIENCE, rekey.until_ready(&log, role)).await??;
        Ok(rekey)
    }

    async fn until_ready(&mut self, log: &Path, role: &str) -> anyhow::Result<String> {
        let sign = if role == "worker" { "Ready after " } else { "rekey listens on http://" };
        loop {
            let said = std::fs::read_to_string(log)?;
            if let Some((_, rest)) = said.split_once(sign) {
                return Ok(rest.split_whitespace().next().unwrap_or_default().to_owned());
            }
            ensure!(self.child.try_wait()?.is_none(), "rekey {role} has ended: {said}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A bearer token of somebody with every role.
    pub(crate) async fn token(
        &self,
        settings: &Settings,
        database: &Database,
        subject: &str,
    ) -> anyhow::Result<String> {
        let mut command = Self::command(settings, &self.folder.path().join(CONFIG), Some(database));
        command.args(["token", "--subject", subject]);
        for role in ["requester", "approver", "auditor"] {
            command.args(["--role", role]);
        }
        let output = command.output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn command(settings: &Settings, config: &Path, database: Option<&Database>) -> Command {
        let mut command = Command::new(&settings.rekey);
        command.arg("--config").arg(config).env("REKEY_LISTEN", "127.0.0.1:0").kill_on_drop(true).stdin(Stdio::null());
        if let Some(database) = database {
            command.env("REKEY_DATABASE", &database.url);
        }
        command
    }

    /// Ends it at once.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Others, each of them a program that prints one line of JSON.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Peer {
    Apalis,
    Dbos,
    Graphile,
    PgBoss,
    Underway,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Apalis => "apalis-postgres 1.0.0",
            Self::Dbos => "DBOS 3.4.0 (Python)",
            Self::Graphile => "graphile-worker 0.18.0",
            Self::PgBoss => "pg-boss 12.38.0",
            Self::Underway => "underway 0.2.0",
        }
    }

    /// How it is called in names of databases.
    pub(crate) fn slug(self) -> &'static str {
        match self {
            Self::Apalis => "apalis",
            Self::Dbos => "dbos",
            Self::Graphile => "graphile",
            Self::PgBoss => "pg_boss",
            Self::Underway => "underway",
        }
    }

    /// Whether all that it needs is there.
    pub(crate) fn is_there(self, settings: &Settings) -> bool {
        self.program(settings).is_some()
    }

    fn program(self, settings: &Settings) -> Option<Command> {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let with = |program: &PathBuf, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        };
        let script = |path: &str| peers.join(path).display().to_string();
        Some(match self {
            Self::Apalis => with(settings.rust_peers.as_ref()?, &["apalis"]),
            Self::Underway => with(settings.rust_peers.as_ref()?, &["underway"]),
            Self::Dbos => with(settings.python.as_ref()?, &[&script("python/dbos_side.py")]),
            Self::Graphile => with(settings.node.as_ref()?, &[&script("node/peer.mjs"), "graphile"]),
            Self::PgBoss => with(settings.node.as_ref()?, &[&script("node/peer.mjs"), "pg-boss"]),
        })
    }

    /// Lets it do something on a database, and reads what it says.
    pub(crate) async fn measure(
        self,
        settings: &Settings,
        what: &str,
        database: &Database,
        count: u64,
    ) -> anyhow::Result<Json> {
        let mut command = self.program(settings).with_context(|| format!("{} is not set up", self.name()))?;
        command.args([what, &database.url, &count.to_string()]);
        said(command).await.with_context(|| format!("{} {what}", self.name()))
    }
}

/// The one line of JSON that a program prints.
pub(crate) async fn said(mut command: Command) -> anyhow::Result<Json> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).stdout(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.spawn()?.wait_with_output()).await??;
    ensure!(output.status.success(), "{}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// This program as a side in a process of its own.
pub(crate) fn side(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    Ok(command)
}

/// A number in what a side said.
pub(crate) fn told(said: &Json, name: &str) -> anyhow::Result<f64> {
    said[name].as_f64().with_context(|| format!("`{name}` is missing in {said}"))
}

/// A line of `/proc/<id>/status` in MiB: `VmRSS:` what it holds now, `VmHWM:` the most that it held.
pub(crate) fn memory(id: u32, name: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("/proc tells of no memory")?;
    let kib: f64 = line.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(kib / 1024.0)
}

/// Processor seconds that a process has used.
pub(crate) fn processor(id: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name of the program in parentheses may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let [Some(user), Some(system)] = [fields.get(11), fields.get(12)] else { bail!("/proc tells of no time") };
    Ok((user.parse::<f64>()? + system.parse::<f64>()?) / TICKS)
}

/// What all this ran on.
pub(crate) fn machine(postgres: &str, settings: &Settings) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    let node = settings.node.as_ref().and_then(|node| std::process::Command::new(node).arg("--version").output().ok());
    let node = node.map(|output| format!(", Node {}", String::from_utf8_lossy(&output.stdout).trim()));
    let rounds = settings.rounds();
    format!(
        "{cores} cores, {system}, PostgreSQL {postgres}{}; {rounds} rounds, sides in turn",
        node.unwrap_or_default()
    )
}
