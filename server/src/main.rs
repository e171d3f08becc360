//! The `rekey` binary: roles and tools as subcommands.

mod check;
mod config;
mod demo;
mod lab_command;
mod output;
mod probe;
mod secrets;
mod service;
mod telemetry;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use api::{Claims, Role as TokenRole};
use chrono::{TimeDelta, Utc};
use clap::{Args, Parser, Subcommand};
use db::Schema;
use domain::{
    OrganizationId,
    announcing::{Announcement, News},
};
use worker::outbox::{Delivered, Message};

use crate::{
    config::Config,
    output::say,
    service::{Role, Service},
};

/// Renews the Exchange Server Auth certificate as a controlled change: plan, approval, every server, publication, soak, evidence.
#[derive(Debug, Parser)]
#[command(name = "rekey", version, propagate_version = true, max_term_width = 120)]
struct Cli {
    /// Configuration file; default: rekey.toml in the working directory if there is one.
    #[arg(long, global = true, env = "REKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API and carry out renewals in one process: the single-machine product, on SQLite by default.
    Serve,
    /// Serve the API only; workers share its PostgreSQL database.
    Api,
    /// Carry out renewals only, beside other workers on one PostgreSQL database.
    Worker,
    /// Bring the database's schema up to date.
    Migrate,
    /// Write a copy of the SQLite database to a new file; the service may run.
    Backup {
        /// Where to; a file that is there is left alone.
        file: PathBuf,
    },
    /// Serve a simulated Exchange organization on the real wire protocols, to try rekey on.
    Lab(lab_command::LabArgs),
    /// Run a whole renewal on a built-in lab and show it.
    Demo(demo::DemoArgs),
    /// Try the way to every endpoint of an organization and say what is missing: the first thing to run. Changes nothing.
    Probe {
        /// Its id in the configuration.
        organization: String,
    },
    /// Send a test message to a target of the configuration, and say what came of it.
    TestTarget {
        /// Its id in the configuration.
        target: String,
    },
    /// Print the OpenAPI document.
    #[command(disable_version_flag = true)]
    Openapi {
        /// 3.1 for everything, 3.0 for what ticket systems call, in the words that their importers take.
        #[arg(long, value_name = "VERSION", default_value = "3.1", value_parser = ["3.0", "3.1"])]
        version: String,
    },
    /// Mint a bearer token for the API.
    Token(TokenArgs),
    /// Check or explain the configuration.
    #[command(after_long_help = config::KEYS, subcommand_required = true)]
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read and ask everything that a start would, and say what is wrong. Changes nothing.
    Check,
}

#[derive(Args, Debug)]
struct TokenArgs {
    /// Who it is for: stands in every record of what they do.
    #[arg(long, value_name = "NAME")]
    subject: String,
    /// What they may do; give it several times for several roles.
    #[arg(long = "role", value_name = "ROLE", required = true, value_parser = parse_role)]
    roles: Vec<TokenRole>,
    /// Group that they belong to; may be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Only organization that it reaches; may be given several times. Default: all.
    #[arg(long = "organization", value_name = "ID", value_parser = parse_organization)]
    organizations: Vec<OrganizationId>,
    /// How long it is valid.
    #[arg(long, value_name = "HOURS", default_value_t = 12, value_parser = clap::value_parser!(i64).range(1..=8760))]
    hours: i64,
}

fn parse_role(text: &str) -> Result<TokenRole, String> {
    let known = || TokenRole::ALL.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    text.parse().map_err(|_| format!("use one of {}", known()))
}

fn parse_organization(text: &str) -> Result<OrganizationId, String> {
    OrganizationId::parse(text).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rekey: {}", output::causes(&error));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let load = || config::load(cli.config.as_deref());
    match cli.command {
        Command::Serve => serve(&load()?, Role::Serve).await?,
        Command::Api => serve(&load()?, Role::Api).await?,
        Command::Worker => serve(&load()?, Role::Worker).await?,
        Command::Migrate => {
            say!("{}", told(service::migrate(&load()?).await?));
        }
        Command::Backup { file } => {
            service::back_up(&load()?, &file).await?;
            say!("{} holds the database. Keep seal.key and token.key too, in another place:", file.display());
            say!(
                "without seal.key a renewal that is under way may have to be cancelled, and with both the new private key can be read."
            );
        }
        Command::Lab(args) => lab_command::run(args).await?,
        Command::Demo(args) => return demo::run(args).await,
        Command::Probe { organization } => return probe::run(&load()?, &organization).await,
        Command::TestTarget { target } => return test_target(&load()?, &target).await,
        Command::Openapi { version } if version == "3.0" => {
            say!("{}", serde_json::to_string_pretty(&api::openapi_3_0())?);
        }
        Command::Openapi { .. } => say!("{}", api::openapi().to_pretty_json()?),
        Command::Token(args) => say!("{}", mint(&load()?, args)?),
        Command::Config { command: ConfigCommand::Check } => check::run(&load()?).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What a migration has come to.
fn told(schema: Schema) -> &'static str {
    match schema {
        Schema::Newer => {
            "The database's schema is newer than this version of rekey, which can work with it. Nothing was changed; migrate with the newer version."
        }
        Schema::Older | Schema::Current => "The database's schema is up to date.",
    }
}

async fn serve(config: &Config, role: Role) -> anyhow::Result<()> {
    telemetry::start(&config.log, config.log_format)?;
    // Asked for before anything runs, so that an early signal is not lost.
    let mut signals = Signals::new()?;
    let service = tokio::select! {
        started = Service::start(config, role) => started?,
        signal = signals.wait() => {
            tracing::info!("Stopped on {signal} before the start was over");
            return Ok(());
        }
    };
    greet(config, &service);
    tokio::select! {
        signal = signals.wait() => tracing::info!("Stopping on {signal}"),
        () = service.ended() => {}
    }
    service.shut_down().await;
    tracing::info!("Stopped");
    Ok(())
}

fn greet(config: &Config, service: &Service) {
    let Some(address) = service.address else { return };
    say!("rekey listens on http://{address}  (Swagger UI: http://{address}/swagger-ui/)");
    if config.organizations.is_empty() {
        let file = config.file.as_ref().map_or_else(|| "rekey.toml".to_owned(), |file| file.display().to_string());
        say!("There is no organization yet: add an [[organization]] to {file} and start again.");
        say!("`rekey config --help` explains every key; `rekey lab` serves an organization to try it on.");
    }
}

fn mint(config: &Config, args: TokenArgs) -> anyhow::Result<String> {
    let claims = Claims::new(&args.subject, args.roles, args.groups, Utc::now(), TimeDelta::hours(args.hours));
    let organizations = (!args.organizations.is_empty()).then(|| args.organizations.into_iter().collect());
    let claims = Claims { organizations, ..claims };
    service::tokens(config)?.mint(&claims).context("cannot mint the token")
}

/// Sends a message that tells of nothing.
async fn test_target(config: &Config, target: &str) -> anyhow::Result<ExitCode> {
    let known = || output::listed(config.outbound.subscriptions.iter().map(|one| &one.id));
    let found = config.outbound.subscriptions.iter().find(|one| one.id == target);
    let found = found.with_context(|| format!("there is no target {target}; configured: {}", known()))?;
    let (id, now) = (uuid::Uuid::now_v7(), Utc::now());
    let announcement = Announcement {
        id,
        stream: uuid::Uuid::nil(),
        sequence: 0,
        at: now,
        actor: "rekey test-target".to_owned(),
        organization_id: None,
        news: News::Test,
        renewal: None,
    };
    let text = announcement.text(&config.outbound.public_url);
    let message = Message { id, lane: format!("{target}/test"), announcement, text, failures: 0, now };
    match found.target.deliver(&message).await {
        Delivered::Done => {
            say!("{target} has message {id}");
            Ok(ExitCode::SUCCESS)
        }
        Delivered::Retry { why, .. } | Delivered::Dead { why } | Delivered::Gone { why } => {
            say!("{target} has not got it: {why}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The signals that end a service.
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Resolves with the name of the first that comes.
    pub(crate) async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
