//! What every step works with.

use chrono::{DateTime, TimeDelta, Utc};
use db::{ClaimedStep, Purpose, StepEnd};
use domain::{
    Outcome, Phase, Place, Plan, Snapshot, Step, StepKind, Thumbprint, Trouble, audit::NewAudit, progress::Facts,
    snapshot::AuthConfig,
};
use psrp::Command;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use super::{Ended, Result, StepError, no_effect};
use crate::{
    Managed, Worker,
    connectors::{Answer, Endpoint, Session, cloud::Cloud},
    discovery, exchange,
    lease::Lease,
};

/// How long a command may be under way, in real time.
const UNDER_WAY: TimeDelta = TimeDelta::seconds(2);

/// Why something is not taken back.
pub(super) const STAYS_STAGED: &str =
    "Somebody has staged the certificate before this run, and Exchange publishes it at its date";

/// One attempt at a step with its surroundings.
pub(crate) struct Context<'a> {
    pub(super) worker: &'a Worker,
    pub(super) claimed: &'a ClaimedStep,
    pub(super) managed: &'a Managed,
    /// The tenant's way; none without credentials for it. It waits for nothing when the worker stops.
    pub(super) tenant: Option<Cloud>,
    lease: &'a Lease,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        worker: &'a Worker,
        claimed: &'a ClaimedStep,
        lease: &'a Lease,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let organization = &claimed.run.renewal.organization_id;
        let managed = worker.managed(organization).ok_or_else(|| {
            StepError::Retry(Trouble::new(
                "organization_not_configured",
                format!("Organization {organization} is not in this worker's configuration"),
                "Configure it again, or cancel the renewal",
            ))
        })?;
        let tenant = managed.cloud.as_ref().map(|cloud| cloud.until(stop.clone()));
        Ok(Self { worker, claimed, managed, tenant, lease })
    }

    pub(super) fn step(&self) -> &Step {
        &self.claimed.step
    }

    /// The server that the step acts on.
    pub(super) fn target(&self) -> &str {
        &self.claimed.step.target
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.worker.now()
    }

    pub(super) fn plan(&self) -> Result<&Plan> {
        let lost = || Trouble::new("plan_missing", "The renewal has no plan", "Cancel it and raise it again");
        self.claimed.run.plan.as_deref().ok_or_else(|| StepError::Attention(lost()))
    }

    /// What earlier steps have made known.
    pub(super) fn facts(&self) -> Facts {
        Facts::of(&self.claimed.run.steps)
    }

    /// The new certificate: one that is taken over is known before the run begins with it.
    pub(super) fn thumbprint(&self) -> Result<Thumbprint> {
        let missing =
            || Trouble::new("certificate_missing", "No certificate was made yet", "Cancel and raise it again");
        let made = self.facts().thumbprint;
        made.or_else(|| self.adopted().cloned()).ok_or_else(|| StepError::Attention(missing()))
    }

    /// Whether a run that is cancelled leaves the certificate staged: as somebody else did it, before this run came to stage it anew.
    pub(super) fn stays_staged(&self) -> bool {
        let is_cleared = self.claimed.run.steps.iter().any(|step| step.kind == StepKind::ClearNext);
        self.adopted().is_some() && !is_cleared
    }

    /// The certificate that the plan takes over.
    fn adopted(&self) -> Option<&Thumbprint> {
        self.claimed.run.plan.as_deref().and_then(Plan::adopted)
    }

    /// The domain controller that every change goes to.
    pub(super) fn pinned(&self) -> Result<&str> {
        let none = || Trouble::new("no_domain_controller", "The plan names no domain controller", "Raise it again");
        let first = self.plan()?.observed.domain_controllers.first();
        first.map(String::as_str).ok_or_else(|| StepError::Attention(none()))
    }

    /// The Exchange endpoint of a server.
    pub(super) fn exchange_on(&self, fqdn: &str) -> Result<Endpoint> {
        let none = || Trouble::new("no_endpoint", format!("No endpoint for {fqdn}"), "Check the exchange urls");
        self.managed.endpoints.exchange_on(fqdn).ok_or_else(|| StepError::Attention(none()))
    }

    /// Runs `work` with a session on the first server that takes one.
    pub(super) async fn on_any<T>(&self, work: impl AsyncFnOnce(&mut Session) -> Result<T>) -> Result<T> {
        let worked = discovery::on_any(&self.managed.endpoints, async |session, _| Ok(work(session).await)).await;
        worked?
    }

    /// Looks at the whole organization.
    pub(super) async fn look(&self) -> Result<Snapshot> {
        Ok(discovery::look(self.worker, self.managed, self.tenant.as_ref()).await?)
    }

    /// An effective date of now, by the clock of the server that is most ahead: a date that is in the past when it arrives is refused (domain.md 6.4).
    pub(super) async fn soon(&self) -> Result<DateTime<Utc>> {
        let renewal = self.claimed.run.renewal.id;
        let before = self.worker.db.read(async |tx| tx.snapshot_of(renewal, Purpose::Before).await).await?;
        let ahead = before.iter().flat_map(|seen| &seen.servers).filter_map(|server| server.clock_ahead_seconds).max();
        let ahead = TimeDelta::seconds(ahead.unwrap_or(0).max(0));
        Ok(self.now() + self.worker.timeline.stretch(UNDER_WAY) + ahead)
    }

    /// Where `AuthConfig` stands on one domain controller. Refuses to go on when somebody else changed it, and forwards when it was taken back: by
    /// somebody, or by this run itself after the backup was made that it was restored from.
    pub(super) async fn place(&self, session: &mut Session, domain_controller: &str) -> Result<(Place, AuthConfig)> {
        let seen = exchange::auth_config(session, Some(domain_controller)).await?;
        let made = self.facts().thumbprint;
        let place = Place::of(&seen, &self.plan()?.observed, made.as_ref().or_else(|| self.adopted()));
        match place.filter(|place| self.step().phase == Phase::Undo || !place.is_way_back()) {
            Some(place) => Ok((place, seen)),
            None => Err(StepError::Attention(foreign_change(&seen))),
        }
    }

    /// The domain controllers of the plan that `fits` holds for, and whether that is all of them.
    pub(super) async fn replicated(
        &self,
        session: &mut Session,
        fits: impl Fn(Place, &AuthConfig) -> bool,
    ) -> Result<(Vec<String>, bool)> {
        let all = &self.plan()?.observed.domain_controllers;
        let mut agreeing = Vec::new();
        for name in all {
            let (place, seen) = self.place(session, name).await?;
            if fits(place, &seen) {
                agreeing.push(name.clone());
            }
        }
        let complete = agreeing.len() == all.len();
        Ok((agreeing, complete))
    }

    /// Puts on record what is to be sent, before it is.
    pub(super) async fn intend(&self, line: &str) -> Result<()> {
        let intent = json!({ "cmdlet": line });
        let (claimed, name) = (self.claimed, self.worker.name.as_str());
        // What people have done in the ticket system since is seen by the gate that comes next.
        Box::pin(self.worker.read_ticket(&claimed.run.renewal)).await?;
        self.worker.db.write(async |tx| tx.intend(claimed, name, intent.clone(), self.now()).await).await?;
        // Between the record and the wire a process can stand still for as long as it likes.
        if self.lease.is_held() { Ok(()) } else { Err(StepError::Database(db::Error::LeaseLost)) }
    }

    /// Runs a cmdlet that changes something. The intent is on record before it is sent, and what it answered after; whether it worked is for the
    /// caller to look at.
    pub(super) async fn mutate(&self, session: &mut Session, command: Command) -> Result<Answer> {
        let line = command.to_string();
        self.intend(&line).await?;
        let answered = session.invoke(command).await;
        match answered {
            Ok(answer) => {
                self.record("cmdlet.answered", answer_detail(&line, &answer)).await?;
                Ok(answer)
            }
            Err(error) => {
                self.record("cmdlet.unanswered", json!({ "cmdlet": line, "why": error.to_string() })).await?;
                Err(exchange::CommandError::Wire(error).into())
            }
        }
    }

    /// Changes `AuthConfig` on the pinned domain controller and looks whether it did.
    pub(super) async fn change_auth_config(
        &self,
        session: &mut Session,
        command: Command,
        done: impl Fn(Place, &AuthConfig) -> bool,
    ) -> Result<AuthConfig> {
        let cmdlet = command.to_string();
        let answer = self.mutate(session, command).await?;
        let (place, seen) = self.place(session, self.pinned()?).await?;
        if done(place, &seen) {
            return Ok(seen);
        }
        Err(match exchange::succeed("Set-AuthConfig", answer) {
            Err(error) => error.into(),
            Ok(_) => StepError::Retry(no_effect(&cmdlet)),
        })
    }

    /// Whether this step has ever recorded the intent to run a cmdlet that contains `text`.
    pub(super) async fn intended(&self, text: &str) -> Result<bool> {
        let renewal = self.claimed.run.renewal.id;
        let mut after = 0;
        loop {
            let page = self.worker.db.read(async |tx| tx.audit_of(renewal, after, 500).await).await?;
            let Some(last) = page.last() else { return Ok(false) };
            after = last.sequence;
            let says = |detail: &Json| detail["cmdlet"].as_str().is_some_and(|line| line.contains(text));
            if page.iter().any(|entry| entry.action == "cmdlet.intended" && says(&entry.detail)) {
                return Ok(true);
            }
        }
    }

    pub(super) async fn record(&self, action: &'static str, detail: Json) -> Result<()> {
        let (claimed, name) = (self.claimed, &self.worker.name);
        let entry = || NewAudit::new(name.clone(), action, detail.clone());
        Ok(self.worker.db.write(async |tx| tx.record(claimed, entry(), self.now()).await).await?)
    }

    /// To be looked at again after `span`.
    pub(super) fn again(&self, span: TimeDelta, so_far: Option<Outcome>) -> Ended {
        Ended::With(StepEnd::Again { at: self.worker.later(span), so_far })
    }
}

fn answer_detail(line: &str, answer: &Answer) -> Json {
    let errors: Vec<_> = answer
        .errors
        .iter()
        .map(|e| json!({ "message": e.message, "reason": e.reason, "id": e.fully_qualified_error_id }))
        .collect();
    json!({ "cmdlet": line, "errors": errors, "warnings": answer.warnings })
}

pub(super) fn foreign_change(seen: &AuthConfig) -> Trouble {
    let shown = |name: &str, thumbprint: Option<&Thumbprint>| {
        format!("{name} {}", thumbprint.map_or("none", Thumbprint::as_str))
    };
    let [current, previous, next] = seen.thumbprints();
    Trouble::new(
        "auth_config_changed",
        format!(
            "AuthConfig is not as this run left it: on {} it now says {}, {}, {}",
            seen.domain_controller,
            shown("current", current),
            shown("previous", previous),
            shown("next", next)
        ),
        "Find out who did it and why; if rekey was restored from a backup, it was this run. Put it back and retry, or cancel (after publication: roll back) and raise a new renewal",
    )
}
