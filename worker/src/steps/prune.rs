//! Take a certificate off one server: the old one at the end of a run, the new one when a run is taken back.

use db::StepEnd;
use domain::{Outcome, Phase, Thumbprint, Trouble};

use super::{Context, Ended, Result, StepError, context::STAYS_STAGED};
use crate::{
    connectors::Session,
    discovery::on,
    exchange::{self, CommandError},
};

/// Refusals in a row after which a server is believed to keep a certificate: one may be trouble of its own that passes.
const REFUSALS: i32 = 2;

/// Removes the old certificate, unless something on the server uses it.
pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    match context.plan()?.observed.current.clone() {
        Some(old) => remove(context, &old).await,
        None => Ok(not_done("There was no old certificate".to_owned())),
    }
}

/// Removes the new certificate, unless it was there before this run.
pub(super) async fn take_back(context: &Context<'_>) -> Result<Ended> {
    let Some(new) = context.facts().thumbprint else {
        return Ok(not_done("No certificate was made".to_owned()));
    };
    let adopted = context.plan()?.observed.next.as_ref() == Some(&new);
    let import = format!("Import-ExchangeCertificate -Server {} ", context.target());
    if adopted && !context.intended(&import).await? {
        return Ok(not_done("It was there before this run".to_owned()));
    }
    if context.stays_staged() {
        return Ok(not_done(format!("{STAYS_STAGED}: the server needs it then")));
    }
    remove(context, &new).await
}

async fn remove(context: &Context<'_>, thumbprint: &Thumbprint) -> Result<Ended> {
    let endpoint = context.exchange_on(context.target())?;
    on(&endpoint, async |session| remove_on(context, session, thumbprint).await).await
}

async fn remove_on(context: &Context<'_>, session: &mut Session, thumbprint: &Thumbprint) -> Result<Ended> {
    let server = context.target();
    let seen = match context.step().phase {
        // What this run has made is removed whatever else somebody did to AuthConfig, if only nothing names it.
        Phase::Undo => exchange::auth_config(session, Some(context.pinned()?)).await?,
        _ => context.place(session, context.pinned()?).await?.1,
    };
    if seen.thumbprints().contains(&Some(thumbprint)) {
        return Err(StepError::Attention(still_named(thumbprint)));
    }
    if exchange::certificate(session, server, thumbprint).await?.is_none() {
        return Ok(done(thumbprint, true));
    }
    let answer = context.mutate(session, exchange::remove(server, thumbprint)).await?;
    if exchange::certificate(session, server, thumbprint).await?.is_none() {
        return Ok(done(thumbprint, false));
    }
    match exchange::succeed("Remove-ExchangeCertificate", answer) {
        Err(error @ CommandError::Failed { .. }) if error.is_denied() || context.step().failures >= REFUSALS => {
            Ok(not_done(format!("{server} keeps it: {error}")))
        }
        Err(error) => Err(error.into()),
        Ok(_) => Err(StepError::Retry(super::no_effect("Remove-ExchangeCertificate"))),
    }
}

fn done(thumbprint: &Thumbprint, already_gone: bool) -> Ended {
    Ended::With(StepEnd::Done(Outcome::Removed { thumbprint: thumbprint.clone(), already_gone }))
}

fn not_done(reason: String) -> Ended {
    Ended::With(StepEnd::Skipped(Outcome::not_done(reason)))
}

fn still_named(thumbprint: &Thumbprint) -> Trouble {
    Trouble::new(
        "certificate_in_use",
        format!("AuthConfig still names {}", thumbprint.short()),
        "Find out why, then retry",
    )
}
