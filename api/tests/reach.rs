//! Credentials that are limited to organizations: whatever they ask for, nothing of others comes back.

use std::collections::BTreeSet;

use domain::OrganizationId;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{ALICE, Answer, Service, VERA};

/// A token of somebody with every role, for these organizations only.
fn limited_to(organizations: &[&str]) -> String {
    let ids: BTreeSet<_> = organizations.iter().map(|id| OrganizationId::parse(id).unwrap()).collect();
    let mut claims = VERA.claims();
    claims.sub = "fiona".to_owned();
    claims.roles = api::Role::ALL.to_vec();
    claims.organizations = Some(ids);
    api::Tokens::new(&crate::support::SECRET).mint(&claims).unwrap()
}

/// Every operation of the API, about the renewal of another organization or that organization itself.
fn operations(renewal: &str) -> Vec<(Method, String)> {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let mut all = Vec::new();
    for (pattern, item) in document["paths"].as_object().unwrap() {
        let id = if pattern.contains("organizations") { "contoso" } else { renewal };
        let path: String =
            pattern.split('/').map(|part| if part.starts_with('{') { id } else { part }).collect::<Vec<_>>().join("/");
        for method in item.as_object().unwrap().keys().filter(|_| pattern.starts_with("/v1/")) {
            all.push((method.to_uppercase().parse().unwrap(), path.clone()));
        }
    }
    all
}

/// A body that would do something if it were let through.
fn body(path: &str, digest: &str) -> Value {
    match path.rsplit('/').next().unwrap() {
        "renewals" => json!({"organization": "contoso"}),
        "from-servicenow" => {
            json!({"sys_id": "0f4ac6c4b750230096c3e4f6ee11a9fe", "number": "CHG1", "inputs": {"organization": "contoso"}})
        }
        "decisions" => json!({"gate": "execute", "verb": "reject", "plan_digest": digest, "reason": "No"}),
        "api-keys" => json!({"name": "mine", "roles": ["requester"]}),
        _ if path.contains("/reviews/") => json!({"verdict": "justified", "finding": "It could not wait"}),
        _ => json!({"reason": "Because"}),
    }
}

#[tokio::test]
async fn no_operation_gives_or_takes_anything_of_another_organization() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    let renewal = url.rsplit('/').next().unwrap();
    let token = limited_to(&["fabrikam"]);
    let before = service.get(ALICE, &url).await.expect(200);
    for (method, path) in operations(renewal) {
        let request = service.anonymous(method.clone(), &path).bearer_auth(&token);
        let request = if method == Method::POST { request.json(&body(&path, &digest)) } else { request };
        let answer = Answer::of(request.send().await.unwrap()).await;
        let status = answer.status.as_u16();
        if method == Method::GET && ["/v1/renewals", "/v1/organizations", "/v1/whoami"].contains(&path.as_str()) {
            assert_eq!(status, 200, "{path}");
            assert!(!answer.text.contains("contoso"), "{path}: {}", answer.text);
        } else if method == Method::POST && ["/v1/renewals", "/v1/renewals/from-servicenow"].contains(&path.as_str()) {
            answer.problem(422, "invalid_request");
        } else if path.starts_with("/v1/renewals/") || path.starts_with("/v1/organizations/") {
            answer.problem(404, "not_found");
        } else {
            assert!([401, 403, 404].contains(&status), "{method} {path}: {status} {}", answer.text);
        }
    }
    assert_eq!(service.get(ALICE, &url).await.expect(200), before, "nothing has happened to it");
    let refused = Service::recorded(&service.db).await;
    assert!(
        refused.iter().any(|e| e.actor == "fiona" && e.detail["problem"] == "beyond_organizations"),
        "{refused:#?}"
    );
    service.stop().await;
}

#[tokio::test]
async fn what_is_out_of_reach_looks_like_what_is_not_there() {
    let service = Service::start().await;
    let url = service.raise().await;
    let token = limited_to(&["fabrikam"]);
    let bearer = format!("Bearer {token}");
    let told = async |path: &str| {
        let problem = service.ask(path, &[("authorization", &bearer)]).await.problem(404, "not_found");
        (problem["title"].clone(), problem["detail"].clone(), problem["action"].clone())
    };
    assert_eq!(told(&url).await, told("/v1/renewals/019361b2-7f3a-7c61-9a55-0c7be3b0f4d1").await);
    let (_, there, _) = told("/v1/organizations/contoso/policy").await;
    let (_, missing, _) = told("/v1/organizations/northwind/policy").await;
    assert_eq!(there.as_str().unwrap().replace("contoso", "northwind"), missing);
    let filtered = service.ask("/v1/renewals?organization_id=contoso", &[("authorization", &bearer)]).await.expect(200);
    assert_eq!(filtered["items"], json!([]));
    service.stop().await;
}

#[tokio::test]
async fn within_their_reach_everything_works_and_lists_hold_only_that() {
    let service = Service::start().await;
    let (url, digest) = service.planned().await;
    service.post(ALICE, "/v1/renewals", json!({"organization": "fabrikam"})).await.expect(202);
    let both = limited_to(&["contoso", "fabrikam"]);
    let one = limited_to(&["contoso"]);
    let get = async |token: &str, path: &str| {
        service.ask(path, &[("authorization", &format!("Bearer {token}"))]).await.expect(200)
    };
    let listed = |list: &Value| {
        list["items"].as_array().unwrap().iter().map(|r| r["organization_id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&get(&both, "/v1/renewals").await), ["fabrikam", "contoso"], "newest first");
    assert_eq!(listed(&get(&one, "/v1/renewals").await), ["contoso"]);
    let first = get(&both, "/v1/renewals?limit=1").await;
    let next = get(&both, &format!("/v1/renewals?limit=1&cursor={}", first["next_cursor"].as_str().unwrap())).await;
    assert_eq!((listed(&first), listed(&next)), (vec![json!("fabrikam")], vec![json!("contoso")]));
    assert!(next["next_cursor"].is_null());
    assert_eq!(get(&one, "/v1/organizations").await["items"].as_array().unwrap().len(), 1);
    assert_eq!(get(&one, "/v1/whoami").await["organizations"], json!(["contoso"]));
    let decision = json!({"gate": "execute", "verb": "approve", "plan_digest": digest, "reason": "Good"});
    let request = service.anonymous(Method::POST, &format!("{url}/decisions")).bearer_auth(&one).json(&decision);
    Answer::of(request.send().await.unwrap()).await.expect(201);
    service.stop().await;
}

#[tokio::test]
async fn a_limited_sender_of_one_organization_need_not_name_it() {
    let service = Service::start().await;
    let change = json!({"sys_id": "0f4ac6c4b750230096c3e4f6ee11a9fe", "number": "CHG1"});
    let request =
        service.anonymous(Method::POST, "/v1/renewals/from-servicenow").bearer_auth(limited_to(&["fabrikam"]));
    let raised = Answer::of(request.json(&change).send().await.unwrap()).await.expect(202);
    assert_eq!(raised["organization_id"], "fabrikam");
    service.stop().await;
}
