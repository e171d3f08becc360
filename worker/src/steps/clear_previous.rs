//! Give up the previous certificate: the point of no return.

use db::StepEnd;
use domain::{Outcome, Place};

use super::{Context, Ended, Result, StepError, context::foreign_change, stage::REPLICATION};
use crate::{connectors::Session, exchange};

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    context.on_any(async |session| clear(context, session).await).await
}

async fn clear(context: &Context<'_>, session: &mut Session) -> Result<Ended> {
    match context.place(session, context.pinned()?).await? {
        (Place::Cleared, _) => {}
        (Place::Published, _) => {
            let command = exchange::clear_previous(context.pinned()?);
            context.change_auth_config(session, command, |place, _| place == Place::Cleared).await?;
        }
        // What is previous there is not what the plan gives up.
        (_, seen) => return Err(StepError::Attention(foreign_change(&seen))),
    }
    let (domain_controllers, complete) = context.replicated(session, |place, _| place == Place::Cleared).await?;
    if !complete {
        return Ok(context.again(REPLICATION, None));
    }
    Ok(Ended::With(StepEnd::Done(Outcome::ClearedPrevious { domain_controllers })))
}
