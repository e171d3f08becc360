//! `rekey lab`: a simulated organization to try rekey on.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;

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
    /// Address to listen on.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    listen: IpAddr,
}

pub(crate) async fn run(args: LabArgs) -> anyhow::Result<()> {
    ensure!((1.0..=1_000_000.0).contains(&args.scale), "--scale is {}: use 1 to 1000000", args.scale);
    telemetry::start("warn,lab=info", LogFormat::Text)?;
    let mut signals = Signals::new()?;
    let options =
        lab::Options { scale: args.scale, listen: args.listen, days_left: args.days_left, ..lab::Options::default() };
    let lab = lab::Lab::start(options).await?;
    let written = lab.write_files(&args.dir);
    let files = written.with_context(|| format!("cannot write to {}", args.dir.display()))?;
    say!("A lab of {} servers is up; its clock runs {} times as fast as yours.", lab.servers().len(), args.scale);
    say!("Control (clock, state, trust probe, faults): {}", lab.control_url());
    say!("Try rekey on it:  rekey serve --config {}", files.config.display());
    say!("Ctrl-C ends it; nothing of it is kept.");
    signals.wait().await;
    lab.shutdown().await;
    Ok(())
}
