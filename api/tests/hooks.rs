//! Deliveries of ticket systems: who is let in, what follows, and what is kept.

use std::collections::{BTreeMap, BTreeSet};

use api::{Accept, Identity, Issuer, Role, Source};
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{TimeDelta, Utc};
use domain::{Organization, OrganizationId, Policy, TicketWord, intake, organization::Infeasible};
use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder, header};
use serde_json::{Value, json};

use crate::{
    credentials::{PASSWORD, basic, encoded, proxy},
    oidc::{double, issuer},
    reach::limited_to,
    support::{ALICE, Answer, BOB, OSCAR, ROOT, Service, VERA, organization, snapshot},
};

const SERVICENOW: &str = "/v1/hooks/servicenow/acme";
const JIRA: &str = "/v1/hooks/jira/acme-jira";
const GENERIC: &str = "/v1/hooks/generic/scripts";
const DELIVERIES: &str = "/v1/deliveries";

/// Base64 of 32 bytes: the old secret and the new one, while senders change over.
const OLD: &str = "b2xkIHNlY3JldCBvZiAzMiBieXRlcywgbm90IG1vcmU=";
const SECRET: &str = "bmV3IHNlY3JldCBvZiAzMiBieXRlcywgbm90IG1vcmU=";
const JIRA_SECRET: &str = "a secret that somebody typed into Jira";

/// What the service of every test takes deliveries from.
pub(crate) fn sources() -> Vec<Source> {
    let standard = [format!("whsec_{OLD}"), format!("whsec_{SECRET}")];
    let source = |id: &str, kind, secrets: &[&str], accept: &[Accept]| {
        let reading = intake::Source {
            id: id.to_owned(),
            kind,
            organization: OrganizationId::parse("contoso").ok(),
            ticket_system: id.to_owned(),
            fields: fields(kind),
            states: BTreeMap::from([("in arbeit".to_owned(), TicketWord::Ready)]),
        };
        let accept = BTreeSet::from_iter(accept.iter().copied());
        Source::new(reading, secrets.iter().copied(), TimeDelta::seconds(300), accept).unwrap()
    };
    let standard: Vec<_> = standard.iter().map(String::as_str).collect();
    let both = [Accept::Signature, Accept::Bearer];
    vec![
        source("acme", intake::SourceKind::ServiceNow, &standard, &both),
        source("acme-jira", intake::SourceKind::Jira, &[JIRA_SECRET], &[Accept::Signature]),
        source("scripts", intake::SourceKind::Generic, &standard, &both),
        source("automation", intake::SourceKind::Jira, &[], &[Accept::Bearer]),
        source("by-api-key", intake::SourceKind::Generic, &[], &[Accept::ApiKey]),
        source("by-password", intake::SourceKind::Generic, &[], &[Accept::Basic]),
        source("by-token", intake::SourceKind::Generic, &[], &[Accept::Bearer]),
        source("by-certificate", intake::SourceKind::Generic, &[], &[Accept::Certificate]),
    ]
}

/// Where the planned start of Jira's changes stands is up to whoever has set it up.
fn fields(kind: intake::SourceKind) -> BTreeMap<intake::Name, String> {
    let start = (intake::Name::Start, "/fields/customfield_10015".to_owned());
    (kind == intake::SourceKind::Jira).then_some(start).into_iter().collect()
}

fn record() -> Value {
    serde_json::from_str(include_str!("../../tests/data/servicenow-change.json")).unwrap()
}

/// The record with other members.
fn changed(members: Value) -> Value {
    let mut record = record();
    record.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    record
}

fn mac(secret: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text)
}

/// A body as a sender with this secret signs it, at this second.
fn signed(service: &Service, path: &str, secret: &str, id: &str, at: i64, body: &[u8]) -> RequestBuilder {
    let request = service.anonymous(Method::POST, path);
    sign(request.header(header::CONTENT_TYPE, "application/json; charset=UTF-8"), secret, id, at, body)
}

fn sign(request: RequestBuilder, secret: &str, id: &str, at: i64, body: &[u8]) -> RequestBuilder {
    let text = [format!("{id}.{at}.").as_bytes(), body].concat();
    let signature = STANDARD.encode(mac(&STANDARD.decode(secret).unwrap(), &text));
    let request = request.header("webhook-id", id).header("webhook-timestamp", at.to_string());
    request.header("webhook-signature", format!("v1,AAAA v1,{signature}")).body(body.to_vec())
}

async fn answer(request: RequestBuilder) -> Answer {
    Answer::of(request.send().await.unwrap()).await
}

async fn deliver(service: &Service, path: &str, body: &Value) -> Answer {
    let id = uuid::Uuid::new_v4().to_string();
    answer(signed(service, path, SECRET, &id, Utc::now().timestamp(), body.to_string().as_bytes())).await
}

async fn deliver_from_jira(service: &Service, id: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let signature = domain::ids::hex(mac(JIRA_SECRET.as_bytes(), body.as_bytes()).as_ref());
    let request = service.anonymous(Method::POST, JIRA).header(header::CONTENT_TYPE, "application/json");
    let request = request.header("X-Hub-Signature", format!("sha256={signature}"));
    answer(request.header("X-Atlassian-Webhook-Identifier", id).header("X-Atlassian-Webhook-Retry", "2").body(body))
        .await
}

async fn renewals(service: &Service) -> Vec<Value> {
    service.get(ALICE, "/v1/renewals").await.expect(200)["items"].as_array().unwrap().clone()
}

async fn kept(service: &Service, query: &str) -> Vec<Value> {
    let path = format!("{DELIVERIES}?limit=200&{query}");
    service.get(VERA, &path).await.expect(200)["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_signed_change_raises_a_renewal_of_its_requester_and_the_record_says_where_it_came_from() {
    let service = Service::start().await;
    let answer = deliver(&service, SERVICENOW, &record()).await;
    let told = answer.expect(202);
    assert_eq!((&told["verdict"], &told["ticket"]), (&json!("accepted"), &json!("CHG0030022")));
    assert_eq!(told["renewal"], answer.header("location"));
    let renewal = service.get(ALICE, answer.header("location")).await.expect(200);
    assert_eq!(renewal["requested_by"], "dana.fox@acme.example");
    assert_eq!(renewal["request"]["ticket"]["system"], "acme");
    assert_eq!(renewal["request"]["not_before"], "2026-12-01T20:00:00Z");
    assert_eq!(renewal["ticket_standing"]["word"], "ready");
    assert_eq!(renewal["ticket_standing"]["detail"], "state Scheduled (-2), approval approved");
    let audit = service.get(ALICE, &format!("{}/audit", answer.header("location"))).await.expect(200);
    let actions: Vec<_> = audit["items"].as_array().unwrap().iter().map(|e| (&e["action"], &e["actor"])).collect();
    assert!(actions.contains(&(&json!("renewal.requested"), &json!("dana.fox@acme.example"))), "{actions:?}");
    assert!(actions.contains(&(&json!("delivery.accepted"), &json!("source:acme"))), "{actions:?}");
    let shown = service.get(VERA, &format!("{DELIVERIES}/{}", told["delivery"].as_str().unwrap())).await.expect(200);
    assert_eq!((&shown["sender"], &shown["mod_count"]), (&json!("signature"), &json!(7)));
    assert_eq!((&shown["answer"], shown["body"].as_str().unwrap()), (&told, record().to_string().as_str()));
    service.stop().await;
}

#[tokio::test]
async fn who_asked_for_the_change_cannot_approve_the_renewal() {
    let service = Service::start().await;
    let change = changed(json!({"requested_by_email": BOB.name}));
    let answer = deliver(&service, SERVICENOW, &change).await;
    let url = answer.header("location");
    let digest = service.plan(url).await.digest().to_string();
    service.decide(BOB, url, "approve", &digest).await.problem(403, "self_approval");
    service.stop().await;
}

#[tokio::test]
async fn a_hundred_copies_at_once_make_one_renewal_and_get_one_answer() {
    for service in Service::start_on_each().await {
        let body = record().to_string();
        let at = Utc::now().timestamp();
        let copies = (0..100).map(|copy| {
            answer(signed(&service, SERVICENOW, SECRET, &format!("msg_{}", copy % 3), at, body.as_bytes()))
        });
        let answers = join_all(copies).await;
        let texts: BTreeSet<_> = answers.iter().map(|answer| (answer.status.as_u16(), &answer.text)).collect();
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert_eq!(answers[0].status, 202);
        assert_eq!(answers.iter().filter(|a| a.header("idempotency-replayed") == "true").count(), 99);
        assert_eq!(renewals(&service).await.len(), 1);
        assert_eq!(kept(&service, "verdict=accepted").await.len(), 1);
        let copies = kept(&service, "verdict=duplicate").await;
        assert_eq!(copies.len(), 99);
        assert!(copies.iter().all(|copy| copy["repeats"] == answers[0].json()["delivery"]));
        service.stop().await;
    }
}

#[tokio::test]
async fn what_is_refused_has_the_right_status_and_leaves_a_trace() {
    for service in Service::start_on_each().await {
        let now = Utc::now().timestamp();
        let body = record().to_string();
        let post = || service.anonymous(Method::POST, SERVICENOW);
        let signing = |secret: &str, at: i64, body: &[u8]| signed(&service, SERVICENOW, secret, "msg_1", at, body);
        let long = format!("{{\"note\": \"{}\"}}", "x".repeat(1024 * 1024));
        let other = STANDARD.encode([9; 32]);
        let unsigned = || post().header(header::CONTENT_TYPE, "application/json");
        let text = post().header(header::CONTENT_TYPE, "text/plain");
        let text = sign(text, SECRET, "msg_1", now, body.as_bytes());
        let cases = [
            (signing(&other, now, body.as_bytes()), 401, "bad_signature"),
            (signing(SECRET, now, body.as_bytes()).body(body.replace("CHG", "CHQ")), 401, "bad_signature"),
            (signing(SECRET, now, body.as_bytes()).header("webhook-id", "msg_2"), 401, "bad_signature"),
            (unsigned().body(body.clone()), 401, "bad_signature"),
            (unsigned().bearer_auth("stolen").body(body.clone()), 401, "unauthenticated"),
            (unsigned().bearer_auth(BOB.token()).body(body.clone()), 403, "forbidden"),
            (unsigned().header(header::AUTHORIZATION, "Basic YTpi").body(body.clone()), 401, "unauthenticated"),
            (signing(SECRET, now - 400, body.as_bytes()), 401, "replay_too_old"),
            (signing(SECRET, now + 400, body.as_bytes()), 401, "timestamp_ahead"),
            (signing(SECRET, now, long.as_bytes()), 413, "payload_too_large"),
            (text, 415, "unsupported_media_type"),
            (signing(SECRET, now, b"{\"number\": "), 400, "malformed_json"),
            (signing(SECRET, now, b"\xff\xfe"), 400, "malformed_json"),
            (signing(SECRET, now, b"[]"), 422, "invalid_request"),
            (signing(SECRET, now, b"{\"number\": \"CHG1\"}"), 422, "invalid_request"),
            (
                signing(SECRET, now, changed(json!({"start_date": "soon"})).to_string().as_bytes()),
                422,
                "invalid_request",
            ),
        ];
        let count = cases.len();
        for (place, (request, status, slug)) in cases.into_iter().enumerate() {
            let problem = answer(request).await.problem(status, slug);
            let newest = &kept(&service, "verdict=refused").await[0];
            assert_eq!((&newest["status"], &newest["problem"]), (&json!(status), &json!(slug)), "{place}: {problem}");
            assert_eq!(newest["detail"], problem["detail"]);
        }
        assert_eq!(kept(&service, "source=acme").await.len(), count);
        assert_eq!(renewals(&service).await.len(), 0);
        let all = serde_json::to_string(&kept(&service, "").await).unwrap();
        for secret in [SECRET, "stolen", "YTpi", &BOB.token()] {
            assert!(!all.contains(secret), "{secret}");
        }
        service.stop().await;
    }
}

#[tokio::test]
async fn a_stranger_learns_nothing_of_sources_and_cannot_fill_the_database() {
    let service = Service::start().await;
    let mut told = BTreeSet::new();
    for path in ["/v1/hooks/servicenow/nobody", "/v1/hooks/servicenow/scripts", "/v1/hooks/jira/acme"] {
        let problem = answer(service.anonymous(Method::POST, path).json(&record())).await.problem(404, "not_found");
        told.insert(problem["detail"].to_string());
    }
    assert_eq!(told.len(), 1, "{told:?}");
    let body = format!("{{\"note\": \"{}\"}}", "x".repeat(20_000));
    for _ in 0..db::STRANGERS_KEPT + 5 {
        let request = signed(&service, GENERIC, &STANDARD.encode([9; 32]), "msg", 1, body.as_bytes());
        answer(request).await.problem(401, "bad_signature");
    }
    let refused = kept(&service, "source=scripts").await;
    assert_eq!(refused.len() as i64, db::STRANGERS_KEPT);
    let shown = service.get(VERA, &format!("{DELIVERIES}/{}", refused[0]["id"].as_str().unwrap())).await.expect(200);
    assert_eq!(shown["body"].as_str().unwrap().len(), 4096);
    assert_eq!(shown["size"], body.len());
    service.stop().await;
}

#[tokio::test]
async fn both_secrets_are_accepted_while_senders_change_over_and_a_token_is_too() {
    let service = Service::start().await;
    let body = record().to_string();
    for (id, secret) in [("msg_1", OLD), ("msg_2", SECRET)] {
        let request = signed(&service, SERVICENOW, secret, id, Utc::now().timestamp() - 299, body.as_bytes());
        answer(request).await.expect(202);
    }
    let answer = service.post(ALICE, SERVICENOW, changed(json!({"sys_mod_count": "9"}))).await;
    assert_eq!(answer.expect(202)["verdict"], "accepted");
    assert_eq!(kept(&service, "source=acme").await[0]["sender"], ALICE.name);
    service.stop().await;
}

/// Credentials by the kind that a source must accept, and the name that each has in the record. The service has everything that they are checked with.
async fn with_each_credential() -> (Service, Vec<(Accept, &'static str, Vec<(&'static str, String)>)>) {
    let key = double::Key::rsa("r");
    let double = double::Double::start(std::slice::from_ref(&key)).await;
    let roles = BTreeMap::from([("mail-admins".to_owned(), vec![Role::Requester])]);
    let issuer = Issuer { roles, ..issuer(&double) };
    let proxy = Some(proxy("127.0.0.0/8", "x-ssl-client-s-dn"));
    let identity = Identity { issuers: vec![issuer], basic: basic(), proxy };
    let service = Service::start_as(|state| state.with_identity(identity).unwrap()).await;
    let made = service.post(ROOT, "/v1/api-keys", json!({"name": "sender", "roles": ["requester"]})).await.expect(201);
    let made = made["key"].as_str().unwrap().to_owned();
    let now = Utc::now().timestamp();
    let claims = json!({
        "iss": double.url, "aud": "api://rekey", "sub": "olga@contoso.example", "iat": now, "exp": now + 600, "groups": ["mail-admins"]
    });
    let bearer = |token: &str| vec![("authorization", format!("Bearer {token}"))];
    let credentials = vec![
        (Accept::ApiKey, "api_key:sender", vec![("x-api-key", made.clone())]),
        (Accept::ApiKey, "api_key:sender", bearer(&made)),
        (Accept::Basic, "mid", vec![("authorization", encoded(&format!("mid:{PASSWORD}")))]),
        (Accept::Bearer, ALICE.name, bearer(&ALICE.token())),
        (Accept::Bearer, "olga@contoso.example", bearer(&key.sign("RS256", &claims))),
        (Accept::Certificate, "mid-server", vec![("x-ssl-client-s-dn", "CN=mid,O=Contoso".to_owned())]),
    ];
    // The issuer is asked once, while it is there.
    let (_, _, headers) = &credentials[4];
    service.ask("/v1/whoami", &[("authorization", &headers[0].1)]).await.expect(200);
    (service, credentials)
}

#[tokio::test]
async fn each_kind_of_credential_opens_the_sources_that_accept_it_and_no_other() {
    let (service, credentials) = with_each_credential().await;
    let sources = [
        ("by-api-key", Accept::ApiKey),
        ("by-password", Accept::Basic),
        ("by-token", Accept::Bearer),
        ("by-certificate", Accept::Certificate),
    ];
    for (source, accepted) in sources {
        for (place, (kind, name, headers)) in credentials.iter().enumerate() {
            let request = service.anonymous(Method::POST, &format!("/v1/hooks/generic/{source}"));
            let request = request.header("x-forwarded-proto", "https");
            let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
            let came =
                answer(request.json(&json!({"number": "T1", "key": "1", "mod_count": place, "on_hold": true}))).await;
            let newest = &kept(&service, &format!("source={source}")).await[0];
            if *kind == accepted {
                came.expect(202);
                // A change that is held raises nothing, so that none is in the way of the next.
                assert_eq!(
                    (&newest["problem"], &newest["sender"]),
                    (&json!("change_on_hold"), &json!(name)),
                    "{source}"
                );
            } else {
                let problem = came.problem(401, "unauthenticated");
                assert!(problem["detail"].as_str().unwrap().contains("kind of credential"), "{source}: {problem}");
                assert_eq!((&newest["verdict"], &newest["sender"]), (&json!("refused"), &Value::Null));
            }
        }
        let nothing = service.anonymous(Method::POST, &format!("/v1/hooks/generic/{source}")).json(&json!({}));
        answer(nothing).await.problem(401, "unauthenticated");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_sender_who_is_limited_to_organizations_raises_and_touches_nothing_elsewhere() {
    for service in Service::start_on_each().await {
        let post = async |organizations: &[&str], count: i64, organization: Option<&str>| {
            let request = service.anonymous(Method::POST, GENERIC).bearer_auth(limited_to(organizations));
            let mut body = json!({"number": "CHG1", "key": "1", "mod_count": count, "approval": "approved"});
            if let Some(organization) = organization {
                body["organization"] = json!(organization);
            }
            answer(request.json(&body)).await
        };
        post(&["fabrikam"], 1, None).await.problem(403, "beyond_organizations");
        post(&["fabrikam"], 1, Some("contoso")).await.problem(422, "invalid_request");
        assert_eq!(renewals(&service).await.len(), 0);
        let raised = post(&["contoso"], 1, None).await.expect(202);
        let before = service.get(ALICE, raised["renewal"].as_str().unwrap()).await.expect(200);
        // A copy, a newer one, one in the name of their own organization: the renewal is another's.
        for (count, organization) in [(1, None), (2, None), (3, Some("fabrikam"))] {
            let refused = post(&["fabrikam"], count, organization).await;
            refused.problem(403, "beyond_organizations");
            assert!(!refused.text.contains(raised["renewal"].as_str().unwrap()), "{}", refused.text);
        }
        assert_eq!(service.get(ALICE, raised["renewal"].as_str().unwrap()).await.expect(200), before);
        assert_eq!(post(&["contoso"], 1, None).await.expect(202), raised, "a copy of one's own gets the same answer");
        let refused = kept(&service, "verdict=refused").await;
        let problems: Vec<_> = refused.iter().map(|delivery| delivery["problem"].as_str().unwrap()).collect();
        let beyond = "beyond_organizations";
        assert_eq!(problems, [beyond, beyond, beyond, "invalid_request", beyond], "each leaves a trace");
        assert!(refused.iter().all(|delivery| delivery["sender"] == "fiona"));
        service.stop().await;
    }
}

#[tokio::test]
async fn each_shape_that_servicenow_sends_is_read_by_the_hook() {
    let display = json!({
        "sys_id": {"display_value": "x", "value": "2f4ac6c4b750230096c3e4f6ee11a9fe"},
        "number": {"display_value": "CHG0030023", "value": "CHG0030023"},
        "state": {"display_value": "Implement", "value": -1}, "approval": {"display_value": "Approved", "value": "approved"},
        "on_hold": {"display_value": "false", "value": false}, "sys_mod_count": 4,
        "start_date": {"display_value": "2026-12-01 21:00:00", "value": "2026-12-01 20:00:00", "display_value_internal": "2026-12-01 21:00:00"},
        "cmdb_ci": {"link": "https://acme.service-now.com/x", "value": "1"}, "short_description": "", "u_of_their_own": [1, {}],
        "requested_by": {"link": "https://acme.service-now.com/y", "value": "5137153cc611227c000bbd1bd8cd2007"}
    });
    for body in
        [display.clone(), json!({"result": display}), json!({"result": [display]}), json!({"records": [display]})]
    {
        let service = Service::start().await;
        let answer = deliver(&service, SERVICENOW, &body).await;
        answer.expect(202);
        let renewal = service.get(ALICE, answer.header("location")).await.expect(200);
        assert_eq!(renewal["request"]["not_before"], "2026-12-01T20:00:00Z");
        assert_eq!(renewal["ticket_standing"]["word"], "ready");
        assert_eq!(renewal["requested_by"], "5137153cc611227c000bbd1bd8cd2007");
        assert_eq!(kept(&service, "ticket=CHG0030023").await[0]["mod_count"], 4);
        service.stop().await;
    }
}

#[tokio::test]
async fn a_nul_in_what_is_read_is_refused_with_its_place_and_kept_and_elsewhere_it_does_no_harm() {
    for service in Service::start_on_each().await {
        let members = ["number", "key", "organization", "requested_by", "event", "note", "state"];
        for member in members {
            let mut body = json!({"number": "CHG1", "key": "1"});
            body[member] = json!("CHG\0x");
            let problem = deliver(&service, GENERIC, &body).await.problem(422, "invalid_request");
            assert_eq!(problem["errors"][0]["pointer"], format!("/{member}"), "{problem}");
            assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("NUL"), "{problem}");
            let newest = kept(&service, "verdict=refused").await.remove(0);
            let shown =
                service.get(VERA, &format!("{DELIVERIES}/{}", newest["id"].as_str().unwrap())).await.expect(200);
            assert_eq!((&shown["status"], &shown["body"]), (&json!(422), &json!(body.to_string())));
        }
        assert_eq!(kept(&service, "verdict=refused").await.len(), members.len());
        let change = changed(json!({"comments": "copied from a\0terminal", "u_field\0": "\0"}));
        deliver(&service, SERVICENOW, &change).await.expect(202);
        let event = json!({
            "specversion": "1.0", "id": "e\0x", "type": "change\0made", "data": {"number": "CHG2", "organization": "fabrikam"}
        });
        deliver(&service, GENERIC, &event).await.expect(202);
        service.stop().await;
    }
}

#[tokio::test]
async fn a_name_that_no_index_takes_is_refused_with_its_place_and_kept() {
    for service in Service::start_on_each().await {
        // Nothing that a database could make shorter.
        let long: String = (0..2_000_u64).map(|n| format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
        for member in ["number", "key", "requested_by"] {
            let mut body = json!({"number": "CHG1", "key": "1"});
            body[member] = json!(long);
            let problem = deliver(&service, GENERIC, &body).await.problem(422, "invalid_request");
            assert_eq!(problem["errors"][0]["pointer"], format!("/{member}"), "{problem}");
        }
        assert_eq!(kept(&service, "verdict=refused").await.len(), 3);
        service.stop().await;
    }
}

#[tokio::test]
async fn later_deliveries_say_how_the_ticket_stands_and_those_that_come_late_change_nothing() {
    for service in Service::start_on_each().await {
        let first = deliver(&service, SERVICENOW, &record()).await;
        let url = first.header("location").to_owned();
        let word = async || service.get(ALICE, &url).await.expect(200)["ticket_standing"]["word"].clone();
        let steps = [
            (json!({"sys_mod_count": "9", "state": "-1"}), "accepted", "ready"),
            (json!({"sys_mod_count": "8", "on_hold": "true"}), "ignored", "ready"),
            (json!({"sys_mod_count": "10", "state": "-1", "on_hold": "true"}), "accepted", "on_hold"),
            (json!({"sys_mod_count": "11", "state": "-1"}), "accepted", "ready"),
            (json!({"sys_mod_count": "12", "state": "-5", "approval": "not requested"}), "accepted", "approval_voided"),
            (json!({"sys_mod_count": "", "sys_updated_on": "2026-11-23 09:00:00"}), "ignored", "approval_voided"),
            (json!({"sys_mod_count": "13", "state": "4"}), "accepted", "cancelled"),
        ];
        for (members, verdict, expected) in steps {
            let answer = deliver(&service, SERVICENOW, &changed(members.clone())).await;
            assert_eq!(answer.expect(202)["verdict"], verdict, "{members}: {}", answer.text);
            assert_eq!(answer.header("location"), url);
            assert_eq!(word().await, expected, "{members}");
        }
        let late = &kept(&service, "verdict=ignored").await;
        assert!(late.iter().all(|delivery| delivery["problem"] == "out_of_order"), "{late:?}");
        assert_eq!(service.get(ALICE, &url).await.expect(200)["state"]["status"], "cancelled");
        let over = deliver(&service, SERVICENOW, &changed(json!({"sys_mod_count": "14"}))).await.expect(202);
        assert_eq!((&over["verdict"], &over["problem"]), (&json!("ignored"), &json!("renewal_over")));
        assert_eq!(renewals(&service).await.len(), 1);
        service.stop().await;
    }
}

#[tokio::test]
async fn a_run_that_is_approved_before_its_ticket_is_ready_has_not_begun() {
    let service = Service::start().await;
    let assess = |count: &str, state: &str| changed(json!({"sys_mod_count": count, "state": state, "start_date": ""}));
    let url = deliver(&service, SERVICENOW, &assess("1", "-4")).await.header("location").to_owned();
    let digest = service.plan(&url).await.digest().to_string();
    service.decide(BOB, &url, "approve", &digest).await.expect(201);
    let state = async || service.get(ALICE, &url).await.expect(200)["state"].clone();
    let held = state().await;
    assert_eq!((&held["status"], &held["reason"]["waiting_for"]), (&json!("waiting"), &json!("ticket_not_ready")));
    let actions = async || {
        let audit = service.get(ALICE, &format!("{url}/audit?limit=200")).await.expect(200);
        let entries = audit["items"].as_array().unwrap().clone();
        entries.into_iter().filter(|entry| entry["action"] == "renewal.running").collect::<Vec<_>>()
    };
    assert_eq!(actions().await, [Value::Null; 0], "nothing says that it has begun");
    deliver(&service, SERVICENOW, &assess("2", "-2")).await.expect(202);
    assert_eq!(state().await["status"], "running");
    let begun = actions().await;
    assert_eq!((begun.len(), &begun[0]["detail"]["began"]), (1, &json!(true)), "{begun:#?}");
    service.stop().await;
}

#[tokio::test]
async fn a_ticket_that_does_not_let_anything_begin_raises_nothing_until_it_does() {
    let service = Service::start().await;
    for (count, (members, problem)) in [
        (json!({"on_hold": "true"}), "change_on_hold"),
        (json!({"state": "4"}), "change_not_open"),
        (json!({"state": "3"}), "change_not_open"),
        (json!({"approval": "rejected"}), "change_not_open"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut body = changed(members);
        body["sys_mod_count"] = json!(count.to_string());
        let told = deliver(&service, SERVICENOW, &body).await.expect(202);
        assert_eq!((&told["verdict"], &told["problem"]), (&json!("ignored"), &json!(problem)), "{body}");
    }
    assert_eq!(renewals(&service).await.len(), 0);
    assert_eq!(deliver(&service, SERVICENOW, &record()).await.expect(202)["verdict"], "accepted");
    service.stop().await;
}

#[tokio::test]
async fn what_was_refused_for_a_reason_that_is_no_more_can_be_sent_or_replayed() {
    for service in Service::start_on_each().await {
        let holder = service.raise().await;
        let busy = deliver(&service, SERVICENOW, &record()).await;
        assert_eq!(busy.problem(409, "organization_busy")["holder"], holder.as_str());
        let refused = kept(&service, "verdict=refused").await[0]["id"].as_str().unwrap().to_owned();
        let replay = format!("{DELIVERIES}/{refused}/replay");
        service.post(ALICE, &replay, json!({})).await.problem(403, "forbidden");
        service.post(OSCAR, &replay, json!({})).await.problem(409, "organization_busy");
        service.post(OSCAR, &format!("{holder}/cancel"), json!({"reason": "not this one"})).await.expect(200);
        let answer = service.post(OSCAR, &replay, json!({})).await;
        assert_eq!(answer.expect(202)["verdict"], "accepted");
        let renewal = service.get(ALICE, answer.header("location")).await.expect(200);
        assert_eq!(renewal["requested_by"], "dana.fox@acme.example", "not the operator");
        let newest = &kept(&service, "source=acme").await[0];
        assert_eq!((&newest["sender"], &newest["repeats"]), (&json!(OSCAR.name), &json!(refused)));
        let audit = service.get(VERA, "/v1/audit").await.expect(200)["items"].as_array().unwrap().clone();
        let replays = audit.iter().filter(|entry| entry["action"] == "delivery.replayed").collect::<Vec<_>>();
        assert_eq!(replays.len(), 2);
        assert!(replays.iter().all(|e| e["actor"] == OSCAR.name && e["detail"]["delivery"] == refused.as_str()));
        // As if it had come now: it says nothing new.
        assert_eq!(service.post(OSCAR, &replay, json!({})).await.expect(202)["verdict"], "accepted");
        assert_eq!(renewals(&service).await.len(), 2);
        service.stop().await;
    }
}

#[tokio::test]
async fn what_is_not_kept_whole_is_not_replayed() {
    let service = Service::start().await;
    deliver(&service, SERVICENOW, &record()).await.expect(202);
    deliver(&service, SERVICENOW, &record()).await.expect(202);
    let long = format!("{{\"note\": \"{}\"}}", "x".repeat(5_000));
    answer(signed(&service, SERVICENOW, SECRET, "msg", 1, long.as_bytes())).await.problem(401, "replay_too_old");
    for verdict in ["duplicate", "refused"] {
        let id = kept(&service, &format!("verdict={verdict}")).await[0]["id"].as_str().unwrap().to_owned();
        let replay = service.post(OSCAR, &format!("{DELIVERIES}/{id}/replay"), json!({})).await;
        replay.problem(409, "not_replayable");
    }
    service.get(ALICE, DELIVERIES).await.problem(403, "forbidden");
    service.get(VERA, &format!("{DELIVERIES}?ticket=x&source=acme")).await.problem(400, "invalid_parameter");
    service.stop().await;
}

fn issue(status: &str, updated: &str) -> Value {
    json!({
        "id": "10002", "key": "CHG-17", "self": "https://acme.atlassian.net/rest/api/2/issue/10002",
        "fields": {
            "summary": "Renew the Auth certificate", "status": {"name": status}, "updated": updated,
            "reporter": {"accountId": "5b10a2844c20165700ede21g", "emailAddress": "dana.fox@acme.example"}
        }
    })
}

#[tokio::test]
async fn a_change_that_starts_too_late_raises_nothing_and_its_sender_hears_which_start_is_not() {
    let late = Utc::now() + TimeDelta::days(44);
    let change = changed(json!({"start_date": late.format("%Y-%m-%d %H:%M:%S").to_string()}));
    for service in Service::start_each_under(&organization("contoso")).await {
        look(&service).await;
        for _ in 0..2 {
            let problem = deliver(&service, SERVICENOW, &change).await.problem(422, "not_feasible");
            assert!(problem["first_feasible_slot"].is_string(), "{problem}");
            assert!(problem["latest_safe_start"].is_string(), "{problem}");
        }
        let mut issue = issue("Planning", "2026-11-23T10:15:02.000+0100");
        issue["fields"]["customfield_10015"] = json!(late.to_rfc3339());
        let body = json!({"webhookEvent": "jira:issue_updated", "issue": issue});
        let told = deliver_from_jira(&service, "late", &body).await.expect(200);
        assert_eq!((&told["verdict"], &told["problem"]), (&json!("refused"), &json!("not_feasible")));
        assert!(told["detail"].as_str().unwrap().contains("expires"), "{told}");
        assert_eq!(renewals(&service).await, Vec::<Value>::new());
        let kept = kept(&service, "verdict=refused").await;
        let problems: Vec<_> = kept.iter().map(|delivery| delivery["problem"].as_str().unwrap()).collect();
        assert_eq!(problems, ["not_feasible"; 3]);
        // With another date it is not too late, whatever the delivery before it came to.
        let mended = changed(json!({"start_date": "", "sys_mod_count": "8"}));
        deliver(&service, SERVICENOW, &mended).await.expect(202);
        service.stop().await;
    }
}

#[tokio::test]
async fn a_change_that_starts_too_late_is_marked_where_the_policy_accepts_that() {
    let policy = Policy { infeasible: Infeasible::AcceptAtRisk, ..Policy::default() };
    let late = Utc::now() + TimeDelta::days(44);
    let change = changed(json!({"start_date": late.format("%Y-%m-%d %H:%M:%S").to_string()}));
    for service in Service::start_each_under(&Organization { policy, ..organization("contoso") }).await {
        look(&service).await;
        let answer = deliver(&service, SERVICENOW, &change).await;
        answer.expect(202);
        let renewal = service.get(ALICE, answer.header("location")).await.expect(200);
        assert!(renewal["at_risk"]["latest_safe_start"].is_string(), "{renewal}");
        service.stop().await;
    }
}

/// Somebody has looked at Contoso: it is known when its certificate expires.
async fn look(service: &Service) {
    let looked = service.db.write(async |tx| tx.insert_snapshot(None, db::Purpose::Check, &snapshot()).await);
    looked.await.unwrap();
}

#[tokio::test]
async fn jira_is_never_told_that_something_is_in_the_way() {
    for service in Service::start_on_each().await {
        let holder = service.raise().await;
        let webhook = |status: &str, updated: &str| json!({"timestamp": 1_795_000_000_000_i64, "webhookEvent": "jira:issue_updated", "issue": issue(status, updated)});
        let first = webhook("Planning", "2026-11-23T10:15:02.000+0100");
        for id in ["a", "a"] {
            let told = deliver_from_jira(&service, id, &first).await.expect(200);
            assert_eq!((&told["verdict"], &told["problem"]), (&json!("refused"), &json!("organization_busy")));
        }
        service.post(OSCAR, &format!("{holder}/cancel"), json!({"reason": "not this one"})).await.expect(200);
        let copies = join_all((0..20).map(|_| deliver_from_jira(&service, "a", &first))).await;
        assert!(copies.iter().all(|copy| copy.status == 202 && copy.text == copies[0].text), "{copies:?}");
        let url = copies[0].header("location").to_owned();
        let ready = webhook("In Arbeit", "2026-11-23T10:20:00.000+0100");
        assert_eq!(deliver_from_jira(&service, "b", &ready).await.expect(202)["verdict"], "accepted");
        let late = webhook("Declined", "2026-11-23T10:19:00.000+0100");
        assert_eq!(deliver_from_jira(&service, "c", &late).await.expect(202)["problem"], "out_of_order");
        let renewal = service.get(ALICE, &url).await.expect(200);
        assert_eq!(renewal["ticket_standing"]["detail"], "state In Arbeit");
        assert_eq!(renewal["ticket_standing"]["word"], "ready");
        assert_eq!(kept(&service, "source=acme-jira").await[0]["retry"], 2);
        service.stop().await;
    }
}

#[tokio::test]
async fn automation_and_data_center_send_issues_in_their_own_forms() {
    let automation = "/v1/hooks/jira/automation";
    let mut top = issue("Planning", "2026-11-23T10:15:02.000+0100");
    top["id"] = json!(10002);
    for body in [top, json!({"issue": issue("Planning", "2026-11-23T10:15:02.000+0100"), "timestamp": 1})] {
        let service = Service::start().await;
        let answer = service.post(ALICE, automation, body).await;
        answer.expect(202);
        let renewal = service.get(ALICE, answer.header("location")).await.expect(200);
        assert_eq!(renewal["requested_by"], "dana.fox@acme.example");
        assert_eq!(renewal["request"]["ticket"]["url"], "https://acme.atlassian.net/browse/CHG-17");
        service.stop().await;
    }
}

#[tokio::test]
async fn a_cloud_event_of_any_sender_is_taken() {
    let service = Service::start().await;
    let event = json!({
        "specversion": "1.0", "type": "change.approved", "id": "event-1", "source": "/scripts",
        "data": {"number": "R-1", "requested_by": "dana@contoso.example", "reason": "expired", "state": "ready"}
    });
    let request = service.anonymous(Method::POST, GENERIC);
    let request = request.header(header::CONTENT_TYPE, "application/cloudevents+json");
    let request = sign(request, SECRET, "msg_1", Utc::now().timestamp(), event.to_string().as_bytes());
    let answer = answer(request).await;
    answer.expect(202);
    let renewal = service.get(ALICE, answer.header("location")).await.expect(200);
    assert_eq!(renewal["request"]["reason"], "expired");
    assert_eq!(renewal["requested_by"], "dana@contoso.example");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_library_of_standard_webhooks_signs_is_accepted() {
    let service = Service::start().await;
    let body = record().to_string();
    let asked = json!({"secret": format!("whsec_{SECRET}"), "id": "msg_python", "body": body});
    let (signed, told) = peers::run(peers::python("sign_webhook.py"), &asked.to_string());
    assert!(signed, "{told}");
    let headers: BTreeMap<String, String> = serde_json::from_str(&told).unwrap();
    let mut request = service.anonymous(Method::POST, SERVICENOW).header(header::CONTENT_TYPE, "application/json");
    for (name, value) in &headers {
        request = request.header(name, value);
    }
    answer(request.body(body)).await.expect(202);
    assert_eq!(kept(&service, "source=acme").await[0]["delivery_id"], "msg_python");
    service.stop().await;
}
