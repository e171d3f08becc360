//! Whether the old certificate is valid for as long as the run takes, and what follows if not.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    Plan, Policy, Request, Snapshot, Trouble,
    feasibility::{Feasibility, Waits},
    organization::{Infeasible, Precedence},
    plan::Finding,
    renewal::AtRisk,
};

impl Plan {
    /// Why the run may end after the old certificate has expired, when it is made at `now`.
    #[must_use]
    pub fn at_risk(&self, now: DateTime<Utc>) -> Option<AtRisk> {
        let expires_at = self.observed.current_not_after?;
        let marked = self.findings.iter().any(|finding| finding.code == "at_risk");
        let from = self.not_before.unwrap_or(now).max(now);
        let starts_at = if self.yields_to_expiry { from } else { self.calendar.opens_at(from).unwrap_or(expires_at) };
        marked.then_some(AtRisk { expires_at, latest_safe_start: self.latest_safe_start, starts_at })
    }

    /// What the run has to fit in.
    #[must_use]
    pub fn waits(&self) -> Waits<'_> {
        let hours = |hours: u32| TimeDelta::hours(i64::from(hours));
        Waits { calendar: &self.calendar, lead: hours(self.staging_lead_hours), soak: hours(self.soak_hours) }
    }
}

/// Notes in the plan what its dates allow. An emergency has no time to lose anyway.
pub(super) fn look(plan: &mut Plan, policy: &Policy, now: DateTime<Utc>) -> Result<Vec<Finding>, Trouble> {
    let Some(expires) = plan.observed.current_not_after.filter(|_| !plan.emergency) else { return Ok(Vec::new()) };
    let asked = plan.waits().feasibility(expires, plan.not_before.unwrap_or(now).max(now));
    plan.latest_safe_start = asked.latest_safe_start;
    if asked.in_time {
        return Ok(Vec::new());
    }
    let at_once = plan.waits().feasibility(expires, now);
    if at_once.in_time && policy.infeasible == Infeasible::Refuse {
        return Err(TooLate { expires, at_once }.trouble());
    }
    let shown = |at: Option<DateTime<Utc>>| at.map_or_else(|| "never".to_owned(), |at| at.to_rfc3339());
    let about =
        |code: &str, message: String| Finding { code: code.to_owned(), target: String::new(), message, fix: None };
    let risk = about(
        "at_risk",
        format!(
            "The old certificate expires at {}, before the soak can be over: the latest safe start is {}.",
            expires.to_rfc3339(),
            shown(asked.latest_safe_start)
        ),
    );
    let yields = policy.precedence == Precedence::Expiry && !plan.calendar.is_always_open();
    if !yields {
        return Ok(vec![risk]);
    }
    plan.yields_to_expiry = true;
    let names: Vec<&str> = plan.calendar.blackouts.iter().map(|blackout| blackout.name.as_str()).collect();
    let overridden = format!(
        "Windows and blackouts ({}) do not hold until the new certificate is published: the policy puts the expiry first.",
        names.join(", ")
    );
    Ok(vec![risk, about("blackout_overridden", overridden)])
}

/// A start time that is too late for the old certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooLate {
    /// The end of its validity.
    pub expires: DateTime<Utc>,
    /// What would be possible without the start time.
    pub at_once: Feasibility,
}

/// What the last look at an organization says of a request: that it is in time, at risk, or too late.
pub fn asked(
    policy: &Policy,
    request: &Request,
    seen: &Snapshot,
    now: DateTime<Utc>,
) -> Result<Option<AtRisk>, TooLate> {
    let current = seen.agreed_auth_config().and_then(|seen| seen.current.clone());
    let copy = current.and_then(|current| seen.participants().find_map(|server| server.certificate(&current)));
    let Some(expires) = copy.map(|copy| copy.not_after).filter(|at| *at > now && !request.reason.is_emergency()) else {
        return Ok(None);
    };
    let calendar = policy.rules_for(request, false).calendar;
    let hours = |hours: u32| TimeDelta::hours(i64::from(hours));
    let waits = Waits { calendar: &calendar, lead: hours(policy.staging_lead_hours), soak: hours(policy.soak_hours) };
    let asked = waits.feasibility(expires, request.not_before.unwrap_or(now).max(now));
    if asked.in_time {
        return Ok(None);
    }
    let at_once = waits.feasibility(expires, now);
    if at_once.in_time && policy.infeasible == Infeasible::Refuse {
        return Err(TooLate { expires, at_once });
    }
    let starts_at = asked.starts_at.unwrap_or(expires);
    Ok(Some(AtRisk { expires_at: expires, latest_safe_start: asked.latest_safe_start, starts_at }))
}

impl TooLate {
    /// Why it is refused, and which start is not.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        not_feasible(self.expires, self.at_once)
    }
}

fn not_feasible(expires: DateTime<Utc>, at_once: Feasibility) -> Trouble {
    let shown = |at: Option<DateTime<Utc>>| at.map_or_else(|| "never".to_owned(), |at| at.to_rfc3339());
    Trouble::new(
        "not_feasible",
        format!(
            "With this start time the old certificate expires ({}) before the renewal can be over",
            expires.to_rfc3339()
        ),
        format!("Ask for a start between {} and {}", shown(at_once.starts_at), shown(at_once.latest_safe_start)),
    )
}
