//! Signatures over the bytes of a body: Standard Webhooks 1.0 (symmetric, `v1`), and `X-Hub-Signature` as Jira Cloud sends it.

use actix_web::http::header::HeaderMap;
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};

/// Why a signature is not accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unsigned {
    /// A header is missing or cannot be read.
    Header(&'static str),
    /// It was not made with a secret of the source, or over another body.
    Wrong,
    /// It is so old that it may be a copy that somebody kept.
    TooOld,
    /// The sender's clock is ahead.
    Ahead,
}

/// Whether a request says that it is signed like this.
pub(crate) fn is_standard(headers: &HeaderMap) -> bool {
    ["webhook-signature", "webhook-timestamp"].iter().any(|name| headers.contains_key(*name))
}

/// Whether a request says that it is signed as Jira does it.
pub(crate) fn is_hub(headers: &HeaderMap) -> bool {
    headers.contains_key("x-hub-signature")
}

fn one<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, Unsigned> {
    let mut values = headers.get_all(name);
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Unsigned::Header(name)) };
    let text = value.to_str().map(str::trim).ok().filter(|text| !text.is_empty());
    text.ok_or(Unsigned::Header(name))
}

/// Checks `webhook-id`, `webhook-timestamp` and `webhook-signature` over `<id>.<timestamp>.<body>`: any signature of the list, made with any of the keys.
/// The signature is looked at first: what is said of clocks is said only to those who have a secret.
pub(crate) fn standard(
    headers: &HeaderMap,
    body: &[u8],
    keys: &[hmac::Key],
    tolerance: TimeDelta,
    now: DateTime<Utc>,
) -> Result<(), Unsigned> {
    let (id, timestamp) = (one(headers, "webhook-id")?, one(headers, "webhook-timestamp")?);
    let signatures = one(headers, "webhook-signature")?;
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    let offered = signatures.split_ascii_whitespace().take(MOST_SIGNATURES);
    let offered: Vec<_> = offered.filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok()).collect();
    if !matches(keys, &signed, &offered) {
        return Err(Unsigned::Wrong);
    }
    let at = timestamp.parse().ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let age = now - at.ok_or(Unsigned::Header("webhook-timestamp"))?;
    match age {
        age if age > tolerance => Err(Unsigned::TooOld),
        age if age < -tolerance => Err(Unsigned::Ahead),
        _ => Ok(()),
    }
}

/// Checks `X-Hub-Signature: sha256=<hexadecimal>` over the body. It carries no time: copies are found by the body.
pub(crate) fn hub(headers: &HeaderMap, body: &[u8], keys: &[hmac::Key]) -> Result<(), Unsigned> {
    let text = one(headers, "x-hub-signature")?;
    let digits = text.strip_prefix("sha256=").ok_or(Unsigned::Header("x-hub-signature"))?;
    let offered = unhex(digits).ok_or(Unsigned::Header("x-hub-signature"))?;
    if matches(keys, body, &[offered]) { Ok(()) } else { Err(Unsigned::Wrong) }
}

/// Whether one of the signatures is made with one of the keys. Each comparison takes the same time wherever the difference is.
fn matches(keys: &[hmac::Key], signed: &[u8], offered: &[Vec<u8>]) -> bool {
    keys.iter().any(|key| offered.iter().any(|offered| hmac::verify(key, signed, offered).is_ok()))
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

/// Nobody rotates through more secrets than this at a time.
const MOST_SIGNATURES: usize = 8;

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let pairs =
            list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        pairs.collect()
    }

    fn key(secret: &[u8]) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, secret)
    }

    /// The example of the specification's libraries.
    const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &[u8] = b"{\"test\": 2432232314}";
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn the_known_example_of_standard_webhooks_is_accepted_within_the_tolerance() {
        let keys = [key(b"an older one that is still accepted"), key(&STANDARD.decode(SECRET).unwrap())];
        let check = |id: &str, timestamp: &str, signature: &str, body: &[u8], after: i64| {
            let headers =
                headers(&[("webhook-id", id), ("webhook-timestamp", timestamp), ("webhook-signature", signature)]);
            let now = DateTime::from_timestamp(1_614_265_330 + after, 0).unwrap();
            standard(&headers, body, &keys, TimeDelta::seconds(300), now)
        };
        let (id, at) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
        let list = format!("v1a,AAAA v1,AAAA {SIGNATURE}");
        for after in [-300, 0, 300] {
            assert_eq!(check(id, at, &list, BODY, after), Ok(()));
        }
        assert_eq!(check(id, at, SIGNATURE, BODY, 301), Err(Unsigned::TooOld));
        assert_eq!(check(id, at, SIGNATURE, BODY, -301), Err(Unsigned::Ahead));
        assert_eq!(check(id, at, SIGNATURE, b"{\"test\": 2432232315}", 0), Err(Unsigned::Wrong));
        assert_eq!(check("msg_other", at, SIGNATURE, BODY, 0), Err(Unsigned::Wrong));
        assert_eq!(check(id, "1614265331", SIGNATURE, BODY, 0), Err(Unsigned::Wrong));
        assert_eq!(check(id, "soon", SIGNATURE, BODY, 0), Err(Unsigned::Wrong));
        assert_eq!(check(id, at, &SIGNATURE[3..], BODY, 0), Err(Unsigned::Wrong));
        let missing = headers(&[("webhook-id", id), ("webhook-timestamp", at)]);
        let checked = standard(&missing, BODY, &keys, TimeDelta::seconds(300), Utc::now());
        assert_eq!(checked, Err(Unsigned::Header("webhook-signature")));
    }

    #[test]
    fn the_known_example_of_a_hub_signature_is_accepted() {
        // The example of GitHub's documentation, which Atlassian's follows.
        let keys = [key(b"It's a Secret to Everybody")];
        let signature = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let check = |text: &str, body: &[u8]| hub(&headers(&[("x-hub-signature", text)]), body, &keys);
        assert_eq!(check(&format!("sha256={signature}"), b"Hello, World!"), Ok(()));
        assert_eq!(check(&format!("sha256={}", signature.to_uppercase()), b"Hello, World!"), Ok(()));
        assert_eq!(check(&format!("sha256={signature}"), b"Hello, World?"), Err(Unsigned::Wrong));
        assert_eq!(check(signature, b"Hello, World!"), Err(Unsigned::Header("x-hub-signature")));
        assert_eq!(check("sha256=zz", b"Hello, World!"), Err(Unsigned::Header("x-hub-signature")));
    }
}
