//! What the steps in the tenant have in common.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use domain::{
    HybridObjects, Snapshot, Tenant, Thumbprint, Trouble,
    cloud::EXCHANGE_ONLINE,
    plan::{How, PlannedApplication, PlannedCloud, PlannedKey},
    step::{CheckResult, Evidence},
};
use serde_json::{Value as Json, json};

use super::{Context, Result, StepError};
use crate::connectors::cloud::{Change, ChangeError, Changed, Cloud, Credential, Holder};

/// The part of a plan that the run does by itself.
pub(super) struct Automatic<'a> {
    pub(super) application: &'a PlannedApplication,
    pub(super) keys_kept: &'a [PlannedKey],
    pub(super) keys_removed: &'a [PlannedKey],
}

impl Automatic<'_> {
    pub(super) fn holder(&self) -> Holder {
        Holder::Application(self.application.object_id.clone())
    }
}

impl Context<'_> {
    /// The cloud half of the plan.
    pub(super) fn planned_cloud(&self) -> Result<&PlannedCloud> {
        let none = || Trouble::new("no_cloud_planned", "The plan has no cloud half", "Cancel and raise it again");
        self.plan()?.cloud.as_ref().ok_or_else(|| StepError::Attention(none()))
    }

    /// What the run does in the tenant by itself; `None` when a person does it.
    pub(super) fn automatic(&self) -> Result<Option<Automatic<'_>>> {
        Ok(match &self.planned_cloud()?.how {
            How::Automatic { application, keys_kept, keys_removed, .. } => {
                Some(Automatic { application, keys_kept, keys_removed })
            }
            How::ByHand { .. } => None,
        })
    }

    /// The way to the tenant that the plan is for.
    pub(super) fn cloud(&self) -> Result<&Cloud> {
        let missing = || {
            Trouble::new(
                "cloud_not_configured",
                "The plan needs the tenant, and this worker has no credentials for it",
                "Configure them again on every worker, then retry; or cancel",
            )
        };
        let cloud = self.tenant.as_ref().ok_or_else(|| StepError::Attention(missing()))?;
        match &self.planned_cloud()?.how {
            How::Automatic { tenant_id, .. } if !tenant_id.eq_ignore_ascii_case(cloud.tenant()) => {
                Err(StepError::Attention(other_tenant(tenant_id, cloud.tenant())))
            }
            _ => Ok(cloud),
        }
    }

    /// Changes keys in the tenant. Each request is on record before it is sent, and what came of it after.
    pub(super) async fn change_keys(&self, holder: &Holder, change: &Change) -> Result<Changed> {
        let cloud = self.cloud()?;
        let sent = Mutex::new(None);
        let intend = async |line: String| {
            self.intend(&line).await?;
            *sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
            Ok(())
        };
        let changed = cloud.change(holder, change, intend).await;
        let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
        match changed {
            Ok(changed) if changed.already => Ok(changed),
            Ok(changed) => {
                let line = cloud.describe(holder, change, changed.before.len());
                let keys: Vec<&str> = changed.after.iter().map(|key| key.key_id()).collect();
                self.record("cmdlet.answered", json!({ "cmdlet": line, "keys": keys })).await?;
                Ok(changed)
            }
            Err(ChangeError::Intent(error)) => Err(error),
            Err(ChangeError::Lost { error, keys }) => {
                if let Some(line) = sent {
                    self.record("cmdlet.answered", json!({ "cmdlet": line, "why": error.trouble.message })).await?;
                }
                for key in &keys {
                    self.record("cloud_key.lost", lost(&holder.to_string(), key)).await?;
                }
                Err(error.into())
            }
            Err(ChangeError::Cloud(error)) => {
                // What was never sent has no answer to wait for.
                if let Some(line) = sent {
                    let what = json!({ "cmdlet": line, "why": error.trouble.message });
                    self.record("cmdlet.unanswered", what).await?;
                }
                Err(error.into())
            }
        }
    }
}

/// A key of somebody else that was erased, with all that its owner needs to register it again. It is public.
fn lost(holder: &str, key: &Credential) -> Json {
    json!({
        "holder": holder,
        "key_id": key.key_id(),
        "display_name": key.display_name(),
        "thumbprint": key.thumbprint(),
        "certificate": key.certificate().map(|der| STANDARD.encode(der)),
    })
}

fn other_tenant(planned: &str, configured: &str) -> Trouble {
    Trouble::new(
        "cloud_tenant_changed",
        format!("The plan is for tenant {planned}, and tenant {configured} is configured"),
        "Configure the tenant of the plan again, then retry; or cancel and raise a new renewal",
    )
}

/// What must be as it was when the plan was approved before anything is published: Entra holds the key that still signs, which is also the way back, and the
/// servers go to Entra as they did. Otherwise trust is broken already, by somebody else, and the new key may be registered where nobody looks.
pub(super) fn as_approved(context: &Context<'_>, before: Option<&Snapshot>, now: &Snapshot) -> Result<Vec<Evidence>> {
    let Some(cloud) = &context.plan()?.cloud else { return Ok(Vec::new()) };
    let (tenant_id, removed, name) = match &cloud.how {
        How::Automatic { tenant_id, keys_removed, application, .. } => {
            (Some(tenant_id.as_str()), keys_removed.as_slice(), application.display_name.as_str())
        }
        How::ByHand { tenant_id, display_name, .. } => (tenant_id.as_deref(), &[][..], display_name.as_str()),
    };
    let current = context.plan()?.observed.current.as_ref();
    let registered = current.filter(|current| removed.iter().any(|key| key.thumbprint.as_ref() == Some(current)));
    let keys = now.tenant.as_ref().and_then(|tenant| registered.and_then(|current| old_key(tenant, current, name)));
    let ways = [before, Some(now)].map(|seen| seen.and_then(|seen| seen.on_premises_hybrid.as_ref()));
    let way = match ways {
        [Some(before), Some(now)] => same_way(before, now, tenant_id),
        _ => None,
    };
    Ok(keys.into_iter().chain(way).collect())
}

fn old_key(tenant: &Tenant, current: &Thumbprint, name: &str) -> Option<Evidence> {
    let Tenant::Read { application: Some(application), .. } = tenant else { return None };
    let (result, detail) = match application.key_of(current) {
        Some(_) => (CheckResult::Passed, format!("holds {}", current.short())),
        None => (
            CheckResult::Failed,
            format!(
                "lacks {}, with which servers sign until then and after a rollback: register it again",
                current.short()
            ),
        ),
    };
    Some(Evidence { check: "old_key_in_entra".to_owned(), target: name.to_owned(), result, detail })
}

/// By which authorization server, as which application, servers get their tokens. What was wrong when the plan was approved, and is told there, stays so.
fn same_way(before: &HybridObjects, now: &HybridObjects, tenant_id: Option<&str>) -> Option<Evidence> {
    let way = |objects: &HybridObjects| {
        let server = objects.entra(tenant_id)?;
        let switched_on = objects.setting_overrides.iter().any(|one| one.enabled);
        let application = server.application_id.as_deref().filter(|_| switched_on).unwrap_or(EXCHANGE_ONLINE);
        Some(format!("{} in realm {} as application {application}", server.name, server.realm))
    };
    let (approved, found) = (way(before)?, way(now));
    let told = found.as_deref().unwrap_or("no enabled authorization server of Entra");
    let (result, detail) = if found.as_ref() == Some(&approved) {
        (CheckResult::Passed, told.to_owned())
    } else {
        (CheckResult::Failed, format!("{told}; when the plan was made it was {approved}"))
    };
    Some(Evidence { check: "way_to_entra".to_owned(), target: "way to Entra".to_owned(), result, detail })
}

/// The longest that a look waits because the tenant asks for it: a date may come near meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// How long the tenant, which could not be read, asks to be left alone.
pub(super) fn asked_pause(seen: &Snapshot) -> Option<Duration> {
    match &seen.tenant {
        Some(Tenant::Unreachable { retry_after_seconds: Some(seconds), .. }) => {
            Some(Duration::from_secs(*seconds).min(LONGEST_PAUSE))
        }
        _ => None,
    }
}

/// What it means that the tenant could not be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unread {
    /// It stands against going on: something is about to sign with the key.
    Fails,
    /// It was looked at before, and a look that was not made says nothing.
    NotMade,
}

/// Whether Entra holds the new key. None without a cloud half in the plan.
pub(super) fn key_in_entra(context: &Context<'_>, tenant: Option<&Tenant>, unread: Unread) -> Result<Option<Evidence>> {
    let Some(cloud) = &context.plan()?.cloud else { return Ok(None) };
    let target = match &cloud.how {
        How::Automatic { application, .. } => &application.display_name,
        How::ByHand { display_name, .. } => display_name,
    };
    let (result, detail) = match &cloud.how {
        How::ByHand { .. } if context.facts().trusted_cloud => {
            (CheckResult::NotMade, "no credentials for the tenant; a person has confirmed it".to_owned())
        }
        How::ByHand { .. } => (CheckResult::Failed, "nobody has confirmed that it holds the new key".to_owned()),
        How::Automatic { .. } => judge(tenant, &context.thumbprint()?, unread),
    };
    Ok(Some(Evidence { check: "key_in_entra".to_owned(), target: target.clone(), result, detail }))
}

fn judge(tenant: Option<&Tenant>, new: &Thumbprint, unread: Unread) -> (CheckResult, String) {
    let not_read = |why: String| match unread {
        Unread::Fails => (CheckResult::Failed, why),
        Unread::NotMade => (CheckResult::NotMade, why),
    };
    match tenant {
        None => not_read("this worker has no credentials for the tenant".to_owned()),
        Some(Tenant::Unreachable { trouble, .. }) => not_read(trouble.message.clone()),
        Some(Tenant::Read { application: None, .. }) => (CheckResult::Failed, "the application is gone".to_owned()),
        Some(Tenant::Read { application: Some(application), .. }) => match application.key_of(new) {
            Some(_) => (CheckResult::Passed, format!("holds {}", new.short())),
            None => (CheckResult::Failed, format!("lacks {}", new.short())),
        },
    }
}

#[cfg(test)]
mod tests {
    use domain::{
        cloud::{Application, Checked, CloudKey},
        hybrid::{AuthServer, SettingOverride},
    };

    use super::*;

    fn new() -> Thumbprint {
        Thumbprint::of_der(b"new")
    }

    fn tenant(keys: &[Thumbprint]) -> Tenant {
        let key = |thumbprint: &Thumbprint| CloudKey {
            key_id: thumbprint.short().to_owned(),
            thumbprint: Some(thumbprint.clone()),
            display_name: None,
            not_before: None,
            not_after: None,
        };
        let application = Application {
            object_id: "o".to_owned(),
            app_id: "a".to_owned(),
            display_name: "ExchangeServerApp".to_owned(),
            keys: keys.iter().map(key).collect(),
        };
        let exchange_online = Checked::NotChecked { reason: String::new() };
        Tenant::Read {
            application: Some(application),
            shared_principal: None,
            max_key_lifetime_days: None,
            key_lifetime_not_read: None,
            exchange_online,
        }
    }

    #[test]
    fn a_key_that_entra_lacks_stands_against_everything() {
        for unread in [Unread::Fails, Unread::NotMade] {
            assert_eq!(judge(Some(&tenant(&[new()])), &new(), unread).0, CheckResult::Passed);
            let other = tenant(&[Thumbprint::of_der(b"old")]);
            assert_eq!(judge(Some(&other), &new(), unread).0, CheckResult::Failed);
        }
    }

    #[test]
    fn a_tenant_that_cannot_be_read_stands_against_publication_only() {
        let unreachable = Tenant::Unreachable { trouble: Trouble::new("x", "no way", "y"), retry_after_seconds: None };
        assert_eq!(judge(Some(&unreachable), &new(), Unread::Fails).0, CheckResult::Failed);
        assert_eq!(judge(Some(&unreachable), &new(), Unread::NotMade).0, CheckResult::NotMade);
        assert_eq!(judge(None, &new(), Unread::Fails).0, CheckResult::Failed);
    }

    fn objects(enabled: bool, application: Option<&str>, switched_on: bool) -> HybridObjects {
        let server = AuthServer {
            name: "EvoSts".to_owned(),
            kind: "AzureAD".to_owned(),
            enabled,
            realm: "t".to_owned(),
            application_id: application.map(str::to_owned),
            ..AuthServer::default()
        };
        HybridObjects {
            auth_servers: vec![server],
            setting_overrides: vec![SettingOverride { name: "o".to_owned(), enabled: switched_on }],
            ..HybridObjects::default()
        }
    }

    #[test]
    fn another_way_to_entra_than_the_one_that_was_approved_stands_against_publication() {
        let approved = objects(true, Some("a"), true);
        let result = |now| same_way(&approved, &now, Some("t")).unwrap().result;
        assert_eq!(result(approved.clone()), CheckResult::Passed);
        for other in [objects(false, Some("a"), true), objects(true, Some("b"), true), objects(true, Some("a"), false)]
        {
            assert_eq!(result(other), CheckResult::Failed);
        }
        assert_eq!(same_way(&objects(false, None, true), &approved, Some("t")), None, "it was told in the plan");
    }

    #[test]
    fn the_key_that_still_signs_must_be_there_when_the_new_one_is_published() {
        let old = Thumbprint::of_der(b"old");
        assert_eq!(old_key(&tenant(&[new(), old.clone()]), &old, "x").unwrap().result, CheckResult::Passed);
        assert_eq!(old_key(&tenant(&[new()]), &old, "x").unwrap().result, CheckResult::Failed);
    }
}
