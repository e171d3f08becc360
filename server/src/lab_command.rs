//! `rekey lab`: a simulated organization to try rekey on.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};

use crate::{Signals, config::LogFormat, output::say, telemetry};

#[derive(Args, Debug)]
pub(crate) struct LabArgs {
    /// Where the CA, the password and a ready rekey.toml are written.
    #[arg(long, value_name = "DIR", default_value = "lab-data")]
    dir: PathBuf,
    /// How many seconds go by in the lab in one real second: 3600 runs an hour in a second.
    #[arg(long, value_name = "N", default_value_t = 3600.0)]
    scale: f64,
    /// Days that the current Auth certificate is still valid; negative: expired since.
    #[arg(long, value_name = "DAYS", default_value_t = 45, allow_negative_numbers = true)]
    days_left: i64,
    /// An organization that shares its users with a tenant: Entra, Graph and Exchange Online come along.
    #[arg(long)]
    hybrid: bool,
    /// Ticket systems, too: an instance of ServiceNow and a site of Jira.
    #[arg(long)]
    tickets: bool,
    /// How long every request is on its way, in milliseconds: a data centre far away.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// How the written rekey.toml logs on; all but basic go over plain HTTP, with every message sealed.
    #[arg(long, value_enum, default_value_t = Authentication::Basic)]
    authentication: Authentication,
    /// The account that may do everything.
    #[arg(long, value_name = "USER@DOMAIN", default_value = "rekey@contoso.example")]
    username: String,
    /// A file with its password; a random one if none is given.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// A keytab with the keys of HTTP/<server>, to offer Kerberos.
    #[arg(long, value_name = "FILE")]
    keytab: Option<PathBuf>,
    /// The KDC that gives tickets for it, for the written rekey.toml; found by DNS if none is given.
    #[arg(long, value_name = "HOST:PORT")]
    kdc: Option<String>,
    /// Extended Protection: take a logon inside TLS only if it names the TLS channel.
    #[arg(long)]
    require_channel_binding: bool,
    /// Address to listen on.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    listen: IpAddr,
}

/// In the words of the configuration.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Authentication {
    Basic,
    Ntlm,
    Negotiate,
    Kerberos,
}

impl From<Authentication> for lab::Authentication {
    fn from(authentication: Authentication) -> Self {
        match authentication {
            Authentication::Basic => Self::Basic,
            Authentication::Ntlm => Self::Ntlm,
            Authentication::Negotiate => Self::Negotiate,
            Authentication::Kerberos => Self::Kerberos,
        }
    }
}

pub(crate) async fn run(args: LabArgs) -> anyhow::Result<()> {
    ensure!(
        !matches!(args.authentication, Authentication::Kerberos) || args.keytab.is_some(),
        "--authentication kerberos needs --keytab: a file with the keys of HTTP/<server>, as ktadd or ktpass writes it"
    );
    ensure!((1.0..=1_000_000.0).contains(&args.scale), "--scale is {}: use 1 to 1000000", args.scale);
    telemetry::start("warn,lab=info", LogFormat::Text)?;
    let mut signals = Signals::new()?;
    let options = lab::Options {
        scale: args.scale,
        listen: args.listen,
        days_left: args.days_left,
        hybrid: args.hybrid,
        tickets: args.tickets,
        latency: Duration::from_millis(args.latency_ms),
        authentication: args.authentication.into(),
        username: args.username,
        password: args.password_file.as_deref().map(read_password).transpose()?,
        keytab: args.keytab,
        kdc: args.kdc,
        require_channel_binding: args.require_channel_binding,
        ..lab::Options::default()
    };
    let lab = lab::Lab::start(options).await?;
    let written = lab.write_files(&args.dir);
    let files = written.with_context(|| format!("cannot write to {}", args.dir.display()))?;
    say!("A lab of {} servers is up; its clock runs {} times as fast as yours.", lab.servers().len(), args.scale);
    say!("Control (clock, state, trust probe, faults): {}", lab.control_url());
    if let Some(cloud) = lab.cloud() {
        say!("Its tenant (Entra, Graph, Exchange Online): {}", cloud.url);
    }
    if let Some(tickets) = lab.tickets() {
        say!("ServiceNow (change_request, attachments): {}", tickets.servicenow_url);
        say!("Jira Service Management: {}", tickets.jira_url);
    }
    say!("Try rekey on it:  rekey serve --config {}", files.config.display());
    say!("Ctrl-C ends it; nothing of it is kept.");
    signals.wait().await;
    lab.shutdown().await;
    Ok(())
}

fn read_password(file: &Path) -> anyhow::Result<lab::Secret> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read the password in {}", file.display()))?;
    let text = lab::Secret::new(text);
    Ok(lab::Secret::new(text.expose().trim_end_matches(['\r', '\n'])))
}
