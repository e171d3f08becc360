//! The tenant, rule by rule.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, SecondsFormat};
use serde_json::json;

use super::{token::TokenRequest, *};
use crate::{
    bench::{Bench, Made, start},
    faults::{Fault, cloud::PolicyScope},
};

fn tenant() -> Tenant {
    Tenant::new(Hybrid::contoso(), &Made::number(1).certificate, start()).unwrap()
}

fn application(tenant: &Tenant) -> usize {
    tenant.verifying(AppPath::Dedicated).unwrap()
}

/// All keys as they are shown, and a new one.
fn with_new(tenant: &Tenant, object: usize) -> Value {
    let keys = tenant.keys(object, View::Replica(0), start());
    keys.iter().map(|key| key.json(Shown::WithoutKey)).chain([Made::number(0).credential()]).collect()
}

fn later(minutes: i64) -> DateTime<Utc> {
    start() + TimeDelta::minutes(minutes)
}

fn seen(tenant: &Tenant, view: View, now: DateTime<Utc>) -> usize {
    tenant.keys(application(tenant), view, now).len()
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[test]
fn a_write_reaches_each_replica_later_than_the_one_before() {
    let mut tenant = tenant();
    let object = application(&tenant);
    let written = tenant.replace_keys(object, &with_new(&tenant, object), start()).unwrap();
    assert_eq!((written.added, written.removed), (vec![Made::number(0).thumbprint()], Vec::new()));
    for (minutes, expected) in [(0, [3, 2, 2]), (2, [3, 2, 2]), (3, [3, 3, 2]), (6, [3, 3, 3])] {
        let shown = [0, 1, 2].map(|replica| seen(&tenant, View::Replica(replica), later(minutes)));
        assert_eq!(shown, expected, "after {minutes} minutes");
    }
    assert_eq!(seen(&tenant, View::Stale, later(60)), 2);
}

#[test]
fn the_token_service_goes_by_what_it_read_and_reads_again_in_time() {
    let mut tenant = tenant();
    let object = application(&tenant);
    let written = tenant.replace_keys(object, &with_new(&tenant, object), later(1)).unwrap();
    for (replica, seen_at) in written.seen_at.iter().enumerate() {
        let trusted = |at| tenant.trusted_keys(object, replica, at).0.len();
        assert_eq!((trusted(*seen_at - TimeDelta::milliseconds(1)), trusted(*seen_at)), (2, 3), "replica {replica}");
        let (_, read) = tenant.trusted_keys(object, replica, later(30));
        assert!(later(30) - read < TimeDelta::minutes(5));
    }
    tenant.spec.key_cache = TimeDelta::zero();
    assert_eq!(tenant.trusted_keys(object, 0, later(1)).1, later(1));
}

#[test]
fn reads_go_from_replica_to_replica() {
    let mut tenant = tenant();
    let met: Vec<_> = (0..4).map(|_| tenant.next_replica()).collect();
    assert_eq!(met, [1, 2, 0, 1]);
}

/// What becomes of the keys of an application: how many there are, or the error.
fn replaced(keys: &[KeyCredential], wanted: &Value) -> Result<usize, String> {
    let replaced = keys::replaced(ObjectKind::Application, keys, wanted, None, start());
    replaced.map(|keys| keys.len()).map_err(|error| format!("{} {} {}", error.status, error.code, error.message))
}

#[test]
fn a_list_replaces_the_whole_and_says_what_it_may_not() {
    let tenant = tenant();
    let object = application(&tenant);
    let keys = tenant.keys(object, View::Replica(0), start()).to_vec();
    let echo = |index: usize| keys[index].json(Shown::WithoutKey);
    let with = |mut entry: Value, name: &str, value: Value| {
        entry[name] = value;
        entry
    };
    let new = || Made::number(0).credential();
    let certificate = Made::number(0).certificate;
    let day = TimeDelta::days(1);
    let refused = |code: &str, part: &str| Err((code.to_owned(), part.to_owned()));
    let id = keys[0].key_id.to_string();
    let changed = format!("Update to existing credential with KeyId '{id}' is not allowed.");
    let bad = "400 Request_BadRequest";
    for (case, wanted, expected) in [
        ("nothing is left", json!([]), Ok(0)),
        ("kept by their ids alone", json!([{ "keyId": id }]), Ok(1)),
        ("echoed as they were read", json!([echo(0), echo(1)]), Ok(2)),
        ("echoed with the key", json!([keys[0].json(Shown::WithKey)]), Ok(1)),
        (
            "with the type that SDKs write",
            json!([with(new(), "@odata.type", json!("#microsoft.graph.keyCredential"))]),
            Ok(1),
        ),
        ("both and a new one", json!([echo(0), echo(1), new()]), Ok(3)),
        ("an object", echo(0), refused(bad, "StartArray")),
        ("not a key", json!(["x"]), refused(bad, "must be an object")),
        ("an unknown property", json!([with(echo(0), "colour", json!("red"))]), refused(bad, "colour")),
        ("renamed", json!([with(echo(0), "displayName", json!("other"))]), refused(bad, &changed)),
        ("prolonged", json!([with(echo(0), "endDateTime", json!(instant(keys[0].end + day)))]), refused(bad, &changed)),
        ("another key under its id", json!([with(new(), "keyId", json!(id))]), refused(bad, &changed)),
        ("its usage in other letters", json!([with(echo(0), "usage", json!("verify"))]), refused(bad, &changed)),
        ("twice", json!([echo(0), echo(0)]), refused(bad, "twice")),
        ("an id that nobody knows, without a key", json!([{ "keyId": Uuid::nil() }]), refused(bad, "must have a key")),
        ("no certificate", json!([with(new(), "key", json!("AAAA"))]), refused(bad, "no X.509 certificate")),
        ("no base64", json!([with(new(), "key", json!("?"))]), refused(bad, "'key'")),
        ("no type", json!([with(new(), "type", Value::Null)]), refused(bad, "type is invalid")),
        ("to encrypt", json!([with(new(), "usage", json!("Encrypt"))]), refused(bad, "usage is invalid")),
        ("a long name", json!([with(new(), "displayName", json!("x".repeat(91)))]), refused(bad, "90 characters")),
        (
            "dates inside the certificate's",
            json!([with(new(), "endDateTime", json!(instant(certificate.not_after - day)))]),
            Ok(1),
        ),
        (
            "an end after the certificate's",
            json!([with(new(), "endDateTime", json!(instant(certificate.not_after + day)))]),
            refused("400 KeyCredentialsInvalidEndDate", "Key credential end date is invalid."),
        ),
        (
            "an end that is over",
            json!([with(new(), "endDateTime", json!(instant(start() - TimeDelta::hours(1))))]),
            refused("400 KeyCredentialsInvalidEndDate", "end date"),
        ),
        (
            "a start before the certificate's",
            json!([with(new(), "startDateTime", json!(instant(certificate.not_before - day)))]),
            refused("400 KeyCredentialsInvalidStartDate", "start date"),
        ),
        ("a date that is none", json!([with(new(), "endDateTime", json!("soon"))]), refused(bad, "endDateTime")),
    ] {
        match (replaced(&keys, &wanted), expected) {
            (Ok(count), Ok(expected)) => assert_eq!(count, expected, "{case}"),
            (Err(told), Err((code, part))) => {
                assert!(told.starts_with(&code) && told.contains(&part), "{case}: {told}")
            }
            (came, expected) => panic!("{case}: {came:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn what_is_new_gets_dates_and_a_name_from_its_certificate() {
    let mut tenant = tenant();
    let object = application(&tenant);
    tenant.replace_keys(object, &with_new(&tenant, object), start()).unwrap();
    let key = tenant.keys(object, View::Replica(0), start())[2].clone();
    let made = Made::number(0).certificate;
    assert_eq!((key.start, key.end), (made.not_before, made.not_after));
    let shown = key.json(Shown::WithoutKey);
    assert_eq!(shown["customKeyIdentifier"], made.thumbprint.as_str());
    assert_eq!((&shown["key"], &shown["usage"]), (&Value::Null, &json!("Verify")));
    assert_eq!(key.json(Shown::WithKey)["key"], STANDARD.encode(&made.der));
}

#[test]
fn a_principal_wants_the_key_of_what_it_keeps() {
    let spec = Hybrid::contoso().with_leftover_keys();
    let mut tenant = Tenant::new(spec, &Made::number(1).certificate, start()).unwrap();
    let shared = tenant.verifying(AppPath::Shared).unwrap();
    let key = tenant.keys(shared, View::Replica(0), start())[0].clone();
    let refused = tenant.replace_keys(shared, &json!([key.json(Shown::WithoutKey)]), start()).unwrap_err();
    assert!(refused.message.contains("service principal"), "{refused:?}");
    tenant.replace_keys(shared, &json!([key.json(Shown::WithKey)]), start()).unwrap();
    // As Microsoft's script sends what it keeps: without an id.
    let bare = json!({ "key": STANDARD.encode(&key.certificate.der), "type": "AsymmetricX509Cert", "usage": "Verify" });
    tenant.replace_keys(shared, &json!([bare]), later(1)).unwrap();
    let written = tenant.replace_keys(shared, &json!([]), later(2)).unwrap();
    assert_eq!(written.removed.as_slice(), std::slice::from_ref(&key.certificate.thumbprint));
}

#[test]
fn two_quick_writes_are_one_too_many() {
    let mut tenant = tenant();
    let object = application(&tenant);
    let all = with_new(&tenant, object);
    tenant.replace_keys(object, &all, start()).unwrap();
    let hasty = tenant.replace_keys(object, &json!([]), start() + TimeDelta::milliseconds(999)).unwrap_err();
    assert_eq!((hasty.status, hasty.code.as_str()), (409, "Directory_ConcurrencyViolation"));
    tenant.replace_keys(object, &json!([]), start() + TimeDelta::seconds(1)).unwrap();
}

#[test]
fn a_policy_limits_new_keys_and_leaves_those_that_are_there() {
    let mut bench = Bench::hybrid(Hybrid::contoso());
    let limit = |max: Option<&str>, scope| Fault::KeyLifetime { max: max.map(str::to_owned), scope };
    bench.world.apply(limit(Some("P365D"), PolicyScope::Default)).unwrap();
    let keys: Value = with_new(bench.tenant(), bench.application());
    let object = bench.application();
    let refused = bench.world.replace_cloud_keys(object, &keys, "tester").unwrap_err();
    assert_eq!(refused.code, "CredentialInvalidLifetimeAsPerAppPolicy");
    assert!(refused.message.contains(DEFAULT_POLICY), "{refused:?}");
    let restrictions = bench.tenant().default_policy()["applicationRestrictions"]["keyCredentials"].clone();
    assert_eq!((&restrictions[0]["maxLifetime"], &restrictions[0]["state"]), (&json!("P365D"), &json!("enabled")));
    // One that is assigned to the application goes before the default.
    bench.world.apply(limit(Some("P10Y"), PolicyScope::Application)).unwrap();
    bench.world.replace_cloud_keys(object, &keys, "tester").unwrap();
    assert_eq!(bench.tenant().assigned_policies(object).len(), 1);
    bench.world.heal();
    assert!(bench.tenant().lifetime(object).is_none() && bench.tenant().default_policy()["isEnabled"] == false);
    assert!(bench.world.apply(limit(Some("a year"), PolicyScope::Default)).is_err());
}

/// A token that a client signs: RS256 and x5t, as azure-identity does, with what a case changes.
struct Signed {
    header: Value,
    claims: Value,
    key: PrivateKey,
}

impl Signed {
    fn by_client(tenant: &Tenant, now: DateTime<Utc>) -> Self {
        let (certificate, key) = tenant.client();
        let id = tenant.spec.client_id;
        let claims = json!({
            "aud": ENDPOINT, "iss": id, "sub": id, "jti": Uuid::new_v4(),
            "nbf": now.timestamp(), "exp": (now + TimeDelta::minutes(10)).timestamp(),
        });
        let x5t = base64::engine::general_purpose::URL_SAFE.encode(certificate.thumbprint.bytes());
        Self { header: json!({ "typ": "JWT", "alg": "RS256", "x5t": x5t }), claims, key: key.clone() }
    }

    fn by(mut self, made: &Made) -> Self {
        self.header["x5t"] = crate::trust::x5t(made.thumbprint().as_str()).into();
        self.key = made.key.clone();
        self
    }

    fn claiming(mut self, name: &str, value: Value) -> Self {
        self.claims[name] = value;
        self
    }

    fn text(&self) -> String {
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let text = format!("{}.{}", part(&self.header), part(&self.claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(text.as_bytes()).unwrap());
        format!("{text}.{signature}")
    }
}

const ENDPOINT: &str = "https://127.0.0.1:1/contoso.onmicrosoft.com/oauth2/v2.0/token";

fn ask(
    tenant: &mut Tenant,
    assertion: &str,
    changes: &[(&str, Option<&str>)],
    now: DateTime<Utc>,
) -> Result<Value, u32> {
    let client = tenant.spec.client_id.to_string();
    let mut form = vec![
        ("client_id", client.as_str()),
        ("scope", "https://graph.microsoft.com/.default"),
        ("grant_type", "client_credentials"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
    ];
    for (name, value) in changes {
        form.retain(|(known, _)| known != name);
        form.extend(value.map(|value| (*name, value)));
    }
    let form = form.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let request = TokenRequest { tenant: "contoso.onmicrosoft.com", endpoint: ENDPOINT, form };
    tenant.token(&request, now).map_err(|error| error.code)
}

#[test]
fn a_token_is_given_for_what_a_registered_key_has_signed_and_says_what_its_bearer_may() {
    let mut tenant = tenant();
    let assertion = Signed::by_client(&tenant, start()).text();
    let token = ask(&mut tenant, &assertion, &[], start()).unwrap();
    let text = token["access_token"].as_str().unwrap();
    let caller = tenant.caller(text, Resource::Graph, start()).unwrap();
    assert_eq!(caller.app_id, tenant.spec.client_id);
    assert_eq!(caller.roles.into_iter().collect::<Vec<_>>(), ["Application.ReadWrite.OwnedBy", "Policy.Read.All"]);
    assert!(tenant.caller(text, Resource::ExchangeOnline, start()).is_none(), "it is for Graph only");
    assert!(tenant.caller(text, Resource::Graph, start() + TimeDelta::minutes(66)).is_none(), "its time is over");
    let forged = text.replace('A', "B");
    assert!(tenant.caller(&forged, Resource::Graph, start()).is_none());
}

#[test]
fn who_gets_no_token_is_told_why_by_number() {
    let mut tenant = tenant();
    let now = start();
    let fresh = || Signed::by_client(&self::tenant(), start());
    let good = fresh().text();
    let second = |at: DateTime<Utc>| json!(at.timestamp());
    for (case, assertion, changes, expected) in [
        ("another grant", good.clone(), vec![("grant_type", Some("password"))], 70_003),
        (
            "an application that is not here",
            good.clone(),
            vec![("client_id", Some("00000000-0000-0000-0000-000000000001"))],
            700_016,
        ),
        ("no application", good.clone(), vec![("client_id", None)], 700_016),
        ("an unknown resource", good.clone(), vec![("scope", Some("https://example.com/.default"))], 70_011),
        ("a scope of users", good.clone(), vec![("scope", Some("https://graph.microsoft.com/User.Read"))], 70_011),
        ("no assertion", good.clone(), vec![("client_assertion", None)], 7_000_216),
        ("a secret", good, vec![("client_assertion", None), ("client_secret", Some("x"))], 7_000_215),
        ("no token", "a.b".to_owned(), vec![], 50_027),
        ("unsigned", Signed { header: json!({ "alg": "none" }), ..fresh() }.text(), vec![], 50_027),
        ("a key that is not registered", fresh().by(&Made::number(0)).text(), vec![], 700_027),
        (
            "another key under the name of the right one",
            Signed { key: Made::number(0).key, ..fresh() }.text(),
            vec![],
            700_027,
        ),
        ("for somebody else", fresh().claiming("sub", json!(Uuid::nil())).text(), vec![], 700_021),
        (
            "for another place",
            fresh().claiming("aud", json!("https://example.com/contoso.onmicrosoft.com/oauth2/v2.0/token")).text(),
            vec![],
            700_023,
        ),
        ("too late", fresh().claiming("exp", second(now - TimeDelta::minutes(6))).text(), vec![], 700_024),
        ("too early", fresh().claiming("nbf", second(now + TimeDelta::minutes(6))).text(), vec![], 700_024),
    ] {
        assert_eq!(ask(&mut tenant, &assertion, &changes, now), Err(expected), "{case}");
    }
    let request = TokenRequest { tenant: "fabrikam.onmicrosoft.com", endpoint: ENDPOINT, form: Vec::new() };
    assert_eq!(tenant.token(&request, now).unwrap_err().code, 90_002);
    let told = TokenError::of(700_027).json(now);
    assert!(told["error_description"].as_str().unwrap().starts_with("AADSTS700027: "), "{told}");
    assert_eq!((&told["error_codes"], &told["error"]), (&json!([700_027]), &json!("invalid_client")));
}

#[test]
fn a_key_whose_time_is_over_is_told_from_one_that_is_not_there() {
    let mut tenant = tenant();
    let (app, now) = (dedicated_app_id(), start() + TimeDelta::days(2000));
    let signed =
        Signed::by_client(&tenant, now).by(&Made::number(1)).claiming("iss", json!(app)).claiming("sub", json!(app));
    let form = [
        ("client_id", app.to_string()),
        ("scope", "https://outlook.office365.com/.default".to_owned()),
        ("grant_type", "client_credentials".to_owned()),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned()),
        ("client_assertion", signed.text()),
    ];
    let form = form.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let request = TokenRequest { tenant: "contoso.onmicrosoft.com", endpoint: ENDPOINT, form };
    let refused = tenant.token(&request, now).unwrap_err();
    let expected = format!("Thumbprint of key used by client: '{}'", Made::number(1).thumbprint());
    assert!(refused.code == 700_027 && refused.text.contains("The key used is expired"), "{refused:?}");
    assert!(refused.text.contains(&expected), "{refused:?}");
}

#[test]
fn sloppy_but_real_assertions_are_taken() {
    let mut tenant = tenant();
    let now = start();
    let floats = Signed::by_client(&tenant, now)
        .claiming("exp", json!(now.timestamp() as f64 + 599.75))
        .claiming("nbf", Value::Null);
    let by_id = ENDPOINT.replace("contoso.onmicrosoft.com", &tenant.spec.tenant_id.to_string());
    for signed in [floats, Signed::by_client(&tenant, now).claiming("aud", json!(by_id))] {
        ask(&mut tenant, &signed.text(), &[], now).unwrap();
    }
}

#[test]
fn a_new_key_is_taken_by_one_replica_after_the_other() {
    let mut tenant = tenant();
    let object = tenant.find_app(ObjectKind::Application, tenant.spec.client_id).unwrap();
    let wanted = with_new(&tenant, object);
    tenant.replace_keys(object, &wanted, start()).unwrap();
    let mut taken = |minutes| {
        let now = later(minutes);
        let assertion = Signed::by_client(&tenant, now).by(&Made::number(0)).text();
        (0..3).filter(|_| ask(&mut tenant, &assertion, &[], now).is_ok()).count()
    };
    let (at_first, at_last) = (taken(1), taken(12));
    assert!(at_first < 3 && at_last == 3, "{at_first}, {at_last}");
}

#[test]
fn keys_are_rolled_with_a_proof_by_one_of_them() {
    let mut tenant = tenant();
    let object = tenant.find_app(ObjectKind::Application, tenant.spec.client_id).unwrap();
    let id = tenant.objects()[object].id;
    let proof = |tenant: &Tenant| {
        let mut signed = Signed::by_client(tenant, start());
        signed.header["x5t"] = crate::trust::x5t(tenant.client().0.thumbprint.as_str()).into();
        signed.claiming("aud", json!(PROOF_AUDIENCE)).claiming("iss", json!(id))
    };
    let good = proof(&tenant);
    let new = Made::number(0).credential();
    for (case, bad) in [
        ("for the token endpoint", proof(&tenant).claiming("aud", json!(ENDPOINT)).text()),
        ("by another application", proof(&tenant).claiming("iss", json!(Uuid::nil())).text()),
        ("by a key that is not registered", proof(&tenant).by(&Made::number(0)).text()),
        ("padded", format!("{}==", good.text())),
        ("none", String::new()),
    ] {
        let refused = tenant.add_key(object, &new, &bad, start()).unwrap_err();
        assert_eq!(refused.code, "Authentication_MissingOrMalformed", "{case}");
    }
    let (key, written) = tenant.add_key(object, &new, &good.text(), start()).unwrap();
    assert_eq!(written.added, [Made::number(0).thumbprint()]);
    let written = tenant.remove_key(object, key.key_id, &good.text(), later(1)).unwrap();
    assert_eq!(written.removed, [Made::number(0).thumbprint()]);
    let gone = tenant.remove_key(object, key.key_id, &good.text(), later(2)).unwrap_err();
    assert!(gone.message.contains("No credentials found"), "{gone:?}");
}

#[test]
fn writing_needs_ownership_or_the_greater_right() {
    let tenant = tenant();
    let roles = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let (own, shared) = (application(&tenant), tenant.verifying(AppPath::Shared).unwrap());
    for (granted, expected) in [
        (roles(&["Application.ReadWrite.OwnedBy"]), (true, false)),
        (roles(&["Application.ReadWrite.All"]), (true, true)),
        (roles(&["Policy.Read.All"]), (false, false)),
    ] {
        assert_eq!((tenant.may_write(&granted, own), tenant.may_write(&granted, shared)), expected, "{granted:?}");
    }
}
