//! The hybrid part of a plan: the new key is accepted in Entra before anything signs with it, and the old one until nothing does (domain.md 3.5).

use chrono::{DateTime, Utc};

use super::{
    BY_HAND_HOURS, PUSHED_OUT, SKIPPABLE_KEY, exchange, lines, publishes_by_itself, push_out_line, source_thumbprint,
    whole,
};
use crate::{
    CloudSettings, HybridObjects, Organization, Phase, Plan, Snapshot, StepKind, Tenant, Trouble,
    cloud::{Application, Checked, CloudKey, CloudName, EXCHANGE_ONLINE, Principal, application_name},
    plan::{
        CertificateSource, EndpointKind, Finding, How, Observed, PlannedApplication, PlannedCloud, PlannedCmdlet,
        PlannedKey, PlannedPurge, PlannedStep, Reversibility,
    },
    snapshot::{Certificate, Server},
};

/// What is known of the cloud half when a plan is made.
pub(super) struct Seen<'a> {
    /// When Exchange publishes a staged certificate by itself.
    staged_until: Option<DateTime<Utc>>,
    objects: HybridObjects,
    settings: Option<&'a CloudSettings>,
    test_mailbox: Option<&'a str>,
    tenant: Option<&'a Tenant>,
    servers: &'a [Server],
}

/// What plans take from an organization that is hybrid; `None` for all others, even if a tenant is configured for them.
pub(super) fn seen<'a>(organization: &'a Organization, snapshot: &'a Snapshot) -> Option<Seen<'a>> {
    snapshot.hybrid.then(|| Seen {
        staged_until: snapshot.agreed_auth_config().and_then(|seen| seen.next_effective_at),
        objects: snapshot.on_premises_hybrid.clone().unwrap_or_default(),
        settings: organization.cloud.as_ref(),
        test_mailbox: organization.test_mailbox.as_deref(),
        tenant: snapshot.tenant.as_ref(),
        servers: &snapshot.servers,
    })
}

impl Seen<'_> {
    /// The cloud half of the plan, or why there can be none.
    pub(super) fn planned(
        &self,
        observed: &Observed,
        certificate: &CertificateSource,
        adopted: Option<&Certificate>,
    ) -> Result<PlannedCloud, Trouble> {
        let how = match self.settings {
            Some(settings) => self.automatic(settings, observed, certificate, adopted)?,
            None => self.by_hand(),
        };
        Ok(PlannedCloud { how, corrections: self.objects.corrections() })
    }

    fn by_hand(&self) -> How {
        let realm = self.objects.entra(None).map(|server| server.realm.clone()).filter(|realm| !realm.is_empty());
        let guid = self.objects.organization_guid.as_deref().unwrap_or("<GUID of Get-OrganizationConfig>");
        How::ByHand {
            tenant_id: realm,
            app_id: self.objects.dedicated_application(None).map(str::to_owned),
            display_name: application_name(guid),
            test_mailbox: self.test_mailbox.map(str::to_owned),
        }
    }

    fn automatic(
        &self,
        settings: &CloudSettings,
        observed: &Observed,
        certificate: &CertificateSource,
        adopted: Option<&Certificate>,
    ) -> Result<How, Trouble> {
        let (application, shared, longest) = self.read(settings)?;
        refuse_too_long(longest, application, certificate, adopted)?;
        // A certificate that was published once, rolled back and staged again is the previous one and the new one.
        let stays = |key: &CloudKey| matches!(certificate, CertificateSource::Adopt { thumbprint, .. } if key.is_of(thumbprint));
        let leaving = |key: &&CloudKey| {
            let mut leaving = [&observed.current, &observed.previous].into_iter().flatten();
            (leaving.any(|leaving| key.is_of(leaving)) || self.is_given_up(key, application, observed)) && !stays(key)
        };
        Ok(How::Automatic {
            tenant_id: settings.tenant_id.clone(),
            application: PlannedApplication {
                object_id: application.object_id.clone(),
                app_id: application.app_id.clone(),
                display_name: application.display_name.clone(),
            },
            keys_kept: application.keys.iter().map(planned_key).collect(),
            keys_removed: application.keys.iter().filter(leaving).map(planned_key).collect(),
            shared_principal: shared.filter(|_| settings.purge_shared_principal).and_then(purge),
            exchange_online: settings.exchange_online,
            test_mailbox: settings.test_mailbox.clone(),
            cloud_test_mailbox: settings.cloud_test_mailbox.clone(),
        })
    }

    /// Whether a key is that of an Auth certificate which an earlier run has left.
    fn is_given_up(&self, key: &CloudKey, application: &Application, observed: &Observed) -> bool {
        let named = [&observed.current, &observed.previous, &observed.next].map(Option::as_ref);
        application.given_up(named, self.servers).any(|given_up| given_up.key_id == key.key_id)
    }

    /// The dedicated application, the shared principal and the longest life of a key; or what must be done first.
    fn read(&self, settings: &CloudSettings) -> Result<(&Application, Option<&Principal>, Option<u32>), Trouble> {
        let (application, shared, longest) = match self.tenant {
            Some(Tenant::Read { application, shared_principal, max_key_lifetime_days, .. }) => {
                (application.as_ref(), shared_principal.as_ref(), *max_key_lifetime_days)
            }
            Some(Tenant::Unreachable { trouble, .. }) => return Err(trouble.clone()),
            None => return Err(tenant_not_read()),
        };
        let application = application.ok_or_else(|| self.no_application(settings, shared))?;
        Ok((application, shared, longest))
    }

    fn no_application(&self, settings: &CloudSettings, shared: Option<&Principal>) -> Trouble {
        let guid = self.objects.organization_guid.as_deref().unwrap_or("<organization GUID>");
        let wanted = settings
            .application_id
            .as_ref()
            .map_or_else(|| format!("named {}", application_name(guid)), |id| format!("with the application id {id}"));
        if shared.is_some_and(|shared| !shared.keys.is_empty())
            && self.objects.dedicated_application(Some(&settings.tenant_id)).is_none()
        {
            return Trouble::new(
                "shared_principal_only",
                format!(
                    "The servers sign in to Exchange Online as the shared principal {EXCHANGE_ONLINE}, which Microsoft has closed for them since October 2025; the tenant has no dedicated application {wanted}"
                ),
                "Create the dedicated application with ConfigureExchangeHybridApplication.ps1 -FullyConfigureExchangeHybridApplication or the Hybrid Configuration Wizard, make the servers use it (Set-AuthServer, New-SettingOverride), then raise the renewal again",
            );
        }
        Trouble::new(
            "no_dedicated_application",
            format!("The tenant {} has no application {wanted}", settings.tenant_id),
            "Create it with ConfigureExchangeHybridApplication.ps1 -FullyConfigureExchangeHybridApplication or the Hybrid Configuration Wizard, or set application_id to the one that is used; then raise the renewal again",
        )
    }

    /// Whoever has staged a certificate has set a date too, at which Exchange publishes it whether Entra has its key or not.
    fn staged_without_cloud(&self, plan: &Plan, now: DateTime<Utc>) -> Option<Finding> {
        let (thumbprint, until) = (plan.adopted()?, self.staged_until?);
        let is_there = match self.tenant {
            Some(Tenant::Read { application: Some(application), .. }) => application.key_of(thumbprint).is_some(),
            _ => false,
        };
        (!is_there).then(|| Finding {
            code: "staged_before_cloud".to_owned(),
            target: String::new(),
            message: format!(
                "{}; nothing shows that Entra has its key, without which what servers sign is refused. {PUSHED_OUT}",
                publishes_by_itself(thumbprint, until, now)
            ),
            fix: Some(push_out_line(plan, thumbprint, BY_HAND_HOURS)),
        })
    }

    /// What approvers should know of the cloud half.
    pub(super) fn findings(&self, plan: &Plan, now: DateTime<Utc>) -> Vec<Finding> {
        let mut found = Vec::new();
        if self.settings.is_none() {
            found.push(by_hand());
        }
        found.extend(self.staged_without_cloud(plan, now));
        found.extend(self.objects.drift(self.settings, self.tenant));
        let mut about = |code: &str, target: &str, message: String, fix: Option<String>| {
            found.push(Finding { code: code.to_owned(), target: target.to_owned(), message, fix });
        };
        let Some(Tenant::Read {
            application: Some(application),
            shared_principal,
            key_lifetime_not_read,
            exchange_online,
            ..
        }) = self.tenant
        else {
            return found;
        };
        // Without its reason, which may name the request: a plan says the same as long as things are the same.
        if key_lifetime_not_read.is_some() && !is_registered(plan, application) {
            about(
                "key_lifetime_not_checked",
                &application.display_name,
                "How long a key may live in this tenant could not be read. If that is less than the new certificate lives, Entra refuses its key: the run stops then, with the certificate on the servers and before anything signs with it or is announced. To know it before, let the application of rekey read the policies (Policy.Read.All of Microsoft Graph) and raise the renewal again.".to_owned(),
                None,
            );
        }
        if let Some(current) = plan.observed.current.as_ref().filter(|current| application.key_of(current).is_none()) {
            about(
                "current_key_not_in_entra",
                &application.display_name,
                format!(
                    "The application does not have the key of the current certificate {current}: what servers sign today is refused there. The run repairs it."
                ),
                None,
            );
        }
        let leaves = |key: &CloudKey| match plan.cloud.as_ref().map(|cloud| &cloud.how) {
            Some(How::Automatic { keys_removed, .. }) => {
                keys_removed.iter().any(|removed| removed.key_id == key.key_id)
            }
            _ => false,
        };
        for key in application.keys.iter().filter(|key| self.is_given_up(key, application, &plan.observed)) {
            about(
                "cloud_key_given_up",
                &application.display_name,
                format!(
                    "The key {} is of a certificate that was given up and is registered still: whoever has its private key can sign in as the servers. This plan takes it out at the end.",
                    key.told()
                ),
                None,
            );
        }
        for key in application.keys.iter().filter(|key| !key.is_valid_at(now) && !leaves(key)) {
            about(
                "cloud_key_expired",
                &application.display_name,
                format!("The key {} is not accepted any more or not yet; the run leaves it as it is.", key.told()),
                None,
            );
        }
        if let Some(shared) = shared_principal.as_ref().filter(|shared| !shared.keys.is_empty()) {
            let keys = shared.keys.iter().map(CloudKey::told).collect::<Vec<_>>().join(", ");
            let planned = self.settings.is_some_and(|settings| settings.purge_shared_principal);
            let what = if planned {
                "This plan takes them out at the end."
            } else {
                "Whoever has one of them can sign in as every hybrid server (CVE-2025-53786)."
            };
            let fix = "purge_shared_principal = true in the configuration, or ConfigureExchangeHybridApplication.ps1 -ResetFirstPartyServicePrincipalKeyCredentials";
            about(
                "shared_principal_keys",
                EXCHANGE_ONLINE,
                format!("The shared principal of Exchange Online still holds keys: {keys}. {what}"),
                (!planned).then(|| fix.to_owned()),
            );
        }
        match exchange_online {
            Checked::NotChecked { reason } if self.settings.is_some_and(|settings| settings.exchange_online) => {
                about(
                    "exchange_online_not_checked",
                    "",
                    format!(
                        "Exchange Online was not asked: {}. Its side is not checked.",
                        reason.trim_end_matches('.')
                    ),
                    None,
                );
            }
            _ => {}
        }
        found
    }
}

/// Whether the application has the key of the certificate that is taken over.
fn is_registered(plan: &Plan, application: &Application) -> bool {
    plan.adopted().is_some_and(|thumbprint| application.key_of(thumbprint).is_some())
}

fn by_hand() -> Finding {
    let message = "No credentials for the tenant are configured: a person registers the new key in Entra, says so at the gate trust_cloud, and takes the old key out at the end. What the tenant holds today was not looked at.";
    Finding { code: "cloud_by_hand".to_owned(), target: String::new(), message: message.to_owned(), fix: None }
}

fn tenant_not_read() -> Trouble {
    Trouble::new(
        "tenant_not_read",
        "Nothing was seen of the tenant of this hybrid organization",
        "Upgrade every worker, or give every worker the same configuration; planning is tried again by itself",
    )
}

/// A tenant may cap how long a key lives: better known now than when the certificate is made (domain.md 2.1).
fn refuse_too_long(
    longest: Option<u32>,
    application: &Application,
    certificate: &CertificateSource,
    adopted: Option<&Certificate>,
) -> Result<(), Trouble> {
    let Some(longest) = longest else { return Ok(()) };
    let (days, action) = match certificate {
        CertificateSource::Generate { lifetime_days, .. } => (
            i64::from(*lifetime_days),
            format!("Set lifetime_days in the policy of the organization to {longest} or less, or except the application from the tenant's app management policy; then raise the renewal again"),
        ),
        CertificateSource::Adopt { thumbprint, .. } if application.key_of(thumbprint).is_some() => return Ok(()),
        CertificateSource::Adopt { .. } => (
            adopted.map_or(0, |certificate| (certificate.not_after - certificate.not_before).num_days()),
            "Take the staged certificate out of AuthConfig (Set-AuthConfig -NewCertificateThumbprint $null), set lifetime_days in the policy of the organization accordingly, then raise the renewal again: it makes a new one".to_owned(),
        ),
    };
    if days <= i64::from(longest) {
        return Ok(());
    }
    Err(Trouble::new(
        "key_lifetime_refused",
        format!("The tenant allows keys a life of {longest} days at most; the new certificate has {days}"),
        action,
    ))
}

fn planned_key(key: &CloudKey) -> PlannedKey {
    PlannedKey { key_id: key.key_id.clone(), thumbprint: key.thumbprint.clone() }
}

fn purge(shared: &Principal) -> Option<PlannedPurge> {
    let keys: Vec<PlannedKey> = shared.keys.iter().map(planned_key).collect();
    (!keys.is_empty()).then(|| PlannedPurge { object_id: shared.object_id.clone(), keys })
}

/// The steps of a phase that the cloud half adds.
pub(super) fn steps(plan: &Plan, organization: &Organization, phase: Phase) -> Vec<PlannedStep> {
    let Some(cloud) = &plan.cloud else { return Vec::new() };
    let graph = organization.cloud.as_ref().map_or_else(|| CloudName::Global.graph(), CloudSettings::graph);
    match phase {
        Phase::TrustCloud => vec![trust(plan, cloud, graph)],
        Phase::RefreshHybrid => vec![refresh(cloud)],
        Phase::Prune => prune(plan, cloud, graph),
        _ => Vec::new(),
    }
}

fn trust(plan: &Plan, cloud: &PlannedCloud, graph: &str) -> PlannedStep {
    let new = source_thumbprint(plan);
    let (description, cmdlets) = match &cloud.how {
        How::Automatic { keys_kept, .. } if keys_kept.iter().any(|key| is_new(plan, key)) => (
            format!("The application has the key of {new} already: see that it is accepted when used."),
            Vec::new(),
        ),
        How::Automatic { application, keys_kept, .. } => (
            format!(
                "Register the public key of the new certificate in the application {} beside the old one, and wait until a token that it has signed is accepted. If the renewal is cancelled, it is taken out again; a rollback leaves it there, where it does no harm.",
                application.display_name
            ),
            one(EndpointKind::Graph, format!("PATCH {graph}/v1.0/applications/{} keyCredentials: {} kept + {new}", application.object_id, keys_kept.len())),
        ),
        How::ByHand { .. } => (
            "A person registers the public key of the new certificate in Microsoft Entra, beside the old one, and says so with an approval of the gate trust_cloud: before that nothing is staged. If the renewal is cancelled later, they take it out again.".to_owned(),
            lines(EndpointKind::Person, trust_by_hand(&cloud.how, new)),
        ),
    };
    whole(Phase::TrustCloud, StepKind::TrustCloud, &description, cmdlets, Reversibility::Reversible)
}

fn is_new(plan: &Plan, key: &PlannedKey) -> bool {
    matches!(&plan.certificate, CertificateSource::Adopt { thumbprint, .. } if key.thumbprint.as_ref() == Some(thumbprint))
}

/// What a person does: never with the private key, and never by replacing what is there.
fn trust_by_hand(how: &How, new: &str) -> Vec<String> {
    vec![
        format!(
            "Fetch the new certificate, public part only: GET /v1/renewals/<this renewal>/certificate, and check that its thumbprint is {new}"
        ),
        format!(
            "Microsoft Entra admin center{} > App registrations > {} > Certificates & secrets > Certificates > Upload certificate; leave the certificates that are there",
            tenant(how),
            application(how)
        ),
        format!("Wait until the list shows {new}, then 15 minutes: Entra accepts it everywhere only after a while"),
        "Approve the gate trust_cloud of this renewal with a reason that says what was registered where".to_owned(),
    ]
}

fn tenant(how: &How) -> String {
    match how {
        How::Automatic { tenant_id, .. } | How::ByHand { tenant_id: Some(tenant_id), .. } => {
            format!(", tenant {tenant_id}")
        }
        How::ByHand { tenant_id: None, .. } => String::new(),
    }
}

fn application(how: &How) -> String {
    match how {
        How::Automatic { application, .. } => application.display_name.clone(),
        How::ByHand { app_id: Some(app_id), display_name, .. } => format!("{display_name} (application id {app_id})"),
        How::ByHand { app_id: None, display_name, .. } => display_name.clone(),
    }
}

fn refresh(cloud: &PlannedCloud) -> PlannedStep {
    let corrections: Vec<String> = cloud.corrections.iter().map(crate::plan::Correction::line).collect();
    let reversibility = if corrections.is_empty() { Reversibility::Free } else { Reversibility::Reversible };
    let description = format!(
        "{} {}",
        "Test from every server that Exchange Online accepts its tokens, and that each server tells others the new key.",
        tests(&cloud.how)
    );
    whole(Phase::RefreshHybrid, StepKind::RefreshHybrid, &description, exchange(corrections), reversibility)
}

/// What is tested with which mailbox, and what is not.
fn tests(how: &How) -> String {
    match how {
        How::ByHand { test_mailbox: Some(mailbox), .. } => {
            format!(
                "Test-OAuthConnectivity runs on each server with the mailbox {mailbox}. Exchange Online is not asked."
            )
        }
        How::ByHand { test_mailbox: None, .. } => {
            "No mailbox for it is configured: a person runs Test-OAuthConnectivity, as the runbook says.".to_owned()
        }
        How::Automatic { exchange_online, test_mailbox, cloud_test_mailbox, .. } => {
            let out = test_mailbox.as_ref().map_or_else(
                || "Without test_mailbox Test-OAuthConnectivity is not run on the servers.".to_owned(),
                |mailbox| format!("Test-OAuthConnectivity runs on each server with the mailbox {mailbox}."),
            );
            let back = match (exchange_online, cloud_test_mailbox) {
                (false, _) => "Exchange Online is not asked.".to_owned(),
                (true, None) => "Without cloud_test_mailbox the way back is not tested.".to_owned(),
                (true, Some(mailbox)) => {
                    format!("The way back is tested in Exchange Online with the mailbox {mailbox}.")
                }
            };
            format!("{out} {back}")
        }
    }
}

fn prune(plan: &Plan, cloud: &PlannedCloud, graph: &str) -> Vec<PlannedStep> {
    match &cloud.how {
        How::Automatic { application, keys_removed, keys_kept, shared_principal, .. } => {
            let old = (!keys_removed.is_empty()).then(|| {
                let ids = ids(keys_removed);
                let stay = keys_kept.iter().filter(|key| !keys_removed.contains(key) && !is_new(plan, key)).count();
                let line = format!(
                    "PATCH {graph}/v1.0/applications/{} keyCredentials: {stay} kept + {}, without {ids}",
                    application.object_id,
                    source_thumbprint(plan)
                );
                let description = format!(
                    "Take the key of the old certificate out of the application {}. {SKIPPABLE_KEY}",
                    application.display_name
                );
                pruning(StepKind::PruneCloud, &description, one(EndpointKind::Graph, line))
            });
            let shared = shared_principal.as_ref().map(|shared| {
                let line = format!("PATCH {graph}/v1.0/servicePrincipals/{} keyCredentials: without {}", shared.object_id, ids(&shared.keys));
                let description = format!("Take the keys out of the shared principal of Exchange Online, which servers no longer sign in as. {SKIPPABLE_KEY}");
                pruning(StepKind::PurgeSharedPrincipal, &description, one(EndpointKind::Graph, line))
            });
            old.into_iter().chain(shared).collect()
        }
        how @ How::ByHand { .. } => {
            let Some(old) = &plan.observed.current else { return Vec::new() };
            let line = format!(
                "Microsoft Entra admin center{} > App registrations > {} > Certificates & secrets > Certificates > delete {old}; leave the others",
                tenant(how),
                application(how)
            );
            let description = "A person takes the key of the old certificate out of the application. The run does not wait for it: the key does no harm as long as nobody has the old private key.";
            vec![pruning(StepKind::PruneCloud, description, one(EndpointKind::Person, line))]
        }
    }
}

fn pruning(kind: StepKind, description: &str, cmdlets: Vec<PlannedCmdlet>) -> PlannedStep {
    whole(Phase::Prune, kind, description, cmdlets, Reversibility::PointOfNoReturn)
}

fn one(endpoint: EndpointKind, line: String) -> Vec<PlannedCmdlet> {
    lines(endpoint, vec![line])
}

fn ids(keys: &[PlannedKey]) -> String {
    keys.iter().map(|key| key.key_id.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(crate) mod tests;
