use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::{RenewalId, Request, Ticket};

fn now() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-11-23T10:00:00Z").unwrap().to_utc()
}

fn renewal(state: State) -> Renewal {
    let request = Request::of(OrganizationId::parse("contoso").unwrap());
    let asked = Renewal::requested(RenewalId(Uuid::from_u128(7)), "alice", request, now());
    Renewal { state, plan_digest: Some(Digest::of(b"plan")), version: 3, ..asked }
}

/// The record of a change of the state, as it is written.
fn change(from: &State, to: &State) -> NewAudit {
    let action = match to.status() {
        "running" => "renewal.running",
        "waiting" => "renewal.waiting",
        "soaking" => "renewal.soaking",
        "awaiting_approval" => "renewal.awaiting_approval",
        "paused" => "renewal.paused",
        "succeeded" => "renewal.succeeded",
        "planning" => "renewal.planning",
        "requested" => "renewal.requested",
        other => panic!("{other}"),
    };
    let mut detail = json!({ "from": from.status(), "state": to });
    if let Some(phase) = from.phase() {
        detail["from_phase"] = json!(phase);
    }
    NewAudit::new("worker:1", action, detail)
}

/// The words of what is announced of a run through these states, each written by itself.
fn words(states: &[State]) -> Vec<&'static str> {
    let of = |pair: &[State]| {
        let (renewal, new) = (renewal(pair[1].clone()), change(&pair[0], &pair[1]));
        announced([(Some(&renewal), &new)]).into_iter().map(|announced| announced.news.word()).collect::<Vec<_>>()
    };
    states.windows(2).flat_map(of).collect()
}

fn running(phase: Phase) -> State {
    State::Running { phase }
}

fn waiting(phase: Phase, reason: Wait) -> State {
    State::Waiting { phase, reason }
}

fn trouble() -> Trouble {
    Trouble::new("server_unreachable", "ex03 does not answer", "Start it")
}

fn at_gate(gate: Gate) -> State {
    State::AwaitingApproval { gate, digest: Digest::of(b"plan"), since: now(), escalated_at: None }
}

#[test]
fn a_phase_is_told_once_however_often_it_is_tried() {
    let retry = || waiting(Phase::Distribute, Wait::Retry { target: "ex03".to_owned(), trouble: trouble() });
    let states = [
        at_gate(Gate::Execute),
        running(Phase::Generate),
        running(Phase::Distribute),
        retry(),
        running(Phase::Distribute),
        retry(),
        running(Phase::Stage),
    ];
    assert_eq!(words(&states), ["renewal.phase_began"; 3]);
}

#[test]
fn a_wait_for_a_person_is_told_each_time_with_what_to_do() {
    let attention = || waiting(Phase::Publish, Wait::Attention { target: String::new(), trouble: trouble() });
    let states = [at_gate(Gate::Publish), attention(), running(Phase::Publish), attention()];
    assert_eq!(words(&states), ["renewal.needs_attention"; 2]);
}

#[test]
fn a_pause_and_its_end_are_told_and_nothing_else_begins_with_it() {
    for was in [State::Requested, running(Phase::Distribute), at_gate(Gate::Publish)] {
        let paused =
            State::Paused { was: Box::new(was.clone()), by: "olga".to_owned(), reason: "wait".to_owned(), at: now() };
        assert_eq!(words(&[was.clone(), paused, was]), ["renewal.paused", "renewal.resumed"]);
    }
}

#[test]
fn a_gate_that_is_passed_at_once_asks_nobody() {
    let (before, gate, after) = (running(Phase::Stage), at_gate(Gate::Publish), running(Phase::Publish));
    let (reached, passed) = (change(&before, &gate), change(&gate, &after));
    let renewal = renewal(after);
    let told = |entries: &[&NewAudit]| {
        let entries = entries.iter().map(|entry| (Some(&renewal), *entry));
        announced(entries).into_iter().map(|announced| (announced.entry, announced.news.word())).collect::<Vec<_>>()
    };
    assert_eq!(told(&[&reached]), [(0, "renewal.awaiting_approval")]);
    assert_eq!(told(&[&reached, &passed]), [(1, "renewal.phase_began")]);
}

#[test]
fn a_phase_that_was_held_before_it_began_is_told_when_it_does() {
    let wait = Wait::TicketNotReady { detail: "state Assess (-4)".to_owned() };
    let (held, begun) = (waiting(Phase::Generate, wait), running(Phase::Generate));
    assert_eq!(words(&[at_gate(Gate::Execute), held.clone()]), ["renewal.waiting"]);
    assert_eq!(words(&[held.clone(), begun.clone()]), [""; 0], "in the middle of it nothing begins");
    let mut at_last = change(&held, &begun);
    at_last.detail["began"] = json!(true);
    let told = announced([(Some(&renewal(begun)), &at_last)]);
    assert_eq!(told.iter().map(|one| one.news.word()).collect::<Vec<_>>(), ["renewal.phase_began"]);
}

#[test]
fn what_steps_do_is_not_told() {
    let renewal = renewal(running(Phase::Distribute));
    let of = |action| NewAudit::new("worker:1", action, json!({ "state": renewal.state }));
    for action in
        ["step.started", "step.succeeded", "step.needs_attention", "cmdlet.intended", "key.destroyed", "plan.made"]
    {
        assert_eq!(announced([(Some(&renewal), &of(action))]), [], "{action}");
    }
    for action in ["renewal.remarked", "renewal.retried", "renewal.cancel_asked"] {
        let new = NewAudit::new("olga", action, json!({ "reason": "why" }));
        assert_eq!(announced([(Some(&renewal), &new)]), [], "{action}");
    }
}

#[test]
fn every_word_of_a_filter_is_one_that_is_told() {
    let said = || Said {
        gate: Gate::Execute,
        plan_digest: Digest::of(b"plan"),
        by: "bob".to_owned(),
        reason: "read".to_owned(),
    };
    let all = every_news(said);
    let words: Vec<&str> = all.iter().map(News::word).collect();
    assert_eq!(words, News::WORDS);
    for news in all {
        let json = serde_json::to_value(&news).unwrap();
        assert_eq!(json["event"], news.word());
        assert_eq!(serde_json::from_value::<News>(json).unwrap(), news);
    }
}

fn every_news(said: impl Fn() -> Said) -> Vec<News> {
    let (by, reason) = ("bob".to_owned(), "read".to_owned());
    vec![
        News::Requested,
        News::AwaitingApproval { gate: Gate::Execute, plan_digest: Digest::of(b"plan"), ended: Some(Phase::Preflight) },
        News::Approved(said()),
        News::DecisionRejected(said()),
        News::Withdrawn(said()),
        News::Escalated { why: "late".to_owned() },
        News::BreakGlass { by: by.clone(), reason: reason.clone() },
        News::TicketChanged { why: "on hold".to_owned() },
        News::Scheduled { until: now() },
        News::PhaseBegan { phase: Phase::Stage, ended: Some(Phase::Distribute) },
        News::Waiting { phase: Phase::Publish, reason: Wait::EffectiveDate { until: now() } },
        News::NeedsAttention { phase: Phase::Publish, target: "ex03".to_owned(), trouble: trouble() },
        News::Paused { by: by.clone(), reason: reason.clone() },
        News::Resumed { by: by.clone() },
        News::Succeeded,
        News::Rejected { by, reason },
        News::Expired,
        News::Cancelled,
        News::Failed { trouble: trouble() },
        News::RolledBack,
    ]
}

fn announcement(news: News) -> Announcement {
    let mut renewal = renewal(at_gate(Gate::Execute));
    renewal.request.ticket = Some(Ticket {
        system: "servicenow".to_owned(),
        number: "CHG0030022\r\nBcc: eve@evil.example".to_owned(),
        sys_id: Some("0f4a".to_owned()),
        url: Some("https://acme.service-now.com/x".to_owned()),
    });
    Announcement {
        id: Uuid::nil(),
        stream: renewal.id.0,
        sequence: 4,
        at: now(),
        actor: "alice".to_owned(),
        organization_id: Some(renewal.organization_id.clone()),
        news,
        renewal: Some(renewal),
    }
}

#[test]
fn an_approver_reads_what_to_do_and_where() {
    let digest = Digest::of(b"plan");
    let news = News::AwaitingApproval { gate: Gate::Execute, plan_digest: digest.clone(), ended: None };
    let announcement = announcement(news);
    assert_eq!(announcement.subject(), "servicenow:0f4a");
    let text = announcement.text(&PublicUrl::parse("https://rekey.contoso.example/").unwrap());
    assert_eq!(text.title, "contoso: approval needed (execute)");
    assert!(text.action.unwrap().contains(digest.as_str()));
    let plan = text.links.iter().find(|link| link.label == "Plan").unwrap();
    assert_eq!(plan.url, format!("https://rekey.contoso.example/v1/renewals/{}/plan", Uuid::from_u128(7)));
    assert!(text.facts.contains(&("Ticket", "CHG0030022 Bcc: eve@evil.example".to_owned())), "{:?}", text.facts);
}

#[test]
fn whatever_is_told_has_a_title_of_one_line() {
    let said = || Said {
        gate: Gate::Execute,
        plan_digest: Digest::of(b"plan"),
        by: "bob\r\nBcc: eve".to_owned(),
        reason: "two\nlines\u{0}\u{1b}[31m".to_owned(),
    };
    let base = PublicUrl::parse("http://127.0.0.1:8080").unwrap();
    for news in every_news(said).into_iter().chain([News::Test]) {
        let text = announcement(news.clone()).text(&base);
        assert!(!text.title.chars().any(char::is_control) && text.title.len() > 10, "{text:?}");
        assert!(!text.message.is_empty() && !text.message.contains(['\r', '\0', '\u{1b}']), "{text:?}");
        assert_eq!(text.action.is_some(), news.needs_somebody() || matches!(news, News::Expired | News::Failed { .. }));
    }
}

#[test]
fn links_begin_with_a_url() {
    for bad in [
        "",
        "rekey",
        "ftp://a",
        "https://",
        "https:///x",
        "https://a b",
        "https://a/?x",
        "https://u@a",
        "javascript:alert(1)",
    ] {
        assert!(PublicUrl::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(PublicUrl::parse("https://a.example:8443/rekey/").unwrap().as_str(), "https://a.example:8443/rekey");
}
