//! Runs of hybrid organizations: their phases, their gate, and how long the new key is kept.

use db::{SealedKey, StepEnd};
use domain::{Decision, Gate, Outcome, Phase, RenewalId, State, StepKind, gate::Verb, snapshot::Key, step::Publisher};

use crate::support::{WORKER, claim, decision, hybrid_approved, minutes, now, on_both, thumbprint};

fn outcome(kind: StepKind) -> Outcome {
    let domain_controllers = Vec::new();
    match kind {
        StepKind::Generate => Outcome::Generated {
            thumbprint: thumbprint('B'),
            not_before: now(),
            not_after: minutes(1000),
            adopted: false,
            certificate: Some("MIIB".to_owned()),
            exchange_publishes_at: None,
        },
        StepKind::Distribute => {
            Outcome::Distributed { thumbprint: thumbprint('B'), pfx: None, key: Key::Csp, already_present: false }
        }
        StepKind::TrustCloud => Outcome::TrustedCloud {
            key_id: None,
            thumbprint: thumbprint('B'),
            kept: Vec::new(),
            accepted: None,
            confirmed_by: None,
        },
        StepKind::Stage => Outcome::Staged { effective_at: now(), domain_controllers },
        StepKind::Publish => {
            Outcome::Published { published_at: now(), by: Publisher::Rekey, domain_controllers, lacking: Vec::new() }
        }
        StepKind::RefreshHybrid => Outcome::RefreshedHybrid { corrected: Vec::new(), evidence: Vec::new() },
        StepKind::PruneCloud => Outcome::PrunedCloud { removed: vec!["key-of-a".to_owned()], already_gone: false },
        _ => Outcome::not_done("played"),
    }
}

/// Takes every step that comes, and says yes at every gate that opens, until the renewal is over.
async fn finish(db: &db::Db, id: RenewalId) -> String {
    let (mut told, mut at) = (Vec::new(), now());
    loop {
        let run = db.read(async |tx| tx.load_run(id).await).await.unwrap();
        if let Some(gate) = run.renewal.state.open_gate() {
            told.push(format!("gate:{gate}"));
            let yes = Decision { gate, ..decision(id, run.plan.as_deref().unwrap(), Verb::Approve) };
            db.write(async |tx| tx.decide(&yes, None, at).await).await.unwrap();
        } else if !run.renewal.state.is_live() {
            assert_eq!(run.renewal.state.status(), "succeeded");
            return told.join(" ");
        }
        if let Some(step) = claim(db, at).await {
            told.push(step.step.kind.to_string());
            let end = StepEnd::Done(outcome(step.step.kind));
            db.write(async |tx| tx.finish_step(&step, WORKER, &end, at).await).await.unwrap();
        } else if let Some(due) = db.read(async |tx| tx.next_due(at).await).await.unwrap() {
            at = due;
        }
    }
}

#[tokio::test]
async fn a_hybrid_run_is_stored_phase_by_phase() {
    on_both(async |db| {
        let (renewal, _) = hybrid_approved(&db, false).await;
        assert_eq!(
            finish(&db, renewal.id).await,
            "generate distribute trust_cloud stage gate:publish publish restart refresh_hybrid soak gate:clear_previous clear_previous prune_cloud prune close"
        );
        let run = db.read(async |tx| tx.load_run(renewal.id).await).await.unwrap();
        let trusted = run.steps.iter().find(|step| step.phase == Phase::TrustCloud).unwrap();
        assert!(matches!(trusted.outcome.as_deref(), Some(Outcome::TrustedCloud { .. })));
        let phases = db.read(async |tx| tx.progress(renewal.id).await).await.unwrap();
        assert!(phases.iter().any(|phase| phase.phase == Phase::RefreshHybrid && phase.done == 1));
    })
    .await;
}

#[tokio::test]
async fn what_a_person_does_in_the_cloud_is_confirmed_at_a_gate_of_its_own() {
    on_both(async |db| {
        let (renewal, _) = hybrid_approved(&db, true).await;
        assert!(finish(&db, renewal.id).await.starts_with("generate distribute gate:trust_cloud trust_cloud stage"));
        let decisions = db.read(async |tx| tx.decisions(renewal.id).await).await.unwrap();
        assert!(decisions.iter().any(|decision| decision.gate == Gate::TrustCloud));
    })
    .await;
}

#[tokio::test]
async fn a_gate_that_the_plan_does_not_have_is_not_decided_on() {
    on_both(async |db| {
        let (renewal, plan) = hybrid_approved(&db, false).await;
        let yes = Decision { gate: Gate::TrustCloud, ..decision(renewal.id, &plan, Verb::Approve) };
        let refused = db.write(async |tx| tx.decide(&yes, None, now()).await).await;
        assert!(matches!(&refused, Err(db::Error::Refused(trouble)) if trouble.code == "no_such_gate"), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn the_new_key_is_kept_until_the_cloud_has_accepted_it() {
    on_both(async |db| {
        for by_hand in [false, true] {
            let (renewal, _) = hybrid_approved(&db, by_hand).await;
            let key = SealedKey { thumbprint: thumbprint('B'), sealed: vec![7] };
            db.write(async |tx| tx.insert_sealed_key(renewal.id, &key, now()).await).await.unwrap();
            let kept = async || db.read(async |tx| tx.sealed_key(renewal.id).await).await.unwrap().is_some();
            while kept().await {
                let step = claim(&db, now()).await.unwrap();
                let end = StepEnd::Done(outcome(step.step.kind));
                db.write(async |tx| tx.finish_step(&step, WORKER, &end, now()).await).await.unwrap();
                let last = if by_hand { StepKind::Distribute } else { StepKind::TrustCloud };
                assert_eq!(kept().await, step.step.kind != last, "{}", step.step.kind);
            }
            let cancelled =
                db.write(async |tx| tx.cancel(renewal.id, None, "oscar", "stop", now()).await).await.unwrap();
            assert_eq!(cancelled.state, State::Running { phase: Phase::Undo });
            while let Some(step) = claim(&db, now()).await {
                let end = StepEnd::Done(Outcome::not_done("played"));
                db.write(async |tx| tx.finish_step(&step, WORKER, &end, now()).await).await.unwrap();
            }
            let renewal = db.read(async |tx| tx.renewal(renewal.id).await).await.unwrap();
            assert_eq!(renewal.state.status(), "cancelled");
        }
    })
    .await;
}
