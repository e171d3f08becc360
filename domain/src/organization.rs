//! A configured Exchange organization and the policy that its renewals obey.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{CloudSettings, Digest, Gate, OrganizationId, Phase, plan::canonical_json, retry::Exhausted};

/// A configured organization, without its endpoints and credentials: those stay with the worker.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Organization {
    /// The short name used in URLs.
    pub id: OrganizationId,
    /// What people call it.
    #[schema(example = "Contoso Ltd")]
    pub name: String,
    /// True for a simulated organization: only those may run on a scaled clock.
    pub lab: bool,
    /// Whether servers' Windows endpoints are configured; without them restarts are left to people and key checks are not made.
    pub windows: bool,
    /// The tenant of a hybrid organization; without it the cloud half is left to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<CloudSettings>,
    /// Without a tenant: a mailbox on the servers of a hybrid organization, for tests towards the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "oauth-test@contoso.example")]
    pub test_mailbox: Option<String>,
    /// The rules that its renewals obey.
    pub policy: Policy,
}

/// The rules of one organization. Its digest is part of every plan.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Hours between staging and the effective date. Microsoft recommends at least 49 (48 is the minimum).
    #[schema(example = 49)]
    pub staging_lead_hours: u32,
    /// Hours between publication and clearing the previous certificate, at least.
    #[schema(example = 24)]
    pub soak_hours: u32,
    /// Minutes between two looks at the evidence while soaking.
    #[schema(example = 240)]
    pub soak_check_minutes: u32,
    /// RSA key size in bits: 2048, 3072 or 4096.
    #[schema(example = 2048)]
    pub key_size: u32,
    /// Days that the new certificate is valid. Exchange itself uses five years.
    #[schema(example = 1826)]
    pub lifetime_days: u32,
    /// Remove the old certificate from the servers at the end.
    pub remove_old_certificate: bool,
    /// Hours that a renewal waits for approval of its `execute` gate before it expires.
    #[schema(example = 336)]
    pub approval_hours: u32,
    /// How many people must approve `execute`.
    #[schema(example = 1)]
    pub execute_quorum: u32,
    /// How many people must approve `publish`; 0 passes the gate on evidence alone.
    #[schema(example = 1)]
    pub publish_quorum: u32,
    /// How many people must approve `clear_previous`; 0 passes the gate on evidence alone.
    #[schema(example = 1)]
    pub clear_previous_quorum: u32,
    /// What happens when restarts or checks after the publication keep failing: `ask` or `roll_back`.
    #[schema(example = "ask")]
    pub after_publish_failure: Exhausted,
    /// What happens when the old certificate cannot be removed from a server: `ask` or `skip`.
    #[schema(example = "ask")]
    pub prune_failure: Exhausted,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            staging_lead_hours: 49,
            soak_hours: 24,
            soak_check_minutes: 240,
            key_size: 2048,
            lifetime_days: 1826,
            remove_old_certificate: true,
            approval_hours: 336,
            execute_quorum: 1,
            publish_quorum: 1,
            clear_previous_quorum: 1,
            after_publish_failure: Exhausted::Ask,
            prune_failure: Exhausted::Ask,
        }
    }
}

impl Policy {
    /// How many approvals a gate needs.
    #[must_use]
    pub fn quorum(&self, gate: Gate) -> u32 {
        match gate {
            Gate::Execute => self.execute_quorum,
            // One person says that they have done it.
            Gate::TrustCloud => 1,
            Gate::Publish => self.publish_quorum,
            Gate::ClearPrevious => self.clear_previous_quorum,
        }
    }

    /// What becomes of a step of a phase that was tried again as often as is sensible.
    #[must_use]
    pub fn when_exhausted(&self, phase: Phase) -> Exhausted {
        match phase {
            Phase::Restart | Phase::RefreshHybrid | Phase::Soak => self.after_publish_failure,
            Phase::Prune => self.prune_failure,
            _ => Exhausted::Ask,
        }
    }

    /// What is wrong with these values, in words; empty when they can be used.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if ![2048, 3072, 4096].contains(&self.key_size) {
            faults.push(format!("key_size is {}: use 2048, 3072 or 4096", self.key_size));
        }
        if self.staging_lead_hours < 48 {
            faults.push(format!(
                "staging_lead_hours is {}: Exchange asks for at least 48, 49 is recommended",
                self.staging_lead_hours
            ));
        }
        if self.soak_hours < 24 {
            faults.push(format!(
                "soak_hours is {}: tokens and metadata are cached for a day, use at least 24",
                self.soak_hours
            ));
        }
        if self.soak_check_minutes == 0 {
            faults.push("soak_check_minutes is 0: use at least 1".to_owned());
        }
        if !(90..=3653).contains(&self.lifetime_days) {
            faults.push(format!("lifetime_days is {}: use 90 to 3653", self.lifetime_days));
        }
        if self.execute_quorum == 0 {
            faults.push("execute_quorum is 0: at least one person approves a change".to_owned());
        }
        if self.after_publish_failure == Exhausted::Skip {
            faults.push("after_publish_failure is skip: use ask or roll_back".to_owned());
        }
        if self.prune_failure == Exhausted::RollBack {
            faults.push(
                "prune_failure is roll_back: the old certificate is given up by then, use ask or skip".to_owned(),
            );
        }
        if self.approval_hours == 0 {
            faults.push("approval_hours is 0: use at least 1".to_owned());
        }
        faults
    }

    /// The version of this policy, as it stands in plans.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(canonical_json(self).as_bytes())
    }
}
