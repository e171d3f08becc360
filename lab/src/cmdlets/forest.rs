//! Read-only cmdlets about servers and the organization, and the scope of a session.

use psrp::Record;

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
    let found: Vec<_> = (0..world.servers().len()).filter(|i| wanted(&world.server(*i).spec.fqdn)).collect();
    match identity {
        Some(name) if found.is_empty() => Err(refusal::object_not_found(&name)),
        _ => {
            let records = found.into_iter().flat_map(|index| server_records(call, index)).collect();
            Ok(Output { records, ..Output::default() })
        }
    }
}

/// With `-Status` a server is asked itself: one that is down makes an error beside its object.
fn server_records(call: &Call<'_>, index: usize) -> Vec<Record> {
    let world = call.world_ref();
    let server = world.server(index);
    let controller = |server| &world.directory().controllers()[world.controller_of(server)];
    let asked = call.is_set("Status");
    let status = (asked && server.is_up()).then(|| controller(index));
    let origin = controller(call.session().server).fqdn.as_str();
    let object = shapes::exchange_server(server, status).with("OriginatingServer", origin);
    let failed = (asked && !server.is_up()).then(|| call.record(&refusal::rpc_unavailable(&server.spec.name)));
    [Record::Output(object.into())].into_iter().chain(failed.map(Record::Error)).collect()
}

fn get_organization_config(call: &mut Call<'_>) -> Result<Output, Refusal> {
    Output::of([shapes::organization(&call.world_ref().organization().id)])
}

/// There is no scope that would hide anything.
fn nothing(call: &mut Call<'_>) -> Result<Output, Refusal> {
    if call.value("DomainController").is_some() {
        call.controller()?;
    }
    Output::none()
}
