//! Which steps a person may skip, and what to do instead of skipping the others.

use crate::{
    Outcome, Step, StepKind, StepStatus, Trouble,
    progress::{Facts, Run},
};

impl<'a> Run<'a> {
    /// The failing steps that a person may skip: those of these ordinals, all of which must be so, or all that there are.
    pub fn skippable(&self, ordinals: Option<&[i32]>) -> Result<Vec<&'a Step>, Trouble> {
        let steps = match ordinals {
            Some(ordinals) => ordinals.iter().map(|ordinal| self.failing(*ordinal)).collect::<Result<Vec<_>, _>>()?,
            None => self.steps.iter().map(|step| &**step).filter(|step| is_failing(step)).collect(),
        };
        match steps.iter().find(|step| !step.kind.may_be_skipped()) {
            // Nobody has named that one.
            Some(_) if ordinals.is_none() && steps.iter().any(|step| step.kind.may_be_skipped()) => {}
            Some(step) => return Err(not_skippable(step)),
            None if steps.is_empty() => return Err(nothing_to_skip(self.renewal.state.status())),
            None => {}
        }
        Ok(steps.into_iter().filter(|step| step.kind.may_be_skipped()).collect())
    }

    fn failing(&self, ordinal: i32) -> Result<&'a Step, Trouble> {
        let step = self.steps.iter().find(|step| step.ordinal == ordinal).ok_or_else(|| {
            Trouble::new("no_such_step", format!("There is no step {ordinal}"), "Read the renewal's steps")
        })?;
        if is_failing(step) { Ok(step) } else { Err(not_failing(step)) }
    }

    /// What is on record of a step that a person skips.
    #[must_use]
    pub fn skipped_by(&self, step: &Step, by: &str, reason: &str) -> Outcome {
        let left = match step.kind {
            StepKind::Prune | StepKind::PruneCloud => self.plan.and_then(|plan| plan.observed.current.clone()),
            StepKind::PurgeSharedPrincipal => None,
            _ => Facts::of(self.steps).thumbprint,
        };
        let nameless = if step.kind == StepKind::PurgeSharedPrincipal { "What was planned" } else { "A certificate" };
        let what = left.map_or_else(|| nameless.to_owned(), |thumbprint| format!("Certificate {thumbprint}"));
        let place = match step.kind {
            StepKind::PruneCloud | StepKind::RemoveCloudKey => "registered in the dedicated application",
            StepKind::PurgeSharedPrincipal => "registered in the shared principal",
            _ => &format!("on {}", step.target),
        };
        let later = match step.kind {
            StepKind::PruneCloud => "; the plan of the next renewal tells it, and takes it out",
            _ => "",
        };
        let reason = format!("{}. {what} was left {place}{later}", reason.trim_end_matches('.'));
        Outcome::NotDone { reason, by: Some(by.to_owned()) }
    }
}

/// Whether a step needs a person, or is being tried again and again.
fn is_failing(step: &Step) -> bool {
    let trying = matches!(step.status, StepStatus::Ready | StepStatus::Running) && step.failures > 0;
    step.status == StepStatus::Attention || trying
}

fn nothing_to_skip(status: &str) -> Trouble {
    Trouble::new("nothing_to_skip", format!("No step has failed; the renewal is {status}"), "Nothing to do")
}

fn not_failing(step: &Step) -> Trouble {
    Trouble::new(
        "step_not_failed",
        format!("Step {} ({}) has not failed", step.ordinal, step.kind),
        "Only a step that has failed can be skipped: read the renewal's steps",
    )
}

fn not_skippable(step: &Step) -> Trouble {
    let (why, instead) = match step.kind {
        StepKind::Distribute => (
            "a server without the new certificate cannot check what the others sign with it",
            "Repair the server, then retry. If it is gone for good, cancel and raise a renewal that names it in allow_absent",
        ),
        StepKind::TrustCloud => (
            "tokens that are signed with the new certificate would be refused by Entra",
            "Repair it, then retry; or cancel",
        ),
        StepKind::RefreshHybrid => (
            "it is the proof that the organization and the cloud trust each other",
            "Repair what the check found, then retry; or roll back",
        ),
        StepKind::Restart => (
            "processes that keep old keys in memory sign and check differently from all others",
            "Restart them by hand, then retry; or roll back",
        ),
        StepKind::Soak | StepKind::Close => (
            "it is the proof that every server works with the new certificate",
            "Repair what the check found, then retry; while the old certificate is not given up, rollback is possible",
        ),
        StepKind::Preflight | StepKind::Generate => {
            ("all that follows needs its result", "Repair it, then retry; or cancel")
        }
        StepKind::Stage | StepKind::ClearNext => {
            ("AuthConfig would stay half changed", "Repair it, then retry; or cancel")
        }
        StepKind::Publish | StepKind::ClearPrevious | StepKind::RestorePrevious => (
            "it decides which certificate servers sign with and accept",
            "Repair it, then retry; until the old certificate is given up, rollback is possible",
        ),
        StepKind::Prune
        | StepKind::PruneCloud
        | StepKind::PurgeSharedPrincipal
        | StepKind::RemoveCertificate
        | StepKind::RemoveCloudKey => ("of an error in rekey", "Report it"),
    };
    let place = if step.target.is_empty() { String::new() } else { format!(" on {}", step.target) };
    let message = format!("Step {} ({}{place}) cannot be skipped: {why}", step.ordinal, step.kind);
    Trouble::new("not_skippable", message, instead)
}

#[cfg(test)]
mod tests;
