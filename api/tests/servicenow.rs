//! Change records as ServiceNow sends them.

use serde_json::{Value, json};

use crate::support::{ALICE, BOB, Service};

const PATH: &str = "/v1/renewals/from-servicenow";

fn record() -> Value {
    serde_json::from_str(include_str!("../../tests/data/servicenow-change.json")).unwrap()
}

#[tokio::test]
async fn a_change_record_becomes_a_renewal_with_its_ticket() {
    let service = Service::start().await;
    let answer = service.post(ALICE, PATH, record()).await;
    let renewal = answer.expect(202);
    assert_eq!(answer.header("location"), format!("/v1/renewals/{}", renewal["id"].as_str().unwrap()));
    let sys_id = "0f4ac6c4b750230096c3e4f6ee11a9fe";
    assert_eq!(
        renewal["request"],
        json!({
            "organization": "contoso",
            "reason": "expiring",
            "change_type": "normal",
            "risk": "low",
            "not_before": "2026-12-01T20:00:00Z",
            "note": "Renew the Exchange Auth certificate of Contoso before 2027-01-07",
            "ticket": {
                "system": "servicenow",
                "number": "CHG0030022",
                "sys_id": sys_id,
                "url": format!("https://acme.service-now.com/change_request.do?sys_id={sys_id}")
            }
        })
    );
    assert_eq!(renewal["state"]["status"], "requested", "approvals in the record are not taken over");
    service.stop().await;
}

#[tokio::test]
async fn a_record_that_is_sent_again_makes_no_second_renewal() {
    let service = Service::start().await;
    let first = service.post(ALICE, PATH, record()).await;
    let mut later = record();
    later["sys_mod_count"] = json!("8");
    later["sys_id"] = json!(later["sys_id"].as_str().unwrap().to_uppercase());
    let again = service.post(ALICE, PATH, later).await;
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(again.header("idempotency-replayed"), "true");
    let mut other = record();
    other["sys_id"] = json!("1f4ac6c4b750230096c3e4f6ee11a9fe");
    service.post(ALICE, PATH, other).await.problem(409, "organization_busy");
    service.stop().await;
}

#[tokio::test]
async fn a_nul_is_refused_only_where_the_record_is_read() {
    for service in Service::start_on_each().await {
        let mut bad = record();
        bad["short_description"] = json!("Renew\0it");
        let problem = service.post(ALICE, PATH, bad).await.problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], "/short_description");
        let mut good = record();
        good["comments"] = json!("copied from a\0terminal");
        service.post(ALICE, PATH, good).await.expect(202);
        service.stop().await;
    }
}

#[tokio::test]
async fn each_shape_that_servicenow_sends_is_read() {
    let display = json!({
        "sys_id": {"display_value": "x", "value": "2f4ac6c4b750230096c3e4f6ee11a9fe"},
        "number": {"display_value": "CHG0030023", "value": "CHG0030023"},
        "on_hold": {"display_value": "false", "value": false},
        "start_date": {"display_value": "2026-12-01 21:00:00", "value": "2026-12-01 20:00:00", "display_value_internal": "2026-12-01 21:00:00"},
        "short_description": {"display_value": "", "value": ""},
        "u_organization": "contoso",
        "u_reason": "expired"
    });
    for body in
        [display.clone(), json!({"result": display}), json!({"result": [display]}), json!({"records": [display]})]
    {
        let service = Service::start().await;
        let request = service.post(ALICE, PATH, body).await.expect(202)["request"].clone();
        assert_eq!((&request["reason"], &request["not_before"]), (&json!("expired"), &json!("2026-12-01T20:00:00Z")));
        assert_eq!(request["ticket"]["number"], "CHG0030023");
        assert!(request["note"].is_null());
        service.stop().await;
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_understood_is_told_where() {
    let service = Service::start().await;
    let with = |name: &str, value: Value| {
        let mut body = record();
        body[name] = value;
        body
    };
    let cases = [
        (with("sys_id", json!("CHG0030022")), "/sys_id"),
        (with("number", json!("")), "/number"),
        (with("number", json!(["CHG1"])), "/number"),
        (with("start_date", json!("01.12.2026 20:00")), "/start_date"),
        (with("start_date", json!({"display_value": "2026-12-01 21:00:00"})), "/start_date"),
        (with("instance", json!("acme/../evil")), "/instance"),
        (with("inputs", json!({})), "/inputs/organization"),
        (with("inputs", json!({"organization": "Contoso Ltd"})), "/inputs/organization"),
        (with("inputs", json!({"organization": "contoso", "reason": "boredom"})), "/inputs/reason"),
        (json!({"number": "CHG0030022"}), "/sys_id"),
    ];
    for (body, pointer) in cases {
        let problem = service.post(ALICE, PATH, body.clone()).await.problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    service.post(ALICE, PATH, with("on_hold", json!("true"))).await.problem(409, "change_on_hold");
    service.post(BOB, PATH, record()).await.problem(403, "forbidden");
    service.stop().await;
}
