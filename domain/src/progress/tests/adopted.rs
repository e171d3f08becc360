//! Runs that take over a certificate whose date somebody else has set.

use super::*;
use crate::{Reason, plan::CertificateSource, planning::hybrid::tests::by_hand};

fn adopting(mut plan: Plan) -> Play {
    plan.certificate =
        CertificateSource::Adopt { thumbprint: thumbprint('B'), from: "ex01.contoso.example".to_owned() };
    Play::of(plan)
}

fn hybrid(reason: Reason) -> Play {
    let (organization, mut request, snapshot) = by_hand();
    request.reason = reason;
    adopting(planning::plan(&organization, &request, &snapshot, now()).unwrap())
}

/// Takes the certificate over: Exchange publishes it in so many hours.
fn take_over(play: &mut Play, hours: i64) {
    play.decide(Gate::Execute, Verb::Approve);
    let date = play.now + TimeDelta::hours(hours);
    let generate = play.step(StepKind::Generate, "");
    (generate.status, generate.attempt) = (StepStatus::Succeeded, 1);
    generate.outcome = Some(Box::new(Outcome::Generated {
        thumbprint: thumbprint('B'),
        not_before: date,
        not_after: date,
        adopted: true,
        certificate: None,
        exchange_publishes_at: Some(date),
    }));
    play.settle();
}

/// When the date is looked after next, and whether that is all that a worker may do.
fn guarded(play: &mut Play) -> (Option<DateTime<Utc>>, Permit) {
    let state = play.renewal.state.clone();
    let publish = play.step(StepKind::Publish, "");
    (publish.due_at.filter(|_| publish.status == StepStatus::Ready), permit(&state, publish))
}

#[test]
fn its_date_is_looked_after_while_servers_and_the_cloud_get_its_key() {
    let mut play = hybrid(Reason::Expiring);
    take_over(&mut play, 49);
    let in_time = Some(now() + TimeDelta::hours(47));
    assert_eq!(play.renewal.state, State::Running { phase: Phase::Distribute });
    assert_eq!(guarded(&mut play), (in_time, Permit::Guard));
    play.drain();
    assert_eq!(play.renewal.state.open_gate(), Some(Gate::TrustCloud));
    assert_eq!(guarded(&mut play), (in_time, Permit::Guard));
    play.apply_event(Event::Pause { by: "olga".to_owned(), reason: "lunch".to_owned() });
    assert_eq!(guarded(&mut play), (in_time, Permit::Guard));
    play.apply_event(Event::Resume);
    for gate in [Gate::TrustCloud, Gate::Publish, Gate::ClearPrevious] {
        play.decide(gate, Verb::Approve);
        play.drain();
    }
    assert_eq!(play.renewal.state.status(), "succeeded", "{:?}", play.log);
}

#[test]
fn a_certificate_of_the_run_itself_has_no_date_before_it_is_staged() {
    let mut play = Play::new(|_| {});
    play.decide(Gate::Execute, Verb::Approve);
    while play.renewal.state.phase().is_some_and(|phase| phase < Phase::Stage) {
        assert_eq!(guarded(&mut play).0, None);
        let index = play.ready()[0];
        play.finish(index);
    }
}

#[test]
fn its_date_is_looked_after_when_it_cannot_be_taken_over_or_the_run_is_paused_before() {
    let mut play = hybrid(Reason::Expiring);
    play.decide(Gate::Execute, Verb::Approve);
    assert_eq!(guarded(&mut play).0, None);
    play.fail(StepKind::Generate, "", "server_unreachable", StepStatus::Ready);
    assert_eq!(guarded(&mut play), (Some(now()), Permit::Guard));

    let mut play = hybrid(Reason::Expiring);
    play.decide(Gate::Execute, Verb::Approve);
    play.apply_event(Event::Pause { by: "olga".to_owned(), reason: "lunch".to_owned() });
    assert_eq!(guarded(&mut play), (Some(now()), Permit::Guard));
}

#[test]
fn an_emergency_does_not_wait_for_the_next_look_at_the_date() {
    let mut play = hybrid(Reason::Compromised);
    take_over(&mut play, 24);
    // A worker has looked, and looks again two hours before the date.
    play.step(StepKind::Publish, "").attempt = 1;
    play.drain();
    for gate in [Gate::TrustCloud, Gate::Publish] {
        play.decide(gate, Verb::Approve);
        play.drain();
    }
    assert!(play.log.contains(&"publish:".to_owned()), "{:?}", play.log);
    assert_eq!(play.now, now());
}

#[test]
fn what_exchange_has_published_meanwhile_is_not_waited_for_and_goes_its_way_to_every_server() {
    let mut play = hybrid(Reason::Expiring);
    take_over(&mut play, 49);
    let publish = play.steps.iter().position(|step| step.kind == StepKind::Publish).unwrap();
    play.finish(publish);
    play.drain();
    for gate in [Gate::TrustCloud, Gate::Publish, Gate::ClearPrevious] {
        assert_eq!(play.renewal.state.open_gate(), Some(gate), "{:?}", play.log);
        play.decide(gate, Verb::Approve);
        play.drain();
    }
    assert_eq!(play.renewal.state.status(), "succeeded", "{:?}", play.log);
    assert!(cancel_path(&play.steps).is_err());
}
