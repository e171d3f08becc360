//! apalis and underway as sides of `bench/run`: `rust-peers apalis|underway drain|idle <database url> <count>`. Prints one line of JSON.

mod apalis_side;
mod underway_side;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Nothing takes longer, unless it has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long an idle worker is left alone before it is looked at.
const IDLE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [peer, what, url, count] = arguments.as_slice() else { return Err("apalis|underway drain|idle URL COUNT".into()) };
    let count: u64 = count.parse()?;
    match (peer.as_str(), what.as_str()) {
        ("apalis", "drain") => apalis_side::drain(url, count).await?,
        ("apalis", "idle") => apalis_side::idle(url).await?,
        ("underway", "drain") => underway_side::drain(url, count).await?,
        ("underway", "idle") => underway_side::idle(url).await?,
        _ => return Err("unknown peer or figure".into()),
    }
    Ok(())
}

/// How many handlers have run.
#[derive(Clone, Default)]
pub(crate) struct Handled(Arc<AtomicU64>);

impl Handled {
    pub(crate) fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Waits until all handlers have run and the database says that all is done, and prints how long it took.
pub(crate) async fn report<F>(begun: Instant, steps: u64, handled: Handled, done: impl Fn() -> F) -> Result<(), Error>
where
    F: Future<Output = Result<u64, Error>>,
{
    while begun.elapsed() < PATIENCE {
        if handled.count() >= steps && done().await? >= steps {
            let seconds = begun.elapsed().as_secs_f64();
            println!("{}", json!({ "done": done().await?, "seconds": seconds, "peak_kib": memory("VmHWM:") }));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(format!("only {} of {steps} are done", handled.count()).into())
}

/// Prints what an idle worker holds in memory.
pub(crate) async fn report_idle() {
    tokio::time::sleep(IDLE).await;
    println!("{}", json!({ "resident_kib": memory("VmRSS:") }));
}

/// A line of `/proc/self/status`, in KiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
