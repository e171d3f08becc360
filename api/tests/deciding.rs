//! Deciding at gates.

use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::support::{ALICE, Answer, BOB, CAROL, NOBODY, OSCAR, ROOT, Service, VERA};

#[tokio::test]
async fn an_approval_of_the_current_plan_lets_the_run_begin() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    let answer = service.decide(BOB, &url, "approve", &digest).await;
    let taken = answer.expect(201);
    assert_eq!(taken["renewal"]["state"], json!({"status": "running", "phase": "generate"}));
    assert_eq!(taken["decision"]["decided_by"], BOB.name);
    assert_eq!(answer.header("etag"), format!("\"{}\"", taken["renewal"]["version"]));
    let decisions = service.get(ALICE, &format!("{url}/decisions")).await.expect(200);
    assert_eq!(decisions["items"][0], taken["decision"]);
    let verdicts: Vec<_> = decisions["gates"].as_array().unwrap().iter().map(|g| &g["verdict"]).collect();
    assert_eq!(verdicts, ["approved", "open", "open"]);
    assert_eq!(decisions["gates"][0]["approved_by"], json!([BOB.name]));
    service.stop().await;
}

#[tokio::test]
async fn nobody_approves_their_own_request_whatever_their_roles() {
    let service = Service::start().await;
    let raised = service.post(ROOT, "/v1/renewals", json!({"organization": "contoso"})).await;
    let url = raised.header("location").to_owned();
    let digest = service.plan(&url).await.digest().to_string();
    let problem = service.decide(ROOT, &url, "approve", &digest).await.problem(403, "self_approval");
    assert!(problem["action"].as_str().unwrap().contains("another approver"));
    let rejected = service.decide(ROOT, &url, "reject", &digest).await.expect(201);
    assert_eq!(rejected["renewal"]["state"]["status"], "rejected");
    let page = service.get(VERA, "/v1/audit?limit=200").await.expect(200);
    let refusals: Vec<_> =
        page["items"].as_array().unwrap().iter().filter(|e| e["action"] == "access.refused").collect();
    assert_eq!(refusals[0]["detail"]["problem"], "self_approval");
    assert_eq!(refusals[0]["detail"]["path"], "/v1/renewals/{id}/decisions");
    assert_eq!(refusals[0]["actor"], ROOT.name);
    service.stop().await;
}

#[tokio::test]
async fn only_approvers_decide() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    for who in [ALICE, OSCAR, VERA, NOBODY] {
        let problem = service.decide(who, &url, "reject", &digest).await.problem(403, "forbidden");
        assert!(problem["detail"].as_str().unwrap().contains("approver"), "{problem}");
    }
    service.decide(ROOT, &url, "approve", &digest).await.expect(201);
    service.stop().await;
}

#[tokio::test]
async fn a_decision_counts_only_for_the_plan_that_was_read() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    let other = format!("sha256:{}", "0".repeat(64));
    let problem = service.decide(BOB, &url, "approve", &other).await.problem(409, "stale_digest");
    assert!(problem["detail"].as_str().unwrap().contains(&digest), "{problem}");
    service.decide(BOB, &url, "withdraw", &digest).await.problem(409, "nothing_to_withdraw");
    service.stop().await;
}

#[tokio::test]
async fn there_is_nothing_to_decide_before_a_plan_and_after_the_end() {
    let service = Service::start().await;
    let url = service.raise().await;
    let any = format!("sha256:{}", "0".repeat(64));
    service.decide(BOB, &url, "approve", &any).await.problem(409, "gate_not_open");
    let digest = service.plan(&url).await.digest().to_string();
    service.decide(BOB, &url, "reject", &digest).await.expect(201);
    service.decide(CAROL, &url, "approve", &digest).await.problem(409, "gate_not_open");
    let nowhere = "/v1/renewals/019361b2-7f3a-7c61-9a55-0c7be3b0f4d1";
    service.decide(BOB, nowhere, "approve", &digest).await.problem(404, "not_found");
    service.stop().await;
}

#[tokio::test]
async fn an_approval_can_be_taken_back_until_what_it_allows_has_begun() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    service.decide(BOB, &url, "approve", &digest).await.expect(201);
    service.decide(BOB, &url, "withdraw", &digest).await.expect(201);
    service.decide(CAROL, &url, "approve", &digest).await.expect(201);
    service.generate().await;
    service.decide(CAROL, &url, "withdraw", &digest).await.problem(409, "gate_passed");
    let later = json!({"gate": "publish", "verb": "approve", "plan_digest": digest, "reason": "In advance"});
    service.post(BOB, &format!("{url}/decisions"), later).await.expect(201);
    service.stop().await;
}

#[tokio::test]
async fn a_decision_needs_everything_that_makes_it_one() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    let whole = json!({"gate": "execute", "verb": "approve", "plan_digest": digest, "reason": "Looked at it"});
    let with = |name: &str, value: Value| {
        let mut body = whole.clone();
        body[name] = value;
        body
    };
    let mut without = whole.clone();
    without.as_object_mut().unwrap().remove("plan_digest");
    let cases = [
        (without, "/plan_digest", "missing field"),
        (with("reason", json!("  ")), "/reason", "1 to 2000"),
        (with("reason", json!("x".repeat(2001))), "/reason", "1 to 2000"),
        (with("plan_digest", json!("sha256:abc")), "/plan_digest", "64 hexadecimal digits"),
        (with("gate", json!("delete")), "/gate", "unknown variant"),
        (with("verb", json!(1)), "/verb", "invalid"),
        (with("force", json!(true)), "/force", "unknown field"),
    ];
    for (body, pointer, detail) in cases {
        let problem =
            service.post(BOB, &format!("{url}/decisions"), body.clone()).await.problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
        assert!(problem["errors"][0]["detail"].as_str().unwrap().contains(detail), "{body}: {problem}");
    }
    service.stop().await;
}

#[tokio::test]
async fn if_match_is_honoured() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    let etag = service.get(BOB, &url).await.header("etag").to_owned();
    let body = json!({"gate": "execute", "verb": "approve", "plan_digest": digest, "reason": "Looked at it"});
    let send = async |if_match: &str| {
        let request =
            service.request(BOB, Method::POST, &format!("{url}/decisions")).header(header::IF_MATCH, if_match);
        Answer::of(request.json(&body).send().await.unwrap()).await
    };
    let problem = send("\"1\"").await.problem(412, "stale_version");
    assert!(problem["detail"].as_str().unwrap().contains(&etag), "{problem} does not name {etag}");
    send("12").await.problem(400, "invalid_parameter");
    assert_eq!(service.get(BOB, &url).await.header("etag"), etag);
    send(&etag).await.expect(201);
    assert_ne!(service.get(BOB, &url).await.header("etag"), etag);
    send("*").await.expect(201);
    service.stop().await;
}
