//! Renewals that a look found due and had no hands for. Where more is due than a look shows, the next claims take of these before anybody looks again: a
//! look reads all that is due, and most of that is as it was. What has changed since is not taken ([`Db::take_as_seen`]). PostgreSQL only.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Claimed, Due, Wanted, shares};
use crate::Db;

/// For how long: where all hands are full, what becomes due meanwhile waits as long.
const KEPT_FOR: Duration = Duration::from_millis(100);

/// What the last look has passed by, in its order.
#[derive(Debug, Default)]
pub(crate) struct PassedBy(Mutex<Option<Kept>>);

#[derive(Debug)]
struct Kept {
    due: VecDeque<Due>,
    until: Instant,
}

impl PassedBy {
    pub(super) fn keep(&self, due: Vec<Due>) {
        let kept = Kept { due: due.into(), until: Instant::now() + KEPT_FOR };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
    }

    /// As many of the first as so many steps are taken of; nobody else gets them.
    fn next(&self, steps: usize) -> Vec<Due> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fresh) = kept.as_mut().filter(|kept| Instant::now() < kept.until) else { return Vec::new() };
        let asked = shares(steps, fresh.due.make_contiguous()).count();
        fresh.due.drain(..asked).collect()
    }
}

impl Db {
    /// Takes of what the last look has passed by. `None` when there is nothing, or none of it can be taken any more.
    pub(super) async fn claim_passed_by(&self, wanted: &Wanted<'_>) -> Option<Claimed> {
        let due = self.passed_by.next(wanted.steps);
        if due.is_empty() {
            return None;
        }
        let asked: Vec<_> = due.iter().zip(shares(wanted.steps, &due)).collect();
        let mut look = self.begin_looking().await.ok()?;
        let mut claimed = Claimed::default();
        self.claim_as_seen(&mut look, &asked, wanted, &mut claimed).await;
        Some(claimed).filter(|claimed| !claimed.is_idle())
    }
}
