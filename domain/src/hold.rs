//! What keeps a run from changing anything although its gates are passed: the calendar, and what the ticket system says.
//!
//! Bound by it are the phases that change something people see. Not bound: keeping the effective date away, looking while soaking, the way back, and, in an
//! emergency, the restarts after the publication, before which servers may refuse each other's tokens.

use chrono::{DateTime, Utc};

use crate::{
    Phase, Plan, Step, StepKind, TicketWord, Trouble,
    progress::{Facts, Permit, Run, permit},
    renewal::Wait,
};

const CANCELLED: &str = "ticket_cancelled";
const CLOSED: &str = "ticket_closed";

impl Wait {
    /// Whether nothing may be changed because of the calendar or the ticket.
    #[must_use]
    pub fn is_hold(&self) -> bool {
        match self {
            Self::Window { .. } | Self::TicketOnHold { .. } | Self::TicketNotReady { .. } => true,
            Self::Attention { trouble, .. } => [CANCELLED, CLOSED].contains(&trouble.code.as_str()),
            Self::EffectiveDate { .. } | Self::Retry { .. } => false,
        }
    }

    /// Why a step stops here.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        let (code, message) = match self {
            Self::Window { until: Some(until) } => {
                ("window_closed", format!("Nothing may be changed before {}", until.to_rfc3339()))
            }
            Self::Window { until: None } => ("window_closed", "No window opens any more".to_owned()),
            Self::TicketOnHold { detail } => ("ticket_on_hold", format!("The ticket is on hold: {detail}")),
            Self::TicketNotReady { detail } => ("ticket_not_ready", format!("The ticket is not ready: {detail}")),
            Self::EffectiveDate { until } => ("effective_date", format!("Waits for {}", until.to_rfc3339())),
            Self::Attention { trouble, .. } | Self::Retry { trouble, .. } => return trouble.clone(),
        };
        Trouble::new(code, message, "Nothing to do: it goes on by itself when that is over")
    }
}

impl Run<'_> {
    /// Whether a worker may take a step now, and for what.
    #[must_use]
    pub fn permit(&self, step: &Step, now: DateTime<Utc>) -> Permit {
        match permit(&self.renewal.state, step) {
            Permit::Run if self.plan.is_some_and(|plan| self.hold(plan, step.phase, now).is_some()) => {
                if step.kind == StepKind::Publish { Permit::Guard } else { Permit::Park }
            }
            permit => permit,
        }
    }

    /// What keeps a phase from changing anything at this time.
    #[must_use]
    pub fn hold(&self, plan: &Plan, phase: Phase, now: DateTime<Utc>) -> Option<Wait> {
        if matches!(phase, Phase::Preflight | Phase::Soak | Phase::Close | Phase::Undo) {
            return None;
        }
        self.ticket_hold(plan).or_else(|| self.window_hold(plan, phase, now))
    }

    /// Whether the ticket lets a run begin.
    #[must_use]
    pub fn has_ready_ticket(&self) -> bool {
        self.renewal.ticket_standing.as_ref().is_some_and(|standing| standing.word == TicketWord::Ready)
    }

    fn ticket_hold(&self, plan: &Plan) -> Option<Wait> {
        let required = plan.ticket_required;
        let Some(standing) = &self.renewal.ticket_standing else {
            let detail = "nobody has heard of it".to_owned();
            return required.then_some(Wait::TicketNotReady { detail });
        };
        if self.renewal.involved.overruled.as_ref().is_some_and(|overruled| standing.says_as(overruled)) {
            return None;
        }
        let detail = standing.detail.clone();
        let needs_person = |code: &str, what: &str| {
            let action =
                "Cancel or roll back the renewal; or retry it to go on nevertheless, which stands in the record";
            let trouble = Trouble::new(code, format!("The ticket {what}: {detail}"), action);
            Some(Wait::Attention { target: String::new(), trouble })
        };
        match standing.word {
            TicketWord::Ready => None,
            TicketWord::OnHold => Some(Wait::TicketOnHold { detail }),
            TicketWord::NotReady => Some(Wait::TicketNotReady { detail }),
            TicketWord::ApprovalVoided => required.then_some(Wait::TicketNotReady { detail }),
            TicketWord::Cancelled => needs_person(CANCELLED, "was called off"),
            TicketWord::Closed => needs_person(CLOSED, "is closed"),
        }
    }

    fn window_hold(&self, plan: &Plan, phase: Phase, now: DateTime<Utc>) -> Option<Wait> {
        let mends = plan.emergency && matches!(phase, Phase::Restart | Phase::RefreshHybrid);
        let yields = plan.yields_to_expiry && phase < Phase::Soak;
        if mends || yields {
            return None;
        }
        // The effective date lies in a window: until then there is nothing to publish.
        let facts = Facts::of(self.steps);
        let at =
            facts.effective_at.filter(|_| phase == Phase::Publish && !plan.emergency).map_or(now, |at| at.max(now));
        let until = plan.calendar.opens_at(at);
        (until != Some(at)).then_some(Wait::Window { until })
    }
}
