//! Reading renewals: pages, entity tags, plans, steps, audit, evidence, runbook.

use chrono::Utc;
use db::StepEnd;
use domain::{Digest, Outcome, Trouble, snapshot};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::support::{ALICE, Answer, BOB, NOBODY, OSCAR, Person, ROOT, Service, VERA, thumbprint};

async fn conditional(service: &Service, path: &str, etag: &str) -> Answer {
    let request = service.request(ALICE, Method::GET, path).header(header::IF_NONE_MATCH, etag);
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn an_unchanged_renewal_is_not_sent_again() {
    let service = Service::start().await;
    let url = service.raise().await;
    let etag = service.get(ALICE, &url).await.header("etag").to_owned();
    for tag in [etag.clone(), format!("W/{etag}"), format!("\"999\", {etag}"), "*".to_owned()] {
        let answer = conditional(&service, &url, &tag).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NOT_MODIFIED, ""), "{tag}");
        assert_eq!(answer.header("etag"), etag);
    }
    service.plan(&url).await;
    conditional(&service, &url, &etag).await.expect(200);
    service.stop().await;
}

#[tokio::test]
async fn the_plan_is_sent_byte_for_byte_as_its_digest_covers_it() {
    let service = Service::start().await;
    let url = service.raise().await;
    let problem = service.get(ALICE, &format!("{url}/plan")).await.problem(404, "plan_not_ready");
    assert!(problem["detail"].as_str().unwrap().contains("requested"));
    service.get(ALICE, &format!("{url}/runbook")).await.problem(404, "plan_not_ready");
    let digest = service.plan(&url).await.digest();
    let answer = service.get(ALICE, &format!("{url}/plan")).await;
    answer.expect(200);
    assert_eq!(Digest::of(answer.text.as_bytes()), digest);
    assert_eq!(answer.header("plan-digest"), digest.as_str());
    assert_eq!(answer.header("etag"), format!("\"{digest}\""));
    assert_eq!(conditional(&service, &format!("{url}/plan"), answer.header("etag")).await.status, 304);
    service.stop().await;
}

#[tokio::test]
async fn the_runbook_tells_what_to_type_in_order_with_gates_and_waits() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    let answer = service.get(ALICE, &format!("{url}/runbook")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/markdown; charset=utf-8");
    let mut rest = answer.text.as_str();
    for text in [
        digest.as_str(),
        "Gate `execute`",
        "New-ExchangeCertificate",
        "Import-ExchangeCertificate -Server ex01.contoso.example",
        "Import-ExchangeCertificate -Server ex02.contoso.example",
        "Set-AuthConfig -NewCertificateThumbprint <new thumbprint>",
        "**Wait 49 hours**",
        "Gate `publish`",
        "Set-AuthConfig -PublishCertificate",
        "Restart-Service -Name MSExchangeServiceHost",
        "**Wait at least 24 hours**",
        "Gate `clear_previous`",
        "**Cannot be taken back.**",
        "Set-AuthConfig -ClearPreviousCertificate",
        "Remove-ExchangeCertificate -Server ex02.contoso.example",
        "The way back",
    ] {
        let place = rest.find(text).unwrap_or_else(|| panic!("{text} is not in its place in\n{}", answer.text));
        rest = &rest[place..];
    }
    service.stop().await;
}

#[tokio::test]
async fn steps_and_audit_tell_how_far_it_is() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    service.decide(BOB, &url, "approve", &digest).await.expect(201);
    service.generate().await;
    let steps = service.get(ALICE, &format!("{url}/steps")).await.expect(200);
    let told: Vec<_> = steps["items"].as_array().unwrap().iter().take(3).map(|s| (&s["kind"], &s["status"])).collect();
    let word = |text: &str| json!(text);
    assert_eq!(told[0], (&word("preflight"), &word("succeeded")));
    assert_eq!(told[1], (&word("generate"), &word("succeeded")));
    assert_eq!(told[2], (&word("distribute"), &word("ready")));
    let audit = service.get(ALICE, &format!("{url}/audit?limit=3")).await.expect(200);
    let sequences = |page: &Value| {
        page["items"].as_array().unwrap().iter().map(|e| e["sequence"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(sequences(&audit), [1, 2, 3]);
    assert_eq!(sequences(&service.get(ALICE, &format!("{url}/audit?after=3&limit=2")).await.expect(200)), [4, 5]);
    service.stop().await;
}

#[tokio::test]
async fn the_evidence_holds_everything_and_can_be_checked_without_the_service() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    service.decide(BOB, &url, "approve", &digest).await.expect(201);
    service.generate().await;
    let pack = service.get(VERA, &format!("{url}/evidence")).await.expect(200);
    assert_eq!(pack["format"], "rekey.evidence/1");
    assert_eq!(Digest::of(pack["plan"]["canonical"].as_str().unwrap().as_bytes()).as_str(), digest);
    assert_eq!(pack["plan"]["digest"], digest.as_str());
    assert_eq!(pack["decisions"][0]["plan_digest"], digest.as_str());
    assert_eq!(pack["steps"][1]["outcome"]["thumbprint"], "B".repeat(40));
    assert_eq!(pack["snapshots"]["before"]["servers"][0]["fqdn"], "ex01.contoso.example");
    let sequences: Vec<_> = pack["audit"].as_array().unwrap().iter().map(|e| e["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
    assert_eq!(pack["renewal"]["requested_by"], ALICE.name);
    service.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_newest_first() {
    let service = Service::start().await;
    let mut urls = Vec::new();
    for _ in 0..5 {
        urls.insert(0, service.raise().await);
        let path = format!("{}/cancel", urls[0]);
        service.post(OSCAR, &path, json!({"reason": "Only to fill the list"})).await.expect(200);
    }
    service.raise().await;
    let mut seen = Vec::new();
    let mut path = "/v1/renewals?limit=2&status=cancelled&organization_id=contoso".to_owned();
    loop {
        let page = service.get(ALICE, &path).await.expect(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|r| format!("/v1/renewals/{}", r["id"].as_str().unwrap())));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/renewals?limit=2&status=cancelled&organization_id=contoso&cursor={cursor}");
    }
    assert_eq!(seen, urls);
    assert_eq!(service.get(ALICE, "/v1/renewals?organization_id=fabrikam").await.expect(200), json!({"items": []}));
    service.stop().await;
}

#[tokio::test]
async fn a_query_that_cannot_be_read_is_told_which_parameter_is_wrong() {
    let service = Service::start().await;
    let cases = [
        ("/v1/renewals?limit=0", "limit"),
        ("/v1/renewals?limit=201", "limit"),
        ("/v1/renewals?limit=ten", "limit"),
        ("/v1/renewals?cursor=abc", "cursor"),
        ("/v1/renewals?status=asleep", "status"),
        ("/v1/renewals?organization_id=Not%20A%20Label", "organization_id"),
        ("/v1/renewals?page=2", "page"),
    ];
    for (path, name) in cases {
        let problem = service.get(ALICE, path).await.problem(400, "invalid_parameter");
        assert!(problem["detail"].as_str().unwrap().contains(&format!("`{name}`")), "{path}: {problem}");
    }
    for path in [
        "/v1/renewals/42",
        "/v1/renewals/019361b2-7f3a-7c61-9a55-0c7be3b0f4d1",
        "/v1/nothing",
        "/v1/organizations/NONE",
    ] {
        service.get(ALICE, path).await.problem(404, "not_found");
    }
    service.stop().await;
}

#[tokio::test]
async fn whoever_has_a_role_reads_and_only_requesters_raise() {
    let service = Service::start().await;
    let url = service.raise().await;
    for who in [ALICE, BOB, OSCAR, VERA, ROOT] {
        for path in ["", "/steps", "/decisions", "/audit", "/evidence"] {
            service.get(who, &format!("{url}{path}")).await.expect(200);
        }
    }
    service.get(NOBODY, &url).await.problem(403, "forbidden");
    assert_eq!(service.get(NOBODY, "/v1/whoami").await.expect(200)["roles"], json!([]));
    for who in [BOB, OSCAR, VERA, NOBODY] {
        service.post(who, "/v1/renewals", json!({"organization": "fabrikam"})).await.problem(403, "forbidden");
    }
    for who in [ALICE, BOB, OSCAR, NOBODY] {
        service.get(who, "/v1/audit").await.problem(403, "forbidden");
    }
    for who in [VERA, ROOT] {
        service.get(who, "/v1/audit").await.expect(200);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_caller_is_told_who_they_are() {
    let service = Service::start().await;
    let person = Person { name: "dora@contoso.example", roles: &[api::Role::Approver, api::Role::Operator] };
    let identity = service.get(person, "/v1/whoami").await.expect(200);
    assert_eq!((&identity["subject"], &identity["roles"]), (&json!(person.name), &json!(["approver", "operator"])));
    service.stop().await;
}

#[tokio::test]
async fn a_fan_out_over_servers_shows_how_far_it_is_and_tells_the_end_of_each() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    service.decide(BOB, &url, "approve", &digest).await.expect(201);
    service.generate().await;
    let distribute = async || {
        let shown = service.get(ALICE, &url).await;
        assert_eq!(shown.header("etag"), format!("\"{}\"", shown.json()["version"]));
        let phases = shown.expect(200)["progress"].as_array().unwrap().clone();
        let names: Vec<_> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
        assert_eq!(names[..4], ["preflight", "generate", "distribute", "stage"]);
        let phase = &phases[2];
        let of = |name: &str| phase[name].as_i64().unwrap();
        let counts = ["waiting", "running", "retrying", "attention", "done", "skipped"].map(of);
        assert_eq!((of("total"), counts.iter().sum()), (2, 2));
        counts
    };
    assert_eq!(distribute().await, [2, 0, 0, 0, 0, 0]);
    let first = service.claim().await;
    assert_eq!(distribute().await, [1, 1, 0, 0, 0, 0]);
    let done = Outcome::Distributed {
        thumbprint: thumbprint('B'),
        pfx: None,
        key: snapshot::Key::Csp,
        already_present: false,
    };
    service.finish(&first, StepEnd::Done(done)).await;
    assert_eq!(distribute().await, [1, 0, 0, 0, 1, 0]);
    let second = service.claim().await;
    let down = Trouble::new("server_unreachable", "It is down", "Start it");
    service.finish(&second, StepEnd::Retry { at: Utc::now(), trouble: down.clone() }).await;
    assert_eq!(distribute().await, [0, 0, 1, 0, 1, 0]);
    let second = service.claim().await;
    service.finish(&second, StepEnd::Attention(down)).await;
    assert_eq!(distribute().await, [0, 0, 0, 1, 1, 0]);
    let request = service.request(ALICE, Method::GET, &format!("{url}/events"));
    let told = Answer::of(request.header("accept", "application/json").send().await.unwrap()).await.expect(200);
    let ends = told["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["detail"]["step"] == "distribute" && entry["action"] != "step.started");
    let ends: Vec<_> = ends.map(|e| (e["action"].as_str().unwrap(), e["detail"]["target"].as_str().unwrap())).collect();
    let (one, other) = (first.step.target.as_str(), second.step.target.as_str());
    assert_eq!(ends, [("step.succeeded", one), ("step.retried", other), ("step.needs_attention", other)]);
    service.stop().await;
}

#[tokio::test]
async fn a_parameter_with_a_nul_is_refused_by_its_name() {
    for service in Service::start_on_each().await {
        let asked = [
            ("/v1/deliveries?ticket=%00", "ticket"),
            ("/v1/deliveries?source=%00a", "source"),
            ("/v1/outbox?target=a%00", "target"),
            ("/v1/renewals?organization=con%00toso", "organization"),
        ];
        for (path, name) in asked {
            let problem = service.get(VERA, path).await.problem(400, "invalid_parameter");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(&format!("`{name}`")) && detail.contains("NUL"), "{detail}");
        }
        for path in ["/v1/renewals/%00", "/v1/organizations/con%00toso", "/v1/deliveries/%00", "/v1/hooks/generic/%00"]
        {
            let status = service.get(VERA, path).await.status.as_u16();
            assert!((400..500).contains(&status), "{path}: {status}");
        }
        service.stop().await;
    }
}
