//! What follows from how runs stand, and storing it: for all runs of a transaction together, one statement for each table.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, SubsecRound as _, Utc};
use domain::{Renewal, RenewalId, StepId, StepStatus, audit::NewAudit};

use crate::{LoadedRun, Result, Tx, run::happen};

/// Which renewals are to be stored.
enum Stored {
    All,
    /// Those to which something happened.
    Changed(BTreeSet<RenewalId>),
}

impl Stored {
    fn note(&mut self, changed: RenewalId) {
        if let Self::Changed(renewals) = self {
            renewals.insert(changed);
        }
    }

    fn has(&self, renewal: RenewalId) -> bool {
        match self {
            Self::All => true,
            Self::Changed(renewals) => renewals.contains(&renewal),
        }
    }
}

/// Runs that are locked and read, and what is to be stored of them.
pub(crate) struct Settling<'a> {
    runs: Vec<LoadedRun>,
    actor: &'a str,
    now: DateTime<Utc>,
    /// What is to be recorded, in order.
    told: Vec<(RenewalId, NewAudit)>,
    /// Steps that become due.
    ready: BTreeMap<StepId, DateTime<Utc>>,
    /// Renewals that have come to their end.
    over: Vec<RenewalId>,
    stored: Stored,
}

impl<'a> Settling<'a> {
    pub(crate) fn new(runs: Vec<LoadedRun>, actor: &'a str, now: DateTime<Utc>) -> Self {
        Self { runs, actor, now, told: Vec::new(), ready: BTreeMap::new(), over: Vec::new(), stored: Stored::All }
    }

    /// As [`Settling::new`], where a renewal to which nothing happens stays as it is stored: its timer, if it has one, is not what is settled here.
    pub(crate) fn of_steps(runs: Vec<LoadedRun>, actor: &'a str, now: DateTime<Utc>) -> Self {
        Self { stored: Stored::Changed(BTreeSet::new()), ..Self::new(runs, actor, now) }
    }

    /// Something to be recorded before what follows.
    pub(crate) fn tell(&mut self, renewal: RenewalId, action: &'static str, detail: serde_json::Value) {
        self.told.push((renewal, NewAudit::new(self.actor, action, detail)));
    }

    /// Lets everything follow, without storing any of it.
    fn follow(&mut self) -> Result<()> {
        for run in &mut self.runs {
            while let Some(advance) = run.as_run().advance(self.now) {
                for (step, at) in advance.ready {
                    run.make_due(step, at);
                    self.ready.insert(step, at);
                }
                let Some(event) = advance.event else { continue };
                self.stored.note(run.renewal.id);
                let at_last = run.as_run().begins_at_last(&event);
                let mut told = happen(&mut run.renewal, event, self.actor, self.now)?;
                if at_last {
                    told.detail["began"] = true.into();
                }
                self.told.push((run.renewal.id, told));
                if !run.renewal.state.is_live() {
                    self.over.push(run.renewal.id);
                }
            }
        }
        Ok(())
    }

    fn renewal(&self, id: RenewalId) -> Option<&Renewal> {
        self.runs.iter().map(|run| &run.renewal).find(|renewal| renewal.id == id)
    }
}

impl LoadedRun {
    /// As [`Tx::ready_steps`] does it in the table.
    fn make_due(&mut self, step: StepId, at: DateTime<Utc>) {
        let step = self.steps.iter_mut().find(|one| one.id == step && one.status.may_become_due());
        if let Some(step) = step.map(Arc::make_mut) {
            // A database keeps microseconds.
            (step.status, step.due_at) = (StepStatus::Ready, Some(at.trunc_subsecs(6)));
        }
    }
}

impl Tx {
    /// Lets everything follow that follows from how runs stand. Stores them, also when nothing follows unless only steps are settled, and returns them as
    /// they are then.
    pub(crate) async fn settle_all(&mut self, mut settling: Settling<'_>) -> Result<Vec<LoadedRun>> {
        settling.follow()?;
        let ready: Vec<_> = settling.ready.iter().map(|(step, at)| (*step, *at)).collect();
        self.ready_steps(&ready).await?;
        for id in std::mem::take(&mut settling.over) {
            let Some(renewal) = settling.renewal(id) else { continue };
            let destroyed = self.end_run(renewal, settling.actor, settling.now).await?;
            settling.told.extend(destroyed.map(|new| (id, new)));
        }
        let told = std::mem::take(&mut settling.told);
        let told = told.into_iter().filter_map(|(id, new)| Some((settling.renewal(id)?, new, settling.now)));
        self.audit_all(told).await?;
        let saved = settling.runs.iter().filter(|run| settling.stored.has(run.renewal.id));
        let saved: Vec<_> = saved.map(|run| (&run.renewal, run.as_run().wake_at())).collect();
        self.save_renewals(&saved).await?;
        Ok(settling.runs)
    }
}
