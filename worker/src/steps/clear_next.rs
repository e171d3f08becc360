//! Undo of staging: take the certificate out of `AuthConfig` again.

use db::StepEnd;
use domain::{Outcome, Place, Trouble};

use super::{Context, Ended, Result, StepError, stage::REPLICATION};
use crate::{connectors::Session, exchange};

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    context.on_any(async |session| clear(context, session).await).await
}

async fn clear(context: &Context<'_>, session: &mut Session) -> Result<Ended> {
    let (place, _) = context.place(session, context.pinned()?).await?;
    match place {
        Place::Before => {}
        Place::Staged => {
            let command = exchange::clear_next(context.pinned()?);
            context.change_auth_config(session, command, |place, _| place == Place::Before).await?;
        }
        _ => return Err(StepError::Attention(too_late())),
    }
    let (domain_controllers, complete) = context.replicated(session, |place, _| place == Place::Before).await?;
    if !complete {
        return Ok(context.again(REPLICATION, None));
    }
    Ok(Ended::With(StepEnd::Done(Outcome::ClearedNext { domain_controllers })))
}

fn too_late() -> Trouble {
    Trouble::new(
        "already_published",
        "Exchange has published the certificate meanwhile",
        "Use rollback to make the old certificate sign again",
    )
}
