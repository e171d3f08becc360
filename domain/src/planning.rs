//! From what discovery saw to a plan, or to a refusal that says why and what to do.

pub(crate) mod hybrid;
pub mod in_time;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    Gate, Organization, Phase, Plan, Request, Snapshot, StepKind, Thumbprint, Trouble,
    organization::{Rules, TicketNeed},
    plan::{
        CertificateSource, EndpointKind, FORMAT, Finding, Observed, PfxAlgorithm, PlannedCloud, PlannedCmdlet,
        PlannedGate, PlannedServer, PlannedStep, Reversibility,
    },
    retry::Exhausted,
    snapshot::{AuthConfig, Certificate, Key, Server, Store},
};

/// The service and the application pools that hold keys in memory (domain.md 1.9).
pub const SERVICE_HOST: &str = "MSExchangeServiceHost";
/// Application pools that cache keys until they are recycled.
pub const APP_POOLS: [&str; 2] = ["MSExchangeOWAAppPool", "MSExchangeECPAppPool"];

/// What plans say of a step that a person may skip.
pub const SKIPPABLE: &str = "An operator may skip this when the server is gone for good.";

/// What plans say of a key in the cloud that a person may leave where it is.
pub const SKIPPABLE_KEY: &str =
    "An operator may skip this: the old key stays registered then, and whoever has its private key can use it.";

/// Kerberos and `Set-AuthConfig` bear five minutes (domain.md 6.4).
const CLOCK_TOLERANCE_SECONDS: i64 = 300;

/// What approvers should know of the date of a certificate that is taken over.
const PUSHED_OUT: &str = "The run pushes the date out as soon as it begins; until it is approved nobody does. Push it out now if it may come before that.";

/// How far ahead of now a person sets such a date.
const BY_HAND_HOURS: u32 = 72;

/// A staged certificate is taken over only when it outlives the renewal by this much.
const ADOPTABLE_FOR: TimeDelta = TimeDelta::days(180);

/// Makes the plan for `request` on what `snapshot` saw.
pub fn plan(
    organization: &Organization,
    request: &Request,
    snapshot: &Snapshot,
    now: DateTime<Utc>,
) -> Result<Plan, Trouble> {
    let auth_config = agreed(snapshot)?;
    let participants: Vec<&Server> = snapshot.participants().collect();
    refuse_impossible(request, &participants)?;
    let current = newest_copy(&participants, auth_config.current.as_ref());
    let emergency = request.reason.is_emergency() || current.is_none_or(|c| c.not_after <= now);
    let policy = &organization.policy;
    let rules = policy.rules_for(request, emergency);
    let observed = Observed {
        current: auth_config.current.clone(),
        current_not_after: current.map(|c| c.not_after),
        previous: auth_config.previous.clone(),
        next: auth_config.next.clone(),
        domain_controllers: snapshot.auth_config.iter().map(|a| a.domain_controller.clone()).collect(),
    };
    let certificate = source(organization, &participants, auth_config, now);
    let staged = newest_copy(&participants, auth_config.next.as_ref());
    let hybrid = hybrid::seen(organization, snapshot);
    let cloud = hybrid.as_ref().map(|seen| seen.planned(&observed, &certificate, staged)).transpose()?;
    let mut plan = Plan {
        format: FORMAT.to_owned(),
        organization: organization.id.clone(),
        reason: request.reason,
        emergency,
        certificate,
        observed,
        staging_lead_hours: if emergency { 0 } else { policy.staging_lead_hours },
        soak_hours: policy.soak_hours,
        soak_max_hours: Some(policy.soak_max_hours),
        soak_check_minutes: policy.soak_check_minutes,
        approval_hours: policy.approval_hours,
        not_before: request.not_before,
        calendar: rules.calendar.clone(),
        yields_to_expiry: false,
        latest_safe_start: None,
        ticket_required: rules.ticket == TicketNeed::Required,
        executors: policy.executors.clone(),
        break_glass: policy.break_glass,
        servers: participants.iter().map(|s| planned_server(s, request)).collect(),
        gates: gates(&rules, cloud.as_ref().is_some_and(PlannedCloud::is_by_hand)),
        cloud,
        steps: Vec::new(),
        findings: Vec::new(),
        policy: policy.digest(),
    };
    let feasible = in_time::look(&mut plan, policy, now)?;
    plan.findings = findings(&plan, organization, &participants, auth_config, now);
    plan.findings.extend(feasible);
    let of_the_cloud = hybrid.map_or_else(Vec::new, |seen| seen.findings(&plan, now));
    plan.findings.extend(of_the_cloud);
    plan.steps = steps(&plan, organization);
    // Which key somebody may sign in with is never decided by failures.
    let asks = |step: &PlannedStep| matches!(step.kind, StepKind::PruneCloud | StepKind::PurgeSharedPrincipal);
    for step in plan.steps.iter_mut().filter(|step| !asks(step)) {
        step.when_exhausted = policy.when_exhausted(step.phase);
    }
    Ok(plan)
}

fn agreed(snapshot: &Snapshot) -> Result<&AuthConfig, Trouble> {
    if snapshot.auth_config.is_empty() {
        return Err(Trouble::new(
            "no_auth_config",
            "No domain controller answered Get-AuthConfig",
            "Check that the account may run Get-AuthConfig",
        ));
    }
    snapshot.agreed_auth_config().ok_or_else(|| {
        Trouble::new(
            "replication_pending",
            "The domain controllers do not agree on AuthConfig: a change is still being replicated",
            "Wait for Active Directory replication (repadmin /replsummary); planning is tried again by itself",
        )
    })
}

fn refuse_impossible(request: &Request, participants: &[&Server]) -> Result<(), Trouble> {
    if participants.is_empty() {
        return Err(Trouble::new(
            "no_servers",
            "Get-ExchangeServer shows no server with a mailbox or client access role of version 15",
            "Check that the account sees the whole forest and that this is the right organization",
        ));
    }
    if let Some(unknown) =
        request.allow_absent.iter().find(|name| !participants.iter().any(|s| s.fqdn.eq_ignore_ascii_case(name)))
    {
        return Err(Trouble::new(
            "unknown_server",
            format!("allow_absent names {unknown}, which takes no part in this organization"),
            "Raise the renewal again with fully qualified names as Get-ExchangeServer shows them",
        ));
    }
    if participants.iter().all(|s| !s.is_reachable()) {
        return Err(Trouble::new(
            "no_server_reachable",
            "No server's certificate store answered",
            "Check the network and the account, then raise it again",
        ));
    }
    Ok(())
}

/// The copy of a certificate on the first server that has it.
fn newest_copy<'a>(participants: &[&'a Server], thumbprint: Option<&Thumbprint>) -> Option<&'a Certificate> {
    let thumbprint = thumbprint?;
    participants.iter().find_map(|s| s.certificate(thumbprint))
}

/// Takes over a healthy staged certificate; otherwise one is made.
fn source(
    organization: &Organization,
    participants: &[&Server],
    auth_config: &AuthConfig,
    now: DateTime<Utc>,
) -> CertificateSource {
    let adoptable = auth_config.next.as_ref().and_then(|next| {
        let holder = participants.iter().find(|s| s.certificate(next).is_some_and(|c| is_healthy(c, now)))?;
        Some(CertificateSource::Adopt { thumbprint: next.clone(), from: holder.fqdn.clone() })
    });
    adoptable.unwrap_or(CertificateSource::Generate {
        key_size: organization.policy.key_size,
        lifetime_days: organization.policy.lifetime_days,
    })
}

fn is_healthy(certificate: &Certificate, now: DateTime<Utc>) -> bool {
    certificate.key.is_usable()
        && certificate.findings.is_empty()
        && certificate.not_before <= now
        && certificate.not_after >= now + ADOPTABLE_FOR
}

fn planned_server(server: &Server, request: &Request) -> PlannedServer {
    PlannedServer {
        fqdn: server.fqdn.clone(),
        site: server.site.clone(),
        version: server.version,
        pfx: PfxAlgorithm::for_exchange(server.version),
        may_be_absent: request.allow_absent.iter().any(|name| name.eq_ignore_ascii_case(&server.fqdn)),
    }
}

fn gates(rules: &Rules, by_hand: bool) -> Vec<PlannedGate> {
    let meaning = |gate| match gate {
        Gate::Execute => {
            "The run begins: a certificate is made and brought to every server. Nothing signs with it yet."
        }
        Gate::TrustCloud => {
            "A person has registered the public key of the new certificate in Microsoft Entra, beside the old one, and says so with an approval. Without it Entra would refuse what is signed after the publication."
        }
        Gate::Publish => "The new certificate becomes the one that Exchange signs with. The old one stays valid.",
        Gate::ClearPrevious if by_hand => {
            "The old certificate is given up. This cannot be taken back. This run does not see the tenant: approve only when a person has run Test-OAuthConnectivity as the runbook says, and it has passed."
        }
        Gate::ClearPrevious => "The old certificate is given up. This cannot be taken back.",
    };
    let planned = |gate| {
        let (quorum, rule) = rules.gate(gate);
        PlannedGate { gate, quorum, rule, meaning: meaning(gate).to_owned() }
    };
    Gate::ALL.into_iter().filter(|gate| by_hand || *gate != Gate::TrustCloud).map(planned).collect()
}

fn findings(
    plan: &Plan,
    organization: &Organization,
    participants: &[&Server],
    auth_config: &AuthConfig,
    now: DateTime<Utc>,
) -> Vec<Finding> {
    let mut found: Vec<Finding> = participants.iter().flat_map(|s| server_findings(s, auth_config)).collect();
    let mut about = |code: &str, message: String| {
        found.push(Finding { code: code.to_owned(), target: String::new(), message, fix: None })
    };
    match plan.observed.current_not_after {
        Some(not_after) if not_after <= now => about(
            "current_expired",
            format!("The current certificate expired at {not_after}: this is an emergency plan."),
        ),
        None => about(
            "current_missing",
            "No server that answered has the current certificate: this is an emergency plan.".to_owned(),
        ),
        Some(_) => {}
    }
    if plan.emergency {
        about("no_overlap", "Published without a waiting time: until its processes are restarted, a server may refuse tokens signed with the new key.".to_owned());
    }
    if let (CertificateSource::Generate { .. }, Some(next)) = (&plan.certificate, &auth_config.next) {
        about("staged_replaced", format!("The staged certificate {next} is not fit for use and is replaced."));
    }
    if let Some(previous) = &auth_config.previous {
        about(
            "previous_replaced",
            format!("The previous certificate {previous} leaves AuthConfig when the new one is published."),
        );
    }
    found.extend(staged_without_servers(plan, participants, auth_config, now));
    let mut about = |code: &str, message: String| {
        found.push(Finding { code: code.to_owned(), target: String::new(), message, fix: None })
    };
    if !organization.windows {
        about("restart_by_hand", "No Windows endpoint is configured: restart MSExchangeServiceHost and recycle the OWA and ECP application pools on every server by hand after publication. Key checks are not made.".to_owned());
    }
    found
}

fn server_findings(server: &Server, auth_config: &AuthConfig) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut about = |code: &str, message: String| {
        found.push(Finding { code: code.to_owned(), target: server.fqdn.clone(), message, fix: None })
    };
    if server.clock_ahead_seconds.is_some_and(|seconds| seconds.abs() > CLOCK_TOLERANCE_SECONDS) {
        about("clock_skew", "The server's clock is more than five minutes off: Kerberos and effective dates suffer. Correct it before the run.".to_owned());
    }
    if let Store::Unreachable { .. } = &server.store {
        about(crate::progress::SERVER_UNREACHABLE, "The server does not answer. Publication waits until it has the certificate, unless this plan allows its absence.".to_owned());
    }
    let Some(current) = auth_config.current.as_ref().filter(|_| server.is_reachable()) else { return found };
    match server.certificate(current) {
        None => about(
            "current_missing_on_server",
            "The server lacks the current certificate: it cannot sign today.".to_owned(),
        ),
        Some(Certificate { key: Key::Ksp, .. }) => about(
            "key_in_ksp",
            "The current key is in a key storage provider, which Exchange cannot sign with.".to_owned(),
        ),
        Some(Certificate { key: Key::Missing, .. }) => {
            about("key_missing", "The current certificate has no private key here.".to_owned())
        }
        Some(_) => {}
    }
    found
}

/// The steps of a plan. Every phase but the preflight, in order.
fn steps(plan: &Plan, organization: &Organization) -> Vec<PlannedStep> {
    let mut steps: Vec<PlannedStep> = Vec::new();
    for phase in Phase::RUN.into_iter().filter(|p| *p != Phase::Preflight) {
        // Keys leave the cloud before the certificates leave the servers.
        steps.extend(hybrid::steps(plan, organization, phase));
        steps.extend(phase_steps(plan, organization, phase));
    }
    for (ordinal, step) in (1..).zip(&mut steps) {
        step.ordinal = ordinal;
    }
    steps
}

fn phase_steps(plan: &Plan, organization: &Organization, phase: Phase) -> Vec<PlannedStep> {
    let dc = plan.observed.domain_controllers.first().map_or("<domain controller>", String::as_str);
    let one =
        |kind, description: &str, cmdlets, reversibility| vec![whole(phase, kind, description, cmdlets, reversibility)];
    match phase {
        Phase::Generate => one(StepKind::Generate, generate_text(plan), export_cmdlet(plan), Reversibility::Free),
        Phase::Distribute => plan.servers.iter().map(distribute).collect(),
        Phase::Stage => one(
            StepKind::Stage,
            "Stage the new certificate: every server now accepts it, none signs with it yet.",
            exchange(stage_line(plan, dc)),
            Reversibility::Reversible,
        ),
        Phase::Publish => one(
            StepKind::Publish,
            "Make the new certificate the current one; tokens of the old one stay valid. If Exchange has published it by itself, that counts. While nobody has approved, the effective date is pushed out two hours before it comes.",
            exchange(vec![format!("Set-AuthConfig -PublishCertificate -Force -DomainController {dc}")]),
            Reversibility::Reversible,
        ),
        Phase::Restart if organization.windows => plan.servers.iter().map(restart).collect(),
        Phase::Soak => one(
            StepKind::Soak,
            "Wait, and look at the evidence on a schedule; a failed check starts the time again.",
            Vec::new(),
            Reversibility::Free,
        ),
        Phase::ClearPrevious => one(
            StepKind::ClearPrevious,
            "Give up the old certificate.",
            exchange(vec![format!("Set-AuthConfig -ClearPreviousCertificate -Force -DomainController {dc}")]),
            Reversibility::PointOfNoReturn,
        ),
        Phase::Prune if organization.policy.remove_old_certificate => prune(plan),
        Phase::Close => {
            one(StepKind::Close, "Check everything once more and close the record.", Vec::new(), Reversibility::Free)
        }
        Phase::Preflight | Phase::TrustCloud | Phase::Restart | Phase::RefreshHybrid | Phase::Prune | Phase::Undo => {
            Vec::new()
        }
    }
}

fn whole(
    phase: Phase,
    kind: StepKind,
    description: &str,
    cmdlets: Vec<PlannedCmdlet>,
    reversibility: Reversibility,
) -> PlannedStep {
    PlannedStep {
        ordinal: 0,
        phase,
        kind,
        target: String::new(),
        site: String::new(),
        description: description.to_owned(),
        cmdlets,
        reversibility,
        when_exhausted: Exhausted::Ask,
    }
}

fn on_server(
    phase: Phase,
    kind: StepKind,
    server: &PlannedServer,
    description: String,
    cmdlets: Vec<PlannedCmdlet>,
    reversibility: Reversibility,
) -> PlannedStep {
    PlannedStep {
        target: server.fqdn.clone(),
        site: server.site.clone(),
        ..whole(phase, kind, &description, cmdlets, reversibility)
    }
}

fn lines(endpoint: EndpointKind, lines: Vec<String>) -> Vec<PlannedCmdlet> {
    lines.into_iter().map(|line| PlannedCmdlet { endpoint, line }).collect()
}

fn exchange(text: Vec<String>) -> Vec<PlannedCmdlet> {
    lines(EndpointKind::Exchange, text)
}

fn generate_text(plan: &Plan) -> &'static str {
    match plan.certificate {
        CertificateSource::Adopt { .. } => {
            "Take over the certificate that is staged already: it is healthy. First its effective date is pushed out, if it is nearer than that: Exchange would publish it then by itself, whether or not every server and Entra have its key. Until the publication is approved, the date is pushed out again two hours before it comes. Then its key is read from a server that has it. If the renewal is cancelled before it is staged anew, it stays staged, with the later date and wherever it was brought."
        }
        CertificateSource::Generate { .. } => {
            "Make the new certificate: RSA, SHA-256, CN=Microsoft Exchange Server Auth Certificate. Its key is kept sealed until every server has it."
        }
    }
}

fn export_cmdlet(plan: &Plan) -> Vec<PlannedCmdlet> {
    match &plan.certificate {
        CertificateSource::Adopt { thumbprint, from } => exchange(vec![
            push_out_line(plan, thumbprint, plan.held_off_hours()),
            format!(
                "Export-ExchangeCertificate -Server {from} -Thumbprint {thumbprint} -BinaryEncoded -Password <one-time password>"
            ),
        ]),
        CertificateSource::Generate { .. } => Vec::new(),
    }
}

/// Moves the date of a certificate that is staged already.
fn push_out_line(plan: &Plan, thumbprint: &Thumbprint, hours: u32) -> String {
    let dc = plan.observed.domain_controllers.first().map_or("<domain controller>", String::as_str);
    format!(
        "Set-AuthConfig -NewCertificateThumbprint {thumbprint} -NewCertificateEffectiveDate <now + {hours} h> -Force -DomainController {dc}"
    )
}

/// When Exchange makes a staged certificate the current one. It looks every 12 hours (domain.md 1.9).
fn publishes_by_itself(thumbprint: &Thumbprint, until: DateTime<Utc>, now: DateTime<Utc>) -> String {
    if until > now {
        format!("Exchange publishes the staged certificate {thumbprint} by itself at {until}")
    } else {
        format!(
            "The date of the staged certificate {thumbprint}, {until}, is over: Exchange publishes it by itself at any moment, within 12 hours"
        )
    }
}

/// Whoever has staged a certificate has set a date too, at which Exchange publishes it whether every server has its key or not.
fn staged_without_servers(
    plan: &Plan,
    participants: &[&Server],
    auth_config: &AuthConfig,
    now: DateTime<Utc>,
) -> Option<Finding> {
    let (thumbprint, until) = (plan.adopted()?, auth_config.next_effective_at?);
    let has = |server: &&&Server| server.certificate(thumbprint).is_some_and(|held| held.key.is_usable());
    let lacking: Vec<&str> =
        participants.iter().filter(|server| !has(server)).map(|server| server.fqdn.as_str()).collect();
    (!lacking.is_empty()).then(|| Finding {
        code: "staged_before_servers".to_owned(),
        target: String::new(),
        message: format!(
            "{}; nothing shows that these servers have its key: {}. {PUSHED_OUT}",
            publishes_by_itself(thumbprint, until, now),
            lacking.join(", ")
        ),
        fix: Some(push_out_line(plan, thumbprint, BY_HAND_HOURS)),
    })
}

fn distribute(server: &PlannedServer) -> PlannedStep {
    let name = &server.fqdn;
    let line = format!(
        "Import-ExchangeCertificate -Server {name} -FileData <PFX, {}> -Password <one-time password> -PrivateKeyExportable $true",
        server.pfx.as_str()
    );
    let description = format!("Import the new certificate with its private key on {name}.");
    on_server(
        Phase::Distribute,
        StepKind::Distribute,
        server,
        description,
        exchange(vec![line]),
        Reversibility::Reversible,
    )
}

fn stage_line(plan: &Plan, dc: &str) -> Vec<String> {
    let date = match plan.staging_lead_hours {
        0 => "<now>".to_owned(),
        hours => format!("<now + {hours} h>"),
    };
    let thumbprint = source_thumbprint(plan);
    vec![format!(
        "Set-AuthConfig -NewCertificateThumbprint {thumbprint} -NewCertificateEffectiveDate {date} -Force -DomainController {dc}"
    )]
}

/// The new certificate, as far as it is known.
fn source_thumbprint(plan: &Plan) -> &str {
    match &plan.certificate {
        CertificateSource::Adopt { thumbprint, .. } => thumbprint.as_str(),
        CertificateSource::Generate { .. } => "<new thumbprint>",
    }
}

fn restart(server: &PlannedServer) -> PlannedStep {
    let pools = APP_POOLS.iter().map(|pool| format!("Restart-WebAppPool -Name {pool}"));
    let text = std::iter::once(format!("Restart-Service -Name {SERVICE_HOST}")).chain(pools).collect();
    let description = format!("Restart what caches keys on {}; one server of a site at a time.", server.fqdn);
    on_server(
        Phase::Restart,
        StepKind::Restart,
        server,
        description,
        lines(EndpointKind::Windows, text),
        Reversibility::Free,
    )
}

fn prune(plan: &Plan) -> Vec<PlannedStep> {
    let Some(old) = &plan.observed.current else { return Vec::new() };
    let step = |server: &PlannedServer| {
        let line = format!("Remove-ExchangeCertificate -Server {} -Thumbprint {old} -Confirm:$false", server.fqdn);
        let description =
            format!("Remove the old certificate from {} if nothing there uses it. {SKIPPABLE}", server.fqdn);
        on_server(
            Phase::Prune,
            StepKind::Prune,
            server,
            description,
            exchange(vec![line]),
            Reversibility::PointOfNoReturn,
        )
    };
    plan.servers.iter().map(step).collect()
}

#[cfg(test)]
pub(crate) mod tests;
