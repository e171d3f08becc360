//! What is injected just before each change of a run: nothing is changed after it, and when it is lifted the run goes on and ends right.

use chrono::{DateTime, TimeDelta, Utc};
use db::{ClaimedStep, Db, Error, StepEnd};
use domain::{
    Decision, Outcome, Phase, RenewalId, StepKind, TicketStanding, TicketWord, gate::Verb, progress::Permit,
    snapshot::Key, step::Publisher,
};
use serde_json::json;

use crate::support::{WORKER, claim, decision, each_database, now, planned, thumbprint};

/// What comes in between.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Injected {
    OnHold,
    NotReady,
    Closed,
    CalledOff,
    ApprovalsVoided,
    Paused,
}

const ALL: [Injected; 6] = [
    Injected::OnHold,
    Injected::NotReady,
    Injected::Closed,
    Injected::CalledOff,
    Injected::ApprovalsVoided,
    Injected::Paused,
];

/// The steps of a run that change something, in order.
const CHANGES: [StepKind; 6] = [
    StepKind::Distribute,
    StepKind::Stage,
    StepKind::Publish,
    StepKind::Restart,
    StepKind::ClearPrevious,
    StepKind::Prune,
];

struct Played<'a> {
    db: &'a Db,
    id: RenewalId,
    at: DateTime<Utc>,
    /// The changes that were put on record, in order.
    changed: Vec<StepKind>,
}

impl Played<'_> {
    async fn say(&self, word: TicketWord) {
        let standing = TicketStanding { word, detail: word.to_string(), read_at: self.at };
        self.db
            .write(async |tx| tx.ticket_said(self.id, standing.clone(), "ticket:test", self.at).await)
            .await
            .unwrap();
    }

    async fn decide_all(&self, verb: Verb) {
        let run = self.db.read(async |tx| tx.load_run(self.id).await).await.unwrap();
        let plan = run.plan.unwrap();
        for gate in plan.gates_in_order() {
            let said = Decision { gate, decided_at: self.at, ..decision(self.id, &plan, verb) };
            // What is behind the run is refused.
            drop(self.db.write(async |tx| tx.decide(&said, None, self.at).await).await);
        }
    }

    async fn inject(&self, what: Injected) {
        match what {
            Injected::OnHold => self.say(TicketWord::OnHold).await,
            Injected::NotReady => self.say(TicketWord::NotReady).await,
            Injected::Closed => self.say(TicketWord::Closed).await,
            Injected::CalledOff => self.say(TicketWord::Cancelled).await,
            Injected::ApprovalsVoided => self.say(TicketWord::ApprovalVoided).await,
            Injected::Paused => {
                self.db.write(async |tx| tx.pause(self.id, None, "oscar", "wait", self.at).await).await.unwrap();
            }
        }
    }

    async fn lift(&self, what: Injected) {
        match what {
            Injected::ApprovalsVoided => {
                self.say(TicketWord::Ready).await;
                self.decide_all(Verb::Approve).await;
            }
            Injected::Paused => {
                self.db.write(async |tx| tx.resume(self.id, None, "oscar", self.at).await).await.unwrap();
            }
            _ => self.say(TicketWord::Ready).await,
        }
    }

    /// Whether the step may put the intent of a change on record.
    async fn intends(&mut self, step: &ClaimedStep) -> bool {
        let intent = json!({ "cmdlet": format!("{}", step.step.kind) });
        match self.db.write(async |tx| tx.intend(step, WORKER, intent.clone(), self.at).await).await {
            Ok(()) => {
                self.changed.push(step.step.kind);
                true
            }
            Err(Error::GateClosed(trouble)) => {
                let end = if trouble.code == domain::progress::APPROVAL_WITHDRAWN {
                    StepEnd::Attention(trouble)
                } else {
                    StepEnd::Parked
                };
                self.finish(step, end).await;
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn finish(&self, step: &ClaimedStep, end: StepEnd) {
        self.db.write(async |tx| tx.finish_step(step, WORKER, &end, self.at).await).await.unwrap();
    }

    /// Takes what is due next, after a wait if need be; none when nothing is ever due.
    async fn next(&mut self) -> Option<ClaimedStep> {
        loop {
            if let Some(step) = claim(self.db, self.at).await {
                return Some(step);
            }
            self.at = self.db.read(async |tx| tx.next_due(self.at).await).await.unwrap()?;
        }
    }

    /// Does all that is due, and looks what is put on record. Stops before the change `until`, with its step in hand.
    async fn go_on(&mut self, until: Option<StepKind>) -> Option<ClaimedStep> {
        // A guarded publication looks again and again while the run is held.
        for _ in 0..60 {
            let step = self.next().await?;
            if step.permit == Permit::Guard {
                self.finish(&step, StepEnd::Again { at: self.at + TimeDelta::hours(12), so_far: None }).await;
                if until.is_none() && self.is_held().await {
                    return None;
                }
                continue;
            }
            let kind = step.step.kind;
            if until == Some(kind) {
                return Some(step);
            }
            let changes = CHANGES.contains(&kind) || step.step.phase == Phase::Undo;
            if !changes || self.intends(&step).await {
                self.finish(&step, StepEnd::Done(outcome(kind, self.at))).await;
            }
        }
        panic!("it does not come to an end");
    }

    async fn is_held(&self) -> bool {
        let state = self.db.read(async |tx| tx.renewal(self.id).await).await.unwrap().state;
        !matches!(state.status(), "running" | "soaking")
    }

    async fn status(&self) -> &'static str {
        self.db.read(async |tx| tx.renewal(self.id).await).await.unwrap().state.status()
    }
}

fn outcome(kind: StepKind, at: DateTime<Utc>) -> Outcome {
    let domain_controllers = Vec::new();
    match kind {
        StepKind::Generate => Outcome::Generated {
            thumbprint: thumbprint('B'),
            not_before: at,
            not_after: at,
            adopted: false,
            certificate: None,
            exchange_publishes_at: None,
        },
        StepKind::Distribute => {
            Outcome::Distributed { thumbprint: thumbprint('B'), pfx: None, key: Key::Csp, already_present: true }
        }
        StepKind::Stage => Outcome::Staged { effective_at: at + TimeDelta::hours(49), domain_controllers },
        StepKind::Publish => {
            Outcome::Published { published_at: at, by: Publisher::Rekey, domain_controllers, lacking: Vec::new() }
        }
        _ => Outcome::not_done("played"),
    }
}

#[tokio::test]
async fn nothing_is_changed_after_what_comes_just_before_a_change_and_when_it_is_lifted_the_run_ends_right() {
    for database in each_database().await {
        for what in ALL {
            for before in CHANGES {
                inject_before(&database.db, what, before).await;
            }
        }
        database.drop().await;
    }
}

async fn inject_before(db: &Db, what: Injected, before: StepKind) {
    let (renewal, _) = planned(db).await;
    let mut play = Played { db, id: renewal.id, at: now(), changed: Vec::new() };
    play.decide_all(Verb::Approve).await;
    let step = play.go_on(Some(before)).await.unwrap();
    let so_far = play.changed.clone();
    play.inject(what).await;
    assert!(!play.intends(&step).await, "{what:?} before {before}");
    let published = so_far.contains(&StepKind::Publish);
    play.go_on(None).await;
    let after: Vec<_> = play.changed[so_far.len()..].to_vec();
    if what == Injected::CalledOff && !published {
        let back = |kind: &StepKind| matches!(kind, StepKind::ClearNext | StepKind::RemoveCertificate);
        assert!(after.iter().all(back), "before {before}: {after:?}");
        assert_eq!(play.status().await, "cancelled", "before {before}");
        return;
    }
    assert_eq!(after, [], "{what:?} before {before}");
    play.lift(what).await;
    play.go_on(None).await;
    assert_eq!(play.status().await, "succeeded", "{what:?} before {before}");
    assert_eq!(play.changed, CHANGES, "{what:?} before {before}");
}
