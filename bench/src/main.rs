//! rekey beside others on one PostgreSQL, as a table: `bench/run` sets up everything and starts this. See `README.md`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]

mod database;
mod figures;
mod http;
mod process;
mod report;
mod sides;
mod workload;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::SignalKind;

use crate::{database::Server, report::Table};

/// Measures rekey beside others; `bench/run` starts it with all that it needs.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    side: Option<Side>,
    #[command(flatten)]
    settings: Settings,
}

/// What is measured, and with what.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    /// Only these figures.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Figure>,
    /// How often each side of each figure is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// One round of next to nothing: shows that everything runs, the figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// A superuser's URL of the PostgreSQL that all sides share.
    #[arg(long, env = "BENCH_POSTGRES_URL", hide_env_values = true, default_value = "")]
    postgres: String,
    /// The binary that is measured.
    #[arg(long, env = "BENCH_REKEY", default_value = "rekey")]
    rekey: PathBuf,
    /// pgbench of that PostgreSQL.
    #[arg(long, env = "BENCH_PGBENCH", default_value = "pgbench")]
    pgbench: PathBuf,
    /// The Python that has DBOS; without it DBOS is left out.
    #[arg(long, env = "BENCH_PYTHON")]
    python: Option<PathBuf>,
    /// Node; without it graphile-worker and pg-boss are left out.
    #[arg(long, env = "BENCH_NODE")]
    node: Option<PathBuf>,
    /// The program with apalis and underway; without it they are left out.
    #[arg(long, env = "BENCH_RUST_PEERS")]
    rust_peers: Option<PathBuf>,
}

/// A part of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Figure {
    /// Durable accepts over HTTP.
    Accepts,
    /// Steps with their audit rows.
    Steps,
    /// From a decision to the start of the step.
    Start,
    /// Lists and claims beside a long history.
    History,
    /// What processes hold in memory.
    Memory,
    /// Renewals that wait.
    Waiting,
}

/// A side of a comparison in a process of its own; prints one line of JSON.
#[derive(Debug, Subcommand)]
enum Side {
    /// Carries out steps until so many are done.
    #[command(hide = true)]
    Drain(sides::Drain),
    /// Takes each step that becomes due, and says when.
    #[command(hide = true)]
    Wake(sides::Wake),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    match cli.side {
        Some(Side::Drain(drain)) => runtime.block_on(sides::drain(drain)),
        Some(Side::Wake(wake)) => runtime.block_on(sides::wake(wake)),
        None => runtime.block_on(async {
            // What is dropped here ends all that was started.
            tokio::select! {
                done = measure(&cli.settings) => done,
                stopped = stopped() => stopped,
            }
        }),
    }
}

async fn stopped() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    anyhow::bail!("stopped")
}

async fn measure(settings: &Settings) -> anyhow::Result<()> {
    let server = Server::new(&settings.postgres).await?;
    let mut table = Table::default();
    for figure in Figure::value_variants() {
        if settings.only.is_empty() || settings.only.contains(figure) {
            eprintln!("bench: {figure:?}");
            table.add(Box::pin(figures::measure(*figure, settings, &server)).await?);
        }
    }
    println!("{}\n\n{table}", process::machine(&server.version().await?, settings));
    Ok(())
}

impl Settings {
    /// How often each side is measured.
    pub(crate) fn rounds(&self) -> u64 {
        if self.quick { 1 } else { self.rounds }
    }

    /// So many, or few when only running is to be shown.
    pub(crate) fn amount(&self, whole: u64, quick: u64) -> u64 {
        if self.quick { quick } else { whole }
    }
}
