//! Read-only cmdlets about servers and the organization, and the scope of a session.

use super::{Call, Cmdlet, Output, Refusal, refusal, shapes};
use crate::directory::is_named;

pub(super) const CMDLETS: &[Cmdlet] = &[
    Cmdlet {
        name: "Get-ExchangeServer",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.GetExchangeServer",
        parameters: &["Identity", "Status", "Domain", "DomainController"],
        run: get_exchange_server,
    },
    Cmdlet {
        name: "Get-HybridConfiguration",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.GetHybridConfiguration",
        parameters: &["DomainController"],
        run: nothing,
    },
    Cmdlet {
        name: "Get-OrganizationConfig",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.GetOrganizationConfig",
        parameters: &["DomainController"],
        run: get_organization_config,
    },
    Cmdlet {
        name: "Set-ADServerSettings",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.SetADServerSettings",
        parameters: &[
            "ViewEntireForest",
            "PreferredServer",
            "ConfigurationDomainController",
            "PreferredGlobalCatalog",
            "RecipientViewRoot",
            "SetPreferredDomainControllers",
        ],
        run: nothing,
    },
];

fn get_exchange_server(call: &mut Call<'_>) -> Result<Output, Refusal> {
    call.controller()?;
    let world = call.world_ref();
    let identity = call.text("Identity");
    let wanted = |fqdn: &str| identity.as_deref().is_none_or(|name| is_named(fqdn, name));
    let found: Vec<_> = (0..world.servers().len())
        .filter(|index| wanted(&world.server(*index).spec.fqdn))
        .map(|index| {
            let status = call.is_set("Status").then(|| &world.directory().controllers()[world.controller_of(index)]);
            let origin = &world.directory().controllers()[world.controller_of(call.session().server)].fqdn;
            shapes::exchange_server(world.server(index), status).with("OriginatingServer", origin.as_str()).into()
        })
        .collect();
    match identity {
        Some(name) if found.is_empty() => Err(refusal::object_not_found(&name)),
        _ => Output::of(found),
    }
}

fn get_organization_config(call: &mut Call<'_>) -> Result<Output, Refusal> {
    Output::of([shapes::organization(&call.world_ref().organization().id)])
}

/// There is no hybrid configuration, and no scope that would hide anything.
fn nothing(call: &mut Call<'_>) -> Result<Output, Refusal> {
    if call.value("DomainController").is_some() {
        call.controller()?;
    }
    Output::none()
}
