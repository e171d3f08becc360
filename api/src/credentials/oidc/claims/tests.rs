use std::time::Duration;

use serde_json::json;

use super::*;
use crate::credentials::{Pace, SignatureAlgorithm};

fn issuer() -> Issuer {
    Issuer {
        issuer: "https://login.example".to_owned(),
        audiences: vec!["api://rekey".to_owned(), "rekey".to_owned()],
        algorithms: vec![SignatureAlgorithm::Rs256],
        jwks_url: None,
        subject_claim: Claim("sub".to_owned()),
        groups_claims: ["groups", "/realm_access/roles"].map(|name| Claim(name.to_owned())).into(),
        roles: [
            ("mail-admins".to_owned(), vec![Role::Operator, Role::Requester]),
            ("change-board".to_owned(), vec![Role::Approver]),
        ]
        .into(),
        organizations: None,
        leeway: Duration::from_secs(60),
        ca: None,
        pace: Pace::default(),
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}

fn said(changes: Value) -> Claims {
    let mut claims =
        json!({"iss": "https://login.example", "aud": "rekey", "sub": "alice@contoso.example", "exp": 1_795_000_600});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect()
}

fn read(changes: Value) -> Result<Caller, Cause> {
    caller(&issuer(), &said(changes), now())
}

#[test]
fn groups_come_from_every_place_that_is_configured_and_bring_their_roles() {
    let claims =
        json!({"groups": ["mail-admins", "staff", "mail-admins"], "realm_access": {"roles": ["change-board"]}});
    let caller = read(claims).unwrap();
    assert_eq!(caller.groups(), ["mail-admins", "staff", "change-board"]);
    assert_eq!(caller.grants.roles, [Role::Requester, Role::Approver, Role::Operator]);
    assert_eq!((caller.subject(), caller.credential), ("alice@contoso.example", Credential::Oidc));
    assert_eq!(read(json!({"groups": "staff"})).unwrap().groups(), ["staff"]);
    assert_eq!(read(json!({"groups": 7, "realm_access": null})).unwrap().grants, Grants::default());
}

#[test]
fn nobody_gets_a_role_by_calling_a_group_as_a_role_is_called() {
    assert_eq!(read(json!({"groups": ["administrator"], "roles": ["administrator"]})).unwrap().grants.roles, []);
}

#[test]
fn the_audience_may_be_one_of_several() {
    assert!(read(json!({"aud": ["other", "api://rekey"]})).is_ok());
    for wrong in [json!("other"), json!(["other"]), json!([]), json!(null), json!({"rekey": "rekey"})] {
        let cause = read(json!({"aud": wrong})).unwrap_err();
        assert_eq!(cause, Cause::Audience("api://rekey` or `rekey".to_owned()));
    }
}

#[test]
fn times_are_taken_with_leeway() {
    assert!(read(json!({"exp": 1_794_999_941})).is_ok(), "59 seconds ago");
    assert!(matches!(read(json!({"exp": 1_794_999_940})), Err(Cause::Expired(_))));
    assert!(read(json!({"nbf": 1_795_000_060.5})).is_ok());
    assert!(matches!(read(json!({"nbf": 1_795_000_062})), Err(Cause::NotYetValid(_))));
    for (name, wrong) in
        [("exp", json!(null)), ("exp", json!("soon")), ("exp", json!(-1)), ("exp", json!(1e300)), ("nbf", json!([]))]
    {
        assert!(matches!(read(json!({name: wrong})), Err(Cause::Claims(_))), "{name} {wrong}");
    }
}

#[test]
fn a_subject_that_cannot_stand_in_a_record_or_is_rekeys_own_is_refused() {
    for wrong in
        [json!(null), json!(""), json!(7), json!("a\nb"), json!("worker:0123"), json!("api_key:x"), json!("anonymous")]
    {
        assert!(matches!(read(json!({"sub": wrong})), Err(Cause::Claims(_))), "{wrong}");
    }
    let by_mail = Issuer { subject_claim: Claim("email".to_owned()), ..issuer() };
    let claims = |verified: bool| said(json!({"email": "bob@contoso.example", "email_verified": verified}));
    assert_eq!(caller(&by_mail, &claims(true), now()).unwrap().subject(), "bob@contoso.example");
    assert_eq!(
        caller(&by_mail, &claims(false), now()).unwrap_err(),
        Cause::Claims("`email` is not verified".to_owned())
    );
}

#[test]
fn a_token_that_needs_a_proof_of_possession_is_no_bearer_token() {
    assert_eq!(read(json!({"cnf": {"jkt": "x"}})).unwrap_err(), Cause::Bound);
}

#[test]
fn groups_that_entra_leaves_out_are_said_to_be_missing() {
    for claims in
        [json!({"_claim_names": {"groups": "src1"}}), json!({"hasgroups": true}), json!({"hasgroups": "true"})]
    {
        let caller = read(claims).unwrap();
        let problem = caller.holding_any(&[Role::Approver]).unwrap_err();
        assert!(problem.to_string().contains("does not hold your groups"), "{problem}");
    }
    assert_eq!(read(json!({})).unwrap().notice, None);
}

#[test]
fn organizations_follow_from_groups_where_there_is_a_table() {
    let contoso = domain::OrganizationId::parse("contoso").unwrap();
    let table = [("mail-admins".to_owned(), BTreeSet::from([contoso.clone()]))].into();
    let limited = Issuer { organizations: Some(table), ..issuer() };
    let reach = |groups: Value| caller(&limited, &said(json!({"groups": groups})), now()).unwrap().grants.organizations;
    assert_eq!(reach(json!(["mail-admins"])), Some([contoso].into()));
    assert_eq!(reach(json!(["staff"])), Some(BTreeSet::new()), "none");
    assert_eq!(read(json!({"groups": ["staff"]})).unwrap().grants.organizations, None, "all");
}
