//! Steps: the durable units of work of a run.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Digest, Phase, RenewalId, StepId, Thumbprint, Trouble};

/// What a step does. The forward kinds carry the name of their phase; the last four undo.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum StepKind {
    /// Read everything and build the plan.
    Preflight,
    /// Make the certificate, or take over the one that is staged already.
    Generate,
    /// Import the PFX on one server.
    Distribute,
    /// Register the new key in the dedicated application beside the old one, and see that it is accepted; or take down that a person has done it.
    TrustCloud,
    /// `Set-AuthConfig -NewCertificateThumbprint -NewCertificateEffectiveDate`.
    Stage,
    /// `Set-AuthConfig -PublishCertificate`; before its gate is passed it guards the effective date.
    Publish,
    /// Restart the service and application pools of one server.
    Restart,
    /// Correct the hybrid objects and test trust in both directions.
    RefreshHybrid,
    /// Wait with evidence.
    Soak,
    /// `Set-AuthConfig -ClearPreviousCertificate`.
    ClearPrevious,
    /// Take the old key out of the dedicated application.
    PruneCloud,
    /// Take the keys out of the shared principal of Exchange Online.
    PurgeSharedPrincipal,
    /// Remove the old certificate from one server.
    Prune,
    /// Final health check and evidence.
    Close,
    /// Undo of publish: publish the old certificate again.
    RestorePrevious,
    /// Undo of stage: take the staged certificate out of `AuthConfig`.
    ClearNext,
    /// Undo of distribute: remove the new certificate from one server.
    RemoveCertificate,
    /// Undo of `trust_cloud`: take the new key out of the dedicated application, last, when no server can sign with it any more.
    RemoveCloudKey,
}

impl StepKind {
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
            Self::PruneCloud => "prune_cloud",
            Self::PurgeSharedPrincipal => "purge_shared_principal",
            Self::Prune => "prune",
            Self::Close => "close",
            Self::RestorePrevious => "restore_previous",
            Self::ClearNext => "clear_next",
            Self::RemoveCertificate => "remove_certificate",
            Self::RemoveCloudKey => "remove_cloud_key",
        }
    }

    /// Whether a person may skip a step of this kind. Only what nothing else depends on: a certificate or key that stays where nobody uses it. Plans say so
    /// in words, so that it is approved with them.
    #[must_use]
    pub fn may_be_skipped(self) -> bool {
        matches!(
            self,
            Self::Prune
                | Self::PruneCloud
                | Self::PurgeSharedPrincipal
                | Self::RemoveCertificate
                | Self::RemoveCloudKey
        )
    }
}

impl std::fmt::Display for StepKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum StepStatus {
    /// Its turn has not come.
    Pending,
    /// To be run when `due_at` is reached: for the first time, again, or as a timer.
    Ready,
    /// A worker has it; `due_at` is the end of its lease.
    Running,
    /// A person must act: retry, skip, cancel or roll back.
    Attention,
    /// Done, and read back.
    Succeeded,
    /// Not needed, or given up: by the approved plan, or by a person where [`StepKind::may_be_skipped`].
    Skipped,
}

impl StepStatus {
    /// Whether its turn may come: nobody works on it, and it is not over.
    #[must_use]
    pub fn may_become_due(self) -> bool {
        matches!(self, Self::Pending | Self::Ready | Self::Attention)
    }

    /// Whether nothing more will happen in it.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Skipped)
    }
}

/// One durable unit of work with a kind, a target, attempts and a result.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema, sqlx::FromRow)]
pub struct Step {
    /// UUIDv7.
    pub id: StepId,
    /// The renewal that it belongs to.
    pub renewal_id: RenewalId,
    /// Its place in the plan; the preflight is 0.
    pub ordinal: i32,
    /// The phase that it belongs to.
    pub phase: Phase,
    /// What it does.
    pub kind: StepKind,
    /// The server (FQDN) that it acts on; empty for the organization as a whole.
    #[schema(example = "ex01.contoso.example")]
    pub target: String,
    /// Active Directory site of the target; empty for the organization as a whole.
    #[schema(example = "Hamburg")]
    pub site: String,
    /// Where it stands.
    pub status: StepStatus,
    /// How often a worker has taken it; the fence of every write about it.
    pub attempt: i64,
    /// Failures in a row since it last went well or was retried by a person.
    pub failures: i32,
    /// When it is to be run next, or when the lease of its worker ends.
    pub due_at: Option<DateTime<Utc>>,
    /// What the last attempt says while the step is not over.
    #[sqlx(json(nullable))]
    pub trouble: Option<Box<Trouble>>,
    /// What it did, with its evidence.
    #[sqlx(json(nullable))]
    pub outcome: Option<Box<Outcome>>,
    /// When a worker first took it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was over.
    pub finished_at: Option<DateTime<Utc>>,
}

/// What a step did, with its evidence. Kept for good; carries no secret.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// A plan was made.
    Planned {
        /// The plan's digest.
        digest: Digest,
    },
    /// A certificate was made, or a staged one taken over.
    Generated {
        /// The new certificate.
        thumbprint: Thumbprint,
        /// Its first valid instant.
        not_before: DateTime<Utc>,
        /// Its last valid instant.
        not_after: DateTime<Utc>,
        /// Whether it was staged by somebody else before and taken over.
        adopted: bool,
        /// The certificate, which is public: DER in base64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "MIIDXTCCAkWgAwIBAgIQ…")]
        certificate: Option<String>,
        /// When Exchange publishes one that was taken over by itself, after its date was pushed out; or when it was found to have done so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "2026-12-03T21:00:00Z")]
        exchange_publishes_at: Option<DateTime<Utc>>,
    },
    /// The certificate is on the server.
    Distributed {
        /// The certificate read back from the server.
        thumbprint: Thumbprint,
        /// How the PFX was encrypted; absent when the certificate was there already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "aes256-sha256")]
        pfx: Option<String>,
        /// What is known of the private key there.
        key: crate::snapshot::Key,
        /// Whether it was there before this attempt.
        already_present: bool,
    },
    /// Entra holds the new key beside the old one.
    TrustedCloud {
        /// The entry of the new key; absent when a person has made it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "1a2b3c4d-5e6f-4a7b-8c9d-0e1f2a3b4c5d")]
        key_id: Option<String>,
        /// The new certificate.
        thumbprint: Thumbprint,
        /// The entries that were there and were left as they are.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schema(example = json!(["6ba7b810-9dad-41d1-80b4-00c04fd430c8"]))]
        kept: Vec<String>,
        /// How it was proven by use; absent when it could not be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accepted: Option<Acceptance>,
        /// The person who says that they have registered it; absent when the run has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "carol@contoso.example")]
        confirmed_by: Option<String>,
    },
    /// The certificate is staged on every domain controller.
    Staged {
        /// The effective date: from then on this run may publish, and Exchange does by itself.
        effective_at: DateTime<Utc>,
        /// The domain controllers that showed it.
        domain_controllers: Vec<String>,
    },
    /// The effective date was pushed out: people had not approved the publication, or a server still lacked the certificate.
    Postponed {
        /// When Exchange publishes by itself now.
        exchange_publishes_at: DateTime<Utc>,
        /// Why.
        reason: String,
    },
    /// The certificate is current on every domain controller.
    Published {
        /// When it was first seen as current. It may have been before that, unless this run has published it.
        published_at: DateTime<Utc>,
        /// Who published it.
        by: Publisher,
        /// The domain controllers that showed it.
        domain_controllers: Vec<String>,
        /// The servers, and Entra, that lacked the new key when it was seen that not this run has published it. The run mends that, and goes on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schema(example = json!([]))]
        lacking: Vec<Evidence>,
    },
    /// The processes of a server run with the new certificate.
    Restarted {
        /// The processes with their start times.
        processes: Vec<Process>,
    },
    /// The organization and the cloud trust each other with the new certificate.
    RefreshedHybrid {
        /// What was corrected, as cmdlets.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schema(example = json!([]))]
        corrected: Vec<String>,
        /// What was tested.
        evidence: Vec<Evidence>,
    },
    /// Every check was green for the whole soak time.
    Soaked {
        /// How often the evidence was collected.
        checks: u32,
        /// What was checked last.
        evidence: Vec<Evidence>,
    },
    /// The previous certificate is out of `AuthConfig` on every domain controller.
    ClearedPrevious {
        /// The domain controllers that showed it.
        domain_controllers: Vec<String>,
    },
    /// Keys are out of the dedicated application.
    PrunedCloud {
        /// The entries that were taken out.
        #[schema(example = json!(["6ba7b810-9dad-41d1-80b4-00c04fd430c8"]))]
        removed: Vec<String>,
        /// Whether they were gone before this attempt.
        already_gone: bool,
    },
    /// Keys are out of the shared principal of Exchange Online.
    PurgedSharedPrincipal {
        /// The entries that were taken out.
        #[schema(example = json!([]))]
        removed: Vec<String>,
    },
    /// A certificate is off a server.
    Removed {
        /// The certificate removed.
        thumbprint: Thumbprint,
        /// Whether it was gone before this attempt.
        already_gone: bool,
    },
    /// The final health check went well.
    Closed {
        /// What was checked.
        evidence: Vec<Evidence>,
    },
    /// The staged certificate is out of `AuthConfig`.
    ClearedNext {
        /// The domain controllers that showed it.
        domain_controllers: Vec<String>,
    },
    /// Not done, for a reason that the plan, the run or a person gives.
    NotDone {
        /// Why, and what is left as it was.
        reason: String,
        /// The person who skipped it; absent when it was nobody's choice.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "oscar@contoso.example")]
        by: Option<String>,
    },
}

impl Outcome {
    /// Not done, by nobody's choice.
    #[must_use]
    pub fn not_done(reason: impl Into<String>) -> Self {
        Self::NotDone { reason: reason.into(), by: None }
    }
}

/// How it was proven that Entra accepts a key: a key that can be read back is not accepted everywhere yet.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Acceptance {
    /// When it was accepted.
    #[schema(example = "2026-12-01T20:05:00Z")]
    pub at: DateTime<Utc>,
    /// What was tried.
    #[schema(example = "A token was issued for an assertion that the new key has signed")]
    pub detail: String,
}

/// Who made the new certificate the current one, as far as it is known.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Publisher {
    /// The AuthAdmin servicelet of Exchange: the effective date had come, and all the while the worker was there and did not do it.
    Exchange,
    /// This run.
    Rekey,
    /// It was found published: by somebody, by Exchange while no worker was there, or by this run after the backup was made that it was restored from.
    Unknown,
}

/// A process of an Exchange server.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Process {
    /// Service or application pool.
    #[schema(example = "MSExchangeOWAAppPool")]
    pub name: String,
    /// When it was started, by the server's clock.
    pub started_at: DateTime<Utc>,
}

/// One thing that was checked, and how it came out.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Evidence {
    /// What was checked, in snake_case.
    #[schema(example = "certificate_on_server")]
    pub check: String,
    /// Where.
    #[schema(example = "ex01.contoso.example")]
    pub target: String,
    /// How it came out.
    pub result: CheckResult,
    /// What was seen.
    #[schema(example = "current 9F3B6C1D, key in a CSP")]
    pub detail: String,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// As it must be.
    Passed,
    /// Not as it must be.
    Failed,
    /// Could not be looked at; the detail says why.
    NotMade,
}
