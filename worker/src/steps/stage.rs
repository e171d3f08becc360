//! Announce the certificate with an effective date: every server accepts it from then on, none signs with it.

use chrono::{DateTime, TimeDelta, Utc};
use db::{Purpose, StepEnd};
use domain::{Outcome, Place, Plan, Trouble, plan::CertificateSource, snapshot::AuthConfig};

use super::{Context, Ended, Result, StepError, evidence};
use crate::{connectors::Session, exchange};

/// How often domain controllers are asked while a change is being replicated.
pub(super) const REPLICATION: TimeDelta = TimeDelta::seconds(60);
/// A date that was set by somebody else may be this much nearer than the plan wants.
pub(super) const CLOSE_ENOUGH: TimeDelta = TimeDelta::hours(1);

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    // Order: servers are looked at while no session is held, of which there may be as few as one.
    if context.on_any(async |session| must_announce(context, session).await).await? {
        Box::pin(check_servers(context)).await?;
    }
    let ended = context.on_any(async |session| stage(context, session).await).await?;
    if matches!(ended, Ended::With(StepEnd::Done(_))) {
        // Who is asked to approve the publication wants to see where the certificate is.
        evidence::keep(context, Purpose::Check, &context.look().await?).await?;
    }
    Ok(ended)
}

/// Exchange publishes by itself what is staged for long enough: a server that answers and lacks the certificate is found before.
async fn check_servers(context: &Context<'_>) -> Result<()> {
    let snapshot = context.look().await?;
    let found = evidence::matrix(context, &snapshot)?;
    let lacking = evidence::failures(&found).filter(|check| evidence::answers(&snapshot, &check.target));
    let lacking: Vec<String> = lacking.map(|check| format!("{}: {}", check.target, check.detail)).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(StepError::Attention(Trouble::new(
        "matrix_incomplete",
        format!("Servers that had the new certificate have it no more: {}", lacking.join("; ")),
        "Find out who removed it; if rekey was restored from a backup, the run was cancelled after it. Cancel and raise a new renewal, or put it back and retry",
    )))
}

async fn must_announce(context: &Context<'_>, session: &mut Session) -> Result<bool> {
    let (place, seen) = context.place(session, context.pinned()?).await?;
    Ok(!is_staged(context, place, &seen)?)
}

async fn stage(context: &Context<'_>, session: &mut Session) -> Result<Ended> {
    let (place, seen) = context.place(session, context.pinned()?).await?;
    let seen = if is_staged(context, place, &seen)? { seen } else { announce(context, session).await? };
    let effective_at = seen.next_effective_at.unwrap_or_else(|| context.now());
    let (domain_controllers, complete) = context.replicated(session, |place, _| place >= Place::Staged).await?;
    if !complete {
        return Ok(context.again(REPLICATION, None));
    }
    Ok(Ended::With(StepEnd::Done(Outcome::Staged { effective_at, domain_controllers })))
}

/// A certificate of this run may have been staged by an attempt whose answer was lost; one that was taken over may have too near a date.
fn is_staged(context: &Context<'_>, place: Place, seen: &AuthConfig) -> Result<bool> {
    let plan = context.plan()?;
    let enough = match &plan.certificate {
        CertificateSource::Generate { .. } => true,
        CertificateSource::Adopt { .. } if plan.emergency => true,
        CertificateSource::Adopt { .. } => {
            let wanted = context.now() + lead(plan.staging_lead_hours) - CLOSE_ENOUGH;
            seen.next_effective_at.is_some_and(|at| at >= wanted)
        }
    };
    Ok(place > Place::Staged || (place == Place::Staged && enough))
}

async fn announce(context: &Context<'_>, session: &mut Session) -> Result<AuthConfig> {
    let (thumbprint, dc) = (context.thumbprint()?, context.pinned()?);
    let effective_at = effective_date(context).await?;
    let command = exchange::stage(&thumbprint, effective_at, dc);
    context.change_auth_config(session, command, |place, _| place >= Place::Staged).await
}

/// The plan's lead from now; in an emergency now.
async fn effective_date(context: &Context<'_>) -> Result<DateTime<Utc>> {
    let plan = context.plan()?;
    if plan.emergency {
        return context.soon().await;
    }
    in_window(plan, context.now() + lead(plan.staging_lead_hours))
}

/// The first time from `at` on at which the plan lets the certificate be published: Exchange does it by itself then.
pub(super) fn in_window(plan: &Plan, at: DateTime<Utc>) -> Result<DateTime<Utc>> {
    if plan.yields_to_expiry {
        return Ok(at);
    }
    plan.calendar.opens_at(at).ok_or_else(|| {
        let message = format!("No window opens after {}", at.to_rfc3339());
        StepError::Attention(Trouble::new(
            "window_closed",
            message,
            "Cancel, correct the policy's windows, and raise a new renewal",
        ))
    })
}

pub(super) fn lead(hours: u32) -> TimeDelta {
    TimeDelta::hours(i64::from(hours))
}
