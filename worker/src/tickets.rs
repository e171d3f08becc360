//! The tickets of renewals: read before each change and by polling, so that a change that is held, called off or not approved any more reaches its run;
//! and asked for, so that what a hook did not bring is made up for.
//!
//! What a record says is read by `domain::intake`, and what follows from it is `Tx::take_in`, the same as for hooks.

mod target;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use db::{Arrival, Db, DeliveryAnswer, Taken, Taker};
use domain::{
    DeliveryId, DeliveryVerdict, OrganizationId, Renewal, RenewalId, Ticket, TicketStanding, TicketWord,
    intake::{Fault, Intake, Source},
};
use serde_json::{Value as Json, json};
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    Worker,
    connectors::itsm::{Failure, Jira, ServiceNow, TicketError, jira},
    outbox::Subscription,
};
pub use target::TicketTarget;

/// How far back changes are asked for at first.
const FIRST_LOOK: TimeDelta = TimeDelta::days(2);
/// How much is asked for twice: an instance writes the time of an update before others can read it.
const OVERLAP: TimeDelta = TimeDelta::minutes(2);
/// So much is kept of a record that cannot be used, in bytes; as of a hook.
const LARGEST_KEPT: usize = 1024 * 1024;
/// The longest that the loop sleeps, in real time.
const BEAT: Duration = Duration::from_millis(500);

/// The way to a ticket system.
#[derive(Debug)]
pub enum TicketClient {
    /// An instance of ServiceNow.
    ServiceNow(ServiceNow),
    /// A site of Jira Service Management.
    Jira(Jira),
}

/// What the states of a system are called that rekey moves a change to. The change model of an instance may have others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StateNames {
    /// The run has begun.
    pub implement: String,
    /// It is over and looked at; none where there is no such state.
    pub review: Option<String>,
    /// It is over.
    pub closed: String,
    /// It is over and did not come out well; the same as `closed` where a close code says so.
    pub failed: String,
}

impl StateNames {
    /// Those of a change of ServiceNow as it is delivered (itsm.md 5.2).
    #[must_use]
    pub fn servicenow() -> Self {
        let [implement, review, closed] = ["-1", "0", "3"].map(str::to_owned);
        Self { implement, review: Some(review), failed: closed.clone(), closed }
    }

    /// Those of the change workflow of Jira Service Management.
    #[must_use]
    pub fn jira() -> Self {
        let [implement, closed, failed] = ["Implementing", "Completed", "Failed"].map(str::to_owned);
        Self { implement, review: None, closed, failed }
    }
}

/// A ticket system that is configured.
#[derive(Debug)]
pub struct TicketSystem {
    /// The word in `ticket.system`.
    pub id: String,
    /// How its records are read.
    pub source: Source,
    /// The way to it.
    pub client: TicketClient,
    /// The organizations that it is for; all if there are none.
    pub organizations: Vec<OrganizationId>,
    /// Where changes are moved to.
    pub states: StateNames,
    /// Whether changes are moved and closed at all; otherwise they are only told about.
    pub moves: bool,
    /// The field of Jira that says that somebody holds an issue.
    pub hold_field: String,
    /// Which changes name rekey: an encoded query, or JQL. Without one no changes are asked for.
    pub query: Option<String>,
    /// How often tickets are read and changes asked for, in real time.
    pub poll: Duration,
    /// How old what was read may be for a step that changes something, in real time.
    pub fresh: Duration,
    /// How long what was read last counts while the system does not answer, in real time.
    pub unanswered: Duration,
}

/// The ticket systems of a worker, and when each ticket was read last.
#[derive(Debug, Default)]
pub struct Tickets {
    systems: BTreeMap<String, Arc<TicketSystem>>,
    read: Mutex<HashMap<RenewalId, Instant>>,
}

impl Tickets {
    /// These systems.
    #[must_use]
    pub fn new(systems: Vec<Arc<TicketSystem>>) -> Self {
        Self {
            systems: systems.into_iter().map(|system| (system.id.clone(), system)).collect(),
            read: Mutex::default(),
        }
    }

    /// The system of a renewal's ticket, if it is configured and for its organization.
    fn of(&self, renewal: &Renewal) -> Option<(&Arc<TicketSystem>, Ticket)> {
        let ticket = renewal.request.ticket.as_ref()?;
        let system = self.systems.get(&ticket.system)?;
        system.is_for(&renewal.organization_id).then(|| (system, ticket.clone()))
    }

    fn was_read(&self, renewal: RenewalId, within: Duration) -> bool {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.get(&renewal).is_some_and(|at| at.elapsed() < within)
    }

    fn note(&self, renewal: RenewalId) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.retain(|_, at| at.elapsed() < Duration::from_secs(3600));
        read.insert(renewal, Instant::now());
    }
}

impl TicketSystem {
    /// This system as somebody who is told about renewals of its tickets.
    #[must_use]
    pub fn subscription(self: &Arc<Self>, db: &Db) -> Subscription {
        Subscription {
            id: format!("ticket:{}", self.id),
            organizations: self.organizations.clone(),
            events: Vec::new(),
            ticket_system: Some(self.id.clone()),
            target: Arc::new(TicketTarget::new(self.clone(), db.clone())),
        }
    }

    fn is_for(&self, organization: &OrganizationId) -> bool {
        self.organizations.is_empty() || self.organizations.contains(organization)
    }

    /// The record of a ticket as its source reads it.
    async fn record(&self, key: &str) -> Result<Json, TicketError> {
        match &self.client {
            TicketClient::ServiceNow(client) => client.record(key).await,
            TicketClient::Jira(client) => {
                let issue = client.whole(key).await?;
                self.completed(client, issue).await
            }
        }
    }

    /// An issue with what its record does not say: what approvers say, and whether it is held.
    async fn completed(&self, client: &Jira, mut issue: Json) -> Result<Json, TicketError> {
        let key = issue["key"].as_str().unwrap_or_default().to_owned();
        let verdict = client.verdict(&key).await?;
        let held = jira::is_filled(&issue["fields"][&self.hold_field]);
        issue["rekey"] = json!({ "approval": verdict.as_str(), "on_hold": held });
        Ok(issue)
    }

    /// Records of changes that name rekey and were updated since.
    async fn updated(&self, query: &str, since: DateTime<Utc>, now: DateTime<Utc>) -> Result<Vec<Json>, TicketError> {
        match &self.client {
            TicketClient::ServiceNow(client) => client.updated_changes(query, since).await,
            TicketClient::Jira(client) => {
                let mut completed = Vec::new();
                for issue in client.updated_issues(query, now - since).await? {
                    completed.push(self.completed(client, issue).await?);
                }
                Ok(completed)
            }
        }
    }
}

impl Worker {
    /// Reads the ticket of a renewal before something is changed, unless it was read a moment ago. When the system does not answer, what it said last
    /// counts for a while; then the ticket is not ready.
    pub(crate) async fn read_ticket(&self, renewal: &Renewal) -> db::Result<()> {
        let Some((system, ticket)) = self.tickets.of(renewal) else { return Ok(()) };
        if self.tickets.was_read(renewal.id, system.fresh) {
            return Ok(());
        }
        // On the heap: this is a part of every step that changes something.
        Box::pin(self.read_ticket_now(system, &ticket, renewal)).await
    }

    async fn read_ticket_now(&self, system: &TicketSystem, ticket: &Ticket, renewal: &Renewal) -> db::Result<()> {
        let key = ticket.sys_id.as_ref().unwrap_or(&ticket.number);
        match Box::pin(system.record(key)).await {
            Ok(record) => {
                Box::pin(self.take_in(system, &record)).await?;
                self.tickets.note(renewal.id);
                Ok(())
            }
            Err(error) => self.no_answer(system, renewal, &error).await,
        }
    }

    /// As [`Worker::take_in`]; a record that cannot be taken in is kept, so that those after it get their turn.
    async fn take_in_or_keep(&self, system: &TicketSystem, record: &Json) -> db::Result<Option<DateTime<Utc>>> {
        let error = match Box::pin(self.take_in(system, record)).await {
            Err(error) if error.is_of_one_record() => error,
            taken => return taken,
        };
        let intake = self.understood(system, record).ok();
        pass_over(system, intake.as_ref().map_or("", |intake| &intake.ticket.number), &error);
        // Without what was read from it: something of that is what the database does not take.
        Box::pin(self.keep_unusable(system, record, None, &Unusable::not_taken())).await?;
        Ok(intake.and_then(|intake| intake.revision.updated_at))
    }

    fn understood(&self, system: &TicketSystem, record: &Json) -> Result<Intake, Vec<Fault>> {
        let organizations: Vec<_> = self.organizations.keys().filter(|id| system.is_for(id)).collect();
        system.source.read(record, &organizations, self.now())
    }

    /// Takes a record in, as a hook would. Returns when it was updated, in the time of its system.
    async fn take_in(&self, system: &TicketSystem, record: &Json) -> db::Result<Option<DateTime<Utc>>> {
        let now = self.now();
        let intake = match self.understood(system, record) {
            Ok(intake) => intake,
            Err(faults) => {
                warn!(system = system.id, "A record cannot be read: {}", listed(&faults));
                return self.keep_unusable(system, record, None, &Unusable::faults(&faults)).await.map(|()| None);
            }
        };
        let requester = system.source.actor();
        let asked = intake.request.as_ref().ok().and_then(|request| self.managed(&request.organization));
        let policy = asked.map(|managed| &managed.organization.policy);
        let taker = Taker { by: &self.name, requester: &requester, organizations: None, policy };
        let taking = async |tx: &mut db::Tx| tx.take_in(&intake, taker, now).await;
        let taken = match Box::pin(self.db.write(taking)).await {
            // Race: somebody else has raised a renewal of the organization. A second look finds it.
            Err(error) if error.is_unique_violation() => Box::pin(self.db.write(taking)).await?,
            taken => taken?,
        };
        tell(system, &intake, &taken);
        if let Some(why) = Unusable::of(&taken) {
            self.keep_unusable(system, record, Some(&intake), &why).await?;
        }
        Ok(intake.revision.updated_at)
    }

    /// Keeps a record that nothing follows from as a delivery that was refused, so that people see it and why.
    async fn keep_unusable(
        &self,
        system: &TicketSystem,
        record: &Json,
        intake: Option<&Intake>,
        why: &Unusable,
    ) -> db::Result<()> {
        let mut body = record.to_string().into_bytes();
        let size = i64::try_from(body.len()).unwrap_or(i64::MAX);
        body.truncate(LARGEST_KEPT);
        let arrival = Arrival {
            id: DeliveryId(Uuid::now_v7()),
            source: system.id.clone(),
            delivery_id: None,
            received_at: self.now(),
            sender: Some(self.name.clone()),
            retry: None,
            size,
            body,
            natural_key: None,
            replays: None,
        };
        let told = why.told();
        let keeping = self.db.write_silently(async |tx| tx.keep_unusable(&arrival, intake, &told).await);
        match keeping.await {
            // Race: somebody else has read the same record.
            Err(error) if error.is_unique_violation() => Ok(()),
            kept => kept,
        }
    }

    async fn no_answer(&self, system: &TicketSystem, renewal: &Renewal, error: &TicketError) -> db::Result<()> {
        let unanswered = self.timeline.stretch(TimeDelta::from_std(system.unanswered).unwrap_or(TimeDelta::MAX));
        let last = renewal.ticket_standing.as_ref();
        let missing = error.failure == Failure::NotFound;
        let counts = last.is_some_and(|last| self.now() - last.read_at < unanswered) && !missing;
        warn!(renewal = %renewal.id, system = system.id, "The ticket cannot be read: {error}");
        let told = last.is_some_and(|last| last.detail.starts_with(UNREAD));
        if counts || told {
            return Ok(());
        }
        let detail = format!("{UNREAD}: {}", error.trouble.message);
        let standing = TicketStanding { word: TicketWord::NotReady, detail, read_at: self.now() };
        let (name, now) = (self.name.as_str(), self.now());
        self.db.write(async |tx| tx.ticket_said(renewal.id, standing.clone(), name, now).await).await.map(drop)
    }
}

/// How the detail of a standing begins that rekey had to make up.
const UNREAD: &str = "The ticket cannot be read";

fn listed(faults: &[Fault]) -> String {
    let told: Vec<_> = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.detail)).collect();
    told.join("; ")
}

/// Why nothing follows from a record, as a hook would be answered.
#[derive(Debug)]
struct Unusable {
    status: i32,
    problem: &'static str,
    detail: String,
}

impl Unusable {
    fn faults(faults: &[Fault]) -> Self {
        Self { status: 422, problem: "invalid_request", detail: listed(faults) }
    }

    fn not_taken() -> Self {
        let detail = "The record could not be stored, or not what follows from it; the log of the worker says why.";
        Self { status: 422, problem: "not_storable", detail: detail.to_owned() }
    }

    fn of(taken: &Taken) -> Option<Self> {
        match taken {
            Taken::Unusable(faults) => Some(Self::faults(faults)),
            Taken::Busy { holder } => {
                let detail = format!("Renewal {holder} of the organization is live.");
                Some(Self { status: 409, problem: "organization_busy", detail })
            }
            Taken::TooLate(late) => {
                let trouble = late.trouble();
                Some(Self {
                    status: 422,
                    problem: "not_feasible",
                    detail: format!("{}. {}", trouble.message, trouble.action),
                })
            }
            Taken::Raised(_) | Taken::Said(_) | Taken::Ignored { .. } | Taken::Beyond => None,
        }
    }

    fn told(&self) -> DeliveryAnswer {
        let Self { status, problem, detail } = self;
        let body = json!({ "type": format!("urn:rekey:problem:{problem}"), "status": status, "detail": detail });
        DeliveryAnswer {
            verdict: DeliveryVerdict::Refused,
            status: *status,
            problem: Some((*problem).to_owned()),
            detail: Some(detail.clone()),
            body: body.to_string(),
        }
    }
}

fn tell(system: &TicketSystem, intake: &Intake, taken: &Taken) {
    match taken {
        Taken::Raised(renewal) => {
            info!(system = system.id, ticket = intake.ticket.number, renewal = %renewal.id, "Raised a renewal from a change that no hook has told of");
        }
        Taken::Unusable(faults) => {
            warn!(
                system = system.id,
                ticket = intake.ticket.number,
                "No renewal can be raised from the change: {}",
                listed(faults)
            );
        }
        Taken::TooLate(late) => {
            let ticket = &intake.ticket.number;
            warn!(system = system.id, ticket, "No renewal can be raised from the change: {}", late.trouble());
        }
        Taken::Busy { holder } => {
            info!(system = system.id, ticket = intake.ticket.number, %holder, "The change waits: its organization has a live renewal");
        }
        // Whoever asks by themselves reaches all.
        Taken::Ignored { .. } | Taken::Said(_) | Taken::Beyond => {}
    }
}

fn pass_over(system: &TicketSystem, ticket: &str, error: &db::Error) {
    error!(
        system = system.id,
        ticket,
        error = error as &dyn std::error::Error,
        "What a record says cannot be stored: {error}"
    );
}

/// Reads tickets and asks for changes until `stop` is cancelled. Of all workers on a database one does so at a time for each system.
pub async fn run(worker: Arc<Worker>, stop: CancellationToken) {
    if worker.tickets.systems.is_empty() {
        return;
    }
    // Async closures that borrow cannot be proven to be `Send` yet (rust-lang/rust#110338): as in the engine, they stay on one thread.
    let runtime = Handle::current();
    let thread = tokio::task::spawn_blocking(move || runtime.block_on(keep_reading(&worker, &stop)));
    if let Err(error) = thread.await {
        error!("Tickets are not read any more: {error}");
    }
}

async fn keep_reading(worker: &Worker, stop: &CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(BEAT)).await.is_some() {
        for system in worker.tickets.systems.values() {
            let polled = stop.run_until_cancelled(Box::pin(poll(worker, system))).await;
            if let Some(Err(error)) = polled {
                error!(system = system.id, error = &error as &dyn std::error::Error, "The database fails: {error}");
            }
        }
    }
}

async fn poll(worker: &Worker, system: &TicketSystem) -> db::Result<()> {
    let now = worker.db.now();
    let next = now + TimeDelta::from_std(system.poll).unwrap_or(TimeDelta::MAX);
    let turn = worker.db.write_silently(async |tx| tx.take_ticket_poll(&system.id, next, now).await).await?;
    let Some(turn) = turn else { return Ok(()) };
    let live = worker.db.read(async |tx| tx.live_renewals_of_system(&system.id).await).await?;
    for renewal in &live {
        if let Some((system, ticket)) = worker.tickets.of(renewal) {
            match Box::pin(worker.read_ticket_now(system, &ticket, renewal)).await {
                // The others are read all the same.
                Err(error) if error.is_of_one_record() => pass_over(system, &ticket.number, &error),
                read => read?,
            }
        }
    }
    let Some(query) = &system.query else { return Ok(()) };
    Box::pin(reconcile(worker, system, query, turn.seen_until)).await
}

/// Takes in what has changed since it was asked for last.
async fn reconcile(
    worker: &Worker,
    system: &TicketSystem,
    query: &str,
    seen_until: Option<DateTime<Utc>>,
) -> db::Result<()> {
    let now = worker.now();
    let since = seen_until.map_or_else(|| now - worker.timeline.stretch(FIRST_LOOK), |seen| seen - OVERLAP);
    let records = match Box::pin(system.updated(query, since, now)).await {
        Ok(records) => records,
        Err(error) => {
            warn!(system = system.id, "Changes cannot be asked for: {error}");
            return Ok(());
        }
    };
    let mut until = seen_until;
    for record in &records {
        until = until.max(Box::pin(worker.take_in_or_keep(system, record)).await?);
    }
    let Some(until) = until.filter(|until| Some(*until) != seen_until) else { return Ok(()) };
    worker.db.write_silently(async |tx| tx.ticket_polled(&system.id, until).await).await
}
