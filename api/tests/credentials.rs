//! Basic and certificates that a proxy has checked: whoever it is, a handler sees the same caller.

use std::collections::BTreeMap;

use api::{BasicUser, CertifiedUser, Grants, Identity, Proxy, Role};
use reqwest::Method;
use serde_json::json;

use crate::support::{ALICE, Answer, Service};

pub(crate) const PASSWORD: &str = "correct horse battery";

fn grants() -> Grants {
    Grants { roles: vec![Role::Requester], groups: vec!["senders".to_owned()], organizations: None }
}

pub(crate) fn basic() -> Vec<BasicUser> {
    vec![BasicUser { username: "mid".to_owned(), password: PASSWORD.into(), grants: grants() }]
}

pub(crate) fn proxy(addresses: &str, header: &str) -> Proxy {
    let user = CertifiedUser { subject: "mid-server".to_owned(), grants: grants() };
    Proxy {
        addresses: vec![addresses.parse().unwrap()],
        certificate_header: Some(header.parse().unwrap()),
        verify_header: None,
        certificates: BTreeMap::from([("CN=mid,O=Contoso".to_owned(), user)]),
    }
}

async fn start(identity: Identity) -> Service {
    Service::start_as(|state| state.with_identity(identity).unwrap()).await
}

pub(crate) fn encoded(text: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    format!("Basic {}", STANDARD.encode(text))
}

#[tokio::test]
async fn a_configured_sender_is_let_in_with_name_and_password() {
    let service = start(Identity { basic: basic(), ..Identity::default() }).await;
    let good = encoded(&format!("mid:{PASSWORD}"));
    let told = service.ask("/v1/whoami", &[("authorization", &good)]).await.expect(200);
    assert_eq!(told, json!({"subject": "mid", "credential": "basic", "roles": ["requester"], "groups": ["senders"]}));
    let request = service.anonymous(Method::POST, "/v1/renewals").header("authorization", &good);
    let raised = Answer::of(request.json(&json!({"organization": "contoso"})).send().await.unwrap()).await.expect(202);
    assert_eq!(raised["requested_by"], "mid");
    for wrong in ["mid:wrong", "other:correct horse battery", "mid"] {
        let answer = service.ask("/v1/whoami", &[("authorization", &encoded(wrong))]).await;
        let problem = answer.problem(401, "unauthenticated");
        assert_eq!(problem["detail"], "The name or the password is wrong.", "{wrong}");
        let challenges: Vec<_> =
            answer.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(challenges, ["Bearer realm=\"rekey\"", "Basic realm=\"rekey\", charset=\"UTF-8\""]);
        assert!(!answer.text.contains("horse"));
    }
    let audit = format!("{:?}", Service::recorded(&service.db).await);
    assert!(audit.contains("access.refused") && !audit.contains("horse") && !audit.contains("wrong"), "{audit}");
    service.stop().await;
}

#[tokio::test]
async fn a_password_is_refused_when_it_came_over_plain_http() {
    let identity =
        Identity { basic: basic(), proxy: Some(proxy("127.0.0.1/32", "x-ssl-client-s-dn")), ..Identity::default() };
    let service = start(identity).await;
    let good = encoded(&format!("mid:{PASSWORD}"));
    for proto in [None, Some("http"), Some("ws")] {
        let headers: Vec<_> = proto
            .map(|proto| ("x-forwarded-proto", proto))
            .into_iter()
            .chain([("authorization", good.as_str())])
            .collect();
        let problem = service.ask("/v1/whoami", &headers).await.problem(401, "unauthenticated");
        assert!(problem["detail"].as_str().unwrap().contains("use HTTPS"), "{problem}");
    }
    service.ask("/v1/whoami", &[("x-forwarded-proto", "https"), ("authorization", &good)]).await.expect(200);
    service.stop().await;
}

#[tokio::test]
async fn a_certificate_that_the_proxy_has_checked_is_a_credential() {
    let service =
        start(Identity { proxy: Some(proxy("127.0.0.0/8", "x-ssl-client-s-dn")), ..Identity::default() }).await;
    let told = service.ask("/v1/whoami", &[("x-ssl-client-s-dn", "CN=mid,O=Contoso")]).await.expect(200);
    assert_eq!((&told["subject"], &told["credential"]), (&json!("mid-server"), &json!("client_certificate")));
    let problem = service.ask("/v1/whoami", &[("x-ssl-client-s-dn", "CN=eve")]).await.problem(401, "unauthenticated");
    assert!(problem["detail"].as_str().unwrap().contains("`CN=eve` is not configured"));
    let bearer = format!("Bearer {}", ALICE.token());
    let both = [("x-ssl-client-s-dn", "CN=mid,O=Contoso"), ("authorization", bearer.as_str())];
    assert_eq!(service.ask("/v1/whoami", &both).await.expect(200)["subject"], ALICE.name, "the nearer one counts");
    service.stop().await;
}

#[tokio::test]
async fn nobody_but_the_proxy_names_a_certificate() {
    let service =
        start(Identity { proxy: Some(proxy("10.9.8.7/32", "x-forwarded-client-cert")), ..Identity::default() }).await;
    let header = ("x-forwarded-client-cert", "Hash=1;Subject=\"CN=mid,O=Contoso\"");
    let bearer = format!("Bearer {}", ALICE.token());
    for headers in [vec![header], vec![header, ("authorization", bearer.as_str())]] {
        let problem = service.ask("/v1/whoami", &headers).await.problem(401, "unauthenticated");
        assert!(problem["detail"].as_str().unwrap().contains("Only the configured proxy"), "{problem}");
    }
    service.stop().await;
    let service = Service::start().await;
    service.ask("/v1/whoami", &[header]).await.problem(401, "unauthenticated");
    assert_eq!(
        service.ask("/v1/whoami", &[header, ("authorization", &bearer)]).await.expect(200)["subject"],
        ALICE.name
    );
    service.stop().await;
}

#[tokio::test]
async fn without_configuration_a_password_opens_nothing() {
    let service = Service::start().await;
    let answer = service.ask("/v1/whoami", &[("authorization", &encoded("root:root"))]).await;
    assert!(answer.problem(401, "unauthenticated")["detail"].as_str().unwrap().contains("not `Bearer"));
    service.stop().await;
}

#[test]
fn what_is_configured_is_not_told_by_debug_output() {
    let identity = Identity { basic: basic(), ..Identity::default() };
    assert!(!format!("{identity:?}").contains("horse"));
}
