//! What happened: changes of state, the cmdlets that were asked for, and the requests that carried them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use crate::{
    certificate::Thumbprint,
    cmdlets::Endpoint,
    faults::{cloud::CloudService, wire::Action},
};

/// A change of state, or an attempt that changed nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// Virtual time.
    pub at: DateTime<Utc>,
    /// What.
    pub kind: EffectKind,
    /// The server or domain controller where it happened.
    pub place: String,
    /// The certificate it was about.
    pub thumbprint: Option<Thumbprint>,
    /// Whether anything is different now.
    pub changed: bool,
    /// Who: an account, or a part of Exchange.
    pub by: String,
    /// More, in words.
    pub detail: String,
}

/// Kinds of change.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectKind {
    /// A key was added to an application or principal.
    AddCloudKey,
    /// The staged certificate was given up.
    ClearNext,
    /// The previous certificate was given up.
    ClearPrevious,
    /// A certificate got services.
    Enable,
    /// A PFX was brought into a store.
    Import,
    /// A certificate was made on a server.
    NewCertificate,
    /// A server came up or went down.
    Power,
    /// Next became current.
    Publish,
    /// A certificate left a store.
    Remove,
    /// A key left an application or principal.
    RemoveCloudKey,
    /// A service or application pool was restarted.
    Restart,
    /// A servicelet brought a certificate from another server.
    ServiceletCopy,
    /// Current was set without staging.
    SetAuthConfigCurrent,
    /// A certificate was staged or its date moved.
    SetAuthConfigNext,
    /// An organization relationship was changed.
    SetOrganizationRelationship,
}

/// A cmdlet that was asked for. Bytes and secrets are not in here.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Asked {
    /// Virtual time.
    pub at: DateTime<Utc>,
    /// The server of the runspace.
    pub server: String,
    /// Which of its endpoints.
    pub endpoint: &'static str,
    /// Its name.
    pub cmdlet: String,
    /// Parameters as text; `***` for secrets, a count for bytes.
    #[serde(serialize_with = "as_map")]
    pub parameters: Vec<(String, String)>,
    /// `ok`, an error id, `held` or `reply_lost`.
    pub outcome: String,
}

/// A WS-Management request. Its number in the run is its place among all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Requested {
    /// The server that was asked.
    pub server: String,
    /// Which of its endpoints.
    pub endpoint: Endpoint,
    /// What for.
    pub action: Action,
    /// Whether it, or its answer, was disturbed on the way.
    pub disturbed: bool,
}

/// A request to the cloud. What it carried is not in here.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CloudAsked {
    /// Virtual time.
    pub at: DateTime<Utc>,
    /// Which service.
    pub service: CloudService,
    /// GET, POST or PATCH.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// What was asked of Exchange Online, or what application asked for a token.
    pub subject: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The code of the error, if it was one.
    pub code: String,
    /// Whether it, or its answer, was disturbed on the way.
    pub disturbed: bool,
}

fn as_map<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// How often something was tried and how often it changed anything.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Count {
    /// Attempts that were carried out.
    pub total: u32,
    /// Those that changed something.
    pub changed: u32,
}

/// All of it, in order.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Journal {
    /// Changes.
    pub effects: Vec<Effect>,
    /// Cmdlets.
    pub cmdlets: Vec<Asked>,
    /// Requests.
    pub requests: Vec<Requested>,
    /// Requests to the cloud.
    pub cloud: Vec<CloudAsked>,
}

impl Journal {
    /// How often each kind of change happened.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<EffectKind, Count> {
        let mut counts: BTreeMap<EffectKind, Count> = BTreeMap::new();
        for effect in &self.effects {
            let count = counts.entry(effect.kind).or_default();
            count.total += 1;
            count.changed += u32::from(effect.changed);
        }
        counts
    }
}
