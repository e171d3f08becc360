//! Register the new key in Entra, beside the old one, and see that it is accepted when it is used. Or take down who says that they have done it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::TimeDelta;
use db::StepEnd;
use domain::{Gate, Outcome, Trouble, Verdict, step};

use super::{Context, Ended, Result, StepError, cloud::Automatic};
use crate::{
    connectors::cloud::{ACCEPTANCE_PAUSE, Acceptance, Change, Changed, Signer, key_id_of},
    hybrid,
};

/// How long a key that Graph shows may be refused before that is told: 4 to 18 s are usual (cloud.md 2.4).
const BUDGET: TimeDelta = TimeDelta::minutes(5);

/// How often in a row the new key must be accepted: the token service is many machines, each of which learns of a key when it does.
const PROOFS: usize = 6;

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    match context.automatic()? {
        Some(planned) => register(context, &planned).await,
        None => confirm(context),
    }
}

/// A person has registered it: the gate says who.
fn confirm(context: &Context<'_>) -> Result<Ended> {
    let run = context.claimed.run.as_run();
    let Verdict::Approved { by, .. } = run.verdict(context.plan()?, Gate::TrustCloud, context.now()) else {
        return Err(StepError::GateClosed(Trouble::new(
            "cloud_not_confirmed",
            "Nobody says that the new key is registered in Entra",
            "Register it as the plan says and approve the gate trust_cloud, then retry; or cancel",
        )));
    };
    Ok(done(Outcome::TrustedCloud {
        key_id: None,
        thumbprint: context.thumbprint()?,
        kept: Vec::new(),
        accepted: None,
        confirmed_by: Some(by.join(", ")),
    }))
}

async fn register(context: &Context<'_>, planned: &Automatic<'_>) -> Result<Ended> {
    let (thumbprint, certificate_der) = (context.thumbprint()?, certificate(context)?);
    let key_id = key_id_of(&certificate_der);
    let beside = planned.keys_kept.iter().map(|key| key.key_id.clone()).collect();
    let change = Change::Add { certificate_der, display_name: hybrid::key_name(context.now()), beside };
    let changed = context.change_keys(&planned.holder(), &change).await?;
    if let Some(gone) = planned.keys_kept.iter().find(|key| !changed.after.iter().any(|held| held.is(&key.key_id))) {
        return Err(StepError::Retry(key_gone(planned, &gone.key_id)));
    }
    let accepted = match accepted(context, planned).await? {
        Accepted::Yes(proof) => proof,
        Accepted::NotYet(trouble) => return wait(context, trouble),
    };
    let ours = |key: &&crate::connectors::cloud::Credential| key.thumbprint().as_ref() == Some(&thumbprint);
    let key_id = changed.after.iter().find(ours).map_or(key_id, |key| key.key_id().to_owned());
    let kept = kept(&changed, &key_id);
    Ok(done(Outcome::TrustedCloud { key_id: Some(key_id), thumbprint, kept, accepted, confirmed_by: None }))
}

/// A worker that died between writing and reading back has not seen it.
fn key_gone(planned: &Automatic<'_>, key_id: &str) -> Trouble {
    Trouble::new(
        "cloud_keys_changed",
        format!(
            "Key {key_id}, which the plan keeps, is not among the keys of {} any more",
            planned.application.display_name
        ),
        "Find out who has removed it; if its owner needs it, let them add it again. Cancel, and raise a new renewal, whose plan sees the keys as they are",
    )
}

fn kept(changed: &Changed, ours: &str) -> Vec<String> {
    changed.after.iter().map(|key| key.key_id().to_owned()).filter(|id| id != ours).collect()
}

/// The new certificate, which is public.
fn certificate(context: &Context<'_>) -> Result<Vec<u8>> {
    let made = context.claimed.run.steps.iter().find_map(|step| match step.outcome.as_deref() {
        Some(Outcome::Generated { certificate: Some(certificate), .. }) => STANDARD.decode(certificate).ok(),
        _ => None,
    });
    made.ok_or_else(|| {
        StepError::Attention(Trouble::new(
            "certificate_missing",
            "The new certificate was not kept: an older version made it",
            "Cancel and raise a new renewal",
        ))
    })
}

enum Accepted {
    /// With how it is known; without when it could not be tried.
    Yes(Option<step::Acceptance>),
    NotYet(Trouble),
}

/// Lets Entra decide on something that the new key has signed. That needs the key, which is here until this step is over; a server's own test proves
/// the same later.
async fn accepted(context: &Context<'_>, planned: &Automatic<'_>) -> Result<Accepted> {
    let renewal = context.claimed.run.renewal.id;
    let sealed = context.worker.db.read(async |tx| tx.sealed_key(renewal).await).await?;
    let Some(sealed) = sealed else { return Ok(Accepted::Yes(None)) };
    let Ok(pair) = context.worker.sealer.open(renewal, &sealed) else {
        tracing::warn!("The sealed key of renewal {renewal} cannot be opened: its acceptance is not tried");
        return Ok(Accepted::Yes(None));
    };
    let signer = Signer::from_pair(&pair).map_err(|error| {
        let action = "Cancel and raise a new renewal; report it with the log";
        StepError::Attention(Trouble::new("key_cannot_sign", error.to_string(), action))
    })?;
    for proof in 0..PROOFS {
        if proof > 0 {
            context.cloud()?.let_pass(ACCEPTANCE_PAUSE).await?;
        }
        if let Acceptance::NotYet(trouble) = context.cloud()?.accepts(&planned.application.app_id, &signer).await? {
            return Ok(Accepted::NotYet(trouble));
        }
    }
    let detail = format!("{PROOFS} tokens in a row were issued for what the new key has signed");
    Ok(Accepted::Yes(Some(step::Acceptance { at: context.now(), detail })))
}

fn pause() -> TimeDelta {
    TimeDelta::from_std(ACCEPTANCE_PAUSE).unwrap_or_default()
}

/// Quietly while that is usual, then told.
fn wait(context: &Context<'_>, trouble: Trouble) -> Result<Ended> {
    let waited = context.step().started_at.map_or_else(TimeDelta::zero, |since| context.now() - since);
    if waited < BUDGET {
        return Ok(context.again(pause(), None));
    }
    Err(StepError::Retry(Trouble::new(
        "cloud_key_not_accepted",
        format!("Graph shows the new key, and Entra does not accept it yet. {}", trouble.message),
        "Nothing to do for the first hours: it is tried again by itself. If it stays, check that the application of the plan is the one that Exchange uses; or cancel",
    )))
}

fn done(outcome: Outcome) -> Ended {
    Ended::With(StepEnd::Done(outcome))
}
