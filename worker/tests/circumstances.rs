//! A hybrid organization of which much is left to chance, and what can break in it that no order of steps survives.

use chrono::{DateTime, TimeDelta, Utc};
use db::LoadedRun;
use domain::{Step, StepKind, StepStatus};
use lab::{
    Report,
    journal::{Effect, EffectKind},
    organization::{Hybrid, PartnerRules, Region},
    trust::{Leg, Reason, Refusal},
};
use serde_json::{Value as Json, json};

use crate::support::World;

/// How fast each part of the cloud learns, and where it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    pub(crate) replicas: u16,
    /// Virtual seconds, each.
    pub(crate) replica_lag: i64,
    pub(crate) key_cache: i64,
    pub(crate) partner_refresh: i64,
    /// Exchange Online sends callers to another region.
    pub(crate) elsewhere: bool,
    /// The shared principal still holds a key, and the plan takes it out.
    pub(crate) purge: bool,
}

impl Circumstances {
    /// As few requests as a hybrid renewal can have, the same in each run.
    pub(crate) const QUICK: Self =
        Self { replicas: 1, replica_lag: 0, key_cache: 0, partner_refresh: 86_400, elsewhere: false, purge: false };

    pub(crate) fn tenant(self) -> Hybrid {
        let contoso = Hybrid::contoso();
        let contoso = if self.purge { contoso.with_leftover_keys() } else { contoso };
        Hybrid {
            replicas: self.replicas,
            replica_lag: TimeDelta::seconds(self.replica_lag),
            key_cache: TimeDelta::seconds(self.key_cache),
            region: if self.elsewhere { Region::Elsewhere } else { Region::Here },
            partner: PartnerRules { refresh: TimeDelta::seconds(self.partner_refresh), ..PartnerRules::default() },
            ..contoso
        }
    }
}

/// Requests to the cloud that go wrong, or their answers.
#[derive(Clone, Debug)]
pub(crate) struct CloudTrouble {
    pub(crate) service: &'static str,
    /// Only changes.
    pub(crate) patches: bool,
    pub(crate) skip: u32,
    pub(crate) times: u32,
    pub(crate) act: Json,
}

impl CloudTrouble {
    pub(crate) fn as_fault(&self) -> Json {
        let Self { service, patches, skip, times, act } = self;
        let mut fault = json!({ "kind": "cloud", "service": service, "skip": skip, "times": times, "do": act });
        if *patches {
            fault["method"] = json!("PATCH");
        }
        fault
    }
}

/// What makes refusals unavoidable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Breakage {
    /// Somebody takes the key that servers sign with out of Entra.
    KeyOutOfEntra,
    /// The keys of a server move to where Exchange cannot sign with them.
    KeysOfServer { server: &'static str },
    /// Somebody disables the authorization server of Entra.
    AuthServerOff,
}

impl Breakage {
    pub(crate) fn make(self, world: &World) {
        world.fault(match self {
            Self::KeyOutOfEntra => json!({ "kind": "cloud_keys", "change": "remove_current" }),
            Self::KeysOfServer { server } => {
                json!({ "kind": "key_provider", "server": server, "provider": "Microsoft Software Key Storage Provider" })
            }
            Self::AuthServerOff => auth_server(false),
        });
    }

    fn mend(self, world: &World) {
        world.fault(match self {
            Self::KeyOutOfEntra => json!({ "kind": "cloud_keys", "change": "restore_current" }),
            Self::KeysOfServer { server } => {
                json!({ "kind": "key_provider", "server": server, "provider": "Microsoft Enhanced Cryptographic Provider v1.0" })
            }
            Self::AuthServerOff => auth_server(true),
        });
    }

    /// Whether a refusal is the doing of this.
    fn explains(self, refusal: &Refusal) -> bool {
        match self {
            Self::KeyOutOfEntra => refusal.leg == Leg::Dedicated && refusal.reason == Reason::UnknownKey,
            Self::KeysOfServer { server } => {
                refusal.signer.to_ascii_uppercase().starts_with(server) && refusal.reason == Reason::KeyStorageProvider
            }
            Self::AuthServerOff => refusal.leg == Leg::FromCloud,
        }
    }

    fn legs(self) -> &'static [Leg] {
        match self {
            Self::KeyOutOfEntra => &[Leg::Dedicated],
            Self::KeysOfServer { .. } => &[Leg::Dedicated, Leg::Servers, Leg::Partner],
            Self::AuthServerOff => &[Leg::FromCloud],
        }
    }
}

fn auth_server(enabled: bool) -> Json {
    json!({ "kind": "hybrid_object", "class": "auth_server", "name": "EvoSts*", "set": { "Enabled": enabled } })
}

/// Something that broke in the course of a renewal.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) what: Breakage,
    at: DateTime<Utc>,
    /// What the servers signed with then.
    signer: Json,
    /// Whoever approved could not know: it was in order when the plan was made.
    planned: bool,
    /// The publication was being made just then: it may have looked before.
    publishing: bool,
    mended: Option<DateTime<Utc>>,
    /// The machine stood still or was busy: no worker could move the date in time, and Exchange publishes by itself then.
    pub(crate) late_machine: bool,
}

impl Broken {
    pub(crate) fn begin(what: Breakage, world: &World, run: Option<&LoadedRun>) -> Self {
        let state = serde_json::to_value(world.lab.state()).unwrap();
        let signer = state["controllers"][0]["auth_config"]["current"].clone();
        let at = world.lab.now();
        what.make(world);
        let publishes = |step: &Step| step.kind == StepKind::Publish && step.status == StepStatus::Running;
        Self {
            what,
            at,
            signer,
            planned: run.is_some_and(|run| run.plan.is_some()),
            publishing: run.is_some_and(|run| run.steps.iter().any(|step| publishes(step))),
            mended: None,
            late_machine: false,
        }
    }

    /// In a few words.
    pub(crate) fn told(&self) -> String {
        let when = if self.planned { "after" } else { "before" };
        let mended = if self.is_mended() { "mended" } else { "not noticed" };
        format!("{:?} {when} the plan, {mended}", self.what)
    }

    pub(crate) fn is_mended(&self) -> bool {
        self.mended.is_some()
    }

    /// Puts it right; nothing may have been published since it broke.
    pub(crate) fn mend(&mut self, world: &World) {
        self.check(&world.lab.report());
        self.what.mend(world);
        self.mended = Some(world.lab.now());
    }

    /// Refusals are of what broke alone, and nothing was published while it was so.
    pub(crate) fn check(&self, report: &Report) {
        for refusal in &report.trust.refusals {
            let same_key = self.what != Breakage::KeyOutOfEntra
                || refusal.thumbprint.as_ref().is_some_and(|signer| self.signer == signer.as_str());
            let explained = self.what.explains(refusal) && same_key && refusal.at >= self.at;
            assert!(explained, "trust: {refusal:#?} is not the doing of {self:?}");
        }
        for (leg, total) in &report.trust.legs {
            assert!(total.refused == 0 || self.what.legs().contains(leg), "trust: {leg:?} {total:?}, {self:?}");
        }
        let meanwhile = |at: DateTime<Utc>| at >= self.at && self.mended.is_none_or(|mended| at < mended);
        // Nobody is kept from a way back, to what servers signed with when it broke,
        let signed_then = |e: &Effect| e.thumbprint.as_ref().is_some_and(|one| self.signer == one.as_str());
        let published = report.effects.iter().find(|e| {
            let late = self.late_machine && e.by == "AuthAdmin";
            e.kind == EffectKind::Publish && meanwhile(e.at) && !late && !signed_then(e)
        });
        // or, when the new certificate was published before it broke, to the old one.
        let way_back = report.effects.iter().any(|e| e.kind == EffectKind::Publish && e.at < self.at);
        let allowed =
            way_back || self.publishing || !(self.planned || matches!(self.what, Breakage::KeysOfServer { .. }));
        assert!(allowed || published.is_none(), "published: {published:?} in spite of {self:?}");
    }
}
