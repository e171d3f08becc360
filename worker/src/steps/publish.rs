//! Make the new certificate the current one. While nobody has approved that, keep Exchange from doing it by itself.

use std::time::Duration;

use chrono::{DateTime, Utc};
use db::{Purpose, StepEnd};
use domain::{
    Gate, Outcome, Place, Snapshot, State, Trouble,
    progress::{GUARD, POSTPONED_BY, Permit},
    snapshot::AuthConfig,
    step::{Evidence, Publisher},
};

use super::{
    Context, Ended, Result, StepError,
    cloud::{Unread, as_approved, asked_pause, key_in_entra},
    context::foreign_change,
    evidence,
    stage::{REPLICATION, in_window},
};
use crate::{connectors::Session, exchange};

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    let missing = match context.claimed.permit {
        Permit::Run => incomplete(context).await?,
        Permit::Guard | Permit::Park => None,
    };
    let mut ended = context.on_any(async |session| publish(context, session, missing).await).await?;
    if let Some(Outcome::Published { by: Publisher::Exchange | Publisher::Unknown, lacking, .. }) = outcome(&mut ended)
    {
        *lacking = what_lacked_it(context).await?;
    }
    Ok(ended)
}

fn outcome(ended: &mut Ended) -> Option<&mut Outcome> {
    match ended {
        Ended::With(StepEnd::Done(outcome) | StepEnd::Again { so_far: Some(outcome), .. }) => Some(outcome),
        _ => None,
    }
}

/// Who else publishes may ask nobody who has the key. What lacks it is seen as soon as the publication is, and mended by the steps that are still to come.
async fn what_lacked_it(context: &Context<'_>) -> Result<Vec<Evidence>> {
    if let Some(Outcome::Published { lacking, .. }) = context.step().outcome.as_deref() {
        return Ok(lacking.clone());
    }
    let lacking = lacking(context, &look(context).await?)?;
    if !lacking.is_empty() {
        tracing::warn!("The new certificate is published, and not by this run; not ready for it: {}", listed(&lacking));
    }
    Ok(lacking)
}

async fn publish(context: &Context<'_>, session: &mut Session, missing: Option<Missing>) -> Result<Ended> {
    let (place, seen) = context.place(session, context.pinned()?).await?;
    if place >= Place::Published {
        return settle(context, session, &seen).await;
    }
    match (context.claimed.permit, missing) {
        // Nothing of this run is announced: what is next there, if anything, is not to be published or replaced.
        (Permit::Run, None) if place != Place::Staged => Err(StepError::Attention(foreign_change(&seen))),
        (Permit::Run, Some(missing)) if place != Place::Staged => Err(missing.told()),
        (Permit::Guard | Permit::Park, _) if place != Place::Staged => Ok(guard_again(context, &seen, None)),
        (Permit::Run, None) => match too_early(context)? {
            Some(at) => Ok(Ended::With(StepEnd::Again { at, so_far: None })),
            None => go(context, session).await,
        },
        (Permit::Run, Some(missing)) => {
            postpone_if_near(context, session, &seen, &missing.trouble.message).await?;
            Err(missing.told())
        }
        (Permit::Guard | Permit::Park, _) => {
            let so_far = postpone_if_near(context, session, &seen, why_guarded(context)).await?;
            Ok(guard_again(context, &seen, so_far))
        }
    }
}

/// Until when servers have the time that the plan gives them to hear of the new certificate. All was ready when it was looked at some time before.
fn too_early(context: &Context<'_>) -> Result<Option<DateTime<Utc>>> {
    let waits = !context.plan()?.emergency;
    Ok(context.facts().effective_at.filter(|at| waits && *at > context.now()))
}

async fn go(context: &Context<'_>, session: &mut Session) -> Result<Ended> {
    let command = exchange::publish(context.pinned()?);
    let seen = context.change_auth_config(session, command, |place, _| place >= Place::Published).await?;
    settle(context, session, &seen).await
}

/// It is current on the pinned domain controller; done when it is on all.
async fn settle(context: &Context<'_>, session: &mut Session, seen: &AuthConfig) -> Result<Ended> {
    let (domain_controllers, complete) = context.replicated(session, |place, _| place >= Place::Published).await?;
    let outcome = Outcome::Published {
        published_at: context.facts().published_at.unwrap_or_else(|| context.now()),
        by: publisher(context, seen).await?,
        domain_controllers,
        lacking: Vec::new(),
    };
    if complete { Ok(Ended::With(StepEnd::Done(outcome))) } else { Ok(context.again(REPLICATION, Some(outcome))) }
}

/// Who has published what `seen` shows as current.
pub(super) async fn publisher(context: &Context<'_>, seen: &AuthConfig) -> Result<Publisher> {
    if let Some(Outcome::Published { by, .. }) = context.step().outcome.as_deref() {
        return Ok(*by);
    }
    if context.intended("-PublishCertificate").await? {
        return Ok(Publisher::Rekey);
    }
    let date = context.facts().exchange_publishes_at;
    let by_itself = date.zip(seen.changed_at).is_some_and(|(date, at)| is_by_itself(date, at, context.worker.began));
    Ok(if by_itself { Publisher::Exchange } else { Publisher::Unknown })
}

/// Whether Exchange has published by itself, as it does when the date has come: `AuthConfig` changed then, before the eyes of a worker that `began`
/// earlier. What changed before that may have been this run, and the database restored from a backup that does not know.
fn is_by_itself(date: DateTime<Utc>, changed_at: DateTime<Utc>, began: DateTime<Utc>) -> bool {
    date <= changed_at && began <= changed_at
}

/// What is missing before it may be published: every planned server must hold the certificate with a usable key, and Entra the key of a hybrid
/// one, beside the old one, where servers look for it.
async fn incomplete(context: &Context<'_>) -> Result<Option<Missing>> {
    let snapshot = look(context).await?;
    let mut missing = lacking(context, &snapshot)?;
    let renewal = context.claimed.run.renewal.id;
    let before = context.worker.db.read(async |tx| tx.snapshot_of(renewal, Purpose::Before).await).await?;
    missing.extend(evidence::failures(&as_approved(context, before.as_ref(), &snapshot)?).cloned());
    if missing.is_empty() {
        return Ok(None);
    }
    let trouble = Trouble::new(
        "matrix_incomplete",
        format!("Not everything is ready for the new certificate: {}", listed(&missing)),
        how_to_repair(&missing),
    );
    Ok(Some(Missing { trouble, not_before: asked_pause(&snapshot) }))
}

/// What is missing, and how long the tenant asks to be left alone, if that is why it is not known.
struct Missing {
    trouble: Trouble,
    not_before: Option<Duration>,
}

impl Missing {
    fn told(self) -> StepError {
        StepError::not_before(self.trouble, self.not_before)
    }
}

/// The run itself does not go back to Entra: a key that is missing there was taken out by somebody, who may have had a reason.
fn how_to_repair(missing: &[Evidence]) -> String {
    let in_entra = missing.iter().any(|one| matches!(one.check.as_str(), "key_in_entra" | "old_key_in_entra"));
    let entra = "A key that Entra lacks: find out who has taken it out; if it belongs there, upload its public certificate again beside the others (GET /v1/renewals/{id}/certificate, or of the old one Export-Certificate on a server; Entra admin center > App registrations > the application > Certificates & secrets). ";
    let first = if in_entra { entra } else { "" };
    format!("{first}Repair what is named; the publication is tried again by itself. Or cancel")
}

async fn look(context: &Context<'_>) -> Result<Snapshot> {
    let snapshot = context.look().await?;
    evidence::keep(context, Purpose::Check, &snapshot).await?;
    Ok(snapshot)
}

/// The servers, and Entra, that do not hold the new key.
fn lacking(context: &Context<'_>, snapshot: &Snapshot) -> Result<Vec<Evidence>> {
    let mut found = evidence::matrix(context, snapshot)?;
    found.extend(key_in_entra(context, snapshot.tenant.as_ref(), Unread::Fails)?);
    Ok(evidence::failures(&found).cloned().collect())
}

fn listed(lacking: &[Evidence]) -> String {
    let named: Vec<String> = lacking.iter().map(|e| format!("{}: {}", e.target, e.detail)).collect();
    named.join("; ")
}

fn why_guarded(context: &Context<'_>) -> &'static str {
    match &context.claimed.run.renewal.state {
        State::AwaitingApproval { gate: Gate::Publish, .. } => "nobody has approved the publication yet",
        State::AwaitingApproval { .. } => "nobody has said yet that Entra holds the new key",
        State::Paused { .. } => "the renewal is paused",
        State::Waiting { reason, .. } if reason.is_hold() => "the run is held",
        _ => "not every server and Entra hold the new key yet",
    }
}

/// Pushes the effective date out when Exchange would publish soon. Returns the new date's outcome.
async fn postpone_if_near(
    context: &Context<'_>,
    session: &mut Session,
    seen: &AuthConfig,
    reason: &str,
) -> Result<Option<Outcome>> {
    let Some(date) = seen.next_effective_at else { return Ok(None) };
    let now = context.now();
    if now < date - GUARD {
        return Ok(None);
    }
    let (thumbprint, later) = (context.thumbprint()?, in_window(context.plan()?, now.max(date) + POSTPONED_BY)?);
    let command = exchange::stage(&thumbprint, later, context.pinned()?);
    let moved = |place: Place, seen: &AuthConfig| {
        place >= Place::Published || seen.next_effective_at.is_some_and(|at| at > date)
    };
    let seen = context.change_auth_config(session, command, moved).await?;
    let exchange_publishes_at = seen.next_effective_at.unwrap_or(now);
    Ok(Some(Outcome::Postponed { exchange_publishes_at, reason: reason.to_owned() }))
}

/// Looks again two hours before the date, whatever that is by now.
fn guard_again(context: &Context<'_>, seen: &AuthConfig, so_far: Option<Outcome>) -> Ended {
    let date = match &so_far {
        Some(Outcome::Postponed { exchange_publishes_at, .. }) => Some(*exchange_publishes_at),
        _ => seen.next_effective_at,
    };
    let at = date.map_or_else(|| context.now() + GUARD, |date| date - GUARD).max(context.worker.later(REPLICATION));
    Ended::With(StepEnd::Again { at, so_far })
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;

    use super::*;

    #[test]
    fn only_what_exchange_did_at_its_date_and_before_our_eyes_is_said_to_be_its_doing() {
        let at = |hour| Utc.with_ymd_and_hms(2026, 11, 23, hour, 0, 0).unwrap();
        assert!(is_by_itself(at(10), at(11), at(9)));
        assert!(!is_by_itself(at(12), at(11), at(9)), "somebody has not waited for the date");
        assert!(!is_by_itself(at(10), at(11), at(12)), "it may have been this run, before the database was restored");
    }
}
