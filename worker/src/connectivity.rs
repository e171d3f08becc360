//! What `Test-OAuthConnectivity` says, on-premises and in the cloud (cloud.md 1.6, domain.md 3.6). Pure.
//!
//! Only `ResultType` and `Detail` count: `IsValid` is true and `ObjectState` is `New` for failures, too.

use psrp::Value;
use serde_json::{Map, Value as Json};

use crate::connectors::redact;

/// What a test shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// The other side has let us in.
    Works,
    /// The other side has taken the token, but knows no such user: trust is right, the mailbox of the test is wrong.
    OtherMailbox,
    /// Entra does not know the key that signed.
    KeyNotInEntra,
    /// The servers have not taken up the dedicated application yet.
    ApplicationNotUsed,
    /// The server has no certificate to sign with, or one that has ended.
    CertificateOnServer,
    /// Something else.
    Fails,
}

/// A test that was made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Tested {
    pub(crate) verdict: Verdict,
    /// The application that tokens were asked for, where the log tells.
    pub(crate) application_id: Option<String>,
    /// What is to be told, in one line.
    pub(crate) said: String,
}

impl Verdict {
    /// Whether trust is proven.
    pub(crate) const fn is_trusted(self) -> bool {
        matches!(self, Self::Works | Self::OtherMailbox)
    }
}

/// Of an object that the cmdlet wrote in Exchange Online. `None` when it is no result.
pub(crate) fn of_json(object: &Map<String, Json>) -> Option<Tested> {
    let text = |value: &Json, inner: &str| match value {
        Json::Object(object) => object.get(inner).and_then(Json::as_str).map(str::to_owned),
        Json::String(text) => Some(text.clone()),
        _ => None,
    };
    let result = text(object.get("ResultType")?, "Value")?;
    let detail = object.get("Detail").and_then(|detail| text(detail, "FullId")).unwrap_or_default();
    Some(interpret(&result, &detail))
}

/// Of an object that the cmdlet wrote on-premises. `None` when it is no result.
pub(crate) fn of_value(object: &Value) -> Option<Tested> {
    let text = |name: &str, inner: &str| {
        let value = object.property(name)?;
        Some(value.property(inner).map_or_else(|| value.text(), Value::text))
    };
    let result = text("ResultType", "Value").filter(|result| !result.is_empty())?;
    Some(interpret(&result, &text("Detail", "FullId").unwrap_or_default()))
}

/// What a result and the log beside it mean.
pub(crate) fn interpret(result: &str, detail: &str) -> Tested {
    let application_id = application_id(detail);
    if result.trim().eq_ignore_ascii_case("Success") {
        return Tested { verdict: Verdict::Works, application_id, said: "Success".to_owned() };
    }
    let log = detail.to_ascii_lowercase();
    let cause = cause(detail);
    let (verdict, meaning) = if log.contains("aadsts700027") {
        (Verdict::KeyNotInEntra, "Entra does not know the key that signed (AADSTS700027)")
    } else if log.contains("user-context in the token") {
        (Verdict::OtherMailbox, "the token was taken; the test's mailbox does not exist there: choose another one")
    } else if is_forbidden(&log) && log.contains("01-01-0001") {
        (
            Verdict::ApplicationNotUsed,
            "the server does not use the dedicated application yet: its configuration was never loaded",
        )
    } else if is_certificate(&log) {
        (Verdict::CertificateOnServer, "the server has no certificate to sign with, or it has ended")
    } else {
        (Verdict::Fails, "")
    };
    let said = [result.trim(), meaning, &cause].into_iter().filter(|part| !part.is_empty());
    Tested { verdict, application_id, said: said.collect::<Vec<_>>().join(": ") }
}

fn is_forbidden(log: &str) -> bool {
    log.contains("403") || log.contains("forbidden")
}

/// Texts of the signing side: `The certificate ... is missing`, `Missing signing certificate`, `... has expired`.
fn is_certificate(log: &str) -> bool {
    let lines = || log.lines().filter(|line| line.contains("certificate"));
    lines().any(|line| {
        ["missing", "expired", "not found", "could not be found", "couldn't be found"]
            .iter()
            .any(|word| line.contains(word))
    })
}

/// The application in `L:<guid>-AS:` of the log (domain.md 3.6).
fn application_id(detail: &str) -> Option<String> {
    detail.match_indices("L:").find_map(|(at, mark)| {
        let id = detail.get(at + mark.len()..)?.get(..36)?;
        let follows = detail.get(at + mark.len() + 36..)?.starts_with("-AS:");
        uuid::Uuid::parse_str(id).ok().filter(|_| follows).map(|id| id.to_string())
    })
}

/// The longest text of a log that is told.
const LONGEST: usize = 300;

/// The line of the log that says why, without what looks like a token.
fn cause(detail: &str) -> String {
    let telling = ["diagnostics:", "aadsts", "exception", "error"];
    let lines = || detail.lines().map(str::trim).filter(|line| !line.is_empty() && !line.ends_with(':'));
    let found = telling.iter().find_map(|word| lines().find(|line| line.to_ascii_lowercase().contains(word)));
    redact(found.unwrap_or_default(), None).chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use psrp::Object;
    use serde_json::json;

    use super::*;

    const HEAD: &str = "The configuration was last successfully loaded at 11/25/2026 10:00:00 UTC. This was 3 minutes ago.\r\n\
        The token cache is being cleared because \"use cached token\" was set to false.\r\nExchange Outbound Oauth Log:\r\n\
        Client request ID: 1ecb5b2c-5a5c-4f0f-8a2e-0b9a5a2d6f10\r\n";

    fn log(rest: &str) -> String {
        format!(
            "{HEAD}Information:[OAuthCredentials:Authenticate] entering L:8f5bb4b0-9a3f-4a0f-9d3b-8f4a9c3b2a10-AS:x\r\n{rest}"
        )
    }

    #[test]
    fn a_result_is_read_in_both_forms() {
        let log = log("HTTP response message:\r\n");
        for result in [json!("Success"), json!({ "Value": "Success" })] {
            let object = json!({ "Task": "Checking EWS API Call Under Oauth", "Detail": log, "ResultType": result, "IsValid": true });
            let tested = of_json(object.as_object().unwrap()).unwrap();
            assert_eq!(tested.verdict, Verdict::Works);
            assert_eq!(tested.application_id.as_deref(), Some("8f5bb4b0-9a3f-4a0f-9d3b-8f4a9c3b2a10"));
        }
        let detail = Object::default().with("FullId", log.as_str());
        let result = Object::default().with("Value", "Success");
        for object in [
            Object::default().with("ResultType", "Success").with("Detail", log.as_str()),
            Object::default().with("ResultType", result).with("Detail", detail),
        ] {
            assert_eq!(of_value(&object.into()).unwrap().verdict, Verdict::Works);
        }
        assert_eq!(of_json(&Map::new()), None);
        assert_eq!(of_value(&Object::default().with("Task", "x").into()), None);
    }

    #[test]
    fn a_wrong_test_mailbox_is_no_failed_trust() {
        let detail = log(
            "Exception:\r\nSystem.Net.WebException: The remote server returned an error: (401) Unauthorized., diagnostics: 2000005;reason=\"The user \
             specified by the user-context in the token does not exist.\";error_category=\"invalid_user\"",
        );
        let tested = interpret("Error", &detail);
        assert_eq!(tested.verdict, Verdict::OtherMailbox);
        assert!(tested.verdict.is_trusted());
    }

    #[test]
    fn each_known_failure_is_told_apart() {
        let cases = [
            (
                "Exception:\r\nAADSTS700027: The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found.]",
                Verdict::KeyNotInEntra,
            ),
            ("Exception:\r\nMissing signing certificate.", Verdict::CertificateOnServer),
            ("Exception:\r\nThe certificate with thumbprint 9F3B has expired.", Verdict::CertificateOnServer),
            ("Exception:\r\nThe remote server returned an error: (403) Forbidden.", Verdict::Fails),
            ("Exception:\r\nThe remote name could not be resolved: 'outlook.office365.com'", Verdict::Fails),
        ];
        for (rest, verdict) in cases {
            let tested = interpret("Error", &log(rest));
            assert_eq!((tested.verdict, tested.verdict.is_trusted()), (verdict, false), "{rest}");
        }
        let never = "The configuration was last successfully loaded at 01-01-0001 00:00:00 UTC.\r\nThe remote server returned an error: (403) Forbidden.";
        assert_eq!(interpret("Error", never).verdict, Verdict::ApplicationNotUsed);
    }

    #[test]
    fn a_token_in_the_log_is_not_told() {
        let tested = interpret("Error", "Exception: got eyJhbGciOiJSUzI1NiIsIng1dCI6ImEifQ.eyJhdWQiOiJ4In0.c2ln back");
        assert_eq!(tested.said, "Error: Exception: got [redacted] back");
    }
}
