//! The record of refusals: each kind is written when it happens first, and those that follow within a minute are counted and written together.
//!
//! Whoever sends refused requests as fast as they can fills neither the database nor the memory.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use domain::{RenewalId, audit::NewAudit};
use serde_json::{Value, json};

use crate::{State, limits::Address};

/// Who is not known in the record.
pub(crate) const ANONYMOUS: &str = "anonymous";

/// How long refusals of a kind are counted together.
const WINDOW: Duration = Duration::from_secs(60);

/// Kinds that are told apart at the same time, of those who are known and of those who are not. What is beyond counts as one kind.
const MOST: usize = 256;
const MOST_ANONYMOUS: usize = 64;

/// A kind of refusal. Of those who are not known only where they are: what they ask for they make up.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Refusal {
    /// Who, if that is known.
    pub(crate) subject: Option<String>,
    /// Where the request came from.
    pub(crate) address: Address,
    /// What kind of problem they were told.
    pub(crate) problem: String,
    /// What they asked for, if they are known.
    pub(crate) asked: Option<Asked>,
}

/// What somebody asked for.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// The pattern, not the path: what a caller puts into a URL does not belong into the record.
    pub(crate) path: Option<String>,
    pub(crate) renewal: Option<RenewalId>,
}

/// Refusals that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    open: Mutex<BTreeMap<Refusal, Open>>,
}

/// A kind of refusal that has happened a moment ago.
#[derive(Debug)]
struct Open {
    since: Instant,
    /// How often it has happened after it was written.
    more: u64,
}

impl Refusals {
    fn open(&self) -> MutexGuard<'_, BTreeMap<Refusal, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a refusal. Says whether it is to be written now.
    fn note(&self, refusal: Refusal) -> bool {
        let mut open = self.open();
        if let Some(known) = open.get_mut(&refusal) {
            known.more += 1;
            return false;
        }
        let anonymous = refusal.subject.is_none();
        let most = if anonymous { MOST_ANONYMOUS } else { MOST };
        if open.keys().filter(|other| other.subject.is_none() == anonymous).count() < most {
            open.insert(refusal, Open { since: Instant::now(), more: 0 });
            return true;
        }
        let subject = refusal.subject.map(|_| "others".to_owned());
        let others = Refusal { subject, address: Address::of(None), problem: refusal.problem, asked: None };
        open.entry(others).or_insert_with(|| Open { since: Instant::now(), more: 0 }).more += 1;
        false
    }

    /// Takes out what has been counted long enough, with how often it happened since it was written.
    fn take(&self, older_than: Duration) -> Vec<(Refusal, u64)> {
        let mut open = self.open();
        let over: Vec<Refusal> =
            open.iter().filter(|(_, counted)| counted.since.elapsed() >= older_than).map(|(r, _)| r.clone()).collect();
        let taken = over.into_iter().filter_map(|refusal| open.remove(&refusal).map(|counted| (refusal, counted.more)));
        taken.filter(|(_, more)| *more > 0).collect()
    }
}

impl Refusal {
    fn entry(&self, more: Value) -> NewAudit {
        let actor = self.subject.as_deref().unwrap_or(ANONYMOUS);
        let mut detail = json!({ "problem": self.problem, "address": self.address.to_string() });
        if let Some(asked) = &self.asked {
            detail["method"] = json!(asked.method);
            detail["path"] = json!(asked.path);
            detail["renewal"] = json!(asked.renewal);
        }
        if let (Some(detail), Value::Object(more)) = (detail.as_object_mut(), more) {
            detail.extend(more);
        }
        NewAudit::new(actor, "access.refused", detail)
    }
}

/// Records a refusal, now or together with those that follow.
pub(crate) async fn record(state: &State, refusal: Refusal, trace_id: &str) {
    let entry = refusal.entry(json!({ "trace_id": trace_id }));
    if state.refusals.note(refusal) {
        write(state.clone(), vec![entry]).await;
    }
}

/// Writes what was counted, for as long as it is polled.
pub(crate) async fn keep_writing(state: State) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(WINDOW / 6).await;
        write_counted(state.clone(), WINDOW).await;
    }
}

/// Writes all that was counted.
pub(crate) async fn write_rest(state: State) {
    write_counted(state, Duration::ZERO).await;
}

async fn write_counted(state: State, older_than: Duration) {
    let taken = state.refusals.take(older_than);
    let entries = taken.iter().map(|(refusal, more)| refusal.entry(json!({ "repeated": more }))).collect();
    write(state, entries).await;
}

async fn write(state: State, entries: Vec<NewAudit>) {
    if entries.is_empty() {
        return;
    }
    if let Err(error) = state.db.record_outside(&entries, state.now()).await {
        tracing::error!(%error, "A refusal could not be recorded: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(subject: Option<&str>, address: u32, problem: &str) -> Refusal {
        let address = Address::of(Some(std::net::IpAddr::from(address.to_be_bytes())));
        Refusal { subject: subject.map(str::to_owned), address, problem: problem.to_owned(), asked: None }
    }

    #[test]
    fn the_first_of_a_kind_is_written_and_the_others_are_counted() {
        let refusals = Refusals::default();
        let alice = || refusal(Some("alice"), 1, "forbidden");
        assert!(refusals.note(alice()));
        assert!(!refusals.note(alice()) && !refusals.note(alice()));
        assert!(refusals.note(refusal(Some("alice"), 1, "too_many_requests")));
        assert_eq!(refusals.take(WINDOW), [], "their time is not over");
        assert_eq!(refusals.take(Duration::ZERO), [(alice(), 2)]);
        assert!(refusals.note(alice()), "a new beginning");
    }

    #[test]
    fn a_flood_of_strangers_is_bounded_and_hides_nobody_who_is_known() {
        let refusals = Refusals::default();
        let written = (0..100_000).filter(|address| refusals.note(refusal(None, *address, "unauthenticated"))).count();
        assert_eq!(written, MOST_ANONYMOUS);
        assert!(refusals.note(refusal(Some("alice"), 1, "forbidden")));
        let counted = refusals.take(Duration::ZERO);
        assert_eq!(counted.iter().map(|(_, more)| more).sum::<u64>(), 100_000 - 64);
        assert_eq!(counted.len(), 1, "those beyond are one kind");
    }
}
