//! Reading requests: bodies, query parameters and conditional headers, each with an error that names what is wrong.

use std::{future::Future, pin::Pin, time::Duration};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    error::PayloadError,
    http::header::{self, HeaderMap},
    web::{self, Bytes},
};
use domain::storable::{HOLDS_NUL, nul_in, storable};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use serde_path_to_error::Segment;
use utoipa::{IntoParams, ToSchema};

use crate::{Problem, problem::FieldError};

/// Longer bodies are refused.
pub(crate) const BODY_LIMIT: usize = 64 * 1024;

/// A body that takes longer than this to arrive is given up.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned + 'static> FromRequest for Body<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = declared_json(request, payload);
        Box::pin(async move { parse(&bytes.await?).map(Self) })
    }
}

/// A record of another system as a JSON body. Whoever reads it leaves most of it out, so what cannot be stored is refused only where it is read.
#[derive(Debug)]
pub(crate) struct ForeignRecord(pub(crate) Value);

impl FromRequest for ForeignRecord {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = declared_json(request, payload);
        Box::pin(async move { read_json(&bytes.await?).map(Self) })
    }
}

fn declared_json(request: &HttpRequest, payload: &mut Payload) -> impl Future<Output = Result<Bytes, Problem>> + use<> {
    let declared = is_json(request.headers());
    let bytes = Bytes::from_request(request, payload);
    async move { if declared { received(bytes).await } else { Err(Problem::unsupported_media_type()) } }
}

/// A JSON body that may be left out.
#[derive(Debug)]
pub(crate) struct OptionalBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Default + 'static> FromRequest for OptionalBody<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let declared = is_json(request.headers());
        let bytes = Bytes::from_request(request, payload);
        Box::pin(async move {
            let bytes = received(bytes).await?;
            match (bytes.is_empty(), declared) {
                (true, _) => Ok(Self(T::default())),
                (false, true) => parse(&bytes).map(Self),
                (false, false) => Err(Problem::unsupported_media_type()),
            }
        })
    }
}

async fn received(bytes: <Bytes as FromRequest>::Future) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, bytes).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(match error.as_error::<PayloadError>() {
            Some(PayloadError::Overflow) => Problem::payload_too_large(BODY_LIMIT),
            _ => Problem::malformed_json("The body could not be read to its end."),
        }),
        Err(_) => Err(Problem::request_timeout()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    declared.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// Reads JSON; what is wrong is named by its JSON Pointer.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let value = read_json(bytes)?;
    refuse_nul(&value)?;
    // From the bytes, because a value has forgotten members that stand there twice.
    let mut json = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize(&mut json) {
        Ok(read) => Ok(read),
        Err(error) if error.inner().is_data() => Err(told(error)),
        // For a number in the place of a word, serde_json speaks of a syntax error.
        Err(_) => read_value(value),
    }
}

fn refuse_nul(value: &Value) -> Result<(), Problem> {
    let fault = |pointer| FieldError { pointer, detail: HOLDS_NUL.to_owned() };
    let errors: Vec<_> = nul_in(value).into_iter().map(fault).collect();
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid_request(errors)) }
}

fn read_json(bytes: &[u8]) -> Result<Value, Problem> {
    // Serde would read a list as the members of a struct in order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        let detail = "invalid type: list, expected an object".to_owned();
        return Err(Problem::invalid_request(vec![FieldError { pointer: String::new(), detail }]));
    }
    serde_json::from_slice(bytes).map_err(|error| Problem::malformed_json(format!("{error}.")))
}

/// Reads a JSON value; what is wrong is named by its JSON Pointer.
pub(crate) fn read_value<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(told)
}

fn told(error: serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let (pointer, error) = (pointer(error.path()), error.into_inner());
    let detail = without_position(&error);
    let pointer = match missing_field(&detail) {
        Some(field) => format!("{pointer}/{field}"),
        None => pointer,
    };
    Problem::invalid_request(vec![FieldError { pointer, detail }])
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    let escaped = |text: &str| text.replace('~', "~0").replace('/', "~1");
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", escaped(key)),
            Segment::Enum { variant } => format!("/{}", escaped(variant)),
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// The message without ` at line 1 column 2`, which says less than the pointer.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    in_words_of_json(text.strip_suffix(&position).unwrap_or(&text)).chars().take(400).collect()
}

/// Serde's message in words of JSON: it speaks of maps and sequences, and names types of this program.
fn in_words_of_json(message: &str) -> String {
    const FOUND: [(&str, &str); 9] = [
        ("invalid type: map", "invalid type: object"),
        ("invalid type: sequence", "invalid type: list"),
        ("invalid type: unit value", "invalid type: null"),
        ("invalid type: Option value", "invalid type: null"),
        ("invalid type: unit variant", "invalid type: word"),
        ("invalid type: newtype variant", "invalid type: object"),
        ("invalid type: integer", "invalid type: number"),
        ("invalid type: floating point", "invalid type: number"),
        ("invalid value: integer", "invalid value: number"),
    ];
    if message.starts_with("data did not match any variant of ") {
        return "it has none of the forms that are accepted".to_owned();
    }
    // What was expected stands at the end, and is not made of what was sent.
    let (found, expected) = match message.rsplit_once(", expected ") {
        Some((found, expected)) if message.starts_with("invalid ") => (found, Some(expected_in_json(expected))),
        _ => (message, None),
    };
    let known = FOUND.iter().find_map(|(serde, json)| found.strip_prefix(serde).map(|rest| format!("{json}{rest}")));
    let found = known.unwrap_or_else(|| found.to_owned());
    match expected {
        Some(expected) => format!("{found}, expected {expected}"),
        None => found,
    }
}

/// What serde expected, in words of JSON.
fn expected_in_json(expected: &str) -> &str {
    let kinds = ["struct ", "internally tagged enum ", "adjacently tagged enum ", "struct variant ", "a map"];
    if kinds.iter().any(|kind| expected.starts_with(kind)) {
        return "an object";
    }
    if ["tuple ", "a sequence", "an array", "unit struct "].iter().any(|kind| expected.starts_with(kind)) {
        return "a list";
    }
    if ["enum ", "variant ", "unit variant ", "newtype variant "].iter().any(|kind| expected.starts_with(kind)) {
        return "a word";
    }
    match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "unit" => "null",
        "option" => "a value or null",
        other => other,
    }
}

fn missing_field(detail: &str) -> Option<&str> {
    detail.strip_prefix("missing field `")?.strip_suffix('`')
}

/// The query parameters.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest for Params<T> {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        std::future::ready(read_query(request.query_string()).map(Self))
    }
}

fn read_query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let wrong = |name: &str, why: &str| Problem::invalid_parameter(format!("Query parameter `{name}`: {why}."));
    let pairs = form_urlencoded::parse(query.as_bytes());
    if let Some((name, _)) = pairs.clone().find(|(name, value)| name.contains('\0') || value.contains('\0')) {
        return Err(wrong(&storable(name), HOLDS_NUL));
    }
    serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs)).map_err(|error| {
        let name = error.path().to_string();
        wrong(&name, &in_words_of_json(&error.into_inner().to_string()))
    })
}

/// What `If-Match` asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct IfMatch(pub(crate) Option<i64>);

/// The `If-Match` header, for the document.
#[derive(IntoParams)]
#[into_params(names("If-Match"), parameter_in = Header)]
#[expect(dead_code, reason = "only describes the header that IfMatch reads")]
pub(crate) struct IfMatchHeader(
    /// The ETag of the renewal as you know it: refused with 412 when it has changed since.
    #[param(example = "\"12\"")]
    Option<String>,
);

impl FromRequest for IfMatch {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        std::future::ready(expected_version(request.headers()))
    }
}

fn expected_version(headers: &HeaderMap) -> Result<IfMatch, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(IfMatch(None)) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(IfMatch(None));
    }
    let version = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|text| text.parse().ok());
    version.map(|version| IfMatch(Some(version))).ok_or_else(|| {
        Problem::invalid_parameter("If-Match is not an ETag of a renewal: send one, with its quotes, like \"12\".")
    })
}

/// Whether `If-None-Match` names this entity tag (RFC 9110, 13.1.2: weak comparison).
pub(crate) fn none_match_names(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

/// The path parameters that cannot be read name nothing.
pub(crate) fn path_config() -> web::PathConfig {
    web::PathConfig::default().error_handler(|_, request| {
        let name = request.match_info().iter().next().map_or("", |(_, value)| value);
        let name: String = name.chars().take(80).collect();
        Problem::not_found(format!("`{name}` is not an id of that kind.")).into()
    })
}

/// Why somebody does something: 1 to 2000 characters, not only blanks.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, min_length = 1, max_length = 2000, example = "Reviewed the plan with the mail team")]
pub(crate) struct Why(String);

impl Why {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Why {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > 2000 {
            return Err("a reason has 1 to 2000 characters and is not blank");
        }
        Ok(Self(text.to_owned()))
    }
}

impl From<Why> for String {
    fn from(why: Why) -> Self {
        why.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serde_says_is_told_in_words_of_json() {
        let cases = [
            ("invalid type: map, expected a string", "invalid type: object, expected a string"),
            ("invalid type: integer `5`, expected struct NewDecision", "invalid type: number `5`, expected an object"),
            (
                "invalid type: string \"struct A, expected u8\", expected u32",
                "invalid type: string \"struct A, expected u8\", expected a whole number",
            ),
            (
                "invalid type: unit value, expected internally tagged enum Gate",
                "invalid type: null, expected an object",
            ),
            ("invalid length 0, expected struct Skip with 2 elements", "invalid length 0, expected an object"),
            ("data did not match any variant of untagged enum Field", "it has none of the forms that are accepted"),
            ("unknown field `struct`, expected `gate` or `verb`", "unknown field `struct`, expected `gate` or `verb`"),
            ("missing field `gate`", "missing field `gate`"),
        ];
        for (serde, json) in cases {
            assert_eq!(in_words_of_json(serde), json);
        }
    }
}
