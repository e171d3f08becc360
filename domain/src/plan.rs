//! Plans: what would be done, with exact cmdlets, and the digest that people approve.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod cloud;

use crate::{
    Digest, Gate, GateRule, OrganizationId, Phase, Reason, StepKind, Thumbprint, calendar::Calendar,
    organization::BreakGlass, retry::Exhausted, snapshot::Version,
};

pub use cloud::{Correction, How, PlannedApplication, PlannedCloud, PlannedKey, PlannedPurge, quoted};

/// The format of plans: a plan of another format cannot be carried out by this version.
pub const FORMAT: &str = "rekey.plan/1";

/// What would be done. Holds nothing that changes when nothing has changed (no times of observation, no ids), so that planning again on the
/// same organization gives the same digest and approvals stand.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Plan {
    /// `rekey.plan/1`.
    #[schema(example = "rekey.plan/1")]
    pub format: String,
    /// The organization that it is for.
    pub organization: OrganizationId,
    /// Why.
    pub reason: Reason,
    /// No wait between staging and publication.
    pub emergency: bool,
    /// Where the new certificate comes from.
    pub certificate: CertificateSource,
    /// `AuthConfig` as the plan found it. The run stops when somebody else changes it.
    pub observed: Observed,
    /// Hours between staging and the effective date.
    #[schema(example = 49)]
    pub staging_lead_hours: u32,
    /// Hours between publication and clearing the previous certificate, at least.
    #[schema(example = 24)]
    pub soak_hours: u32,
    /// Hours after the beginning of the soak from which failing evidence is a case for a person. None in plans of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 168)]
    pub soak_max_hours: Option<u32>,
    /// Minutes between two looks at the evidence while soaking.
    #[schema(example = 240)]
    pub soak_check_minutes: u32,
    /// Hours that a renewal waits for approval of its `execute` gate before it expires.
    #[schema(example = 336)]
    pub approval_hours: u32,
    /// Not to be started before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<DateTime<Utc>>,
    /// When something may be changed.
    #[serde(default, skip_serializing_if = "Calendar::is_default")]
    pub calendar: Calendar,
    /// Whether the calendar does not hold until the new certificate is published, because the old one would expire before that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub yields_to_expiry: bool,
    /// The last time at which the run may start and be over before the old certificate expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_safe_start: Option<DateTime<Utc>>,
    /// Whether nothing is changed unless the ticket system says that the ticket is ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ticket_required: bool,
    /// Who carries it out besides operators: excluded by gates that exclude the executor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub executors: Vec<String>,
    /// Who may break the glass.
    #[serde(default, skip_serializing_if = "BreakGlass::is_default")]
    pub break_glass: BreakGlass,
    /// The servers that take part.
    pub servers: Vec<PlannedServer>,
    /// The cloud half; absent when the organization is not a hybrid one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<PlannedCloud>,
    /// The gates with the approvals that they need.
    pub gates: Vec<PlannedGate>,
    /// What is done, in order.
    pub steps: Vec<PlannedStep>,
    /// What approvers should know.
    pub findings: Vec<Finding>,
    /// Digest of the policy that shaped this plan.
    pub policy: Digest,
}

/// Where the new certificate comes from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum CertificateSource {
    /// A healthy certificate is staged already: it is used, not replaced.
    Adopt {
        /// The staged certificate.
        thumbprint: Thumbprint,
        /// The server that its key is exported from when others lack it.
        #[schema(example = "ex01.contoso.example")]
        from: String,
    },
    /// A new one is made.
    Generate {
        /// RSA key size in bits.
        #[schema(example = 2048)]
        key_size: u32,
        /// Days of validity.
        #[schema(example = 1826)]
        lifetime_days: u32,
    },
}

/// `AuthConfig` as the plan found it, equal on every domain controller.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Observed {
    /// The certificate that signs today.
    pub current: Option<Thumbprint>,
    /// The end of its validity.
    pub current_not_after: Option<DateTime<Utc>>,
    /// The certificate before.
    pub previous: Option<Thumbprint>,
    /// The staged certificate.
    pub next: Option<Thumbprint>,
    /// The domain controllers that agreed.
    pub domain_controllers: Vec<String>,
}

/// A server that takes part.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct PlannedServer {
    /// Fully qualified name.
    #[schema(example = "ex01.contoso.example")]
    pub fqdn: String,
    /// Active Directory site.
    #[schema(example = "Hamburg")]
    pub site: String,
    /// Exchange version.
    pub version: Version,
    /// How the PFX for it is encrypted.
    pub pfx: PfxAlgorithm,
    /// Whether the run goes on without it when it cannot be reached.
    pub may_be_absent: bool,
}

/// How a PFX is encrypted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub enum PfxAlgorithm {
    /// PBES2 with AES-256-CBC, SHA-256 MAC: Windows Server 2019 and later.
    #[serde(rename = "aes256-sha256")]
    Aes256Sha256,
    /// pbeWithSHAAnd3-KeyTripleDES-CBC, SHA-1 MAC: what older Windows can read.
    #[serde(rename = "tripledes-sha1")]
    TripleDesSha1,
}

impl PfxAlgorithm {
    /// What the Windows below this Exchange version reads for certain: Exchange 2019 and SE run on Windows Server 2019 and later only
    /// (domain.md 2.2).
    #[must_use]
    pub fn for_exchange(version: Version) -> Self {
        if (version.major, version.minor) >= (15, 2) { Self::Aes256Sha256 } else { Self::TripleDesSha1 }
    }

    /// The word used in JSON and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aes256Sha256 => "aes256-sha256",
            Self::TripleDesSha1 => "tripledes-sha1",
        }
    }
}

/// A gate and the approvals that it needs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct PlannedGate {
    /// The gate.
    pub gate: Gate,
    /// How many people must approve; 0 passes it on evidence alone.
    #[schema(example = 1)]
    pub quorum: u32,
    /// What it asks for beyond that.
    #[serde(default, skip_serializing_if = "GateRule::is_empty")]
    pub rule: GateRule,
    /// What passing it means.
    #[schema(example = "The new certificate becomes the one that Exchange signs with.")]
    pub meaning: String,
}

/// A step as planned.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct PlannedStep {
    /// Place in the plan, from 1.
    #[schema(example = 2)]
    pub ordinal: i32,
    /// The phase.
    pub phase: Phase,
    /// What it does.
    pub kind: StepKind,
    /// The server (FQDN); empty for the organization as a whole.
    #[schema(example = "ex01.contoso.example")]
    pub target: String,
    /// Active Directory site of the target; empty for the organization as a whole.
    #[schema(example = "Hamburg")]
    pub site: String,
    /// In a sentence.
    #[schema(example = "Import the new certificate with its private key on ex01.contoso.example.")]
    pub description: String,
    /// The cmdlets that change something, exactly as they will be sent; `<…>` stands for what is not known yet or secret.
    pub cmdlets: Vec<PlannedCmdlet>,
    /// Whether and how it can be taken back.
    pub reversibility: Reversibility,
    /// What becomes of it when it was tried again as often as is sensible. `ask` where nothing is said.
    #[serde(default, skip_serializing_if = "Exhausted::is_ask")]
    pub when_exhausted: Exhausted,
}

/// A cmdlet that changes something.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct PlannedCmdlet {
    /// Where it runs.
    pub endpoint: EndpointKind,
    /// The whole command line as an administrator would type it.
    #[schema(
        example = "Import-ExchangeCertificate -Server ex01.contoso.example -FileData <PFX> -Password <one-time password> -PrivateKeyExportable $true"
    )]
    pub line: String,
}

/// Where a cmdlet or request goes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointKind {
    /// `…/PowerShell/`, configuration Microsoft.Exchange.
    Exchange,
    /// Exchange Online.
    ExchangeOnline,
    /// Microsoft Graph.
    Graph,
    /// Nowhere by itself: a person does it.
    Person,
    /// `…:5986/wsman`, configuration Microsoft.PowerShell.
    Windows,
}

/// Whether and how a step can be taken back.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reversibility {
    /// Changes nothing that outlives it.
    Free,
    /// Can be taken back until `clear_previous`.
    Reversible,
    /// Cannot be taken back.
    PointOfNoReturn,
}

/// Something that approvers should know.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Finding {
    /// Stable word in snake_case.
    #[schema(example = "server_unreachable")]
    pub code: String,
    /// Which server or object; empty for the organization.
    #[schema(example = "ex03.contoso.example")]
    pub target: String,
    /// What was found, and what it means for the run.
    #[schema(example = "The server did not answer. Publication waits until it has the certificate.")]
    pub message: String,
    /// The cmdlet that puts it right, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Set-AuthServer -Identity 'EvoSts' -Enabled $true")]
    pub fix: Option<String>,
}

impl Plan {
    /// The plan as RFC 8785 canonical JSON: the bytes that the digest covers.
    #[must_use]
    pub fn canonical(&self) -> String {
        canonical_json(self)
    }

    /// What people approve: SHA-256 of the canonical JSON.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.canonical().as_bytes())
    }

    /// How many approvals a gate needs.
    #[must_use]
    pub fn quorum(&self, gate: Gate) -> u32 {
        self.gates.iter().find(|g| g.gate == gate).map_or(1, |g| g.quorum)
    }

    /// What a gate asks for beyond its quorum.
    #[must_use]
    pub fn rule(&self, gate: Gate) -> GateRule {
        self.gates.iter().find(|g| g.gate == gate).map(|g| g.rule.clone()).unwrap_or_default()
    }

    /// Whether the plan has a gate.
    #[must_use]
    pub fn has_gate(&self, gate: Gate) -> bool {
        self.gates.iter().any(|g| g.gate == gate)
    }

    /// Whether a certificate that somebody has staged is taken over.
    #[must_use]
    pub fn adopts(&self) -> bool {
        self.adopted().is_some()
    }

    /// The certificate that is taken over; none when one is made.
    #[must_use]
    pub fn adopted(&self) -> Option<&Thumbprint> {
        match &self.certificate {
            CertificateSource::Adopt { thumbprint, .. } => Some(thumbprint),
            CertificateSource::Generate { .. } => None,
        }
    }

    /// How far ahead of now, in hours, the date of a certificate that is taken over is at least when the run begins with it: as far as that of a new one,
    /// and in an emergency, which stages without a wait, as far as it takes to do all that comes before the publication.
    #[must_use]
    pub fn held_off_hours(&self) -> u32 {
        let least = u32::try_from(crate::progress::POSTPONED_BY.num_hours()).unwrap_or_default();
        self.staging_lead_hours.max(least)
    }

    /// The gates of this plan in the order in which a run meets them.
    pub fn gates_in_order(&self) -> impl Iterator<Item = Gate> {
        Gate::ALL.into_iter().filter(|gate| self.has_gate(*gate))
    }

    /// The gate of this plan that stands in front of a phase. In an emergency `publish` is decided before staging: a date that has come already lets Exchange
    /// publish by itself at any moment.
    #[must_use]
    pub fn gate_before(&self, phase: Phase) -> Option<Gate> {
        self.gates_in_order().find(|gate| self.opened_by(*gate) == phase)
    }

    /// The phase that a gate opens.
    #[must_use]
    pub fn opened_by(&self, gate: Gate) -> Phase {
        match gate {
            Gate::Execute => Phase::Generate,
            Gate::TrustCloud => Phase::TrustCloud,
            Gate::Publish if self.emergency => Phase::Stage,
            Gate::Publish => Phase::Publish,
            Gate::ClearPrevious => Phase::ClearPrevious,
        }
    }

    /// The planned server of that name.
    #[must_use]
    pub fn server(&self, fqdn: &str) -> Option<&PlannedServer> {
        self.servers.iter().find(|s| s.fqdn == fqdn)
    }
}

/// RFC 8785 canonical JSON of a value made of strings, integers, booleans, lists and objects.
#[must_use]
pub fn canonical_json<T: Serialize>(value: &T) -> String {
    serde_jcs::to_string(value).expect("our own types have string keys and no floating-point numbers")
}
