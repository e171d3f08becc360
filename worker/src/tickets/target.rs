//! Ticket systems as targets of messages: work notes, the plan and the evidence as files, and the states of changes.

use std::{fmt, sync::Arc};

use db::{Db, Purpose};
use domain::{
    Digest, Gate, Outcome, Phase, Renewal, RenewalId, Ticket,
    announcing::{Announcement, CloseCode, News, Text},
    audit::AuditEntry,
};
use futures_util::future::{BoxFuture, LocalBoxFuture};
use serde_json::{Value as Json, json};
use tokio::runtime::Handle;

use super::{TicketClient, TicketSystem};
use crate::{
    connectors::itsm::{Failure, ServiceNow, TicketError, servicenow::Closing},
    outbox::{Delivered, Message, Target},
};

/// The longest work note: what fields of changes take (itsm.md 5.2).
const LONGEST: usize = 4000;
/// Entries of the record that are read at a time.
const BATCH: i64 = 500;

/// A ticket system as a target.
pub struct TicketTarget {
    system: Arc<TicketSystem>,
    db: Db,
}

impl TicketTarget {
    /// Tells this system; what it attaches is read from the database.
    #[must_use]
    pub fn new(system: Arc<TicketSystem>, db: Db) -> Self {
        Self { system, db }
    }
}

impl fmt::Debug for TicketTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TicketTarget").field(&self.system.id).finish()
    }
}

impl Target for TicketTarget {
    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Delivered> {
        Box::pin(async move { self.tell(message).await.map_or_else(Trouble::into_delivered, |()| Delivered::Done) })
    }
}

/// Why a message was not delivered.
enum Trouble {
    Database(db::Error),
    Ticket(TicketError),
}

impl From<db::Error> for Trouble {
    fn from(error: db::Error) -> Self {
        Self::Database(error)
    }
}

impl From<TicketError> for Trouble {
    fn from(error: TicketError) -> Self {
        Self::Ticket(error)
    }
}

impl Trouble {
    /// What people put right there is tried again over days; what no time puts right is not.
    fn into_delivered(self) -> Delivered {
        match self {
            Self::Database(error) => Delivered::retry(format!("The database fails: {error}")),
            Self::Ticket(TicketError { failure: Failure::Again { after }, trouble }) => {
                Delivered::Retry { why: told(&trouble), after }
            }
            Self::Ticket(TicketError { failure: Failure::UnknownOutcome, trouble }) => Delivered::retry(told(&trouble)),
            Self::Ticket(TicketError { failure: Failure::NotFound, trouble }) => Delivered::dead(told(&trouble)),
            Self::Ticket(TicketError { failure: Failure::Refused, trouble }) if trouble.code == "ticket_id_invalid" => {
                Delivered::dead(told(&trouble))
            }
            Self::Ticket(TicketError { failure: Failure::Refused, trouble }) => Delivered::retry(told(&trouble)),
        }
    }
}

fn told(trouble: &domain::Trouble) -> String {
    format!("{}: {}. {}", trouble.code, trouble.message, trouble.action)
}

/// What a message does to a ticket beside being told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Deed {
    /// The plan is attached.
    AttachPlan,
    /// The run has begun.
    Begin,
    /// It is over.
    Close(CloseCode),
    /// The ticket gets to know the renewal.
    Correlate,
    /// Nothing.
    Note,
}

/// What is told at all: each phase, what it waits for, and whatever somebody said.
fn deed(news: &News) -> Option<Deed> {
    match news {
        News::Requested => Some(Deed::Correlate),
        News::AwaitingApproval { gate: Gate::Execute, .. } => Some(Deed::AttachPlan),
        News::PhaseBegan { phase: Phase::Preflight, .. } => None,
        News::PhaseBegan { phase: Phase::Generate, .. } => Some(Deed::Begin),
        // What the ticket says is known there.
        News::TicketChanged { .. } | News::Test => None,
        news => Some(news.close_code().map_or(Deed::Note, Deed::Close)),
    }
}

impl TicketTarget {
    async fn tell(&self, message: &Message) -> Result<(), Trouble> {
        let announcement = &message.announcement;
        let Some((renewal, ticket)) = subject(announcement) else { return Ok(()) };
        let Some(deed) = deed(&announcement.news) else { return Ok(()) };
        let key = ticket.sys_id.as_deref().unwrap_or(&ticket.number);
        let mark = format!("rekey message {}", message.id);
        match deed {
            Deed::Correlate => self.correlate(key, renewal, &message.text).await?,
            Deed::AttachPlan => Box::pin(self.attach_plan(key, renewal)).await?,
            // The state comes first: whoever reads the note finds it so.
            Deed::Begin if self.system.moves => self.move_to(key, &self.system.states.implement).await?,
            Deed::Close(_) => Box::pin(self.attach_evidence(key, renewal)).await?,
            Deed::Begin | Deed::Note => {}
        }
        Box::pin(self.note(key, &note(&message.text, &mark), &mark)).await?;
        match deed {
            Deed::Close(code) if self.system.moves => Box::pin(self.close(key, renewal, code, &message.text)).await,
            _ => Ok(()),
        }
    }

    /// Reads from the database on a thread where futures need not move: async closures that borrow cannot be proven to be `Send` yet
    /// (rust-lang/rust#110338).
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(Db) -> LocalBoxFuture<'static, db::Result<T>> + Send + 'static,
    ) -> Result<T, Trouble> {
        let (db, runtime) = (self.db.clone(), Handle::current());
        let read = tokio::task::spawn_blocking(move || runtime.block_on(work(db))).await;
        match read {
            Ok(read) => Ok(read?),
            Err(error) => Err(TicketError::again("ticket_attachment_unreadable", error.to_string(), "Retry").into()),
        }
    }

    async fn correlate(&self, key: &str, renewal: &Renewal, text: &Text) -> Result<(), TicketError> {
        match &self.system.client {
            TicketClient::ServiceNow(client) => {
                let change = client.change(key).await?;
                client.correlate(&change, &renewal.id.to_string()).await
            }
            TicketClient::Jira(client) => {
                let url = text.links.first().map_or("", |link| link.url.as_str());
                client.correlate(key, renewal.id.0, url).await
            }
        }
    }

    async fn note(&self, key: &str, text: &str, mark: &str) -> Result<(), TicketError> {
        match &self.system.client {
            TicketClient::ServiceNow(client) => client.note(key, text, mark).await,
            TicketClient::Jira(client) => client.note(key, text, mark).await,
        }
    }

    async fn move_to(&self, key: &str, state: &str) -> Result<(), TicketError> {
        match &self.system.client {
            TicketClient::ServiceNow(client) => client.move_to(key, state, None).await,
            TicketClient::Jira(client) => client.move_to(key, state).await,
        }
    }

    async fn attach(&self, key: &str, name: &str, content: &[u8]) -> Result<(), TicketError> {
        match &self.system.client {
            TicketClient::ServiceNow(client) => client.attach(key, name, "application/json", content).await,
            TicketClient::Jira(client) => client.attach(key, name, "application/json", content).await,
        }
    }

    /// The canonical text of the plan: its SHA-256 is the digest that people approve.
    async fn attach_plan(&self, key: &str, renewal: &Renewal) -> Result<(), Trouble> {
        let Some(digest) = &renewal.plan_digest else { return Ok(()) };
        let (id, wanted) = (renewal.id, digest.clone());
        let text =
            self.read(move |db| Box::pin(async move { db.read(async |tx| tx.plan_text(id, &wanted).await).await }));
        let text = text.await?;
        let Some(text) = text else { return Ok(()) };
        Ok(self.attach(key, &plan_name(digest), text.as_bytes()).await?)
    }

    async fn attach_evidence(&self, key: &str, renewal: &Renewal) -> Result<(), Trouble> {
        if renewal.plan_digest.is_none() {
            return Ok(());
        }
        let id = renewal.id;
        let evidence =
            self.read(move |db| Box::pin(async move { db.read(async |tx| evidence(tx, id).await).await })).await?;
        let text = serde_json::to_vec_pretty(&evidence).unwrap_or_default();
        Ok(self.attach(key, &format!("rekey-evidence-{}.json", renewal.id), &text).await?)
    }

    /// Closes a change that was begun. One that never was is left to the people who have it: nothing was done under it.
    async fn close(&self, key: &str, renewal: &Renewal, code: CloseCode, text: &Text) -> Result<(), Trouble> {
        let states = &self.system.states;
        match &self.system.client {
            TicketClient::ServiceNow(client) => {
                let change = client.change(key).await?;
                let begun = change.state == states.implement || states.review.as_ref() == Some(&change.state);
                if !begun {
                    return Ok(());
                }
                let code = self.close_code(renewal, code).await?;
                Ok(close_change(client, &self.system, key, code, text).await?)
            }
            TicketClient::Jira(client) => {
                let issue = client.issue(key, &self.system.hold_field).await?;
                if !issue.status.eq_ignore_ascii_case(&states.implement) {
                    return Ok(());
                }
                let end = if code == CloseCode::Successful { &states.closed } else { &states.failed };
                Ok(client.move_to(key, end).await?)
            }
        }
    }

    /// A run with something that was not done, and that nobody depends on, has come out well with issues.
    async fn close_code(&self, renewal: &Renewal, code: CloseCode) -> Result<&'static str, Trouble> {
        if code == CloseCode::Unsuccessful {
            return Ok("unsuccessful");
        }
        let id = renewal.id;
        let steps = self.read(move |db| Box::pin(async move { db.read(async |tx| tx.steps(id).await).await })).await?;
        let left = |step: &domain::Step| matches!(step.outcome.as_deref(), Some(Outcome::NotDone { .. }));
        Ok(if steps.iter().any(left) { "successful_issues" } else { "successful" })
    }
}

async fn close_change(
    client: &ServiceNow,
    system: &TicketSystem,
    key: &str,
    code: &'static str,
    text: &Text,
) -> Result<(), TicketError> {
    let open = client.open_tasks(key).await?;
    if !open.is_empty() {
        return Err(TicketError::again(
            "ticket_tasks_open",
            format!("The change cannot be closed while its tasks are open: {}", open.join(", ")),
            "Close them there; the change is closed after that by itself, or replay this message",
        ));
    }
    if let Some(review) = &system.states.review {
        let change = client.change(key).await?;
        if change.state != system.states.closed {
            client.move_to(key, review, None).await?;
        }
    }
    let notes = format!("{} {}", text.title, text.message);
    let notes: String = notes.chars().take(LONGEST).collect();
    client.move_to(key, &system.states.closed, Some(&Closing { code, notes: &notes })).await
}

fn subject(announcement: &Announcement) -> Option<(&Renewal, &Ticket)> {
    let renewal = announcement.renewal.as_ref()?;
    Some((renewal, renewal.request.ticket.as_ref()?))
}

fn plan_name(digest: &Digest) -> String {
    let short: String = digest.as_str().trim_start_matches("sha256:").chars().take(12).collect();
    format!("rekey-plan-{short}.json")
}

/// An announcement as a note: what happened, what to do, what is worth knowing, where to go, and the mark by which it is found again.
fn note(text: &Text, mark: &str) -> String {
    let mut lines = vec![text.title.clone(), String::new(), text.message.clone()];
    lines.extend(text.action.iter().map(|action| format!("To do: {action}")));
    lines.push(String::new());
    lines.extend(text.facts.iter().map(|(name, value)| format!("{name}: {value}")));
    lines.extend(text.links.iter().map(|link| format!("{}: {}", link.label, link.url)));
    let room = LONGEST - mark.chars().count() - 3;
    let body = lines.join("\n");
    let body: String =
        if body.chars().count() > room { body.chars().take(room - 1).chain(['…']).collect() } else { body };
    format!("{body}\n[{mark}]")
}

/// What `/v1/renewals/{id}/evidence` shows of it, as far as it is in the database: one moment, read in one transaction.
async fn evidence(tx: &mut db::Tx, id: RenewalId) -> db::Result<Json> {
    let run = tx.load_run(id).await?;
    let plan = match &run.renewal.plan_digest {
        Some(digest) => tx.plan_text(id, digest).await?.map(|text| json!({ "digest": digest, "canonical": text })),
        None => None,
    };
    let mut audit: Vec<AuditEntry> = Vec::new();
    loop {
        let after = audit.last().map_or(0, |entry| entry.sequence);
        let more = tx.audit_of(id, after, BATCH).await?;
        if more.is_empty() {
            break;
        }
        audit.extend(more);
    }
    let snapshots = json!({
        "before": tx.snapshot_of(id, Purpose::Before).await?,
        "check": tx.snapshot_of(id, Purpose::Check).await?,
        "after": tx.snapshot_of(id, Purpose::After).await?,
    });
    let steps: Vec<&domain::Step> = run.steps.iter().map(|step| &**step).collect();
    // A retry attaches the same file again: nothing in it may depend on when it is made. What comes into the record later is in the API.
    Ok(json!({
        "format": "rekey.evidence/1", "renewal": run.renewal, "plan": plan, "decisions": run.decisions, "steps": steps, "snapshots": snapshots,
        "audit": audit
    }))
}
