//! The approvals matrix: who must approve, who must not, and what becomes of approvals.

use chrono::{TimeDelta, Utc};
use domain::{Organization, Policy, TicketStanding, TicketWord};
use serde_json::{Value, json};

use crate::support::{ALICE, BOB, CAROL, OSCAR, Person, ROOT, Service, VERA, WORKER, id_of, organization};

const EVE: Person =
    Person { name: "eve@contoso.example", roles: &[api::Role::BreakGlass, api::Role::Requester, api::Role::Auditor] };

/// Contoso, with rules as they stand in a configuration.
fn under(policy: Value) -> Organization {
    let policy: Policy = serde_json::from_value(policy).unwrap();
    assert_eq!(policy.faults(), Vec::<String>::new());
    Organization { policy, ..organization("contoso") }
}

/// What is said in a row of the matrix.
enum Say {
    /// Somebody of these groups says it to the plan.
    As(Person, &'static [&'static str], &'static str, u16),
    /// So much time goes by, in hours.
    Later(i64),
    /// The ticket system says it.
    Ticket(TicketWord),
    /// The plan is made again, as it was or otherwise.
    Replan { changed: bool },
}
use Say::{As, Later, Replan, Ticket};

/// Plays a row on each database, and returns the status at its end with what is missing at the first gate.
async fn play(policy: Value, said: &[Say]) -> (String, Vec<String>) {
    let mut ends = Vec::new();
    for service in Service::start_each_under(&under(policy.clone())).await {
        ends.push(Box::pin(play_on(service, &policy, said)).await);
    }
    ends.dedup();
    assert_eq!(ends.len(), 1, "the databases differ: {ends:?}");
    ends.remove(0)
}

async fn play_on(service: Service, policy: &Value, said: &[Say]) -> (String, Vec<String>) {
    let url = service.raise().await;
    let mut digest = service.plan_under(&url, &under(policy.clone()), false).await.digest().to_string();
    let mut now = Utc::now();
    for say in said {
        match say {
            As(who, groups, verb, status) => {
                let body = json!({"gate": "execute", "verb": verb, "plan_digest": digest, "reason": "Looked at it"});
                service.post_as(*who, groups, &format!("{url}/decisions"), body).await.expect(*status);
            }
            Later(hours) => {
                now += TimeDelta::hours(*hours);
                service.db.write(async |tx| tx.settle(id_of(&url), WORKER, now).await).await.unwrap();
            }
            Ticket(word) => {
                let standing = TicketStanding { word: *word, detail: format!("{word}"), read_at: now };
                let said =
                    async |tx: &mut db::Tx| tx.ticket_said(id_of(&url), standing.clone(), "ticket:test", now).await;
                service.db.write(said).await.unwrap();
            }
            Replan { changed } => {
                service.post(OSCAR, &format!("{url}/replan"), json!({"reason": "Look again"})).await.expect(200);
                digest = service.plan_under(&url, &under(policy.clone()), *changed).await.digest().to_string();
            }
        }
    }
    let renewal = service.get(ALICE, &url).await.expect(200);
    let decisions = service.get(ALICE, &format!("{url}/decisions")).await.expect(200);
    let missing = decisions["gates"][0]["missing"].as_array().unwrap();
    let missing = missing.iter().map(|text| text.as_str().unwrap().to_owned()).collect();
    service.stop().await;
    (renewal["state"]["status"].as_str().unwrap().to_owned(), missing)
}

/// Its name, the policy, what is said, where that leaves the renewal, and what is missing.
type Case = (&'static str, Value, Vec<Say>, &'static str, &'static [&'static str]);

#[tokio::test]
async fn the_approvals_matrix() {
    let yes = |who, status| As(who, &[], "approve", status);
    let two = || json!({"execute_quorum": 2});
    let teams = || json!({"gates": {"execute": {"groups": [{"group": "mail", "approvals": 1}, {"group": "security", "approvals": 1}]}}});
    let aloof = || json!({"gates": {"execute": {"exclude": ["plan_author", "executor"]}}, "executors": [CAROL.name]});
    let timed = |then: &str| json!({"gates": {"execute": {"timeout_hours": 8, "on_timeout": then}}});
    let standard = || json!({"standard": {"ticket": "required", "gates": {"execute": {"quorum": 0}}}});
    let cases: Vec<Case> = vec![
        ("nobody", two(), vec![], "awaiting_approval", &["2 more approvals"]),
        ("one of two", two(), vec![yes(BOB, 201)], "awaiting_approval", &["one more approval"]),
        ("two of two", two(), vec![yes(BOB, 201), yes(CAROL, 201)], "running", &[]),
        (
            "the requester is refused",
            two(),
            vec![yes(ROOT, 201), yes(ALICE, 403)],
            "awaiting_approval",
            &["one more approval"],
        ),
        (
            "withdrawn",
            two(),
            vec![yes(BOB, 201), As(BOB, &[], "withdraw", 201), yes(CAROL, 201)],
            "awaiting_approval",
            &["one more approval"],
        ),
        ("rejected", two(), vec![As(BOB, &[], "reject", 201), yes(CAROL, 409)], "rejected", &[]),
        (
            "one team",
            teams(),
            vec![As(BOB, &["mail"], "approve", 201)],
            "awaiting_approval",
            &["one more approval of group security"],
        ),
        (
            "two teams",
            teams(),
            vec![As(BOB, &["mail"], "approve", 201), As(CAROL, &["security"], "approve", 201)],
            "running",
            &[],
        ),
        (
            "one person in two teams",
            teams(),
            vec![As(BOB, &["mail", "security"], "approve", 201)],
            "awaiting_approval",
            &["one more approval of group security"],
        ),
        ("a named executor", aloof(), vec![yes(CAROL, 403)], "awaiting_approval", &["one more approval"]),
        (
            "the plan is the same",
            two(),
            vec![yes(BOB, 201), Replan { changed: false }, yes(CAROL, 201)],
            "running",
            &[],
        ),
        (
            "the plan has changed",
            two(),
            vec![yes(BOB, 201), Replan { changed: true }, yes(CAROL, 201)],
            "awaiting_approval",
            &["one more approval"],
        ),
        ("it expires", timed("expire"), vec![Later(9), yes(BOB, 409)], "expired", &["one more approval"]),
        ("it is escalated and waits", timed("escalate"), vec![Later(9), Later(9), yes(BOB, 201)], "running", &[]),
        ("it waits", timed("wait"), vec![Later(9), yes(BOB, 201)], "running", &[]),
        (
            "the ticket voids it",
            two(),
            vec![yes(BOB, 201), Ticket(TicketWord::ApprovalVoided), yes(CAROL, 201)],
            "awaiting_approval",
            &["one more approval"],
        ),
        (
            "the ticket is called off",
            two(),
            vec![Ticket(TicketWord::Cancelled), yes(BOB, 409)],
            "cancelled",
            &["2 more approvals"],
        ),
        (
            "a normal change is not approved beforehand",
            standard(),
            vec![Ticket(TicketWord::Ready)],
            "awaiting_approval",
            &["one more approval"],
        ),
    ];
    for (name, policy, said, status, missing) in cases {
        assert_eq!(
            play(policy, &said).await,
            (status.to_owned(), missing.iter().map(|m| (*m).to_owned()).collect()),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_standard_change_is_approved_by_its_ticket_and_an_emergency_has_rules_of_its_own() {
    let rules = json!({
        "execute_quorum": 2,
        "standard": {"ticket": "required", "gates": {"execute": {"quorum": 0}}},
        "emergency": {"gates": {"execute": {"quorum": 1}}}
    });
    for service in Service::start_each_under(&under(rules.clone())).await {
        let asked = json!({"organization": "contoso", "change_type": "standard", "risk": "low"});
        let url = service.post(ALICE, "/v1/renewals", asked).await.header("location").to_owned();
        service.plan_under(&url, &under(rules.clone()), false).await;
        assert_eq!(service.get(ALICE, &url).await.expect(200)["state"]["status"], "awaiting_approval");
        let standing = TicketStanding { word: TicketWord::Ready, detail: "Implement".to_owned(), read_at: Utc::now() };
        service
            .db
            .write(async |tx| tx.ticket_said(id_of(&url), standing.clone(), "ticket:test", Utc::now()).await)
            .await
            .unwrap();
        assert_eq!(service.get(ALICE, &url).await.expect(200)["state"]["status"], "running");
        service.post(OSCAR, &format!("{url}/cancel"), json!({"reason": "Now for the other one"})).await.expect(200);
        let asked =
            json!({"organization": "contoso", "reason": "compromised", "change_type": "standard", "risk": "high"});
        let url = service.post(ALICE, "/v1/renewals", asked).await.header("location").to_owned();
        let digest = service.plan_under(&url, &under(rules.clone()), false).await.digest().to_string();
        let taken = service.decide(BOB, &url, "approve", &digest).await.expect(201);
        assert_eq!(taken["renewal"]["state"]["status"], "running");
        service.stop().await;
    }
}

#[tokio::test]
async fn broken_glass_needs_the_role_and_a_reason_and_leaves_a_review_to_somebody_else() {
    for service in Service::start_each_under(&under(json!({"execute_quorum": 3}))).await {
        let (url, digest) = service.planned().await;
        let broken = |reason: &str| json!({"gate": "execute", "verb": "approve", "plan_digest": digest, "reason": reason, "break_glass": true});
        let decisions = format!("{url}/decisions");
        let why = "The key was published and nobody else can be reached";
        service.post(ROOT, &decisions, broken(why)).await.problem(403, "forbidden");
        service.post(BOB, &decisions, broken(why)).await.problem(403, "forbidden");
        service.post(EVE, &decisions, broken("Urgent")).await.problem(422, "reason_too_short");
        service.decide(EVE, &url, "approve", &digest).await.problem(403, "forbidden");
        let taken = service.post(EVE, &decisions, broken(why)).await.expect(201);
        assert_eq!(
            (&taken["renewal"]["state"]["status"], &taken["renewal"]["open_reviews"]),
            (&json!("running"), &json!(1))
        );
        let reviews = service.get(VERA, &format!("{url}/reviews")).await.expect(200);
        let review = format!("{url}/reviews/{}", reviews["items"][0]["id"].as_str().unwrap());
        let finding = json!({"verdict": "justified", "finding": "Nobody else was on duty"});
        service.post(EVE, &review, finding.clone()).await.problem(403, "own_review");
        service.post(OSCAR, &review, finding.clone()).await.problem(403, "forbidden");
        assert_eq!(service.post(VERA, &review, finding.clone()).await.expect(200)["reviewed_by"], VERA.name);
        service.post(VERA, &review, finding.clone()).await.problem(409, "already_reviewed");
        assert_eq!(service.get(ALICE, &url).await.expect(200)["open_reviews"], 0);
        let audit = service.get(VERA, &format!("{url}/audit")).await.expect(200).to_string();
        assert!(audit.contains("gate.broken_glass") && audit.contains("gate.reviewed"), "{audit}");
        service.stop().await;
    }
}

#[tokio::test]
async fn who_breaks_the_glass_of_their_own_request_is_refused_unless_the_policy_lets_anyone() {
    for (policy, status) in
        [(json!({}), 403), (json!({"break_glass": "off"}), 403), (json!({"break_glass": "anyone"}), 201)]
    {
        for service in Service::start_each_under(&under(policy.clone())).await {
            let url = service
                .post(EVE, "/v1/renewals", json!({"organization": "contoso"}))
                .await
                .header("location")
                .to_owned();
            let digest = service.plan_under(&url, &under(policy.clone()), false).await.digest().to_string();
            let body = json!({"gate": "execute", "verb": "approve", "plan_digest": digest, "reason": "Nobody else can be reached tonight", "break_glass": true});
            service.post(EVE, &format!("{url}/decisions"), body).await.expect(status);
            service.stop().await;
        }
    }
}

#[tokio::test]
async fn of_a_decision_a_timer_and_a_cancellation_one_wins_and_the_others_hear_who() {
    for service in Service::start_on_each().await {
        let (url, digest) = service.planned().await;
        let (cancel, decisions) = (format!("{url}/cancel"), format!("{url}/decisions"));
        let yes = json!({"gate": "execute", "verb": "reject", "plan_digest": digest, "reason": "Not today"});
        let expire = async {
            let late = Utc::now() + TimeDelta::days(30);
            service.db.write(async |tx| tx.settle(id_of(&url), WORKER, late).await).await.unwrap();
        };
        let (said, cancelled, ()) = tokio::join!(
            service.post(BOB, &decisions, yes),
            service.post(OSCAR, &cancel, json!({"reason": "Not today"})),
            expire
        );
        let status = service.get(ALICE, &url).await.expect(200)["state"]["status"].clone();
        let won = [said.status == 201, cancelled.status == 200];
        assert!(won.iter().filter(|won| **won).count() <= 1, "{} {}", said.text, cancelled.text);
        assert_eq!(
            status,
            if won[0] {
                "rejected"
            } else if won[1] {
                "cancelled"
            } else {
                "expired"
            }
        );
        for lost in [said, cancelled].into_iter().filter(|answer| answer.status != 201 && answer.status != 200) {
            let problem = lost.expect(409);
            let by = &problem["won_by"];
            assert!([BOB.name, OSCAR.name, WORKER].contains(&by["actor"].as_str().unwrap()), "{problem}");
            assert!(
                by["at"].is_string() && problem["detail"].as_str().unwrap().contains(by["actor"].as_str().unwrap()),
                "{problem}"
            );
        }
        service.stop().await;
    }
}

#[tokio::test]
async fn a_start_that_is_too_late_is_refused_with_the_first_slot_or_marked() {
    let late = json!({"organization": "contoso", "not_before": Utc::now() + TimeDelta::days(44)});
    for (policy, refused) in [(json!({}), true), (json!({"infeasible": "accept_at_risk"}), false)] {
        for service in Service::start_each_under(&under(policy.clone())).await {
            service
                .db
                .write(async |tx| tx.insert_snapshot(None, db::Purpose::Check, &crate::support::snapshot()).await)
                .await
                .unwrap();
            let answer = service.post(ALICE, "/v1/renewals", late.clone()).await;
            if refused {
                let problem = answer.problem(422, "not_feasible");
                assert!(
                    problem["first_feasible_slot"].is_string() && problem["latest_safe_start"].is_string(),
                    "{problem}"
                );
            } else {
                assert!(answer.expect(202)["at_risk"]["latest_safe_start"].is_string());
                let url = answer.header("location").to_owned();
                let plan = service.plan_under(&url, &under(policy.clone()), false).await;
                assert!(plan.findings.iter().any(|finding| finding.code == "at_risk"), "{:?}", plan.findings);
                assert!(service.get(ALICE, &url).await.expect(200)["at_risk"].is_object());
            }
            service.stop().await;
        }
    }
}
