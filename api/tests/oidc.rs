//! Tokens of an OpenID Connect issuer: what is accepted, every forgery that is known, and an issuer that changes its keys or goes away.

use std::{collections::BTreeMap, time::Duration};

use api::{Claim, Identity, Issuer, Pace, Role, SignatureAlgorithm};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use serde_json::{Value, json};

use crate::support::{Answer, Service};

pub(crate) mod double;

use double::{Double, Key, Mode};

/// An answer comes at once here, or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn issuer(double: &Double) -> Issuer {
    Issuer {
        issuer: double.url.clone(),
        audiences: vec!["api://rekey".to_owned()],
        algorithms: vec![SignatureAlgorithm::Rs256, SignatureAlgorithm::Ps256, SignatureAlgorithm::Es256],
        jwks_url: None,
        subject_claim: Claim("sub".to_owned()),
        groups_claims: vec![Claim("groups".to_owned()), Claim("/realm_access/roles".to_owned())],
        roles: BTreeMap::from([("mail-admins".to_owned(), vec![Role::Operator])]),
        organizations: None,
        leeway: Duration::from_secs(60),
        ca: None,
        pace: Pace { ask_again: Duration::ZERO, patience: PATIENCE, ..Pace::default() },
    }
}

async fn start(issuer: Issuer) -> Service {
    let identity = Identity { issuers: vec![issuer], ..Identity::default() };
    Service::start_as(|state| state.with_identity(identity).unwrap()).await
}

/// What a good token says.
fn claims(double: &Double) -> Value {
    let now = Utc::now().timestamp();
    json!({"iss": double.url, "aud": "api://rekey", "sub": "alice@contoso.example", "iat": now, "nbf": now, "exp": now + 600,
        "groups": ["mail-admins", "staff"]})
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

async fn ask(service: &Service, token: &str) -> Answer {
    service.ask("/v1/whoami", &[("authorization", &format!("Bearer {token}"))]).await
}

#[tokio::test]
async fn its_tokens_are_accepted_whatever_public_key_signs_them() {
    let keys = [Key::rsa("r"), Key::ec("e")];
    let double = Double::start(&keys).await;
    let service = start(issuer(&double)).await;
    for (key, algorithm) in [(&keys[0], "RS256"), (&keys[0], "PS256"), (&keys[1], "ES256")] {
        let told = ask(&service, &key.sign(algorithm, &claims(&double))).await.expect(200);
        assert_eq!(
            (&told["subject"], &told["credential"]),
            (&json!("alice@contoso.example"), &json!("oidc")),
            "{algorithm}"
        );
        assert_eq!((&told["roles"], &told["groups"]), (&json!(["operator"]), &json!(["mail-admins", "staff"])));
    }
    assert_eq!(double.asked("/jwks"), 1, "its keys are kept");
    for accepted in [json!(["other", "api://rekey"]), json!("api://rekey")] {
        ask(&service, &keys[0].sign("RS256", &with(claims(&double), "aud", accepted))).await.expect(200);
    }
    let keycloak =
        with(with(claims(&double), "groups", Value::Null), "realm_access", json!({"roles": ["mail-admins"]}));
    assert_eq!(ask(&service, &keys[0].sign("RS256", &keycloak)).await.expect(200)["roles"], json!(["operator"]));
    service
        .ask("/v1/renewals", &[("authorization", &format!("Bearer {}", keys[0].sign("RS256", &keycloak)))])
        .await
        .expect(200);
    service.stop().await;
}

#[tokio::test]
async fn every_forgery_is_refused_and_says_why() {
    let keys = [Key::rsa("one"), Key::rsa("two"), Key::ec("ec")];
    let double = Double::start(&keys).await;
    let service = start(issuer(&double)).await;
    let (good, now) = (claims(&double), Utc::now().timestamp());
    let eve = Key::rsa("one");
    let signed = |name: &str, value: Value| keys[0].sign("RS256", &with(good.clone(), name, value));
    let header = |header: Value| keys[0].sign_with(&header, "RS256", &good);
    let unsigned = |header: Value| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(&header), part(&good))
    };
    let swapped = {
        let (before, signature) =
            keys[0].sign("RS256", &good).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let head = before.split_once('.').unwrap().0;
        format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(with(good.clone(), "sub", json!("root")).to_string()))
    };
    let cases = [
        ("alg none", unsigned(json!({"alg": "none", "kid": "one"})), "signed with `none`"),
        ("alg nOnE", unsigned(json!({"alg": "nOnE", "kid": "one"})), "signed with `nOnE`"),
        ("HS256 with the public key", keys[0].sign_with_public_key_as_secret(&good), "signed with `HS256`"),
        ("an algorithm that is not allowed", header(json!({"alg": "RS384", "kid": "one"})), "signed with `RS384`"),
        (
            "a key of another family",
            keys[0].sign_with(&json!({"alg": "ES256", "kid": "one"}), "RS256", &good),
            "does not publish",
        ),
        ("PS256 said, RS256 done", header(json!({"alg": "PS256", "kid": "one"})), "signature is wrong"),
        ("another's key with that name", eve.sign("RS256", &good), "signature is wrong"),
        ("the other key's name", header(json!({"alg": "RS256", "kid": "two"})), "signature is wrong"),
        (
            "a key that comes along",
            eve.sign_with(&json!({"alg": "RS256", "kid": "one", "jwk": eve.jwk()}), "RS256", &good),
            "signature is wrong",
        ),
        ("other claims under a good signature", swapped, "signature is wrong"),
        ("no kid with several keys", header(json!({"alg": "RS256"})), "does not name its key"),
        ("an unknown kid", header(json!({"alg": "RS256", "kid": "../../etc/passwd"})), "does not publish"),
        ("crit", header(json!({"alg": "RS256", "kid": "one", "crit": ["b64"], "b64": false})), "`crit`"),
        ("a logout token", header(json!({"alg": "RS256", "kid": "one", "typ": "logout+jwt"})), "`typ`"),
        ("a bound token", signed("cnf", json!({"x5t#S256": "abc"})), "bound to a key"),
        ("expired", signed("exp", json!(now - 61)), "expired at"),
        ("without an end", signed("exp", Value::Null), "claims cannot be read"),
        ("not yet valid", signed("nbf", json!(now + 120)), "not valid before"),
        ("another audience", signed("aud", json!("api://other")), "audience (`aud`) is not `api://rekey`"),
        ("audiences without ours", signed("aud", json!(["a", "b"])), "audience"),
        ("another issuer", signed("iss", json!("https://evil.example")), "only HS256"),
        ("our issuer with a slash", signed("iss", json!(format!("{}/", double.url))), "only HS256"),
        ("this service's name", signed("iss", json!("rekey")), "only HS256"),
        ("rekey's own name", signed("sub", json!("worker:1")), "name of rekey's own"),
        ("no subject", signed("sub", Value::Null), "claims cannot be read"),
    ];
    for (name, token, reason) in &cases {
        let answer = ask(&service, token).await;
        let detail = answer.problem(401, "unauthenticated")["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(reason), "{name}: {detail}");
        assert!(!answer.text.contains(token.rsplit('.').next().filter(|s| !s.is_empty()).unwrap_or("\0")), "{name}");
    }
    let audit = format!("{:?}", Service::recorded(&service.db).await);
    assert!(cases.iter().all(|(_, token, _)| !audit.contains(token)), "{audit}");
    ask(&service, &keys[0].sign("RS256", &good)).await.expect(200);
    service.stop().await;
}

#[tokio::test]
async fn a_token_without_kid_is_accepted_when_there_is_one_key() {
    let key = Key::rsa("only");
    let double = Double::start(std::slice::from_ref(&key)).await;
    let service = start(issuer(&double)).await;
    ask(&service, &key.sign_with(&json!({"alg": "RS256"}), "RS256", &claims(&double))).await.expect(200);
    service.stop().await;
}

#[tokio::test]
async fn new_keys_are_found_and_old_ones_are_good_for_a_while() {
    let keys = [Key::rsa("old"), Key::rsa("new")];
    for (grace, status) in [(Duration::from_secs(3600), 200), (Duration::ZERO, 401)] {
        let double = Double::start(&keys[..1]).await;
        let pace = Pace { grace, ..issuer(&double).pace };
        let service = start(Issuer { pace, ..issuer(&double) }).await;
        ask(&service, &keys[0].sign("RS256", &claims(&double))).await.expect(200);
        double.publish(&keys[1..]);
        ask(&service, &keys[1].sign("RS256", &claims(&double))).await.expect(200);
        assert_eq!(ask(&service, &keys[0].sign("RS256", &claims(&double))).await.status, status, "{grace:?}");
        service.stop().await;
    }
}

#[tokio::test]
async fn unknown_keys_make_nobody_ask_the_issuer_again_and_again() {
    let key = Key::rsa("good");
    let double = Double::start(std::slice::from_ref(&key)).await;
    let pace = Pace { ask_again: Duration::from_secs(3600), ..issuer(&double).pace };
    let service = start(Issuer { pace, ..issuer(&double) }).await;
    ask(&service, &key.sign("RS256", &claims(&double))).await.expect(200);
    for number in 0..20 {
        let header = json!({"alg": "RS256", "kid": format!("made up {number}")});
        ask(&service, &key.sign_with(&header, "RS256", &claims(&double))).await.problem(401, "unauthenticated");
    }
    assert_eq!(double.asked("/jwks"), 1);
    service.stop().await;
}

#[tokio::test]
async fn known_keys_are_used_on_while_the_issuer_is_away() {
    let keys = [Key::rsa("known"), Key::rsa("unknown")];
    let double = Double::start(&keys[..1]).await;
    let pace = Pace { refresh: Duration::ZERO, ..issuer(&double).pace };
    let service = start(Issuer { pace, ..issuer(&double) }).await;
    let token = keys[0].sign("RS256", &claims(&double));
    ask(&service, &token).await.expect(200);
    for mode in [Mode::Down, Mode::Slow, Mode::Huge, Mode::Broken, Mode::Empty] {
        double.be(mode);
        for _ in 0..3 {
            ask(&service, &token).await.expect(200);
        }
        let unknown = ask(&service, &keys[1].sign("RS256", &claims(&double))).await;
        assert_eq!(unknown.status, 401, "{mode:?}");
        ask(&service, &token).await.expect(200);
    }
    double.be(Mode::Good);
    double.publish(&keys);
    ask(&service, &keys[1].sign("RS256", &claims(&double))).await.expect(200);
    service.stop().await;
}

#[tokio::test]
async fn an_issuer_that_never_answered_is_not_the_callers_fault() {
    let key = Key::rsa("key");
    let double = Double::start(std::slice::from_ref(&key)).await;
    let service = start(issuer(&double)).await;
    let token = key.sign("RS256", &claims(&double));
    let modes = [
        Mode::Down,
        Mode::Slow,
        Mode::Huge,
        Mode::Broken,
        Mode::Empty,
        Mode::Elsewhere,
        Mode::OtherIssuer,
        Mode::PlainHttp,
    ];
    for mode in modes {
        double.be(mode);
        let answer = ask(&service, &token).await;
        answer.problem(503, "issuer_unavailable");
        assert!(!answer.header("retry-after").is_empty(), "{mode:?}");
    }
    assert_eq!(double.asked("/elsewhere"), 0, "redirects are not followed");
    let own = service.get(crate::support::ALICE, "/v1/whoami").await;
    own.expect(200);
    double.be(Mode::Good);
    ask(&service, &token).await.expect(200);
    service.stop().await;
}

#[tokio::test]
async fn a_person_of_two_credentials_is_one_person() {
    let key = Key::rsa("key");
    let double = Double::start(std::slice::from_ref(&key)).await;
    let roles = BTreeMap::from([("mail-admins".to_owned(), vec![Role::Approver])]);
    let service = start(Issuer { roles, ..issuer(&double) }).await;
    let (url, digest) = service.planned().await;
    let decide = async |subject: &str| {
        let token = key.sign("RS256", &with(claims(&double), "sub", json!(subject)));
        let body = json!({"gate": "execute", "verb": "approve", "plan_digest": digest, "reason": "Good"});
        let request = service.anonymous(reqwest::Method::POST, &format!("{url}/decisions")).bearer_auth(token);
        Answer::of(request.json(&body).send().await.unwrap()).await
    };
    decide("alice@contoso.example").await.problem(403, "self_approval");
    decide("bob@contoso.example").await.expect(201);
    service.stop().await;
}

#[tokio::test]
async fn what_pyjwt_signs_is_accepted() {
    let double = Double::start(&[]).await;
    let algorithms = [
        SignatureAlgorithm::Rs256,
        SignatureAlgorithm::Ps256,
        SignatureAlgorithm::Es256,
        SignatureAlgorithm::Es384,
        SignatureAlgorithm::EdDsa,
    ];
    let service = start(Issuer { algorithms: algorithms.to_vec(), ..issuer(&double) }).await;
    for algorithm in ["RS256", "PS256", "ES256", "ES384", "EdDSA"] {
        let asked = json!({"algorithm": algorithm, "kid": algorithm, "claims": claims(&double)});
        let (good, told) = peers::run(peers::python("sign_token.py"), &asked.to_string());
        assert!(good, "{told}");
        let made: Value = serde_json::from_str(&told).unwrap();
        double.publish_set(made["jwks"].clone());
        let answer = ask(&service, made["token"].as_str().unwrap()).await;
        assert_eq!(answer.expect(200)["subject"], "alice@contoso.example", "{algorithm}");
    }
    service.stop().await;
}
