//! The verbs of an operator.

use db::StepEnd;
use domain::Trouble;
use reqwest::{Method, header};
use serde_json::json;

use crate::support::{ALICE, Answer, BOB, OSCAR, ROOT, Service, VERA};

#[tokio::test]
async fn a_renewal_can_be_held_let_go_and_stopped() {
    let service = Service::start().await;
    let (url, _) = service.planned().await;
    let why = json!({"reason": "The change window was withdrawn"});
    let held = service.post(OSCAR, &format!("{url}/pause"), why.clone()).await.expect(200);
    assert_eq!(held["state"]["status"], "paused");
    assert_eq!(held["state"]["by"], OSCAR.name);
    service.post(OSCAR, &format!("{url}/pause"), why.clone()).await.problem(409, "not_possible_now");
    let resumed =
        Answer::of(service.request(OSCAR, Method::POST, &format!("{url}/resume")).send().await.unwrap()).await;
    assert_eq!(resumed.expect(200)["state"]["status"], "awaiting_approval");
    service.post(OSCAR, &format!("{url}/resume"), json!({})).await.problem(409, "not_possible_now");
    let over = service.post(OSCAR, &format!("{url}/cancel"), why.clone()).await.expect(200);
    assert_eq!(over["state"]["status"], "cancelled");
    service.post(OSCAR, &format!("{url}/cancel"), why).await.problem(409, "not_possible_now");
    service.stop().await;
}

#[tokio::test]
async fn rollback_is_for_what_is_published() {
    let service = Service::start().await;
    let (url, _) = service.planned().await;
    let problem = service
        .post(OSCAR, &format!("{url}/rollback"), json!({"reason": "Complaints"}))
        .await
        .problem(409, "not_published");
    assert!(problem["action"].as_str().unwrap().contains("cancel"));
    service.stop().await;
}

#[tokio::test]
async fn a_step_that_failed_is_retried_with_a_remark() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    service.post(OSCAR, &format!("{url}/retry"), json!({})).await.problem(409, "nothing_to_retry");
    service.decide(BOB, &url, "approve", &digest).await.expect(201);
    let step = service.claim().await;
    service
        .finish(&step, StepEnd::Attention(Trouble::new("disk_full", "The disk is full", "Make room, then retry")))
        .await;
    let waiting = service.get(ALICE, &url).await.expect(200);
    assert_eq!(waiting["state"]["reason"]["trouble"]["action"], "Make room, then retry");
    let retried = service.post(OSCAR, &format!("{url}/retry"), json!({"reason": "Made room"})).await.expect(200);
    assert_eq!(retried["state"], json!({"status": "running", "phase": "generate"}));
    let audit = service.get(VERA, &format!("{url}/audit")).await.expect(200);
    let last = audit["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&last["action"], &last["detail"]),
        (&json!("renewal.remarked"), &json!({"verb": "retry", "reason": "Made room"}))
    );
    service.stop().await;
}

#[tokio::test]
async fn a_removal_from_a_server_that_is_gone_is_skipped_and_nothing_else_can_be() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    let path = format!("{url}/skip");
    let why = json!({"reason": "ex01 was scrapped"});
    service.post(OSCAR, &path, why.clone()).await.problem(409, "nothing_to_skip");
    service.decide(BOB, &url, "approve", &digest).await.expect(201);
    service.generate().await;
    let down = Trouble::new("access_denied", "The server refuses the account", "Give it its roles back");
    let imports = [service.claim().await, service.claim().await];
    for import in &imports {
        service.finish(import, StepEnd::Attention(down.clone())).await;
    }
    let refused = service.post(OSCAR, &path, why.clone()).await.problem(409, "not_skippable");
    assert!(refused["detail"].as_str().unwrap().contains("distribute on ex01.contoso.example"), "{refused}");
    assert!(refused["action"].as_str().unwrap().contains("allow_absent"), "{refused}");
    service.post(OSCAR, &format!("{url}/cancel"), why.clone()).await.expect(200);
    for _ in &imports {
        let undo = service.claim().await;
        service.finish(&undo, StepEnd::Attention(down.clone())).await;
    }
    let steps = service.get(VERA, &format!("{url}/steps")).await.expect(200);
    let failed = steps["items"].as_array().unwrap().iter().filter(|step| step["kind"] == "remove_certificate");
    let ordinals: Vec<_> = failed.map(|step| step["ordinal"].clone()).collect();
    let named = |ordinal: &serde_json::Value| json!({"reason": "ex01 was scrapped", "steps": [ordinal]});
    service.post(OSCAR, &path, named(&json!(99))).await.problem(409, "no_such_step");
    service.post(OSCAR, &path, named(&json!(1))).await.problem(409, "step_not_failed");
    let waiting = service.post(OSCAR, &path, named(&ordinals[0])).await.expect(200);
    assert_eq!(waiting["state"]["status"], "waiting", "the other one still needs a person");
    let over = service.post(OSCAR, &path, why.clone()).await.expect(200);
    assert_eq!(over["state"]["status"], "cancelled");
    let steps = service.get(VERA, &format!("{url}/steps")).await.expect(200);
    let skipped =
        steps["items"].as_array().unwrap().iter().find(|step| step["ordinal"] == ordinals[0]).unwrap().clone();
    assert_eq!((&skipped["status"], &skipped["outcome"]["by"]), (&json!("skipped"), &json!(OSCAR.name)));
    service.post(OSCAR, &path, why).await.problem(409, "not_possible_now");
    service.stop().await;
}

#[tokio::test]
async fn the_verbs_need_an_operator_a_reason_and_the_version_that_was_seen() {
    let service = Service::start().await;
    let (url, _) = service.planned().await;
    for verb in ["cancel", "pause", "rollback", "resume", "retry", "skip"] {
        let path = format!("{url}/{verb}");
        for who in [ALICE, BOB, VERA] {
            service.post(who, &path, json!({"reason": "Because"})).await.problem(403, "forbidden");
        }
        let request = service.request(OSCAR, Method::POST, &path).header(header::IF_MATCH, "\"1\"");
        Answer::of(request.json(&json!({"reason": "Because"})).send().await.unwrap())
            .await
            .problem(412, "stale_version");
        service.post(OSCAR, &path, json!({"reason": ""})).await.problem(422, "invalid_request");
        service.post(OSCAR, &path, json!({"why": "Because"})).await.problem(422, "invalid_request");
    }
    for verb in ["cancel", "pause", "rollback", "skip"] {
        let problem = service.post(OSCAR, &format!("{url}/{verb}"), json!({})).await.problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], "/reason");
    }
    service.post(ROOT, &format!("{url}/pause"), json!({"reason": "Because"})).await.expect(200);
    service.stop().await;
}

#[tokio::test]
async fn a_reason_with_a_nul_is_refused_with_its_place_and_changes_nothing() {
    for service in Service::start_on_each().await {
        let (url, digest) = service.planned().await;
        let reason = "Looked\0at it";
        let decision = json!({"gate": "execute", "verb": "approve", "plan_digest": digest, "reason": reason});
        let asked = [
            (BOB, "decisions", decision),
            (OSCAR, "pause", json!({"reason": reason})),
            (OSCAR, "replan", json!({"reason": reason})),
            (OSCAR, "cancel", json!({"reason": reason})),
        ];
        for (who, what, body) in asked {
            let problem = service.post(who, &format!("{url}/{what}"), body).await.problem(422, "invalid_request");
            let detail = "holds a NUL character, which cannot be stored";
            assert_eq!(problem["errors"], json!([{"pointer": "/reason", "detail": detail}]), "{what}");
        }
        assert_eq!(service.get(ALICE, &url).await.expect(200)["state"]["status"], "awaiting_approval");
        service.stop().await;
    }
}
