//! The commands of the Windows endpoint that rekey needs: processes, the clock, the certificate store, restarts.

use std::time::Duration;

use psrp::Value;

use super::{
    Call, Cmdlet, Output, Refusal,
    refusal::{self, plain},
    shapes,
};
use crate::{certificate::Thumbprint, journal::EffectKind, server::ProcessKind, world::Outcome};

pub(super) const CMDLETS: &[Cmdlet] = &[
    Cmdlet {
        name: "Get-CimInstance",
        task: "Microsoft.Management.Infrastructure.CimCmdlets.GetCimInstanceCommand",
        parameters: &["ClassName", "Filter", "Namespace", "Property"],
        run: get_cim_instance,
    },
    Cmdlet { name: "Get-Date", task: "Microsoft.PowerShell.Commands.GetDateCommand", parameters: &[], run: get_date },
    Cmdlet {
        name: "Get-Item",
        task: "Microsoft.PowerShell.Commands.GetItemCommand",
        parameters: &["Path", "LiteralPath"],
        run: get_item,
    },
    Cmdlet {
        name: "Restart-Service",
        task: "Microsoft.PowerShell.Commands.RestartServiceCommand",
        parameters: &["Name", "Force", "PassThru"],
        run: restart_service,
    },
    Cmdlet {
        name: "Restart-WebAppPool",
        task: "Microsoft.IIs.PowerShell.Provider.RestartAppPoolCommand",
        parameters: &["Name"],
        run: restart_web_app_pool,
    },
    Cmdlet {
        name: "Start-Sleep",
        task: "Microsoft.PowerShell.Commands.StartSleepCommand",
        parameters: &["Seconds", "Milliseconds"],
        run: start_sleep,
    },
];

fn get_cim_instance(call: &mut Call<'_>) -> Result<Output, Refusal> {
    let class = call.text("ClassName").ok_or_else(|| refusal::missing_parameter("ClassName"))?;
    let here = call.here();
    match class.to_ascii_lowercase().as_str() {
        "win32_operatingsystem" => Output::of([shapes::operating_system(here, call.world_ref().now())]),
        "win32_process" => {
            let names = names(call)?;
            let named = |kind: ProcessKind| {
                names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(shapes::executable(kind)))
            };
            let found = here.processes.iter().filter(|process| named(process.kind));
            Output::of(found.map(|process| shapes::process(here, process)))
        }
        _ => Err(refusal::not_simulated(&format!("the class {class}"))),
    }
}

/// Filters of the form `Name = 'a' OR Name = 'b'`; no names for no filter.
fn names(call: &Call<'_>) -> Result<Vec<String>, Refusal> {
    let Some(filter) = call.text("Filter") else { return Ok(Vec::new()) };
    let unknown = || refusal::not_simulated(&format!("the filter {filter}"));
    let upper = filter.replace(" or ", " OR ");
    let name = |condition: &str| {
        let (property, value) = condition.split_once('=')?;
        let value = value.trim().trim_matches(|c| c == '\'' || c == '"');
        property.trim().eq_ignore_ascii_case("Name").then(|| value.to_owned())
    };
    upper.split(" OR ").map(|condition| name(condition).ok_or_else(unknown)).collect()
}

fn get_date(call: &mut Call<'_>) -> Result<Output, Refusal> {
    Output::of([shapes::local(call.here().local_time(call.world_ref().now()))])
}

fn get_item(call: &mut Call<'_>) -> Result<Output, Refusal> {
    let path = call.text("LiteralPath").or_else(|| call.text("Path"));
    let path = path.ok_or_else(|| refusal::missing_parameter("Path"))?;
    let inside = path.get(..STORE.len()).filter(|start| start.eq_ignore_ascii_case(STORE));
    let thumbprint = inside.and_then(|_| Thumbprint::parse(&path[STORE.len()..]));
    let entry = thumbprint.and_then(|thumbprint| call.here().store.find(&thumbprint));
    let missing = || {
        let message = format!("Cannot find path '{path}' because it does not exist.");
        plain("PathNotFound", "System.Management.Automation.ItemNotFoundException", message)
    };
    Output::of([shapes::store_certificate(call.here(), entry.ok_or_else(missing)?)])
}

fn restart_service(call: &mut Call<'_>) -> Result<Output, Refusal> {
    for name in required_names(call)? {
        if !name.eq_ignore_ascii_case(ProcessKind::ServiceHost.name()) {
            let exception = "Microsoft.PowerShell.Commands.ServiceCommandException";
            let message = format!("Cannot find any service with service name '{name}'.");
            return Err(plain("NoServiceFoundForGivenName", exception, message));
        }
        restart(call, ProcessKind::ServiceHost);
    }
    Output::none()
}

fn restart_web_app_pool(call: &mut Call<'_>) -> Result<Output, Refusal> {
    for name in required_names(call)? {
        let pools = [ProcessKind::Owa, ProcessKind::Ecp];
        let Some(pool) = pools.into_iter().find(|pool| name.eq_ignore_ascii_case(pool.name())) else {
            let message = format!("Cannot find path 'IIS:\\AppPools\\{name}' because it does not exist.");
            return Err(plain("PathNotFound", "System.Management.Automation.ItemNotFoundException", message));
        };
        restart(call, pool);
    }
    Output::none()
}

fn required_names(call: &Call<'_>) -> Result<Vec<String>, Refusal> {
    let names = call.texts("Name");
    if names.is_empty() { Err(refusal::missing_parameter("Name")) } else { Ok(names) }
}

fn restart(call: &mut Call<'_>, kind: ProcessKind) {
    let (server, user) = (call.session().server, call.session().user.clone());
    let place = call.here().spec.fqdn.clone();
    call.world().restart(server, kind);
    call.world().record_with(EffectKind::Restart, &place, None, Outcome::Changed, &user, kind.name());
}

/// Sleeps in real time: it is there so that something can be stopped.
fn start_sleep(call: &mut Call<'_>) -> Result<Output, Refusal> {
    let number = |name| call.value(name).and_then(Value::as_i64).and_then(|n| u64::try_from(n).ok());
    let lasts = match (number("Seconds"), number("Milliseconds")) {
        (Some(seconds), _) => Duration::from_secs(seconds),
        (None, Some(milliseconds)) => Duration::from_millis(milliseconds),
        (None, None) => return Err(refusal::missing_parameter("Seconds")),
    };
    Ok(Output { lasts, ..Output::default() })
}

/// The machine's personal store.
const STORE: &str = r"Cert:\LocalMachine\My\";
