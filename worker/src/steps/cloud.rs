//! What the steps in the tenant have in common.

use domain::{
    Tenant, Thumbprint, Trouble,
    plan::{How, PlannedApplication, PlannedCloud, PlannedKey},
    step::{CheckResult, Evidence},
};
use serde_json::json;

use super::{Context, Result, StepError};
use crate::connectors::cloud::{Change, ChangeError, Changed, Cloud, Holder};

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
        let cloud = self.managed.cloud.as_ref().ok_or_else(|| StepError::Attention(missing()))?;
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
        let changed = cloud.change(holder, change, async |line| self.intend(&line).await).await;
        match changed {
            Ok(changed) if changed.already => Ok(changed),
            Ok(changed) => {
                let line = cloud.describe(holder, change, changed.before.len());
                let keys: Vec<&str> = changed.after.iter().map(|key| key.key_id()).collect();
                self.record("cmdlet.answered", json!({ "cmdlet": line, "keys": keys })).await?;
                Ok(changed)
            }
            Err(ChangeError::Intent(error)) => Err(error),
            Err(ChangeError::Cloud(error)) => {
                let what = json!({ "cmdlet": format!("keyCredentials of {holder}"), "why": error.trouble.message });
                self.record("cmdlet.unanswered", what).await?;
                Err(error.into())
            }
        }
    }
}

fn other_tenant(planned: &str, configured: &str) -> Trouble {
    Trouble::new(
        "cloud_tenant_changed",
        format!("The plan is for tenant {planned}, and tenant {configured} is configured"),
        "Configure the tenant of the plan again, then retry; or cancel and raise a new renewal",
    )
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
        Some(Tenant::Unreachable { trouble }) => not_read(trouble.message.clone()),
        Some(Tenant::Read { application: None, .. }) => (CheckResult::Failed, "the application is gone".to_owned()),
        Some(Tenant::Read { application: Some(application), .. }) => match application.key_of(new) {
            Some(_) => (CheckResult::Passed, format!("holds {}", new.short())),
            None => (CheckResult::Failed, format!("lacks {}", new.short())),
        },
    }
}

#[cfg(test)]
mod tests {
    use domain::cloud::{Application, Checked, CloudKey};

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
        let unreachable = Tenant::Unreachable { trouble: Trouble::new("x", "no way", "y") };
        assert_eq!(judge(Some(&unreachable), &new(), Unread::Fails).0, CheckResult::Failed);
        assert_eq!(judge(Some(&unreachable), &new(), Unread::NotMade).0, CheckResult::NotMade);
        assert_eq!(judge(None, &new(), Unread::Fails).0, CheckResult::Failed);
    }
}
