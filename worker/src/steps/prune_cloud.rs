//! Take keys out of the tenant: the old one of the application and those of the shared principal at the end of a run, the new one when a run is taken back.

use db::{Purpose, StepEnd};
use domain::{Outcome, Phase, Tenant, Thumbprint, Trouble, plan::How};

use super::{Context, Ended, Result, StepError, context::STAYS_STAGED};
use crate::{
    connectors::cloud::{Change, Changed, Holder},
    exchange,
};

/// After so many attempts a key that was seen before and is not shown any more is believed to be gone.
const BELIEVED: i32 = 3;

/// The old key of the dedicated application.
pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    let Some(planned) = context.automatic()? else {
        return Ok(left("A person takes the old key out of the application, as the plan says"));
    };
    let leaving: Vec<&Thumbprint> = planned.keys_removed.iter().filter_map(|key| key.thumbprint.as_ref()).collect();
    check_unused(context, &leaving).await?;
    let key_ids: Vec<String> = planned.keys_removed.iter().map(|key| key.key_id.clone()).collect();
    let beside = seen_beside(context, &key_ids).await?;
    let changed = context.change_keys(&planned.holder(), &Change::Remove { key_ids, beside }).await?;
    Ok(pruned(&changed))
}

/// The keys of the principal that servers shared with everybody.
pub(super) async fn purge(context: &Context<'_>) -> Result<Ended> {
    let How::Automatic { shared_principal: Some(shared), .. } = &context.planned_cloud()?.how else {
        return Ok(left("The plan takes nothing out of the shared principal"));
    };
    let holder = Holder::ServicePrincipal(shared.object_id.clone());
    let key_ids = shared.keys.iter().map(|key| key.key_id.clone()).collect();
    // Kept entries get other ids there with each change.
    let changed = context.change_keys(&holder, &Change::Remove { key_ids, beside: Vec::new() }).await?;
    Ok(Ended::With(StepEnd::Done(Outcome::PurgedSharedPrincipal { removed: removed(&changed) })))
}

/// The new key of the dedicated application, unless it was there before this run.
pub(super) async fn take_back(context: &Context<'_>) -> Result<Ended> {
    if context.stays_staged() {
        return Ok(left(&format!("{STAYS_STAGED}: what servers sign then is refused without it")));
    }
    let Some(planned) = context.automatic()? else {
        return Ok(left("A person takes the new key out of the application, if they have registered it"));
    };
    let Some(new) = context.facts().thumbprint else { return Ok(left("No certificate was made")) };
    if planned.keys_kept.iter().any(|key| key.thumbprint.as_ref() == Some(&new)) {
        return Ok(left("It was there before this run"));
    }
    check_unused(context, &[&new]).await?;
    let holder = planned.holder();
    let held = context.cloud()?.settled_keys(&holder).await?;
    let ours = held.iter().filter(|key| key.thumbprint().as_ref() == Some(&new));
    let key_ids: Vec<String> = ours.map(|key| key.key_id().to_owned()).collect();
    let beside = seen_beside(context, &key_ids).await?;
    let changed = context.change_keys(&holder, &Change::Remove { key_ids, beside }).await?;
    Ok(pruned(&changed))
}

/// The other keys of the application, as the run has seen them last: a list that lacks one comes from a replica that is behind, until it was asked for
/// often enough. Then its owner has taken it out.
async fn seen_beside(context: &Context<'_>, leaving: &[String]) -> Result<Vec<String>> {
    if context.step().failures >= BELIEVED {
        return Ok(Vec::new());
    }
    let renewal = context.claimed.run.renewal.id;
    let last = context.worker.db.read(async |tx| tx.snapshot_of(renewal, Purpose::Check).await).await?;
    let Some(Tenant::Read { application: Some(application), .. }) = last.and_then(|seen| seen.tenant) else {
        return Ok(Vec::new());
    };
    let ids = application.keys.into_iter().map(|key| key.key_id);
    Ok(ids.filter(|id| !leaving.iter().any(|one| one.eq_ignore_ascii_case(id))).collect())
}

/// Nothing may sign any more with a key that is taken out.
async fn check_unused(context: &Context<'_>, leaving: &[&Thumbprint]) -> Result<()> {
    let controllers = &context.plan()?.observed.domain_controllers;
    context
        .on_any(async |session| {
            for name in controllers {
                let seen = match context.step().phase {
                    // What this run has made is taken back whatever else somebody did to AuthConfig, if only nothing names it.
                    Phase::Undo => exchange::auth_config(session, Some(name)).await?,
                    _ => context.place(session, name).await?.1,
                };
                if let Some(named) = seen.thumbprints().into_iter().flatten().find(|named| leaving.contains(named)) {
                    return Err(StepError::Attention(still_named(named, name)));
                }
            }
            Ok(())
        })
        .await
}

fn pruned(changed: &Changed) -> Ended {
    let outcome = Outcome::PrunedCloud { removed: removed(changed), already_gone: changed.already };
    Ended::With(StepEnd::Done(outcome))
}

/// The ids that were there before and are not any more.
fn removed(changed: &Changed) -> Vec<String> {
    let gone = changed.before.iter().filter(|old| {
        !changed.after.iter().any(|new| new.thumbprint() == old.thumbprint() && new.key_id() == old.key_id())
    });
    let kept = |id: &str| changed.after.iter().any(|new| new.key_id() == id);
    gone.map(|key| key.key_id().to_owned()).filter(|id| !kept(id)).collect()
}

fn left(reason: &str) -> Ended {
    Ended::With(StepEnd::Skipped(Outcome::not_done(reason)))
}

fn still_named(thumbprint: &Thumbprint, domain_controller: &str) -> Trouble {
    Trouble::new(
        "certificate_in_use",
        format!("AuthConfig on {domain_controller} still names {}: servers may sign with it", thumbprint.short()),
        "Find out why, then retry",
    )
}
