use super::*;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}

fn claims() -> Claims {
    Claims::new("alice@contoso.example", vec![Role::Requester], vec!["mail".to_owned()], now(), TimeDelta::hours(1))
}

fn tokens() -> Tokens {
    Tokens::new(&[7; 32])
}

/// A token with this header and these claims, signed with our secret or not at all.
fn forged(header: &str, claims: &Claims, signature: &str) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    format!("{}.{}.{signature}", part(header.as_bytes()), part(&serde_json::to_vec(claims).unwrap()))
}

#[test]
fn a_minted_token_says_what_was_put_into_it() {
    let token = tokens().mint(&claims()).unwrap();
    assert_eq!(tokens().verify(&token, now()).unwrap(), claims());
}

#[test]
fn each_way_to_be_wrong_has_a_cause_of_its_own() {
    let minted = |change: fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        tokens().mint(&claims).unwrap()
    };
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
    let good = tokens().mint(&claims()).unwrap();
    let cases = [
        ("garbage", "garbage".to_owned(), Cause::Malformed),
        ("two parts", "a.b".to_owned(), Cause::Malformed),
        ("a broken header", format!("!!!.{}", good.split_once('.').unwrap().1), Cause::Malformed),
        (
            "alg none",
            forged(r#"{"alg":"none"}"#, &claims(), ""),
            Cause::Algorithm("none".to_owned(), "HS256".to_owned()),
        ),
        (
            "alg RS256",
            forged(r#"{"alg":"RS256","typ":"JWT"}"#, &claims(), "AAAA"),
            Cause::Algorithm("RS256".to_owned(), "HS256".to_owned()),
        ),
        ("another secret", Tokens::new(&[8; 32]).mint(&claims()).unwrap(), Cause::Signature),
        ("expired", minted(|c| c.exp = 1_794_999_999), Cause::Expired(at(1_794_999_999))),
        ("not yet valid", minted(|c| c.nbf = 1_795_000_100), Cause::NotYetValid(at(1_795_000_100))),
        ("another issuer", minted(|c| c.iss = "other".to_owned()), Cause::Issuer),
        ("another audience", minted(|c| c.aud = "other".to_owned()), Cause::Audience("rekey".to_owned())),
    ];
    for (name, token, cause) in cases {
        assert_eq!(tokens().verify(&token, now()).unwrap_err().cause, cause, "{name}");
    }
}

#[test]
fn the_subject_is_known_only_when_the_signature_is_right() {
    let mut late = claims();
    late.exp = 0;
    let signed = tokens().mint(&late).unwrap();
    assert_eq!(tokens().verify(&signed, now()).unwrap_err().subject.as_deref(), Some("alice@contoso.example"));
    let foreign = Tokens::new(&[8; 32]).mint(&late).unwrap();
    assert_eq!(tokens().verify(&foreign, now()).unwrap_err().subject, None);
}

#[test]
fn a_subject_that_cannot_stand_in_a_record_is_not_minted() {
    for bad in ["", "a\nb", &"x".repeat(201)] {
        let claims = Claims { sub: bad.to_owned(), ..claims() };
        assert!(matches!(tokens().mint(&claims), Err(TokenError::Subject)), "{bad:?}");
    }
}

#[test]
fn debug_output_hides_the_secret() {
    assert_eq!(format!("{:?}", Tokens::new(&[7; 32])), "Tokens { secret: <hidden> }");
}
