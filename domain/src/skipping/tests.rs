use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::{
    Phase, Plan, Renewal, RenewalId, State, StepId,
    planning::{
        self,
        tests::{now, organization, request, snapshot},
    },
};

/// A run with one step of each of these kinds, of ordinals 1, 2, …
fn on_run<T>(steps: &[(StepKind, StepStatus, i32)], ask: impl FnOnce(Run<'_>) -> T) -> T {
    let plan: Plan = planning::plan(&organization(), &request(), &snapshot(), now()).unwrap();
    let renewal = Renewal {
        state: State::Running { phase: Phase::Prune },
        plan_digest: Some(plan.digest()),
        ..Renewal::requested(RenewalId(Uuid::nil()), "alice", request(), now())
    };
    let step = |(ordinal, (kind, status, failures)): (i32, &(StepKind, StepStatus, i32))| Step {
        id: StepId(Uuid::now_v7()),
        renewal_id: renewal.id,
        ordinal,
        phase: Phase::Prune,
        kind: *kind,
        target: "ex03.contoso.example".to_owned(),
        site: "Lisbon".to_owned(),
        status: *status,
        attempt: 1,
        failures: *failures,
        due_at: None,
        trouble: None,
        outcome: None,
        started_at: None,
        finished_at: None,
    };
    let steps: Vec<Arc<Step>> = (1..).zip(steps).map(step).map(Arc::new).collect();
    ask(Run { renewal: &renewal, plan: Some(&plan), steps: &steps, decisions: &[] })
}

/// What may be skipped, or the code of what stands against it.
fn skippable(steps: &[(StepKind, StepStatus, i32)], ordinals: Option<&[i32]>) -> Result<Vec<i32>, String> {
    on_run(steps, |run| {
        let found = run.skippable(ordinals).map_err(|trouble| trouble.code)?;
        Ok(found.into_iter().map(|step| step.ordinal).collect())
    })
}

#[test]
fn a_removal_that_needs_a_person_or_fails_again_and_again_may_be_skipped() {
    use StepStatus::{Attention, Pending, Ready, Running, Skipped, Succeeded};
    let refused = |code: &str| Err(code.to_owned());
    for kind in [
        StepKind::Prune,
        StepKind::PruneCloud,
        StepKind::PurgeSharedPrincipal,
        StepKind::RemoveCertificate,
        StepKind::RemoveCloudKey,
    ] {
        for (status, failures, outcome) in [
            (Attention, 0, Ok(vec![1])),
            (Ready, 3, Ok(vec![1])),
            (Running, 3, Ok(vec![1])),
            (Ready, 0, refused("nothing_to_skip")),
            (Running, 0, refused("nothing_to_skip")),
            (Pending, 0, refused("nothing_to_skip")),
            (Succeeded, 0, refused("nothing_to_skip")),
            (Skipped, 0, refused("nothing_to_skip")),
        ] {
            assert_eq!(skippable(&[(kind, status, failures)], None), outcome, "{kind} {status:?} {failures}");
        }
    }
}

#[test]
fn nothing_that_trust_depends_on_may_be_skipped_and_people_hear_what_to_do_instead() {
    use StepKind::{
        ClearNext, ClearPrevious, Close, Distribute, Generate, Preflight, Publish, RefreshHybrid, Restart,
        RestorePrevious, Soak, Stage, TrustCloud,
    };
    let kinds = [
        Preflight,
        Generate,
        Distribute,
        Stage,
        Publish,
        Restart,
        Soak,
        ClearPrevious,
        Close,
        RestorePrevious,
        ClearNext,
        TrustCloud,
        RefreshHybrid,
    ];
    for kind in kinds {
        let refused = on_run(&[(kind, StepStatus::Attention, 1)], |run| run.skippable(None).unwrap_err());
        assert_eq!(refused.code, "not_skippable", "{kind}");
        assert!(refused.message.contains(kind.as_str()) && refused.action.contains("retry"), "{refused}");
    }
}

#[test]
fn steps_that_are_named_must_all_be_there_have_failed_and_be_skippable() {
    use StepStatus::{Attention, Pending};
    let steps = [
        (StepKind::Prune, Attention, 1),
        (StepKind::Prune, Pending, 0),
        (StepKind::Prune, Attention, 1),
        (StepKind::Close, Attention, 1),
    ];
    let refused = |code: &str| Err(code.to_owned());
    for (ordinals, outcome) in [
        (None, Ok(vec![1, 3])),
        (Some([3].as_slice()), Ok(vec![3])),
        (Some(&[1, 3]), Ok(vec![1, 3])),
        (Some(&[1, 2]), refused("step_not_failed")),
        (Some(&[1, 4]), refused("not_skippable")),
        (Some(&[9]), refused("no_such_step")),
        (Some(&[]), refused("nothing_to_skip")),
    ] {
        assert_eq!(skippable(&steps, ordinals), outcome, "{ordinals:?}");
    }
}

#[test]
fn the_record_of_a_skipped_step_says_who_why_and_what_is_left() {
    let outcome = on_run(&[(StepKind::Prune, StepStatus::Attention, 1)], |run| {
        run.skipped_by(&run.steps[0], "oscar", "Its disk is broken.")
    });
    let of_the_cloud = on_run(&[(StepKind::PruneCloud, StepStatus::Attention, 1)], |run| {
        run.skipped_by(&run.steps[0], "oscar", "Graph is down")
    });
    let Outcome::NotDone { reason, .. } = of_the_cloud else { panic!("{of_the_cloud:?}") };
    assert!(reason.contains("AAAA was left registered in the dedicated application; the plan of the next"), "{reason}");
    let Outcome::NotDone { reason, by } = outcome else { panic!("{outcome:?}") };
    assert_eq!(by.as_deref(), Some("oscar"));
    let old = "A".repeat(40);
    assert_eq!(reason, format!("Its disk is broken. Certificate {old} was left on ex03.contoso.example"));
}
