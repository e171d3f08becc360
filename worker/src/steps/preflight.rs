//! Read everything, check what the account may do, and make the plan, or refuse and say what to do. Changes nothing.

use db::Purpose;
use domain::{Plan, Snapshot, Trouble, planning};

use super::{Context, Ended, Result, StepError, cloud::asked_pause};
use crate::{discovery, exchange, hybrid};

/// Tries before a refusal, for what may pass by itself.
const PATIENCE: i32 = 5;

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    match prepare(context).await {
        Ok((snapshot, Ok(plan))) => store(context, &snapshot, &plan).await,
        Ok((snapshot, Err(trouble))) if may_pass(&trouble) && context.step().failures < PATIENCE => {
            Err(StepError::not_before(trouble, asked_pause(&snapshot)))
        }
        Ok((snapshot, Err(trouble))) => refuse(context, Some(&snapshot), &trouble).await,
        Err(StepError::Retry(trouble)) if context.step().failures < PATIENCE => Err(StepError::Retry(named(trouble))),
        Err(StepError::Retry(trouble)) => refuse(context, None, &named(trouble)).await,
        Err(StepError::Attention(trouble)) => refuse(context, None, &trouble).await,
        Err(error) => Err(error),
    }
}

async fn prepare(context: &Context<'_>) -> Result<(Snapshot, std::result::Result<Plan, Trouble>)> {
    check_permissions(context).await?;
    let snapshot = context.look().await?;
    let request = &context.claimed.run.renewal.request;
    let plan = planning::plan(&context.managed.organization, request, &snapshot, context.now());
    Ok((snapshot, plan))
}

async fn check_permissions(context: &Context<'_>) -> Result<()> {
    let asked = discovery::on_any(&context.managed.endpoints, async |session, _| {
        let mut missing = exchange::not_permitted(session, &exchange::NEEDED).await?;
        if missing.is_empty() && exchange::is_hybrid(session).await? {
            missing = exchange::not_permitted(session, &hybrid::NEEDED).await?;
        }
        Ok(missing)
    });
    let missing = asked.await?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(StepError::Attention(Trouble::new(
        "permission_missing",
        format!("The account may not run {}", missing.join(", ")),
        "Assign it the roles View-Only Configuration, Exchange Server Certificates and Organization Client Access, in a hybrid organization also Federated Sharing; then raise the renewal again",
    )))
}

fn may_pass(trouble: &Trouble) -> bool {
    matches!(trouble.code.as_str(), "replication_pending" | "no_server_reachable" | "tenant_not_read")
        || domain::retry::passes_by_itself(trouble)
}

/// An organization of which no server answers is not waited for without end, as a single server is.
fn named(trouble: Trouble) -> Trouble {
    if trouble.code != domain::progress::SERVER_UNREACHABLE {
        return trouble;
    }
    let action = "Start a server or repair the way to it; then raise the renewal again";
    Trouble::new("no_server_reachable", trouble.message, action)
}

async fn store(context: &Context<'_>, snapshot: &Snapshot, plan: &Plan) -> Result<Ended> {
    let (claimed, name, now) = (context.claimed, context.worker.name.as_str(), context.now());
    let written = context.worker.db.write(async |tx| {
        tx.insert_snapshot(Some(claimed.run.renewal.id), Purpose::Before, snapshot).await?;
        tx.finish_preflight(claimed, name, plan, now).await
    });
    written.await?;
    Ok(Ended::Stored)
}

async fn refuse(context: &Context<'_>, snapshot: Option<&Snapshot>, trouble: &Trouble) -> Result<Ended> {
    let (claimed, name, now) = (context.claimed, context.worker.name.as_str(), context.now());
    let written = context.worker.db.write(async |tx| {
        if let Some(snapshot) = snapshot {
            tx.insert_snapshot(Some(claimed.run.renewal.id), Purpose::Before, snapshot).await?;
        }
        tx.refuse_preflight(claimed, name, trouble, now).await
    });
    written.await?;
    Ok(Ended::Stored)
}
