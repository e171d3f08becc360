//! The control API: what the lab knows of itself, and knobs. Plain HTTP and JSON, for tests and for people.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use hyper::{Method, Request, StatusCode, body::Incoming};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    faults::Fault,
    http::{Answer, Cut, Service, Transport, blocking, body, json, status},
    itsm,
    journal::{Count, Effect, EffectKind},
    running::Running,
};

/// The control API of a lab.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) running: Arc<Running>,
}

impl Service for Control {
    type Memory = ();

    fn is_open(&self) -> bool {
        true
    }

    fn connected(&self, _: &Transport) {}

    async fn answer(&self, (): &mut (), request: Request<Incoming>) -> Result<Answer, Cut> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let body = match body(request, LIMIT).await {
            Ok(body) => body,
            Err(answer) => return Ok(answer),
        };
        let running = self.running.clone();
        blocking(move || route(&running, &method, &path, &body)).await
    }
}

fn route(running: &Running, method: &Method, path: &str, body: &[u8]) -> Answer {
    if let Some(answer) = running.with(|world| itsm::route(world, method, path, body)) {
        return answer;
    }
    match (method.as_str(), path) {
        ("GET", "/clock") => json(StatusCode::OK, &ClockNow { clock: running.clock(), now: running.now() }),
        ("GET", "/state") => json(StatusCode::OK, &running.with(|world| world.state())),
        ("GET", "/probe") => json(StatusCode::OK, &running.with(|world| world.trust())),
        ("GET", "/effects") => json(StatusCode::OK, &running.with(|world| Effects::of(&world.journal))),
        ("GET", "/cmdlets") => json(StatusCode::OK, &running.with(|world| world.journal.cmdlets.clone())),
        ("GET", "/cloud") => json(StatusCode::OK, &running.with(|world| world.journal.cloud.clone())),
        ("GET", "/requests") => json(StatusCode::OK, &running.with(|world| world.journal.requests.clone())),
        ("POST", "/faults") => {
            done(parse(body).and_then(|Faults(faults)| faults.into_iter().try_for_each(|fault| running.apply(fault))))
        }
        ("DELETE", "/faults") => {
            running.heal();
            status(StatusCode::NO_CONTENT)
        }
        ("POST", "/clock/advance") => done(parse(body).and_then(|advance: Advance| advance.run(running))),
        (
            _,
            "/clock" | "/state" | "/probe" | "/effects" | "/cmdlets" | "/cloud" | "/requests" | "/faults"
            | "/clock/advance",
        ) => status(StatusCode::METHOD_NOT_ALLOWED),
        _ => status(StatusCode::NOT_FOUND),
    }
}

fn done(outcome: anyhow::Result<()>) -> Answer {
    match outcome {
        Ok(()) => status(StatusCode::NO_CONTENT),
        Err(error) => json(StatusCode::BAD_REQUEST, &serde_json::json!({ "error": error.to_string() })),
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> anyhow::Result<T> {
    Ok(serde_json::from_slice(body)?)
}

#[derive(Serialize)]
struct ClockNow {
    #[serde(flatten)]
    clock: Clock,
    now: DateTime<Utc>,
}

/// What changed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Effects {
    counts: std::collections::BTreeMap<EffectKind, Count>,
    effects: Vec<Effect>,
}

impl Effects {
    fn of(journal: &crate::journal::Journal) -> Self {
        Self { counts: journal.counts(), effects: journal.effects.clone() }
    }
}

/// One fault or several.
struct Faults(Vec<Fault>);

impl<'de> Deserialize<'de> for Faults {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let faults = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Array(faults) => faults,
            fault => vec![fault],
        };
        let faults: Result<_, _> = faults.into_iter().map(serde_json::from_value).collect();
        faults.map(Self).map_err(D::Error::custom)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    seconds: i64,
}

impl Advance {
    fn run(&self, running: &Running) -> anyhow::Result<()> {
        let span = TimeDelta::try_seconds(self.seconds).filter(|span| (TimeDelta::zero()..=FARTHEST).contains(span));
        running.advance(span.ok_or_else(|| anyhow::anyhow!("seconds is {}: use 0 to ten years", self.seconds))?);
        Ok(())
    }
}

/// Longer than any list of faults.
const LIMIT: usize = 64 * 1024;
/// How far time can be moved in one go.
const FARTHEST: TimeDelta = TimeDelta::days(3653);
