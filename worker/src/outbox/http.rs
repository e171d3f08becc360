//! One POST to a receiver, and what its answer means.

use std::{error::Error as _, iter::successors, time::Duration};

use chrono::{DateTime, Utc};
use reqwest::{
    Client, StatusCode, Url,
    header::{HeaderMap, RETRY_AFTER},
};

use super::Delivered;

/// The longest that a receiver's wish to be left alone is followed.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

pub(super) struct Post<'a> {
    pub(super) url: &'a Url,
    pub(super) headers: &'a [(&'static str, String)],
    pub(super) body: String,
}

pub(super) async fn post(client: &Client, post: Post<'_>) -> Delivered {
    let host = post.url.host_str().unwrap_or_default();
    let mut request = client.post(post.url.clone()).body(post.body);
    for (name, value) in post.headers {
        request = request.header(*name, value);
    }
    match request.send().await {
        Ok(response) => answered(host, response.status(), response.headers(), Utc::now()),
        Err(error) => Delivered::retry(lost(host, error)),
    }
}

/// What a status means. Most refusals are of the way there and not of the message: a person may put them right within the days that it is tried.
fn answered(host: &str, status: StatusCode, headers: &HeaderMap, now: DateTime<Utc>) -> Delivered {
    let why = format!("{host} answers {status}");
    match status {
        status if status.is_success() => Delivered::Done,
        StatusCode::GONE => Delivered::Gone { why },
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Delivered::dead(format!("{why}: it does not take this message"))
        }
        status if status.is_redirection() => Delivered::retry(format!(
            "{why}: redirects are not followed; set the target's URL to where the receiver really is"
        )),
        _ => Delivered::Retry { why, after: retry_after(headers, now) },
    }
}

/// Seconds or a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = text.parse().ok().map(Duration::from_secs);
    let date = || DateTime::parse_from_rfc2822(text).ok().and_then(|at| (at.to_utc() - now).to_std().ok());
    seconds.or_else(date).map(|pause| pause.min(LONGEST_PAUSE))
}

/// Why no answer came. Without the URL, which may be a secret.
pub(super) fn lost(host: &str, error: reqwest::Error) -> String {
    let timeout = error.is_timeout();
    let error = error.without_url();
    let last = successors(error.source(), |error| (*error).source()).last();
    let why = last.map_or_else(|| error.to_string(), ToString::to_string);
    if timeout { format!("{host} does not answer in time") } else { format!("{host} cannot be reached: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: u16, retry_after: Option<&str>) -> Delivered {
        let mut headers = HeaderMap::new();
        retry_after.iter().for_each(|text| drop(headers.insert(RETRY_AFTER, text.parse().unwrap())));
        let now = DateTime::parse_from_rfc3339("2026-11-23T10:00:00Z").unwrap().to_utc();
        answered("receiver.example", StatusCode::from_u16(status).unwrap(), &headers, now)
    }

    #[test]
    fn answers_mean_done_later_never_or_gone() {
        for good in [200, 201, 202, 204] {
            assert_eq!(meaning(good, None), Delivered::Done);
        }
        for later in [301, 302, 307, 401, 403, 404, 405, 408, 409, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(meaning(later, None), Delivered::Retry { .. }), "{later}");
        }
        for never in [400, 413, 422] {
            assert!(matches!(meaning(never, None), Delivered::Dead { .. }), "{never}");
        }
        assert!(matches!(meaning(410, None), Delivered::Gone { .. }));
    }

    #[test]
    fn a_wish_to_be_left_alone_is_seconds_or_a_date() {
        let after = |text| match meaning(503, Some(text)) {
            Delivered::Retry { after, .. } => after.map(|after| after.as_secs()),
            other => panic!("{other:?}"),
        };
        assert_eq!(after("120"), Some(120));
        assert_eq!(after("Mon, 23 Nov 2026 10:05:00 GMT"), Some(300));
        assert_eq!(after("Mon, 23 Nov 2026 09:00:00 GMT"), None);
        assert_eq!(after("soon"), None);
        assert_eq!(after("99999999"), Some(86_400));
    }
}
