//! What of the record is announced to people and to ticket systems, and as what. The record is the source: what is not written there is not announced.

mod text;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;
use uuid::Uuid;

pub use text::{InvalidPublicUrl, Link, PublicUrl, Text};

use crate::{Digest, Gate, OrganizationId, Phase, Renewal, State, Trouble, audit::NewAudit, renewal::Wait};

/// Something that happened and is announced, with what was known then.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Announcement {
    /// UUIDv7.
    pub id: Uuid,
    /// What counts `sequence`: the renewal, or nil.
    pub stream: Uuid,
    /// The sequence number of the audit entry that it tells of.
    pub sequence: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who did it, as in the record.
    pub actor: String,
    /// The organization, if it belongs to one.
    pub organization_id: Option<OrganizationId>,
    /// What happened.
    pub news: News,
    /// The renewal as it was then, if it is about one.
    pub renewal: Option<Renewal>,
}

impl Announcement {
    /// What it is about: messages about one subject arrive in order. The ticket of the renewal, else the renewal.
    #[must_use]
    pub fn subject(&self) -> String {
        match &self.renewal {
            Some(renewal) => subject(renewal),
            None => "rekey".to_owned(),
        }
    }
}

/// The ticket that a renewal belongs to, else the renewal itself: what messages are ordered by.
#[must_use]
pub fn subject(renewal: &Renewal) -> String {
    match &renewal.request.ticket {
        Some(ticket) => format!("{}:{}", ticket.system, ticket.sys_id.as_ref().unwrap_or(&ticket.number)),
        None => renewal.id.to_string(),
    }
}

/// What happened, told by a word (`event`) with what belongs to it. To add one: a variant, its word in [`News::WORDS`], its place in [`announced`], and
/// its sentence in `text.rs`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(tag = "event")]
pub enum News {
    /// A change was accepted; discovery and planning begin.
    #[serde(rename = "renewal.requested")]
    Requested,
    /// A gate is open: people must decide on this plan.
    #[serde(rename = "renewal.awaiting_approval")]
    AwaitingApproval {
        /// The gate.
        gate: Gate,
        /// The plan to decide on.
        plan_digest: Digest,
        /// The phase that is over with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<Phase>,
    },
    /// Somebody approved.
    #[serde(rename = "decision.approved")]
    Approved(Said),
    /// Somebody rejected.
    #[serde(rename = "decision.rejected")]
    DecisionRejected(Said),
    /// Somebody took back what they had said.
    #[serde(rename = "decision.withdrawn")]
    Withdrawn(Said),
    /// A gate was not decided in time, and others are asked.
    #[serde(rename = "gate.escalated")]
    Escalated {
        /// In the words of the record.
        why: String,
    },
    /// A gate was passed without its approvals, in an emergency.
    #[serde(rename = "renewal.break_glass")]
    BreakGlass {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// The ticket system says something else of the ticket than before.
    #[serde(rename = "ticket.changed")]
    TicketChanged {
        /// In the words of the record.
        why: String,
    },
    /// Approved; it starts later.
    #[serde(rename = "renewal.scheduled")]
    Scheduled {
        /// When.
        until: DateTime<Utc>,
    },
    /// A phase has begun. Said once of each phase.
    #[serde(rename = "renewal.phase_began")]
    PhaseBegan {
        /// Which.
        phase: Phase,
        /// The phase that is over with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<Phase>,
    },
    /// A phase waits for something that comes by itself.
    #[serde(rename = "renewal.waiting")]
    Waiting {
        /// Which.
        phase: Phase,
        /// For what.
        reason: Wait,
    },
    /// A phase waits for a person.
    #[serde(rename = "renewal.needs_attention")]
    NeedsAttention {
        /// Which phase.
        phase: Phase,
        /// Which server; empty for the organization as a whole.
        target: String,
        /// What happened, and what to do.
        trouble: Trouble,
    },
    /// Somebody holds it.
    #[serde(rename = "renewal.paused")]
    Paused {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// Somebody lets it go on.
    #[serde(rename = "renewal.resumed")]
    Resumed {
        /// Who.
        by: String,
    },
    /// It has ended well.
    #[serde(rename = "renewal.succeeded")]
    Succeeded,
    /// It has ended: the plan was rejected, nothing was changed.
    #[serde(rename = "renewal.rejected")]
    Rejected {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// It has ended: nobody decided in time, nothing was changed.
    #[serde(rename = "renewal.expired")]
    Expired,
    /// It has ended: what had been done was taken back.
    #[serde(rename = "renewal.cancelled")]
    Cancelled,
    /// It has ended: preflight refused, nothing was changed.
    #[serde(rename = "renewal.failed")]
    Failed {
        /// Why, and what to do.
        trouble: Trouble,
    },
    /// It has ended: the old certificate signs again.
    #[serde(rename = "renewal.rolled_back")]
    RolledBack,
    /// Somebody tries whether messages arrive.
    #[serde(rename = "outbox.test")]
    Test,
}

/// What somebody said at a gate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Said {
    /// The gate.
    pub gate: Gate,
    /// The plan that they decided on.
    pub plan_digest: Digest,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// How a renewal ended, as ticket systems take it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloseCode {
    /// It was carried out.
    Successful,
    /// It was not carried out, or taken back.
    Unsuccessful,
}

impl News {
    /// Every word, as filters name them.
    pub const WORDS: [&str; 20] = [
        "renewal.requested",
        "renewal.awaiting_approval",
        "decision.approved",
        "decision.rejected",
        "decision.withdrawn",
        "gate.escalated",
        "renewal.break_glass",
        "ticket.changed",
        "renewal.scheduled",
        "renewal.phase_began",
        "renewal.waiting",
        "renewal.needs_attention",
        "renewal.paused",
        "renewal.resumed",
        "renewal.succeeded",
        "renewal.rejected",
        "renewal.expired",
        "renewal.cancelled",
        "renewal.failed",
        "renewal.rolled_back",
    ];

    /// The word of it. `rekey.` before it is the type of a CloudEvent.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Requested => "renewal.requested",
            Self::AwaitingApproval { .. } => "renewal.awaiting_approval",
            Self::Approved(_) => "decision.approved",
            Self::DecisionRejected(_) => "decision.rejected",
            Self::Withdrawn(_) => "decision.withdrawn",
            Self::Escalated { .. } => "gate.escalated",
            Self::BreakGlass { .. } => "renewal.break_glass",
            Self::TicketChanged { .. } => "ticket.changed",
            Self::Scheduled { .. } => "renewal.scheduled",
            Self::PhaseBegan { .. } => "renewal.phase_began",
            Self::Waiting { .. } => "renewal.waiting",
            Self::NeedsAttention { .. } => "renewal.needs_attention",
            Self::Paused { .. } => "renewal.paused",
            Self::Resumed { .. } => "renewal.resumed",
            Self::Succeeded => "renewal.succeeded",
            Self::Rejected { .. } => "renewal.rejected",
            Self::Expired => "renewal.expired",
            Self::Cancelled => "renewal.cancelled",
            Self::Failed { .. } => "renewal.failed",
            Self::RolledBack => "renewal.rolled_back",
            Self::Test => "outbox.test",
        }
    }

    /// How the renewal ended, if this is its end.
    #[must_use]
    pub fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Succeeded => Some(CloseCode::Successful),
            Self::Rejected { .. } | Self::Expired | Self::Cancelled | Self::Failed { .. } | Self::RolledBack => {
                Some(CloseCode::Unsuccessful)
            }
            _ => None,
        }
    }

    /// Whether somebody has to do something.
    #[must_use]
    pub fn needs_somebody(&self) -> bool {
        matches!(
            self,
            Self::AwaitingApproval { .. }
                | Self::NeedsAttention { .. }
                | Self::Escalated { .. }
                | Self::BreakGlass { .. }
        )
    }
}

/// A record that is announced: which of those that were given, and as what.
#[derive(Clone, Debug, PartialEq)]
pub struct Announced {
    /// Its place among them.
    pub entry: usize,
    /// What it tells.
    pub news: News,
    /// The state that the renewal is in then, if the record tells one.
    pub state: Option<State>,
}

/// What of these records, which are written together and in this order, is announced. Steps, cmdlets and tries are not: they come by hundreds.
///
/// A gate that is passed at once needs nobody, so it is not said that it waits.
#[must_use]
pub fn announced<'a>(entries: impl IntoIterator<Item = (Option<&'a Renewal>, &'a NewAudit)>) -> Vec<Announced> {
    let mut told: Vec<(Option<Uuid>, Announced)> = Vec::new();
    for (place, (renewal, new)) in entries.into_iter().enumerate() {
        if !may_be_announced(new.action) {
            continue;
        }
        let renewal = renewal.map(|renewal| renewal.id.0);
        if text_of(&new.detail, "from") == Some("awaiting_approval") {
            let waits = |news: &News| matches!(news, News::AwaitingApproval { .. });
            told.retain(|(of, before)| *of != renewal || !waits(&before.news));
        }
        let state = state_of(new);
        if let Some(news) = news(new, state.as_ref()) {
            told.push((renewal, Announced { entry: place, news, state }));
        }
    }
    told.into_iter().map(|(_, announced)| announced).collect()
}

/// Whether anything of this action may be announced, by its word alone: most of the record is about steps, and costs no more than this look.
fn may_be_announced(action: &str) -> bool {
    ["renewal.", "decision.", "gate.", "ticket."].iter().any(|noun| action.starts_with(noun))
}

fn state_of(new: &NewAudit) -> Option<State> {
    State::deserialize(new.detail.get("state")?).ok()
}

fn text_of<'a>(detail: &'a Json, member: &str) -> Option<&'a str> {
    detail.get(member)?.as_str()
}

/// What one record tells, if it is announced.
fn news(new: &NewAudit, state: Option<&State>) -> Option<News> {
    let text = |member| text_of(&new.detail, member).unwrap_or_default().to_owned();
    Some(match new.action {
        // With a state it tells of one that was paused before it was looked at.
        "renewal.requested" if state.is_none() => News::Requested,
        "decision.approved" => News::Approved(said(new)?),
        "decision.rejected" => News::DecisionRejected(said(new)?),
        "decision.withdrawn" => News::Withdrawn(said(new)?),
        "gate.escalated" => News::Escalated { why: words(&new.detail) },
        "ticket.changed" => News::TicketChanged { why: words(&new.detail) },
        "gate.broken_glass" | "renewal.break_glass" => {
            News::BreakGlass { by: new.actor.clone(), reason: text("reason") }
        }
        _ => of_state(new, state?)?,
    })
}

/// What a change of the state tells. Tries that go on by themselves are not news.
fn of_state(new: &NewAudit, state: &State) -> Option<News> {
    let from_phase = new.detail.get("from_phase").and_then(|phase| Phase::deserialize(phase).ok());
    let ended = |now: Option<Phase>| from_phase.filter(|before| Some(*before) != now);
    let resumed = text_of(&new.detail, "from") == Some("paused");
    let began = |phase: Phase| {
        let news = News::PhaseBegan { phase, ended: ended(Some(phase)) };
        let at_last = new.detail.get("began").and_then(Json::as_bool).unwrap_or(false);
        (at_last || from_phase != Some(phase)).then_some(news)
    };
    Some(match state {
        State::AwaitingApproval { gate, digest, .. } if !resumed => {
            News::AwaitingApproval { gate: *gate, plan_digest: digest.clone(), ended: ended(None) }
        }
        State::Scheduled { until } if !resumed => News::Scheduled { until: *until },
        State::Running { phase } if !resumed || *phase == Phase::Undo => began(*phase)?,
        State::Soaking { .. } if !resumed => began(Phase::Soak)?,
        State::Waiting { phase, reason: Wait::Attention { target, trouble } } if !resumed => {
            News::NeedsAttention { phase: *phase, target: target.clone(), trouble: trouble.clone() }
        }
        State::Waiting { reason: Wait::Retry { .. }, .. } if !resumed => return None,
        State::Waiting { phase, reason } if !resumed => News::Waiting { phase: *phase, reason: reason.clone() },
        State::Paused { by, reason, .. } => News::Paused { by: by.clone(), reason: reason.clone() },
        State::Succeeded { .. } => News::Succeeded,
        State::Rejected { by, reason, .. } => News::Rejected { by: by.clone(), reason: reason.clone() },
        State::Expired { .. } => News::Expired,
        State::Cancelled { .. } => News::Cancelled,
        State::Failed { trouble, .. } => News::Failed { trouble: trouble.clone() },
        State::RolledBack { .. } => News::RolledBack,
        _ if resumed => News::Resumed { by: new.actor.clone() },
        _ => return None,
    })
}

fn said(new: &NewAudit) -> Option<Said> {
    Some(Said {
        gate: Gate::deserialize(new.detail.get("gate")?).ok()?,
        plan_digest: Digest::deserialize(new.detail.get("plan_digest")?).ok()?,
        by: new.actor.clone(),
        reason: text_of(&new.detail, "reason").unwrap_or_default().to_owned(),
    })
}

/// The particulars of a record in words: its members that are words themselves.
fn words(detail: &Json) -> String {
    let members = detail.as_object().into_iter().flatten();
    let plain = members.filter_map(|(name, value)| Some(format!("{}: {}", name.replace('_', " "), value.as_str()?)));
    plain.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
