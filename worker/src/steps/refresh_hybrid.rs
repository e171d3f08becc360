//! Correct what joins the servers to the cloud, and test that each side lets the other in.

use db::{Purpose, StepEnd};
use domain::{
    Outcome, Snapshot, Tenant, Trouble,
    cloud::Checked,
    plan::{Correction, How, PlannedServer},
    step::{CheckResult, Evidence},
};
use futures_util::{StreamExt as _, stream};

use super::{
    Context, Ended, Result, StepError,
    cloud::{Unread, key_in_entra},
    evidence, no_effect,
};
use crate::{
    connectivity::{Tested, Verdict},
    connectors::{
        Session,
        cloud::{OnlineTest, ServiceUnderTest},
    },
    discovery::on,
    exchange::{self, CommandError},
    hybrid,
};

/// How many servers test at the same time: each test takes up to a minute of a process that serves users.
const AT_ONCE: usize = 4;

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    let corrected = correct(context).await?;
    let snapshot = context.look().await?;
    evidence::keep(context, Purpose::Check, &snapshot).await?;
    let mut found: Vec<Evidence> =
        key_in_entra(context, snapshot.tenant.as_ref(), Unread::NotMade)?.into_iter().collect();
    found.extend(from_servers(context, &snapshot).await?);
    found.extend(from_cloud(context, &snapshot).await?);
    let failed: Vec<String> =
        evidence::failures(&found).map(|e| format!("{} {}: {}", e.check, e.target, e.detail)).collect();
    if failed.is_empty() {
        return Ok(Ended::With(StepEnd::Done(Outcome::RefreshedHybrid { corrected, evidence: found })));
    }
    Err(StepError::Retry(Trouble::new(
        "trust_not_proven",
        format!("Not every test of trust has passed: {}", failed.join("; ")),
        "Repair what the tests say; they are made again by themselves. Or roll back",
    )))
}

/// What the plan corrects, each only if it is not right already. Returns what was changed in this attempt or an earlier one.
async fn correct(context: &Context<'_>) -> Result<Vec<String>> {
    let corrections = &context.planned_cloud()?.corrections;
    if corrections.is_empty() {
        return Ok(Vec::new());
    }
    context
        .on_any(async |session| {
            let mut corrected = Vec::new();
            for correction in corrections {
                let Correction::TargetSharingEpr { relationship, target_sharing_epr } = correction;
                set_sharing_epr(context, session, relationship, target_sharing_epr).await?;
                if context.intended(&hybrid::set_sharing_epr(relationship, target_sharing_epr).to_string()).await? {
                    corrected.push(correction.line());
                }
            }
            Ok(corrected)
        })
        .await
}

async fn set_sharing_epr(context: &Context<'_>, session: &mut Session, name: &str, wanted: &str) -> Result<()> {
    match sharing_epr(session, name).await? {
        Some(set) if set == wanted => return Ok(()),
        // Somebody has set another one since: that is theirs to decide.
        Some(_) => return Ok(()),
        None => {}
    }
    let command = hybrid::set_sharing_epr(name, wanted);
    let line = command.to_string();
    let answer = context.mutate(session, command).await?;
    if sharing_epr(session, name).await?.is_some() {
        return Ok(());
    }
    exchange::succeed("Set-OrganizationRelationship", answer)?;
    Err(StepError::Retry(no_effect(&line)))
}

async fn sharing_epr(session: &mut Session, name: &str) -> Result<Option<String>> {
    let all = hybrid::relationships(session).await?;
    let one = all.into_iter().find(|one| one.name == name);
    let one = one.ok_or_else(|| {
        StepError::Attention(Trouble::new(
            "relationship_missing",
            format!("There is no organization relationship {name} any more"),
            "Run the Hybrid Configuration Wizard, or create it again, then retry",
        ))
    })?;
    Ok(one.target_sharing_epr)
}

/// Every server shows the new key under its own name and asks Exchange Online to let it in: the server that runs the session is the one that signs.
async fn from_servers(context: &Context<'_>, snapshot: &Snapshot) -> Result<Vec<Evidence>> {
    let servers = context.plan()?.servers.iter().filter(|server| evidence::answers(snapshot, &server.fqdn));
    let asked = stream::iter(servers).map(|server| async move {
        [evidence::metadata(context, server).await, to_cloud(context, snapshot, server).await]
    });
    let asked: Vec<[Evidence; 2]> = asked.buffered(AT_ONCE).collect().await;
    Ok(asked.into_iter().flatten().collect())
}

async fn to_cloud(context: &Context<'_>, snapshot: &Snapshot, server: &PlannedServer) -> Evidence {
    let told = |result, detail: String| told("oauth_to_cloud", &server.fqdn, result, detail);
    let (target, mailbox) = match way_to_cloud(context, snapshot) {
        Ok(way) => way,
        Err(why) => return told(CheckResult::NotMade, why),
    };
    let Some(endpoint) = context.managed.endpoints.exchange_on(&server.fqdn) else {
        return told(CheckResult::NotMade, "there is no endpoint for it".to_owned());
    };
    match on(&endpoint, async |session| hybrid::test_to_cloud(session, &target, mailbox).await).await {
        Ok(tested) => {
            let (result, detail) = judge(&tested);
            told(result, detail)
        }
        Err(error) if error.is_not_found() => told(
            CheckResult::NotMade,
            format!("the test mailbox {mailbox} does not exist on the servers: set test_mailbox"),
        ),
        Err(error @ CommandError::Failed { .. }) if error.is_denied() => told(CheckResult::NotMade, error.to_string()),
        Err(error) => told(CheckResult::Failed, error.to_string()),
    }
}

/// Where the servers are let in, and the mailbox that is used for the test.
fn way_to_cloud<'a>(context: &'a Context<'_>, snapshot: &Snapshot) -> std::result::Result<(String, &'a str), String> {
    let no_plan = |_| "the plan has no cloud half".to_owned();
    match &context.planned_cloud().map_err(no_plan)?.how {
        How::ByHand { test_mailbox: Some(mailbox), .. } => {
            let objects = snapshot.on_premises_hybrid.as_ref().ok_or("the hybrid objects were not read")?;
            Ok((objects.exchange_online_address(), mailbox))
        }
        How::ByHand { test_mailbox: None, .. } => {
            Err("no mailbox for it is configured: a person runs Test-OAuthConnectivity".to_owned())
        }
        How::Automatic { test_mailbox: None, .. } => Err("test_mailbox is not configured".to_owned()),
        How::Automatic { test_mailbox: Some(mailbox), .. } => {
            let cloud = context.tenant.as_ref().ok_or("this worker has no credentials for the tenant")?;
            Ok((format!("{}ews/exchange.asmx", cloud.endpoints().exchange_online), mailbox))
        }
    }
}

/// Exchange Online asks the servers, at the addresses that it knows of them. Its interface is not a supported one: that it cannot be asked is no failure.
async fn from_cloud(context: &Context<'_>, snapshot: &Snapshot) -> Result<Vec<Evidence>> {
    let not_made = |why: &str| vec![told("oauth_from_cloud", "", CheckResult::NotMade, why.to_owned())];
    let How::Automatic { exchange_online: true, cloud_test_mailbox, .. } = &context.planned_cloud()?.how else {
        return Ok(not_made("Exchange Online is not asked"));
    };
    let Some(mailbox) = cloud_test_mailbox else { return Ok(not_made("cloud_test_mailbox is not configured")) };
    let Some(cloud) = &context.tenant else {
        return Ok(not_made("this worker has no credentials for the tenant"));
    };
    let ways = ways_to_servers(snapshot.tenant.as_ref());
    if ways.is_empty() {
        return Ok(not_made("Exchange Online was not asked, or knows no address of the servers"));
    }
    let mut found = Vec::new();
    for (service, target) in ways {
        let tested = cloud.test_from_cloud(&OnlineTest { service, target, mailbox }).await;
        let (result, detail) = match &tested {
            Ok(tested) => judge(tested),
            Err(error) => (CheckResult::NotMade, error.trouble.message.clone()),
        };
        found.push(told("oauth_from_cloud", target, result, detail));
    }
    Ok(found)
}

/// The addresses of the servers that Exchange Online uses.
fn ways_to_servers(tenant: Option<&Tenant>) -> Vec<(ServiceUnderTest, &str)> {
    let Some(Tenant::Read {
        exchange_online: Checked::Read { organization_relationships, intra_organization_connectors },
        ..
    }) = tenant
    else {
        return Vec::new();
    };
    let connectors = || intra_organization_connectors.iter().filter(|one| one.enabled);
    let relationships = organization_relationships.iter().filter(|one| one.enabled);
    let autodiscover = connectors().filter_map(|one| one.discovery_endpoint.as_deref());
    let shared = connectors().filter_map(|one| one.target_sharing_epr.as_deref());
    let shared = shared.chain(relationships.filter_map(|one| one.target_sharing_epr.as_deref()));
    let mut ways: Vec<_> = autodiscover.map(|url| (ServiceUnderTest::Autodiscover, url)).collect();
    ways.extend(shared.map(|url| (ServiceUnderTest::Ews, url)));
    let mut seen = Vec::new();
    ways.retain(|(_, url)| {
        let new = !seen.contains(url);
        seen.push(*url);
        new
    });
    ways
}

/// A test of which the mailbox is wrong has proven trust all the same.
fn judge(tested: &Tested) -> (CheckResult, String) {
    let by = tested.application_id.as_deref().map(|id| format!(" as application {id}")).unwrap_or_default();
    let detail = match tested.verdict {
        Verdict::Works => format!("let in{by}"),
        Verdict::OtherMailbox => {
            format!("let in{by}; the mailbox of the test does not exist there: choose another one")
        }
        Verdict::ApplicationNotUsed => format!("{}. It takes up to 60 minutes until servers use it", tested.said),
        _ => tested.said.clone(),
    };
    (if tested.verdict.is_trusted() { CheckResult::Passed } else { CheckResult::Failed }, detail)
}

fn told(check: &str, target: &str, result: CheckResult, detail: String) -> Evidence {
    Evidence { check: check.to_owned(), target: target.to_owned(), result, detail }
}

#[cfg(test)]
mod tests {
    use domain::hybrid::{IntraOrganizationConnector, OrganizationRelationship};

    use super::*;
    use crate::connectivity::interpret;

    #[test]
    fn exchange_online_is_asked_at_each_address_that_it_knows_once() {
        let connector = |enabled, discovery: Option<&str>| IntraOrganizationConnector {
            enabled,
            discovery_endpoint: discovery.map(str::to_owned),
            ..IntraOrganizationConnector::default()
        };
        let shared = |url: Option<&str>| OrganizationRelationship {
            enabled: true,
            target_sharing_epr: url.map(str::to_owned),
            ..OrganizationRelationship::default()
        };
        let exchange_online = Checked::Read {
            intra_organization_connectors: vec![connector(true, Some("a")), connector(false, Some("b"))],
            organization_relationships: vec![shared(Some("c")), shared(Some("c")), shared(None)],
        };
        let tenant = Tenant::Read {
            application: None,
            shared_principal: None,
            max_key_lifetime_days: None,
            key_lifetime_not_read: None,
            exchange_online,
        };
        let ways = ways_to_servers(Some(&tenant));
        assert_eq!(ways, [(ServiceUnderTest::Autodiscover, "a"), (ServiceUnderTest::Ews, "c")]);
        assert!(ways_to_servers(None).is_empty());
    }

    #[test]
    fn a_wrong_test_mailbox_passes_with_a_note() {
        let detail =
            "diagnostics: 2000005;reason=\"The user specified by the user-context in the token does not exist.\"";
        let (result, told) = judge(&interpret("Error", detail));
        assert_eq!(result, CheckResult::Passed);
        assert!(told.contains("choose another one"), "{told}");
        assert_eq!(judge(&interpret("Success", "")).0, CheckResult::Passed);
        let (result, told) = judge(&interpret("Error", "Exception: AADSTS700027: unknown key"));
        assert_eq!(result, CheckResult::Failed);
        assert!(told.contains("AADSTS700027"));
    }
}
