//! Requests for renewals. Those that come at the same time are stored together, each with its own answer.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::{
    OrganizationId, Phase, Policy, Renewal, RenewalId, Request, Step, StepKind,
    audit::NewAudit,
    planning::in_time::{self, TooLate},
    renewal::AtRisk,
};
use serde_json::json;

use crate::{
    Answer, Db, Error, IdempotencyKey, Result, Tx,
    connection::Kind,
    gathering::{Gathering, all_or_each},
    run::new_step,
};

/// Requests of a transaction, at most: what is usual is prepared.
const MOST: usize = 32;

/// Who stores requests.
pub(crate) type Raising = Gathering<(), Raise, Result<Raised>>;

pub(crate) fn raising(kind: Kind) -> Raising {
    let leaders = match kind {
        // While one is being flushed, the next is being written.
        Kind::Postgres => 2,
        Kind::Sqlite => 1,
    };
    Gathering::new(leaders, MOST)
}

/// A request for a renewal.
#[derive(Clone, Debug)]
pub struct Raise {
    /// What is asked for.
    pub renewal: Renewal,
    /// What its sender calls the request, and what they are answered.
    pub keyed: Option<(IdempotencyKey, Answer)>,
}

/// What became of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Raised {
    /// It is accepted.
    New,
    /// It was answered before.
    Before(Answer),
    /// Its key stands for another request.
    OtherRequest,
}

/// Whether a renewal can begin when its request says: in time, at risk, or too late.
pub type Feasible = std::result::Result<Option<AtRisk>, TooLate>;

/// Who holds an organization, and what keys have been answered.
struct Held {
    holders: HashMap<OrganizationId, RenewalId>,
    answers: HashMap<(String, String), Answer>,
}

impl Db {
    /// What the last look at an organization says of the start time of a request. Nothing is known before somebody has looked; the preflight looks again.
    pub async fn feasible(&self, request: &Request, policy: &Policy, now: DateTime<Utc>) -> Result<Feasible> {
        let seen = self.last_seen(&request.organization).await?;
        Ok(seen.map_or(Ok(None), |seen| in_time::asked(policy, request, &seen, now)))
    }

    /// Accepts a request, or says what it was answered before. The renewal's id makes it safe to ask again when nobody knows what became of it.
    pub async fn raise(&self, raise: Raise) -> Result<Raised> {
        let served = self
            .raising
            .serve((), raise.clone(), async |all| all_or_each(all, async |some| self.raise_all(some).await).await)
            .await;
        match served {
            None => self.raise_one(&raise).await,
            // Race: on PostgreSQL somebody else was faster, perhaps with the same key. A second look finds their answer, or the renewal that holds
            // the organization.
            Some(Err(error)) if is_overtaken(&error, &raise) => self.raise_one(&raise).await,
            Some(result) => result,
        }
    }

    async fn raise_all(&self, all: &[Raise]) -> Result<Vec<Result<Raised>>> {
        self.write(async |tx| tx.raise_together(all).await).await
    }

    async fn raise_one(&self, raise: &Raise) -> Result<Raised> {
        let results = self.raise_all(std::slice::from_ref(raise)).await?;
        results.into_iter().next().unwrap_or(Err(Error::Unanswered))
    }
}

fn is_overtaken(error: &Error, raise: &Raise) -> bool {
    error.is_unique_violation() || (raise.keyed.is_some() && matches!(error, Error::OrganizationBusy { .. }))
}

impl Tx {
    /// Accepts a renewal at a time: the row, its preflight step, the record. Refused while another one of its organization is live.
    pub async fn create_renewal(&mut self, renewal: &Renewal, now: DateTime<Utc>) -> Result<()> {
        let raise = Raise { renewal: Renewal { created_at: now, ..renewal.clone() }, keyed: None };
        self.raise_together(&[raise]).await?.into_iter().try_for_each(|raised| raised.map(drop))
    }

    async fn raise_together(&mut self, all: &[Raise]) -> Result<Vec<Result<Raised>>> {
        let mut held = self.held(all).await?;
        let (mut results, mut new) = (Vec::with_capacity(all.len()), Vec::new());
        for raise in all {
            let result = held.admit(raise);
            if matches!(result, Ok(Admitted::New)) {
                new.push(raise);
            }
            results.push(result.map(Admitted::raised));
        }
        if !new.is_empty() {
            self.insert_raised(&new).await?;
        }
        Ok(results)
    }

    async fn held(&mut self, all: &[Raise]) -> Result<Held> {
        let keys: Vec<&IdempotencyKey> = all.iter().filter_map(|raise| Some(&raise.keyed.as_ref()?.0)).collect();
        let answers = self.answers(&keys).await?;
        let organizations: Vec<_> = all.iter().map(|raise| &raise.renewal.organization_id).collect();
        Ok(Held { answers, holders: self.live_renewals(&organizations).await? })
    }

    async fn insert_raised(&mut self, new: &[&Raise]) -> Result<()> {
        let renewals: Vec<&Renewal> = new.iter().map(|raise| &raise.renewal).collect();
        self.insert_renewals(&renewals).await?;
        for renewal in renewals.iter().filter(|renewal| renewal.at_risk.is_some()) {
            self.store_risk(renewal).await?;
        }
        let preflights: Vec<Step> = renewals.iter().map(|renewal| preflight(renewal)).collect();
        self.insert_steps(&preflights).await?;
        let requested = renewals.iter().map(|renewal| {
            let detail = json!({ "request": renewal.request });
            let entry = NewAudit::new(&renewal.requested_by, "renewal.requested", detail);
            (*renewal, entry, renewal.created_at)
        });
        self.audit_all(requested.collect::<Vec<_>>()).await?;
        let answers: Vec<_> =
            new.iter().filter_map(|raise| Some((raise.keyed.as_ref()?, raise.renewal.created_at))).collect();
        self.insert_answers(&answers).await
    }
}

fn preflight(renewal: &Renewal) -> Step {
    new_step(renewal.id, 0, Phase::Preflight, StepKind::Preflight, "", "", Some(renewal.created_at))
}

/// What is to be done with a request.
enum Admitted {
    Before(Answer),
    /// To be stored.
    New,
    OtherRequest,
    /// It is stored already: nobody knew.
    Stored,
}

impl Admitted {
    fn raised(self) -> Raised {
        match self {
            Self::Before(answer) => Raised::Before(answer),
            Self::New | Self::Stored => Raised::New,
            Self::OtherRequest => Raised::OtherRequest,
        }
    }
}

impl Held {
    /// Takes a request in, if it is a new one: it counts for those after it.
    fn admit(&mut self, raise: &Raise) -> Result<Admitted> {
        let Raise { renewal, keyed } = raise;
        if let Some((key, _)) = keyed
            && let Some(answer) = self.answers.get(&name(key))
        {
            return Ok(if answer.renewal_id == renewal.id {
                Admitted::Stored
            } else if answer.request_hash == key.request_hash {
                Admitted::Before(answer.clone())
            } else {
                Admitted::OtherRequest
            });
        }
        match self.holders.get(&renewal.organization_id) {
            Some(holder) if *holder == renewal.id => return Ok(Admitted::Stored),
            Some(holder) => return Err(Error::OrganizationBusy { holder: *holder }),
            None => {}
        }
        self.holders.insert(renewal.organization_id.clone(), renewal.id);
        if let Some((key, answer)) = keyed {
            self.answers.insert(name(key), answer.clone());
        }
        Ok(Admitted::New)
    }
}

fn name(key: &IdempotencyKey) -> (String, String) {
    (key.caller.clone(), key.key.clone())
}
