//! Logs: to standard error, as text for people or JSON for machines.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging. `asked` is a level or `target=level,…`.
pub(crate) fn start(asked: &str, format: LogFormat) -> anyhow::Result<()> {
    // Statements and sockets are noise to everybody but their makers: who wants them names them.
    let filter = EnvFilter::try_new(format!("actix_server=warn,h2=warn,hyper=warn,sqlx=warn,{asked}"))
        .with_context(|| format!("log is `{asked}`: use a level like info"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
    }
    Ok(())
}
