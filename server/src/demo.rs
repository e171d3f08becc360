//! `rekey demo`: the main job on a built-in lab, over the service's own HTTP API, as users would do it.

mod client;
mod show;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use api::Role as TokenRole;
use chrono::{TimeDelta, Utc};
use clap::Args;
use domain::Digest;
use serde_json::{Value as Json, json};

use self::client::Client;
use crate::{
    Signals,
    config::{self, Config, LogFormat},
    output::say,
    service::{self, Role, Service},
    telemetry,
};

/// Four days of waiting in less than half a minute.
const SCALE: f64 = 14_400.0;
/// The longest that the demo waits for the renewal.
const PATIENCE: Duration = Duration::from_secs(150);

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// A hybrid organization: the key is registered in its tenant too, and every leg of trust towards the cloud is probed.
    #[arg(long)]
    hybrid: bool,
    /// Leave lab and service up at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Show the service's log too.
    #[arg(long)]
    log: bool,
}

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    telemetry::start(if args.log { "info" } else { "error" }, LogFormat::Text)?;
    let mut signals = Signals::new()?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let lab = lab::Lab::start(lab::Options { scale: SCALE, hybrid: args.hybrid, ..lab::Options::default() }).await?;
    let files = lab.write_files(folder.path())?;
    let mut config = config::load(Some(&files.config))?;
    config.listen.set_port(0);
    config.data_dir = folder.path().join("rekey-data");
    let service = Service::start(&config, Role::Serve).await?;
    let ended = tokio::select! {
        ended = tokio::time::timeout(PATIENCE, renew(&config, &service, &lab)) => ended,
        signal = signals.wait() => bail!("stopped by {signal}"),
    };
    let ended = match ended {
        Ok(ended) => ended,
        Err(_) => Err(anyhow::anyhow!("the renewal did not end within {} s", PATIENCE.as_secs())),
    };
    if let (true, Ok(()), Some(address)) = (args.keep, &ended, service.address) {
        linger(&config, address, &mut signals).await?;
    }
    service.shut_down().await;
    lab.shutdown().await;
    ended.map(|()| ExitCode::SUCCESS)
}

async fn linger(config: &Config, address: std::net::SocketAddr, signals: &mut Signals) -> anyhow::Result<()> {
    let tokens = service::tokens(config)?;
    let roles = vec![TokenRole::Administrator];
    let claims = api::Claims::new("you@contoso.example", roles, Vec::new(), Utc::now(), TimeDelta::hours(12));
    say!("\nLeft up. Swagger UI: http://{address}/swagger-ui/  - authorize there with this token:");
    say!("{}", tokens.mint(&claims)?);
    say!("Ctrl-C ends it; nothing of it is kept.");
    signals.wait().await;
    Ok(())
}

/// Raises a renewal as one person, approves it as others, follows it to its end and checks what it left.
async fn renew(config: &Config, service: &Service, lab: &lab::Lab) -> anyhow::Result<()> {
    let address = service.address.context("the service has no API")?;
    let person = |name: &str, role| Client::new(config, address, name, role);
    let alice = person("alice@contoso.example", TokenRole::Requester)?;
    let bob = person("bob@contoso.example", TokenRole::Approver)?;
    let carol = person("carol@contoso.example", TokenRole::Approver)?;
    let begun = Instant::now();
    let tenant = if lab.cloud().is_some() { " and a tenant" } else { "" };
    show::title(&format!(
        "A lab of {} Exchange servers{tenant} is up; its clock runs {SCALE} times as fast as yours",
        lab.servers().len()
    ));
    let request = json!({
        "organization": lab.organization_id(),
        "ticket": { "system": "servicenow", "number": "CHG0030022" },
        "note": "The Auth certificate expires in 45 days",
    });
    let renewal = alice.post("/v1/renewals", &request).await?;
    let id = renewal["id"].as_str().context("the renewal has no id")?.to_owned();
    say!("alice@contoso.example asked for renewal {id} (CHG0030022)");
    follow(&alice, &id, [&bob, &carol]).await?;
    let auditor = person("dora@contoso.example", TokenRole::Auditor)?;
    conclude(&auditor, &id, lab, begun).await
}

/// Shows every entry of the record as it comes, and decides where people are asked.
async fn follow(reader: &Client, id: &str, approvers: [&Client; 2]) -> anyhow::Result<()> {
    let mut after = 0;
    loop {
        let events = reader.get(&format!("/v1/renewals/{id}/events?after={after}&wait_seconds=20")).await?;
        for entry in events["items"].as_array().context("events are a list")? {
            after = entry["sequence"].as_i64().context("an entry has a sequence")?;
            show::entry(entry);
            match entry["action"].as_str().unwrap_or_default() {
                "plan.made" => show_plan(reader, id).await?,
                "renewal.awaiting_approval" => decide(reader, id, entry, approvers).await?,
                "renewal.succeeded" => return Ok(()),
                "step.needs_attention" => bail!("a step needs a person: {}", entry["detail"]["trouble"]["message"]),
                "renewal.failed" | "renewal.rejected" | "renewal.expired" | "renewal.cancelled" => {
                    bail!("the renewal ended otherwise: {}", entry["detail"])
                }
                _ => {}
            }
        }
    }
}

async fn show_plan(reader: &Client, id: &str) -> anyhow::Result<()> {
    let plan = reader.get(&format!("/v1/renewals/{id}/plan")).await?;
    show::plan(&plan);
    let matrix = reader.get("/v1/organizations/contoso/certificates").await?;
    show::title("Certificates before");
    show::matrix(&matrix);
    show::title("Run");
    Ok(())
}

/// The last gate is another person's.
async fn decide(reader: &Client, id: &str, entry: &Json, [first, second]: [&Client; 2]) -> anyhow::Result<()> {
    let state = &entry["detail"]["state"];
    let (gate, digest) = (&state["gate"], &state["digest"]);
    let approver = if gate == "clear_previous" { second } else { first };
    let reason = match gate.as_str() {
        Some("execute") => "Read the plan; servers and cmdlets are as expected",
        Some("publish") => "Every server holds the new certificate",
        _ => "A day of green checks",
    };
    // The person who asked may not approve: the service refuses it.
    let decision = json!({ "gate": gate, "verb": "approve", "plan_digest": digest, "reason": reason });
    if gate == "execute" {
        let refused = reader.post(&format!("/v1/renewals/{id}/decisions"), &decision).await;
        ensure!(refused.is_err(), "the requester could approve their own renewal");
    }
    approver.post(&format!("/v1/renewals/{id}/decisions"), &decision).await?;
    Ok(())
}

/// Shows what came out, and checks what an auditor would check.
async fn conclude(auditor: &Client, id: &str, lab: &lab::Lab, begun: Instant) -> anyhow::Result<()> {
    show::title("Certificates after");
    show::matrix(&auditor.get("/v1/organizations/contoso/certificates").await?);
    let pack = auditor.get(&format!("/v1/renewals/{id}/evidence")).await?;
    show::title("Evidence");
    verify(&pack)?;
    let trust = lab.report().trust;
    say!("  renewal {id} succeeded after {:.1} s", begun.elapsed().as_secs_f64());
    say!("\nTrust probe: {} checked, {} refused", trust.checked, trust.refused);
    show::legs(&trust);
    say!("Renewal: {}", pack["renewal"]["state"]["status"].as_str().unwrap_or_default());
    ensure!(trust.refused == 0, "tokens were refused: {:?}", trust.refusals);
    Ok(())
}

fn verify(pack: &Json) -> anyhow::Result<()> {
    let text = pack["plan"]["canonical"].as_str().context("the evidence has no plan")?;
    let digest = Digest::of(text.as_bytes());
    ensure!(pack["plan"]["digest"] == digest.as_str(), "the plan is not the one that was approved");
    say!("  plan       {digest} is the SHA-256 of its text");
    let audit = pack["audit"].as_array().context("the evidence has no audit")?;
    let gapless = (1..).zip(audit).all(|(n, entry)| entry["sequence"] == n);
    ensure!(gapless, "the record has gaps");
    let count = |action: &str| audit.iter().filter(|entry| entry["action"] == action).count();
    ensure!(count("key.sealed") == 1 && count("key.destroyed") == 1, "the new key was not destroyed");
    say!("  record     {} entries without a gap, {} cmdlets with their intent", audit.len(), count("cmdlet.intended"));
    say!("  key        sealed once, destroyed when every server had it");
    let steps = pack["steps"].as_array().context("the evidence has no steps")?;
    let open = steps.iter().filter(|s| !matches!(s["status"].as_str(), Some("succeeded" | "skipped"))).count();
    ensure!(open == 0, "{open} steps are not over");
    let closing = steps.iter().find(|s| s["kind"] == "close").context("there is no closing step")?;
    let checks = closing["outcome"]["evidence"].as_array().context("the closing step has no evidence")?;
    ensure!(checks.iter().all(|check| check["result"] == "passed"), "a closing check has not passed: {checks:?}");
    say!("  checks     {} closing checks, all passed", checks.len());
    Ok(())
}
