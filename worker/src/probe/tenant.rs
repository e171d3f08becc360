//! A look at the tenant of a hybrid organization: does rekey get in, does it find the application that the servers use, what may it not read. Changes nothing.

use domain::{CloudSettings, Organization, Trouble, cloud::application_name};

use crate::{
    Managed,
    connectors::cloud::{Application, Cloud, CloudError, KeyLifetime, well_known::EXCHANGE},
    discovery,
    exchange::{self, CommandError},
    hybrid,
};

/// One thing that was tried in the tenant.
#[derive(Clone, Debug)]
pub struct Tried {
    /// What, in a few words.
    pub what: &'static str,
    /// How it came out.
    pub found: Tenancy,
}

/// How something in the tenant is.
#[derive(Clone, Debug)]
pub enum Tenancy {
    /// As it should be, and what was seen.
    Good(String),
    /// A renewal can run without it; what it misses then, and what to do.
    Lacking(Trouble),
    /// Has to be mended before a renewal can run.
    Bad(Trouble),
}

impl Tried {
    /// Whether a renewal could run with it as it is.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !matches!(self.found, Tenancy::Bad(_))
    }
}

/// Signs in and reads, as a preflight does. `told` is called with each as it is known. Nothing when no tenant is configured.
pub async fn probe_tenant(managed: &Managed, told: impl Fn(&Tried)) -> Vec<Tried> {
    let (Some(cloud), Some(settings)) = (&managed.cloud, &managed.organization.cloud) else { return Vec::new() };
    let mut tried = Vec::new();
    let mut tell = |what, found| {
        let one = Tried { what, found };
        told(&one);
        tried.push(one);
    };
    // Reading what everybody who signs in may try to read is how one knows that signing in works.
    let application = match find(managed, cloud, settings).await {
        Ok(application) => application,
        Err(trouble) => {
            tell("Microsoft Entra and Graph", Tenancy::Bad(trouble));
            return tried;
        }
    };
    let who = format!("signed in as {}; applications can be read", cloud.credentials().client_id);
    tell("Microsoft Entra and Graph", Tenancy::Good(who));
    if let Some(application) = &application {
        tell("dedicated application", dedicated(application));
        tell("life of keys", lifetime(cloud, application, &managed.organization).await);
    } else {
        tell("dedicated application", Tenancy::Bad(no_application(settings)));
    }
    tell("shared principal", shared(cloud).await);
    if settings.exchange_online {
        tell("Exchange Online", online(cloud).await);
    }
    tried
}

/// The dedicated application: by its id, or by the name that is made of the organization's GUID, which only the servers know.
async fn find(managed: &Managed, cloud: &Cloud, settings: &CloudSettings) -> Result<Option<Application>, Trouble> {
    let trouble = |error: CloudError| error.trouble;
    if let Some(id) = &settings.application_id {
        return cloud.application(id).await.map_err(trouble);
    }
    // Without a server to ask, signing in is tried all the same.
    let guid = organization_guid(managed).await;
    let name = application_name(guid.as_deref().unwrap_or("?"));
    cloud.application_named(&name).await.map_err(trouble)
}

async fn organization_guid(managed: &Managed) -> Option<String> {
    let asked = discovery::on_any(&managed.endpoints, async |session, _| {
        if exchange::is_hybrid(session).await? {
            return Ok(hybrid::objects(session).await?.organization_guid);
        }
        Ok::<_, CommandError>(None)
    });
    asked.await.ok().flatten()
}

fn dedicated(application: &Application) -> Tenancy {
    let Application { display_name, app_id, key_credentials, .. } = application;
    Tenancy::Good(format!(
        "{display_name} ({app_id}) has {} keys; that rekey may change them is seen when it does: it must own it, or have Application.ReadWrite.All",
        key_credentials.len()
    ))
}

fn no_application(settings: &CloudSettings) -> Trouble {
    let wanted = settings.application_id.as_ref().map_or_else(
        || format!("named {}, as the servers' organization says", application_name("<GUID of Get-OrganizationConfig>")),
        |id| format!("with the application id {id}"),
    );
    Trouble::new(
        "no_dedicated_application",
        format!("The tenant {} has no application {wanted}", settings.tenant_id),
        "Create it with ConfigureExchangeHybridApplication.ps1 -FullyConfigureExchangeHybridApplication, or set application_id to the one that the servers use; if no server answered, mend that first",
    )
}

async fn lifetime(cloud: &Cloud, application: &Application, organization: &Organization) -> Tenancy {
    let wanted = organization.policy.lifetime_days;
    match cloud.key_lifetime(application).await {
        Ok(KeyLifetime::Unlimited) => Tenancy::Good("not limited by a policy of the tenant".to_owned()),
        Ok(KeyLifetime::Days(days)) if wanted <= days => {
            Tenancy::Good(format!("at most {days} days; new certificates have {wanted}"))
        }
        Ok(KeyLifetime::Days(days)) => Tenancy::Bad(Trouble::new(
            "key_lifetime_refused",
            format!("The tenant allows keys a life of {days} days at most; new certificates have {wanted}"),
            format!(
                "Set lifetime_days in the policy of the organization to {days} or less, or except the application from the tenant's app management policy"
            ),
        )),
        Ok(KeyLifetime::NotChecked(why)) => Tenancy::Lacking(Trouble::new(
            "key_lifetime_not_checked",
            format!("How long a key may live could not be read: {why}"),
            "Give rekey's application Policy.Read.All of Microsoft Graph; without it a tenant that refuses the new key is known only when the run registers it",
        )),
        Err(error) => Tenancy::Bad(error.trouble),
    }
}

/// Nothing depends on it.
async fn shared(cloud: &Cloud) -> Tenancy {
    match cloud.shared_principal().await {
        Ok(Some(principal)) if !principal.key_credentials.is_empty() => Tenancy::Lacking(Trouble::new(
            "shared_principal_keys",
            format!(
                "The shared principal of Exchange Online ({EXCHANGE}) still holds {} keys: whoever has one of them can sign in as every hybrid server (CVE-2025-53786)",
                principal.key_credentials.len()
            ),
            "Set purge_shared_principal = true, or run ConfigureExchangeHybridApplication.ps1 -ResetFirstPartyServicePrincipalKeyCredentials",
        )),
        Ok(_) => Tenancy::Good("holds no keys".to_owned()),
        Err(error) => Tenancy::Lacking(error.trouble),
    }
}

/// That it cannot be asked never stops a renewal.
async fn online(cloud: &Cloud) -> Tenancy {
    match cloud.online_relationships().await {
        Ok(found) => Tenancy::Good(format!("answers; {} organization relationships", found.len())),
        Err(error) => Tenancy::Lacking(error.trouble),
    }
}
