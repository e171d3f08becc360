//! Logs: to standard error, as text for people or JSON for machines.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::LogFormat;

/// What is heard when `asked` is a level or `target=level,…`.
pub(crate) fn filter(asked: &str) -> anyhow::Result<EnvFilter> {
    // Statements and sockets are noise to everybody but their makers: who wants them names them.
    EnvFilter::try_new(format!("actix_server=warn,h2=warn,hyper=warn,sqlx=warn,{asked}"))
        .with_context(|| format!("log is `{asked}`: use a level like info"))
}

/// Starts logging what is `asked` for.
pub(crate) fn start(asked: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = filter(asked)?;
    let subscriber =
        tracing_subscriber::registry().with(filter_fn(|metadata| may_speak(metadata.target()))).with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => subscriber.with(layer.json()).init(),
        LogFormat::Text => {
            subscriber.with(layer.with_ansi(std::io::stderr().is_terminal()).with_target(false)).init();
        }
    }
    Ok(())
}

/// At its more talkative levels the crate that logs on writes down what it works with, keys and tickets among it: it never speaks, whoever asks.
fn may_speak(target: &str) -> bool {
    !target.starts_with("sspi") && !target.starts_with("picky")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_logs_on_is_not_heard_at_any_level() {
        assert!(may_speak("worker::connectors") && may_speak("rekey"));
        assert!(!may_speak("sspi::kerberos::client") && !may_speak("sspi") && !may_speak("picky_krb"));
    }
}
