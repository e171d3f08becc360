//! Reading requests: bodies, query parameters and conditional headers, each with an error that names what is wrong.

use std::{future::Future, pin::Pin, time::Duration};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    error::PayloadError,
    http::header::{self, HeaderMap},
    web::{self, Bytes},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
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
        let declared = is_json(request.headers());
        let bytes = Bytes::from_request(request, payload);
        Box::pin(async move {
            if !declared {
                return Err(Problem::unsupported_media_type());
            }
            parse(&received(bytes).await?).map(Self)
        })
    }
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
    // Serde would read a list as the members of a struct in order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        let detail = "invalid type: list, expected an object".to_owned();
        return Err(Problem::invalid_request(vec![FieldError { pointer: String::new(), detail }]));
    }
    let value = serde_json::from_slice(bytes).map_err(|error| Problem::malformed_json(format!("{error}.")))?;
    // From the bytes, because a value has forgotten members that stand there twice.
    let mut json = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize(&mut json) {
        Ok(read) => Ok(read),
        Err(error) if error.inner().is_data() => Err(told(error)),
        // For a number in the place of a word, serde_json speaks of a syntax error.
        Err(_) => read_value(value),
    }
}

/// Reads a JSON value; what is wrong is named by its JSON Pointer.
pub(crate) fn read_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Problem> {
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
    text.strip_suffix(&position).unwrap_or(&text).chars().take(400).collect()
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
        let read = serde_path_to_error::deserialize(query(request)).map(Self).map_err(|error| {
            let name = error.path().to_string();
            Problem::invalid_parameter(format!("Query parameter `{name}`: {}.", error.into_inner()))
        });
        std::future::ready(read)
    }
}

fn query(request: &HttpRequest) -> serde_urlencoded::Deserializer<'_> {
    serde_urlencoded::Deserializer::new(form_urlencoded::parse(request.query_string().as_bytes()))
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
