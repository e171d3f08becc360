//! `/v1/renewals/{id}/events`: what happens to a renewal, as it happens.

use std::{convert::Infallible, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::header,
    web::{Bytes, Data, Path},
};
use chrono::{DateTime, Utc};
use domain::{RenewalId, audit::AuditEntry};
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until};
use utoipa::IntoParams;

use crate::{
    Problem, State,
    caller::{May, Read},
    input::Params,
    limits::Seat,
    page::List,
};

/// From where on, and how.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventQuery {
    /// Only entries after this sequence number. `Last-Event-ID` goes before it.
    #[param(minimum = 0)]
    after: Option<i64>,
    /// With `Accept: application/json`: how long to wait for something to happen, 0 to 60 seconds.
    #[serde(default)]
    #[param(value_type = u64, minimum = 0, maximum = 60, default = 0, required = false)]
    wait_seconds: Patience,
}

/// How long somebody is willing to wait.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "u64")]
struct Patience(Duration);

impl TryFrom<u64> for Patience {
    type Error = &'static str;
    fn try_from(seconds: u64) -> Result<Self, Self::Error> {
        if seconds <= 60 { Ok(Self(Duration::from_secs(seconds))) } else { Err("wait 0 to 60 seconds") }
    }
}

/// Follow a renewal.
///
/// Server-sent events, one for each audit entry: `id` is its sequence number, `event` its action, `data` the entry as JSON. `Last-Event-ID` resumes
/// without gaps. The stream ends when the renewal is over,
/// and after a quarter of an hour at the latest. With `Accept: application/json` the answer is a list instead, which `wait_seconds` delays
/// until something happens.
#[utoipa::path(tag = "renewals",
    params(("id" = RenewalId, Path), EventQuery, ("Last-Event-ID" = Option<i64>, Header, description = "The last sequence number that was received")),
    responses(
        (status = 200, description = "The entries, as they come", content(
            (String = "text/event-stream", example = "id: 1\nevent: renewal.requested\ndata: {\"sequence\":1}\n\n"),
            (List<AuditEntry> = "application/json")
        ))
    )
)]
#[get("/v1/renewals/{id}/events")]
pub(crate) async fn follow_renewal(
    caller: May<Read>,
    state: Data<State>,
    id: Path<RenewalId>,
    Params(query): Params<EventQuery>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let after = last_event_id(&request)?.or(query.after).unwrap_or(0);
    let seat = state.meters.seat(caller.caller().counted_as())?;
    let until = Instant::now() + longest(caller.caller().expires_at);
    let mut feed = Feed { state: (**state).clone(), id: *id, after, until, _seat: seat };
    if accepts_json(&request) {
        let items = feed.wait(query.wait_seconds.0).await?;
        return Ok(HttpResponse::Ok().json(List { items }));
    }
    // A renewal that does not exist is a problem, not an empty stream.
    state.db.read(async |tx| tx.renewal(*id).await).await?;
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(feed.stream()))
}

fn last_event_id(request: &HttpRequest) -> Result<Option<i64>, Problem> {
    let Some(value) = request.headers().get("last-event-id") else { return Ok(None) };
    let sequence = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    sequence
        .map(Some)
        .ok_or_else(|| Problem::invalid_parameter("Last-Event-ID is not the sequence number of an entry."))
}

fn accepts_json(request: &HttpRequest) -> bool {
    let accepted = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.contains("application/json") && !accepted.contains("text/event-stream")
}

/// The entries of a renewal after a sequence number.
struct Feed {
    state: State,
    id: RenewalId,
    after: i64,
    /// Nobody follows for longer: who may is asked anew, and `Last-Event-ID` goes on without a gap.
    until: Instant,
    _seat: Seat,
}

/// How long somebody may follow whose credential is good until then.
fn longest(expires_at: Option<DateTime<Utc>>) -> Duration {
    let left = expires_at.map_or(LONGEST, |at| (at - Utc::now()).to_std().unwrap_or_default());
    left.min(LONGEST)
}

/// What a look at a renewal found.
struct Look {
    entries: Vec<AuditEntry>,
    /// Nothing more will come.
    over: bool,
}

/// Where a stream is.
enum Stage {
    Begin(Feed),
    Follow(Feed),
    End,
}

impl Feed {
    /// The entries that are there, or the first that come within `patience`.
    async fn wait(&mut self, patience: Duration) -> db::Result<Vec<AuditEntry>> {
        let deadline = Instant::now() + patience;
        loop {
            // Asked for before looking, so that no write in between is missed.
            let woken = self.state.db.woken();
            let look = self.look().await?;
            if !look.entries.is_empty() || look.over || Instant::now() >= deadline {
                return Ok(look.entries);
            }
            tokio::select! {
                () = woken => {}
                () = sleep(POLL) => {}
                () = sleep_until(deadline) => {}
                () = self.state.shutdown.cancelled() => return Ok(Vec::new()),
            }
        }
    }

    fn stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(Stage::Begin(self), async |stage| {
            let (chunk, stage) = match stage {
                Stage::Begin(feed) => (RETRY.to_owned(), Stage::Follow(feed)),
                Stage::Follow(feed) => feed.next_chunk().await?,
                Stage::End => return None,
            };
            Some((Ok(Bytes::from(chunk)), stage))
        })
    }

    /// The next events, or a comment that keeps the connection alive; `None` when the stream is over.
    async fn next_chunk(mut self) -> Option<(String, Stage)> {
        let keep_alive = Instant::now() + KEEP_ALIVE;
        loop {
            // Asked for before looking, so that no write in between is missed.
            let woken = self.state.db.woken();
            let look =
                self.look().await.inspect_err(|error| tracing::error!(%error, "A stream broke: {error}")).ok()?;
            match (look.entries.is_empty(), look.over) {
                (true, true) => return None,
                (false, over) => {
                    let chunk = look.entries.iter().map(event).collect();
                    return Some((chunk, if over { Stage::End } else { Stage::Follow(self) }));
                }
                (true, false) => {}
            }
            tokio::select! {
                () = woken => {}
                () = sleep(POLL) => {}
                () = sleep_until(self.until) => return None,
                () = sleep_until(keep_alive) => return Some((": still here\n\n".to_owned(), Stage::Follow(self))),
                () = self.state.shutdown.cancelled() => return None,
            }
        }
    }

    /// Looks once, and moves on past what it found.
    async fn look(&mut self) -> db::Result<Look> {
        let (id, after) = (self.id, self.after);
        let found = self.state.db.read(async |tx| {
            let renewal = tx.renewal(id).await?;
            db::Result::Ok((tx.audit_of(id, after, BATCH).await?, renewal.state.is_live()))
        });
        let (entries, live) = found.await?;
        self.after = entries.last().map_or(after, |entry| entry.sequence);
        let whole = i64::try_from(entries.len()).is_ok_and(|rows| rows < BATCH);
        Ok(Look { entries, over: whole && !live })
    }
}

/// An entry as a server-sent event. JSON has no line breaks of its own.
fn event(entry: &AuditEntry) -> String {
    let data = serde_json::to_string(entry).expect("an entry is JSON");
    format!("id: {}\nevent: {}\ndata: {data}\n\n", entry.sequence, entry.action)
}

/// How often to look when nothing wakes us: on a database shared with other processes, their writes do not.
const POLL: Duration = Duration::from_secs(1);

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A credential that was revoked is found out after this time at the latest.
const LONGEST: Duration = Duration::from_secs(15 * 60);

const BATCH: i64 = 200;

/// Tells browsers to reconnect after two seconds.
const RETRY: &str = "retry: 2000\n\n";
