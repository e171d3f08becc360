//! Runs as this process has last left them. Each change of a run raises the version of its renewal, so what was kept is true as long as the version is the
//! same; only the ends of leases move without that.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use domain::{Renewal, RenewalId};

use crate::LoadedRun;

/// Steps of all runs that are kept, of some 400 bytes each. A run of 500 servers has some 2,000.
const KNOWN_STEPS: usize = 100_000;

/// Runs that were written lately by this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownRuns(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    runs: HashMap<RenewalId, Arc<LoadedRun>>,
    steps: usize,
}

impl Known {
    /// Gives up any of them, as they come.
    fn make_room(&mut self) {
        while self.steps > KNOWN_STEPS
            && let Some(id) = self.runs.keys().next().copied()
        {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: RenewalId) {
        if let Some(run) = self.runs.remove(&id) {
            self.steps -= run.steps.len();
        }
    }
}

impl KnownRuns {
    /// The run of a renewal that is at `version`, if nobody has changed anything since this process did.
    pub(crate) fn get(&self, renewal: &Renewal, version: i64) -> Option<Arc<LoadedRun>> {
        let known = self.lock().runs.get(&renewal.id)?.clone();
        // More than the version is compared: a backup that was put back counts from an old version on.
        let same = known.renewal.version == version
            && known.renewal.state == renewal.state
            && known.renewal.plan_digest == renewal.plan_digest;
        same.then_some(known)
    }

    /// Keeps runs as they are committed. Those that are over are not needed any more.
    pub(crate) fn keep(&self, runs: impl IntoIterator<Item = Arc<LoadedRun>>) {
        let mut known = self.lock();
        for run in runs {
            // Who was faster may be heard later.
            if known.runs.get(&run.renewal.id).is_some_and(|newer| newer.renewal.version > run.renewal.version) {
                continue;
            }
            known.remove(run.renewal.id);
            if !run.renewal.state.is_live() {
                continue;
            }
            known.steps += run.steps.len();
            known.runs.insert(run.renewal.id, run);
        }
        known.make_room();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
