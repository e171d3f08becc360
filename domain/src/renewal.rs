//! The life of a renewal: its states, what can happen in each, and nothing else.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Digest, Gate, OrganizationId, RenewalId, Request, TicketStanding, Trouble};

/// A stage of a run. Order of variants is the order of a run.
///
/// To add one: a variant here, its place in [`Phase::next`], a [`crate::StepKind`], its planned steps in `planning`, its file in the worker.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Phase {
    /// Read everything and build the plan.
    Preflight,
    /// Make the certificate.
    Generate,
    /// Bring it to every server.
    Distribute,
    /// Register its key in Entra, beside the old one: before anything can sign with it. Only in hybrid organizations.
    TrustCloud,
    /// Announce it in `AuthConfig` with an effective date.
    Stage,
    /// Make it the current one.
    Publish,
    /// Restart what caches keys.
    Restart,
    /// Correct what joins the organization to the cloud, and test that each trusts the other. Only in hybrid organizations.
    RefreshHybrid,
    /// Wait with evidence.
    Soak,
    /// Give up the previous one.
    ClearPrevious,
    /// Remove what is no longer used.
    Prune,
    /// Final check.
    Close,
    /// Take back what was done, after cancel or rollback.
    Undo,
}

impl Phase {
    /// The phases of a run in order, without the undo path.
    pub const RUN: [Self; 12] = [
        Self::Preflight,
        Self::Generate,
        Self::Distribute,
        Self::TrustCloud,
        Self::Stage,
        Self::Publish,
        Self::Restart,
        Self::RefreshHybrid,
        Self::Soak,
        Self::ClearPrevious,
        Self::Prune,
        Self::Close,
    ];

    /// Whether only hybrid organizations have steps in it.
    #[must_use]
    pub fn is_hybrid(self) -> bool {
        matches!(self, Self::TrustCloud | Self::RefreshHybrid)
    }

    /// The phase after this one; none after the last and after the undo path.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        let here = Self::RUN.iter().position(|p| *p == self)?;
        Self::RUN.get(here + 1).copied()
    }

    /// The word used in JSON, SQL and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Generate => "generate",
            Self::Distribute => "distribute",
            Self::TrustCloud => "trust_cloud",
            Self::Stage => "stage",
            Self::Publish => "publish",
            Self::Restart => "restart",
            Self::RefreshHybrid => "refresh_hybrid",
            Self::Soak => "soak",
            Self::ClearPrevious => "clear_previous",
            Self::Prune => "prune",
            Self::Close => "close",
            Self::Undo => "undo",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One change, as it is stored and as it is shown.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema, sqlx::FromRow)]
pub struct Renewal {
    /// UUIDv7.
    pub id: RenewalId,
    /// The organization that it renews.
    pub organization_id: OrganizationId,
    /// Who asked for it: the subject of their token. Never counts as an approver.
    #[schema(example = "alice@contoso.example")]
    pub requested_by: String,
    /// What was asked for.
    #[sqlx(json)]
    pub request: Request,
    /// Where it stands.
    #[sqlx(json)]
    pub state: State,
    /// The digest of its plan, once there is one.
    pub plan_digest: Option<Digest>,
    /// What the ticket system last said of its ticket.
    #[sqlx(json(nullable))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_standing: Option<TicketStanding>,
    /// Who planned and who operated it.
    #[sqlx(json)]
    #[serde(default, skip_serializing_if = "Involved::is_nobody")]
    pub involved: Involved,
    /// Why it may end after the old certificate has expired.
    #[sqlx(json(nullable))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_risk: Option<AtRisk>,
    /// How many of its gates were broken and not reviewed since.
    #[serde(default)]
    #[schema(example = 0)]
    pub open_reviews: i32,
    /// Grows with every change; the ETag.
    #[schema(example = 12)]
    pub version: i64,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

impl Renewal {
    /// A renewal that somebody asks for now.
    #[must_use]
    pub fn requested(id: RenewalId, requested_by: &str, request: Request, now: DateTime<Utc>) -> Self {
        Self {
            id,
            organization_id: request.organization.clone(),
            requested_by: requested_by.to_owned(),
            request,
            state: State::Requested,
            plan_digest: None,
            ticket_standing: None,
            involved: Involved::default(),
            at_risk: None,
            open_reviews: 0,
            version: 1,
            created_at: now,
            updated_at: now,
        }
    }
}

/// Who else had a hand in a renewal. A policy may say that they do not approve it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[schema(example = json!({"operated_by": ["oscar@contoso.example"]}))]
pub struct Involved {
    /// Who asked for its plan to be made again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planned_by: Vec<String>,
    /// The operators who paused, resumed, retried or skipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operated_by: Vec<String>,
    /// What the ticket said when an operator decided to go on nevertheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overruled: Option<TicketStanding>,
}

impl Involved {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a renewal may end after the old certificate has expired.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[schema(example = json!({"expires_at": "2027-01-07T00:00:00Z", "latest_safe_start": "2027-01-03T20:00:00Z", "starts_at": "2027-01-05T20:00:00Z"}))]
pub struct AtRisk {
    /// The end of the old certificate's validity.
    pub expires_at: DateTime<Utc>,
    /// By when it would have had to start; none when it is too late for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_safe_start: Option<DateTime<Utc>>,
    /// When it can start.
    pub starts_at: DateTime<Utc>,
}

/// Where a renewal stands. Each variant carries what is known in it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum State {
    /// Accepted, not looked at yet.
    Requested,
    /// Discovery and planning run.
    Planning,
    /// People must decide.
    AwaitingApproval {
        /// On which gate.
        gate: Gate,
        /// On which plan.
        digest: Digest,
        /// Since when.
        since: DateTime<Utc>,
        /// When people were told that nobody had decided in time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        escalated_at: Option<DateTime<Utc>>,
    },
    /// Approved; the start time has not come.
    Scheduled {
        /// When it starts.
        until: DateTime<Utc>,
    },
    /// Steps of a phase run.
    Running {
        /// Which.
        phase: Phase,
    },
    /// A phase cannot go on for now.
    Waiting {
        /// Which.
        phase: Phase,
        /// For what.
        reason: Wait,
    },
    /// Published and restarted; evidence is collected until the time is over.
    Soaking {
        /// Since when: the publication.
        since: DateTime<Utc>,
        /// Not before this time.
        until: DateTime<Utc>,
    },
    /// Held by a person.
    Paused {
        /// What it goes back to.
        #[schema(value_type = Object)]
        was: Box<Self>,
        /// Who paused it.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: DateTime<Utc>,
    },
    /// Done.
    Succeeded {
        /// When.
        at: DateTime<Utc>,
    },
    /// The `execute` gate was rejected; nothing was changed.
    Rejected {
        /// Who.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: DateTime<Utc>,
    },
    /// Nobody decided in time; nothing was changed.
    Expired {
        /// When.
        at: DateTime<Utc>,
    },
    /// Cancelled; what had been done was taken back.
    Cancelled {
        /// When.
        at: DateTime<Utc>,
    },
    /// Refused by preflight; nothing was changed.
    Failed {
        /// Why, and what to do.
        trouble: Trouble,
        /// When.
        at: DateTime<Utc>,
    },
    /// The old certificate signs again.
    RolledBack {
        /// When.
        at: DateTime<Utc>,
    },
}

/// Why a phase cannot go on for now.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(tag = "waiting_for", rename_all = "snake_case")]
pub enum Wait {
    /// A person must retry, cancel or roll back.
    Attention {
        /// Which server; empty for the organization as a whole.
        target: String,
        /// What happened, and what to do.
        trouble: Trouble,
    },
    /// The effective date.
    EffectiveDate {
        /// When.
        until: DateTime<Utc>,
    },
    /// A window in which something may be changed.
    Window {
        /// When it opens, if any does.
        until: Option<DateTime<Utc>>,
    },
    /// The ticket, which somebody holds.
    TicketOnHold {
        /// What the ticket system says.
        detail: String,
    },
    /// The ticket, which is not ready.
    TicketNotReady {
        /// What the ticket system says.
        detail: String,
    },
    /// A step is tried again by itself.
    Retry {
        /// Which server; empty for the organization as a whole.
        target: String,
        /// What happened, and what to do.
        trouble: Trouble,
    },
}

/// Which end an undo path leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UndoTo {
    /// After `cancel`: before publication.
    Cancelled,
    /// After `rollback`: after publication.
    RolledBack,
}

/// What can happen to a renewal.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A worker has begun to plan.
    PlanningBegan,
    /// The plan is to be made anew, before anything is changed.
    ReplanAsked,
    /// There is a plan.
    Planned {
        /// Its digest.
        digest: Digest,
    },
    /// Preflight refused.
    Refused {
        /// Why.
        trouble: Trouble,
    },
    /// A gate has its approvals. `then` is what follows.
    GatePassed {
        /// The gate.
        gate: Gate,
        /// Where it goes on.
        then: State,
    },
    /// A gate was reached.
    GateReached {
        /// The gate.
        gate: Gate,
        /// The plan to decide on.
        digest: Digest,
    },
    /// The `execute` gate was rejected.
    Rejected {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// Nobody decided in time, and people are told so.
    Escalated,
    /// Nobody decided in time: that is the end.
    Expired,
    /// The scheduled time has come, a wait is over, or a phase goes on.
    PhaseBegan {
        /// Which.
        phase: Phase,
    },
    /// A phase has to wait.
    PhaseWaits {
        /// Which.
        phase: Phase,
        /// For what.
        reason: Wait,
    },
    /// The soak has begun.
    SoakBegan {
        /// Since when.
        since: DateTime<Utc>,
        /// Until when at least.
        until: DateTime<Utc>,
    },
    /// The last phase is over.
    Finished,
    /// A person holds it.
    Pause {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// A person lets it go on.
    Resume,
    /// A person stops it before publication.
    Cancel {
        /// Whether something must be taken back first.
        undo: bool,
    },
    /// A person takes it back after publication.
    RollBack,
    /// Everything is taken back.
    Undone {
        /// The end that it leads to.
        to: UndoTo,
    },
}

/// Something that cannot happen in this state.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{event} is not possible while the renewal is {status}")]
pub struct IllegalTransition {
    /// The state's word.
    pub status: &'static str,
    /// The event in words.
    pub event: &'static str,
}

impl State {
    /// What the state becomes, or why the event cannot happen in it.
    pub fn apply(self, event: Event, now: DateTime<Utc>) -> Result<Self, IllegalTransition> {
        let illegal = IllegalTransition { status: self.status(), event: event.name() };
        Ok(match (self, event) {
            (Self::Requested, Event::PlanningBegan)
            | (Self::AwaitingApproval { gate: Gate::Execute, .. } | Self::Scheduled { .. }, Event::ReplanAsked) => {
                Self::Planning
            }
            (Self::Planning, Event::Planned { digest }) => Self::awaiting(Gate::Execute, digest, now),
            (Self::Requested | Self::Planning, Event::Refused { trouble }) => Self::Failed { trouble, at: now },
            (Self::AwaitingApproval { gate, .. }, Event::GatePassed { gate: passed, then }) if gate == passed => then,
            (Self::AwaitingApproval { gate: Gate::Execute, .. }, Event::Rejected { by, reason }) => {
                Self::Rejected { by, reason, at: now }
            }
            (Self::AwaitingApproval { gate: Gate::Execute, .. }, Event::Expired) => Self::Expired { at: now },
            (Self::AwaitingApproval { gate, digest, since, .. }, Event::Escalated) => {
                Self::AwaitingApproval { gate, digest, since, escalated_at: Some(now) }
            }
            (state, Event::GateReached { gate, digest }) if state.is_working() => Self::awaiting(gate, digest, now),
            (state, Event::PhaseBegan { phase }) if state.is_working() => Self::Running { phase },
            (state, Event::PhaseWaits { phase, reason }) if state.is_working() => Self::Waiting { phase, reason },
            (state, Event::SoakBegan { since, until }) if state.is_working() => Self::Soaking { since, until },
            (state, Event::Finished) if state.is_working() => Self::Succeeded { at: now },
            (state, Event::Pause { by, reason }) if state.can_pause() => {
                Self::Paused { was: Box::new(state), by, reason, at: now }
            }
            (Self::Paused { was, .. }, Event::Resume) => *was,
            (state, Event::Cancel { undo }) if state.is_live() => {
                if undo {
                    Self::Running { phase: Phase::Undo }
                } else {
                    Self::Cancelled { at: now }
                }
            }
            (state, Event::RollBack) if state.is_live() => Self::Running { phase: Phase::Undo },
            (state, Event::Undone { to }) if state.phase() == Some(Phase::Undo) => match to {
                UndoTo::Cancelled => Self::Cancelled { at: now },
                UndoTo::RolledBack => Self::RolledBack { at: now },
            },
            _ => return Err(illegal),
        })
    }

    /// A gate that waits for decisions from now on.
    #[must_use]
    pub fn awaiting(gate: Gate, digest: Digest, now: DateTime<Utc>) -> Self {
        Self::AwaitingApproval { gate, digest, since: now, escalated_at: None }
    }

    /// Whether more can happen: one live renewal per organization.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !matches!(
            self,
            Self::Succeeded { .. }
                | Self::Rejected { .. }
                | Self::Expired { .. }
                | Self::Cancelled { .. }
                | Self::Failed { .. }
                | Self::RolledBack { .. }
        )
    }

    /// Whether steps of a phase are being worked on or waited for.
    #[must_use]
    pub fn is_working(&self) -> bool {
        matches!(self, Self::Scheduled { .. } | Self::Running { .. } | Self::Waiting { .. } | Self::Soaking { .. })
    }

    fn can_pause(&self) -> bool {
        self.is_live() && !matches!(self, Self::Paused { .. })
    }

    /// The phase that is being worked on, also while paused.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        match self {
            Self::Requested | Self::Planning => Some(Phase::Preflight),
            Self::Running { phase } | Self::Waiting { phase, .. } => Some(*phase),
            Self::Soaking { .. } => Some(Phase::Soak),
            Self::Paused { was, .. } => was.phase(),
            _ => None,
        }
    }

    /// The gate that is open for decisions, also while paused.
    #[must_use]
    pub fn open_gate(&self) -> Option<Gate> {
        match self {
            Self::AwaitingApproval { gate, .. } => Some(*gate),
            Self::Paused { was, .. } => was.open_gate(),
            _ => None,
        }
    }

    /// The word used in JSON, SQL and logs.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Planning => "planning",
            Self::AwaitingApproval { .. } => "awaiting_approval",
            Self::Scheduled { .. } => "scheduled",
            Self::Running { .. } => "running",
            Self::Waiting { .. } => "waiting",
            Self::Soaking { .. } => "soaking",
            Self::Paused { .. } => "paused",
            Self::Succeeded { .. } => "succeeded",
            Self::Rejected { .. } => "rejected",
            Self::Expired { .. } => "expired",
            Self::Cancelled { .. } => "cancelled",
            Self::Failed { .. } => "failed",
            Self::RolledBack { .. } => "rolled_back",
        }
    }
}

impl Event {
    /// The event in words, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PlanningBegan => "planning",
            Self::ReplanAsked => "a new plan",
            Self::Planned { .. } => "a plan",
            Self::Refused { .. } => "a refusal",
            Self::GatePassed { .. } => "passing a gate",
            Self::GateReached { .. } => "reaching a gate",
            Self::Rejected { .. } => "a rejection",
            Self::Escalated => "escalation",
            Self::Expired => "expiry",
            Self::PhaseBegan { .. } => "beginning a phase",
            Self::PhaseWaits { .. } => "waiting",
            Self::SoakBegan { .. } => "soaking",
            Self::Finished => "finishing",
            Self::Pause { .. } => "pause",
            Self::Resume => "resume",
            Self::Cancel { .. } => "cancel",
            Self::RollBack => "rollback",
            Self::Undone { .. } => "the end of undoing",
        }
    }
}
