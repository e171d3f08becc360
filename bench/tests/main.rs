//! The whole benchmark with next to nothing to do: who changes the product must hear when it can no longer be measured.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests; this is for their helpers")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A word of each figure of the table.
const FIGURES: [&str; 8] = [
    "durable accepts over HTTP",
    "steps/s with their audit rows",
    "largest resident set meanwhile",
    "idle for 10 s",
    "at work",
    "decision committed",
    "finished renewals",
    "in soak",
];

/// Where there is a server: `./test` starts one.
#[test]
fn every_figure_can_be_measured() {
    let Ok(url) = std::env::var("TEST_POSTGRES_URL") else { return };
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench.arg("--quick").env("BENCH_POSTGRES_URL", url).env("BENCH_REKEY", rekey());
    // Without others: they are not what changes.
    for peers in ["BENCH_NODE", "BENCH_PYTHON", "BENCH_RUST_PEERS"] {
        bench.env_remove(peers);
    }
    let output = bench.output().unwrap();
    let (table, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    for figure in FIGURES {
        assert!(table.lines().any(|line| line.starts_with("| ") && line.contains(figure)), "{figure}: {table}\n{told}");
    }
}

/// The binary that is measured, of the same profile as the benchmark's own and beside it.
fn rekey() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--package", "server"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "cargo cannot build rekey");
    Path::new(env!("CARGO_BIN_EXE_bench")).with_file_name("rekey")
}
