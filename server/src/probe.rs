//! `rekey probe`: tries the way to every endpoint of an organization, and into its tenant, and says what is missing and how to mend it.

use std::process::ExitCode;

use anyhow::Context as _;
use domain::Trouble;
use worker::probe::{Configuration, Found, Probed, Tenancy, Tried};

use crate::{
    config::Config,
    output::{self, say},
    service, telemetry,
};

/// Exit codes: 0 when a renewal could start, 1 when something has to be mended first.
pub(crate) async fn run(config: &Config, id: &str) -> anyhow::Result<ExitCode> {
    telemetry::start("warn", config.log_format)?;
    let known = || output::listed(config.organizations.iter().map(|c| &c.managed.organization.id));
    let found = config.organizations.iter().find(|c| c.managed.organization.id.as_str() == id);
    let configured = found.with_context(|| format!("there is no organization {id}; configured: {}", known()))?;
    let timeline = service::timeline(config).await?;
    let managed = &service::managed(configured, timeline)?;
    say!("{id} ({})", managed.organization.name);
    let probed = worker::probe::probe(managed, timeline, tell).await;
    let tenant = worker::probe::probe_tenant(managed, tell_tried).await;
    managed.endpoints.sessions.close().await;
    let good = probed.iter().filter(|probed| probed.is_good()).count();
    say!("{good} of {} endpoints are good", probed.len());
    if !managed.organization.windows {
        say!(
            "No Windows endpoint is configured: restarts and key checks are left to people (see organization.windows)"
        );
    }
    let enters = tenant.iter().all(Tried::is_good);
    if !tenant.is_empty() {
        say!("the tenant is {}", if enters { "good" } else { "not good: a renewal would be refused" });
    }
    Ok(if good == probed.len() && enters { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell_tried(tried: &Tried) {
    let sign = match &tried.found {
        Tenancy::Good(_) => "ok  ",
        Tenancy::Lacking(_) => "note",
        Tenancy::Bad(_) => "BAD ",
    };
    say!("{sign} Tenant    {}", tried.what);
    match &tried.found {
        Tenancy::Good(seen) => say!("     {seen}"),
        Tenancy::Lacking(trouble) | Tenancy::Bad(trouble) => complain(trouble),
    }
}

fn tell(probed: &Probed) {
    let kind = match probed.configuration {
        Configuration::Exchange => "Exchange",
        Configuration::Windows => "Windows",
    };
    let sign = if probed.is_good() { "ok  " } else { "BAD " };
    say!("{sign} {kind:<8}  {}", probed.url);
    match &probed.found {
        Ok(found) => {
            say!("     {}", facts(found));
            found.missing.iter().for_each(complain);
        }
        Err(trouble) => complain(trouble),
    }
}

fn facts(found: &Found) -> String {
    let clock = found.clock_ahead_seconds.map(|seconds| match seconds {
        0 => "clock agrees".to_owned(),
        1.. => format!("clock {seconds} s ahead"),
        _ => format!("clock {} s behind", -seconds),
    });
    let parts = [Some(found.logged_on.clone()), found.version.clone(), clock];
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

fn complain(trouble: &Trouble) {
    say!("     {} [{}]", trouble.message, trouble.code);
    say!("     -> {}", trouble.action);
}
