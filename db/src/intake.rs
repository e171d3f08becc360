//! Table `ticket_record`, and what follows from a record of a ticket system: a renewal, the standing of its ticket, or nothing.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use domain::{
    OrganizationId, Policy, Renewal, RenewalId, Request, TicketWord,
    intake::{Fault, Intake, Revision},
    planning::in_time::{self, TooLate},
};
use uuid::Uuid;

use crate::{Error, Feasible, Result, Tx, connection::on};

/// What followed from a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Taken {
    /// It raised this renewal.
    Raised(Renewal),
    /// It told how the ticket of this renewal stands.
    Said(Renewal),
    /// Nothing.
    Ignored {
        /// Why.
        why: Ignored,
        /// The renewal that it was about, if there is one.
        renewal: Option<RenewalId>,
    },
    /// It asks for a renewal that cannot be raised now.
    Busy {
        /// The renewal that holds the organization.
        holder: RenewalId,
    },
    /// It asks for a renewal that cannot be raised like this.
    Unusable(Vec<Fault>),
    /// It is about an organization that its sender does not reach.
    Beyond,
    /// It asks for a renewal whose start time is too late for the old certificate.
    TooLate(TooLate),
}

impl Taken {
    /// The renewal that the record raised or is about.
    #[must_use]
    pub fn renewal(&self) -> Option<RenewalId> {
        match self {
            Self::Raised(renewal) | Self::Said(renewal) => Some(renewal.id),
            Self::Ignored { renewal, .. } => *renewal,
            Self::Busy { .. } | Self::Unusable(_) | Self::TooLate(_) | Self::Beyond => None,
        }
    }
}

/// Why nothing follows from a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ignored {
    /// The record has changed since: a newer delivery was faster.
    OutOfOrder,
    /// The renewal of the ticket is over. Another one needs another ticket.
    RenewalOver,
    /// It does not say how the ticket stands.
    SaysNothing,
    /// There is no renewal, and none is raised of a ticket that stands like this.
    NotBegun(TicketWord),
}

impl Ignored {
    /// A word for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutOfOrder => "out_of_order",
            Self::RenewalOver => "renewal_over",
            Self::SaysNothing => "says_nothing",
            Self::NotBegun(TicketWord::OnHold) => "change_on_hold",
            Self::NotBegun(_) => "change_not_open",
        }
    }

    /// What it means, for people.
    #[must_use]
    pub fn detail(self) -> String {
        match self {
            Self::OutOfOrder => "The record has changed since: a newer delivery about it was here before.".to_owned(),
            Self::RenewalOver => "The renewal of this ticket is over: another one needs another ticket.".to_owned(),
            Self::SaysNothing => "The record says neither its state nor its approval, so nothing follows.".to_owned(),
            Self::NotBegun(TicketWord::OnHold) => {
                "The change is on hold: it raises a renewal when it is sent again after that.".to_owned()
            }
            Self::NotBegun(word) => format!("No renewal is raised of a ticket that is {word}."),
        }
    }
}

/// Who takes a record in.
#[derive(Clone, Copy, Debug)]
pub struct Taker<'a> {
    /// Who has brought it, as in audit entries: `source:<id>`, or the worker that has looked.
    pub by: &'a str,
    /// Who asks for a renewal where the record does not say it.
    pub requester: &'a str,
    /// The only organizations that they reach; all when absent.
    pub organizations: Option<&'a BTreeSet<OrganizationId>>,
    /// The rules of the organization that the record asks for a renewal of; none where it asks for none that there is.
    pub policy: Option<&'a Policy>,
}

impl Taker<'_> {
    pub(crate) fn reaches(&self, organization: &OrganizationId) -> bool {
        self.organizations.is_none_or(|reached| reached.contains(organization))
    }
}

/// What was known of a record before.
#[derive(Debug, sqlx::FromRow)]
struct Known {
    mod_count: Option<i64>,
    updated_at: Option<DateTime<Utc>>,
    approval: Option<String>,
    renewal_id: Option<RenewalId>,
}

impl Known {
    fn revision(&self) -> Revision {
        Revision { mod_count: self.mod_count, updated_at: self.updated_at }
    }
}

impl Tx {
    /// Lets everything follow from a record that was sent, or found by asking. A unique violation says that another renewal of the organization was
    /// raised at this moment: the whole transaction is to be tried again.
    pub async fn take_in(&mut self, intake: &Intake, taker: Taker<'_>, now: DateTime<Utc>) -> Result<Taken> {
        let known = self.lock_record(&intake.ticket.system, intake.key()).await?;
        let renewal = self.renewal_of(intake, &known).await?;
        let about = renewal.as_ref().map(|renewal| &renewal.organization_id);
        let about = about.or_else(|| intake.request.as_ref().ok().map(|request| &request.organization));
        if about.is_some_and(|organization| !taker.reaches(organization)) {
            return Ok(Taken::Beyond);
        }
        if intake.revision.is_before(known.revision()) {
            return Ok(Taken::Ignored { why: Ignored::OutOfOrder, renewal: known.renewal_id });
        }
        let taken = match renewal {
            Some(renewal) => self.hear(intake, &known, renewal, taker, now).await?,
            None => self.raise_from(intake, &known, taker, now).await?,
        };
        self.save_record(intake, &known, taken.renewal().or(known.renewal_id)).await?;
        Ok(taken)
    }

    async fn renewal_of(&mut self, intake: &Intake, known: &Known) -> Result<Option<Renewal>> {
        match known.renewal_id {
            Some(id) => self.renewal(id).await.map(Some),
            None => self.live_renewal_of_ticket(&intake.ticket.system, intake.key()).await,
        }
    }

    async fn hear(
        &mut self,
        intake: &Intake,
        known: &Known,
        renewal: Renewal,
        taker: Taker<'_>,
        now: DateTime<Utc>,
    ) -> Result<Taken> {
        let id = renewal.id;
        if !renewal.state.is_live() {
            return Ok(Taken::Ignored { why: Ignored::RenewalOver, renewal: Some(id) });
        }
        match intake.standing(known.approval.as_deref()) {
            Some(standing) => Ok(Taken::Said(self.ticket_said(id, standing, taker.by, now).await?)),
            None => Ok(Taken::Ignored { why: Ignored::SaysNothing, renewal: Some(id) }),
        }
    }

    async fn raise_from(
        &mut self,
        intake: &Intake,
        known: &Known,
        taker: Taker<'_>,
        now: DateTime<Utc>,
    ) -> Result<Taken> {
        if let Some(word) = intake.not_begun() {
            return Ok(Taken::Ignored { why: Ignored::NotBegun(word), renewal: None });
        }
        let request = match &intake.request {
            Ok(request) => request.clone(),
            Err(faults) => return Ok(Taken::Unusable(faults.clone())),
        };
        let at_risk = match self.feasible(&request, taker.policy, now).await? {
            Ok(at_risk) => at_risk,
            Err(late) => return Ok(Taken::TooLate(late)),
        };
        let requester = intake.requested_by.as_deref().unwrap_or(taker.requester);
        let requested = Renewal::requested(RenewalId(Uuid::now_v7()), requester, request, now);
        let renewal = Renewal { at_risk, ..requested };
        match self.create_renewal(&renewal, now).await {
            Ok(()) => {}
            Err(Error::OrganizationBusy { holder }) => return Ok(Taken::Busy { holder }),
            Err(error) => return Err(error),
        }
        match intake.standing(known.approval.as_deref()) {
            Some(standing) => Ok(Taken::Raised(self.ticket_said(renewal.id, standing, taker.by, now).await?)),
            None => Ok(Taken::Raised(renewal)),
        }
    }

    /// As [`crate::Db::feasible`], in this transaction. In time where no policy is known.
    async fn feasible(&mut self, request: &Request, policy: Option<&Policy>, now: DateTime<Utc>) -> Result<Feasible> {
        let Some(policy) = policy else { return Ok(Ok(None)) };
        let seen = self.latest_snapshot(&request.organization).await?;
        Ok(seen.map_or(Ok(None), |seen| in_time::asked(policy, request, &seen, now)))
    }

    /// Locks what is known of the record until the transaction ends: who comes with the same one waits.
    pub(crate) async fn lock_record_of(&mut self, intake: &Intake) -> Result<()> {
        self.lock_record(&intake.ticket.system, intake.key()).await.map(drop)
    }

    /// Makes the row of a record when there is none, and locks it until the transaction ends.
    async fn lock_record(&mut self, system: &str, key: &str) -> Result<Known> {
        let sql = "INSERT INTO ticket_record (system, key) VALUES ($1, $2)
             ON CONFLICT (system, key) DO UPDATE SET key = excluded.key RETURNING mod_count, updated_at, approval, renewal_id";
        Ok(on!(self, |db| sqlx::query_as(sql).bind(system).bind(key).fetch_one(db).await)?)
    }

    async fn save_record(&mut self, intake: &Intake, known: &Known, renewal: Option<RenewalId>) -> Result<()> {
        let newest = intake.revision.newest(known.revision());
        let approval = intake.approval.as_ref().or(known.approval.as_ref());
        let sql = "UPDATE ticket_record SET mod_count = $3, updated_at = $4, approval = $5, renewal_id = $6
             WHERE system = $1 AND key = $2";
        on!(self, |db| sqlx::query(sql)
            .bind(&intake.ticket.system)
            .bind(intake.key())
            .bind(newest.mod_count)
            .bind(newest.updated_at)
            .bind(approval)
            .bind(renewal)
            .execute(db)
            .await
            .map(drop))?;
        Ok(())
    }
}
