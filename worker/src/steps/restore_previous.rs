//! Undo of publication: stage the old certificate again and publish it.

use db::StepEnd;
use domain::{Outcome, Place, Trouble, step::Publisher};

use super::{Context, Ended, Result, StepError, stage::REPLICATION};
use crate::{connectors::Session, exchange};

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    context.on_any(async |session| restore(context, session).await).await
}

async fn restore(context: &Context<'_>, session: &mut Session) -> Result<Ended> {
    let dc = context.pinned()?;
    let (mut place, _) = context.place(session, dc).await?;
    if place == Place::Published {
        stage_old(context, session).await?;
        place = Place::Restaged;
    }
    match place {
        Place::Restaged => {
            let command = exchange::publish(dc);
            context.change_auth_config(session, command, |place, _| place == Place::Restored).await?;
        }
        Place::Restored => {}
        _ => return Err(StepError::Attention(not_possible())),
    }
    let (domain_controllers, complete) = context.replicated(session, |place, _| place == Place::Restored).await?;
    let outcome = Outcome::Published {
        published_at: context.now(),
        by: Publisher::Rekey,
        domain_controllers,
        lacking: Vec::new(),
    };
    if complete { Ok(Ended::With(StepEnd::Done(outcome))) } else { Ok(context.again(REPLICATION, None)) }
}

async fn stage_old(context: &Context<'_>, session: &mut Session) -> Result<()> {
    let old = context.plan()?.observed.current.clone().ok_or_else(|| StepError::Attention(not_possible()))?;
    let command = exchange::stage(&old, context.soon().await?, context.pinned()?);
    context.change_auth_config(session, command, |place, _| place >= Place::Restaged).await.map(drop)
}

fn not_possible() -> Trouble {
    Trouble::new(
        "cannot_restore",
        "The old certificate is not the previous one any more: it cannot be published again",
        "Raise a new renewal",
    )
}
