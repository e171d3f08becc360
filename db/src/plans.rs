//! Table `plan`: the exact text that the digest covers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use domain::{Digest, Plan, RenewalId};

use crate::{Error, Result, Tx, connection::on};

/// Steps of all plans that are kept read: a plan for 500 servers has some 2,000.
const KNOWN_STEPS: usize = 20_000;

/// Plans that were read lately. A plan with a given digest never changes, and every look at a run needs it.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownPlans(Arc<Mutex<HashMap<Digest, Arc<Plan>>>>);

impl KnownPlans {
    fn get(&self, digest: &Digest) -> Option<Arc<Plan>> {
        self.lock().get(digest).cloned()
    }

    fn keep(&self, digest: &Digest, plan: &Arc<Plan>) {
        let mut known = self.lock();
        let steps: usize = known.values().map(|plan| plan.steps.len()).sum();
        if steps + plan.steps.len() > KNOWN_STEPS {
            known.clear();
        }
        known.insert(digest.clone(), plan.clone());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Plan>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tx {
    /// Stores a plan as canonical JSON; the same plan again changes nothing.
    pub async fn insert_plan(&mut self, renewal: RenewalId, plan: &Plan, now: DateTime<Utc>) -> Result<Digest> {
        let digest = plan.digest();
        on!(self, |db| {
            sqlx::query("INSERT INTO plan (renewal_id, digest, body, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (renewal_id, digest) DO NOTHING")
            .bind(renewal)
            .bind(&digest)
            .bind(plan.canonical())
            .bind(now)
            .execute(db)
            .await
            .map(drop)
        })?;
        Ok(digest)
    }

    /// A plan by its digest.
    pub async fn plan(&mut self, renewal: RenewalId, digest: &Digest) -> Result<Option<Plan>> {
        let Some(body) = self.plan_text(renewal, digest).await? else { return Ok(None) };
        // Of the text, not of what this version reads from it: a newer one may have written more.
        if Digest::of(body.as_bytes()) != *digest {
            return Err(Error::PlanAltered);
        }
        Ok(Some(serde_json::from_str(&body)?))
    }

    /// The plan that a renewal is at, read once however often it is asked for.
    pub(crate) async fn known_plan(&mut self, renewal: RenewalId, digest: &Digest) -> Result<Option<Arc<Plan>>> {
        if let Some(plan) = self.known_plans.get(digest) {
            return Ok(Some(plan));
        }
        let plan = self.plan(renewal, digest).await?.map(Arc::new);
        if let Some(plan) = &plan {
            self.known_plans.keep(digest, plan);
        }
        Ok(plan)
    }

    /// The canonical JSON of a plan: the bytes that its digest covers.
    pub async fn plan_text(&mut self, renewal: RenewalId, digest: &Digest) -> Result<Option<String>> {
        Ok(on!(self, |db| sqlx::query_scalar("SELECT body FROM plan WHERE renewal_id = $1 AND digest = $2")
            .bind(renewal)
            .bind(digest)
            .fetch_optional(db)
            .await)?)
    }
}
