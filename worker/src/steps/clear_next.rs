//! Undo of staging: take the certificate out of `AuthConfig` again.

use db::StepEnd;
use domain::{Outcome, Place, snapshot::AuthConfig};

use super::{Context, Ended, Result, publish::publisher, stage::REPLICATION};
use crate::{connectors::Session, exchange};

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    context.on_any(async |session| clear(context, session).await).await
}

async fn clear(context: &Context<'_>, session: &mut Session) -> Result<Ended> {
    let seen = exchange::auth_config(session, Some(context.pinned()?)).await?;
    match named(context, &seen)? {
        Named::Not => {}
        Named::Next => {
            // Refuses to touch it when somebody else changed the rest.
            context.place(session, context.pinned()?).await?;
            let command = exchange::clear_next(context.pinned()?);
            context.change_auth_config(session, command, |place, _| place == Place::Before).await?;
        }
        Named::Current => return Box::pin(restore_instead(context, &seen)).await,
    }
    let (domain_controllers, complete) = cleared(context, session).await?;
    if !complete {
        return Ok(context.again(REPLICATION, None));
    }
    Ok(Ended::With(StepEnd::Done(Outcome::ClearedNext { domain_controllers })))
}

/// As what `AuthConfig` names the certificate of this run. Whatever else it says is no reason to leave the run half undone.
enum Named {
    Current,
    Next,
    Not,
}

fn named(context: &Context<'_>, seen: &AuthConfig) -> Result<Named> {
    let new = context.thumbprint()?;
    Ok(match seen.thumbprints() {
        [Some(current), ..] if *current == new => Named::Current,
        [.., Some(next)] if *next == new => Named::Next,
        _ => Named::Not,
    })
}

/// The domain controllers of the plan that no longer announce it, and whether that is all of them.
async fn cleared(context: &Context<'_>, session: &mut Session) -> Result<(Vec<String>, bool)> {
    let all = &context.plan()?.observed.domain_controllers;
    let mut cleared = Vec::new();
    for name in all {
        let seen = exchange::auth_config(session, Some(name)).await?;
        if matches!(named(context, &seen)?, Named::Not) {
            cleared.push(name.clone());
        }
    }
    let complete = cleared.len() == all.len();
    Ok((cleared, complete))
}

/// Somebody was faster, or Exchange: there is no announcement to be taken back any more. Whoever cancels wants the old certificate to sign, and servers may
/// still lack the new one.
async fn restore_instead(context: &Context<'_>, seen: &AuthConfig) -> Result<Ended> {
    let (claimed, name, now) = (context.claimed, context.worker.name.as_str(), context.now());
    let renewal = claimed.step.renewal_id;
    tracing::warn!(%renewal, "The new certificate was published meanwhile, as {} says: the old one is made to sign again", seen.domain_controller);
    // When it was is not known: it is seen now.
    let published = Outcome::Published {
        published_at: now,
        by: publisher(context, seen).await?,
        domain_controllers: vec![seen.domain_controller.clone()],
        lacking: Vec::new(),
    };
    context.worker.db.write(async |tx| tx.finish_by_restoring(claimed, name, &published, now).await).await?;
    Ok(Ended::Stored)
}
