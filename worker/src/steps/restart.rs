//! Restart what caches keys on one server. What was started after publication is left alone.

use db::StepEnd;
use domain::{
    Outcome, Trouble,
    planning::{APP_POOLS, SERVICE_HOST},
};

use super::{Context, Ended, Result, StepError, evidence::stale_processes};
use crate::{connectors::Session, discovery::on, exchange, windows};

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    let Some(endpoint) = context.managed.endpoints.windows_on(context.target()) else {
        let reason = "No Windows endpoint is configured: restart by hand";
        return Ok(Ended::With(StepEnd::Skipped(Outcome::not_done(reason))));
    };
    on(&endpoint, async |session| restart(context, session).await).await
}

async fn restart(context: &Context<'_>, session: &mut Session) -> Result<Ended> {
    let since = changed_at(context)?;
    for name in stale_processes(context, session, since, &[]).await? {
        let command =
            if name == SERVICE_HOST { windows::restart_service(name) } else { windows::restart_app_pool(name) };
        let cmdlet = command.name.clone();
        let answer = context.mutate(session, command).await?;
        exchange::succeed(&cmdlet, answer)?;
    }
    let stale = stale_processes(context, session, since, &[]).await?;
    if !stale.is_empty() {
        return Err(StepError::Retry(Trouble::new(
            "not_restarted",
            format!("On {} these do not run anew: {}", context.target(), stale.join(", ")),
            "Look at the server's event log; start them by hand, then retry",
        )));
    }
    let processes = windows::processes(session, SERVICE_HOST, &APP_POOLS).await?;
    Ok(Ended::With(StepEnd::Done(Outcome::Restarted { processes })))
}

/// When the certificate changed that processes must know: the publication, or its undoing.
fn changed_at(context: &Context<'_>) -> Result<chrono::DateTime<chrono::Utc>> {
    let never = || Trouble::new("not_published", "Nothing was published yet", "Retry when it was");
    let restored = context.claimed.run.steps.iter().find(|s| s.kind == domain::StepKind::RestorePrevious);
    let restored = restored.and_then(|s| s.finished_at);
    restored.or_else(|| context.facts().published_at).ok_or_else(|| StepError::Attention(never()))
}
