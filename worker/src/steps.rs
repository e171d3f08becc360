//! What a worker does with a step.
//!
//! To add a step: (1) a variant in [`StepKind`], (2) a file `steps/<name>.rs` with `run`, (3) the arm that the compiler then demands here, (4) its
//! place in `domain::planning`. Every step looks, acts and looks again: it does nothing when the state is already right, and never believes a write
//! that it has not read back. A step that changes something asks [`Context::mutate`] to do it, which records the intent first.

mod clear_next;
mod clear_previous;
mod close;
mod cloud;
mod context;
mod distribute;
mod evidence;
mod generate;
mod preflight;
mod prune;
mod prune_cloud;
mod publish;
mod refresh_hybrid;
mod restart;
mod restore_previous;
mod soak;
mod stage;
mod trust_cloud;

use std::time::Duration;

use chrono::TimeDelta;
use db::{ClaimedStep, StepEnd};
use domain::{StepKind, Trouble};
use tokio_util::sync::CancellationToken;

pub(crate) use context::Context;

use crate::{
    Worker,
    connectors::{
        WireError,
        cloud::{CloudError, Failure},
    },
    exchange::CommandError,
    lease::Lease,
};

/// How an attempt at a step ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The step has stored its end by itself, together with what it made.
    Stored,
    /// To be stored.
    With(StepEnd),
}

/// Why an attempt did not get to its end. Decided where the failure is seen.
#[derive(Debug)]
pub(crate) enum StepError {
    /// A person must act.
    Attention(Trouble),
    /// The database failed, or the lease is lost.
    Database(db::Error),
    /// The step may not change anything now.
    GateClosed(Trouble),
    /// To be tried again by itself, but not before this real time has gone by: whoever was asked has said so.
    Later(Trouble, TimeDelta),
    /// To be tried again by itself.
    Retry(Trouble),
}

impl StepError {
    /// To be tried again by itself, after this real time if there is one.
    fn not_before(trouble: Trouble, after: Option<Duration>) -> Self {
        match after {
            Some(after) => Self::later(trouble, after),
            None => Self::Retry(trouble),
        }
    }

    /// After what a service has asked for, but not more than a day.
    fn later(trouble: Trouble, after: Duration) -> Self {
        let day = TimeDelta::days(1);
        Self::Later(trouble, TimeDelta::from_std(after).unwrap_or(day).min(day))
    }
}

impl From<db::Error> for StepError {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::GateClosed(trouble) => Self::GateClosed(trouble),
            error => Self::Database(error),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, StepError>;

/// Runs one attempt of a step. When `stop` is cancelled it waits for nothing any more that may take its time.
pub(crate) async fn run(
    worker: &Worker,
    claimed: &ClaimedStep,
    lease: &Lease,
    stop: &CancellationToken,
) -> Result<Ended> {
    let context = Context::new(worker, claimed, lease, stop)?;
    match claimed.step.kind {
        StepKind::Preflight => preflight::run(&context).await,
        StepKind::Generate => generate::run(&context).await,
        StepKind::Distribute => distribute::run(&context).await,
        StepKind::Stage => stage::run(&context).await,
        StepKind::Publish => publish::run(&context).await,
        StepKind::Restart => restart::run(&context).await,
        StepKind::Soak => soak::run(&context).await,
        StepKind::ClearPrevious => clear_previous::run(&context).await,
        StepKind::Prune => prune::run(&context).await,
        StepKind::Close => close::run(&context).await,
        StepKind::RestorePrevious => restore_previous::run(&context).await,
        StepKind::ClearNext => clear_next::run(&context).await,
        StepKind::RemoveCertificate => prune::take_back(&context).await,
        StepKind::TrustCloud => trust_cloud::run(&context).await,
        StepKind::RefreshHybrid => refresh_hybrid::run(&context).await,
        StepKind::PruneCloud => prune_cloud::run(&context).await,
        StepKind::PurgeSharedPrincipal => prune_cloud::purge(&context).await,
        StepKind::RemoveCloudKey => prune_cloud::take_back(&context).await,
    }
}

/// What a failed call to the cloud means for the step that made it.
impl From<CloudError> for StepError {
    fn from(error: CloudError) -> Self {
        match error.failure {
            Failure::Again { after: Some(after) } => Self::later(error.trouble, after),
            Failure::Again { after: None } | Failure::UnknownOutcome => Self::Retry(error.trouble),
            Failure::NotFound | Failure::Refused => Self::Attention(error.trouble),
        }
    }
}

/// What a failed call means for the step that made it.
impl From<CommandError> for StepError {
    fn from(error: CommandError) -> Self {
        let trouble = error.trouble();
        match error {
            CommandError::Failed { .. } if error.is_denied() => Self::Attention(trouble),
            CommandError::Failed { .. } | CommandError::Unexpected { .. } => Self::Retry(trouble),
            CommandError::Wire(
                WireError::NotSent { .. } | WireError::NoKdc { .. } | WireError::UnknownOutcome { .. },
            ) => Self::Retry(trouble),
            CommandError::Wire(WireError::Refused { .. }) => Self::Attention(trouble),
        }
    }
}

/// A cmdlet that answered without an error and without an effect: a prompt that was answered No does that (domain.md 6.4).
pub(crate) fn no_effect(cmdlet: &str) -> Trouble {
    Trouble::new(
        "no_effect",
        format!("The server answered without an error, but nothing has changed after: {cmdlet}"),
        "Run it by hand in the Exchange Management Shell to see what it asks, then retry",
    )
}
