//! Make the certificate and keep its key sealed; or take over the one that is staged already, whose date is pushed out first.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use db::{Purpose, SealedKey, StepEnd};
use domain::{
    Outcome, Place, Thumbprint, Trouble,
    audit::NewAudit,
    plan::CertificateSource,
    progress::GUARD,
    snapshot::{AuthConfig, Server},
};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Context, Ended, Result, StepError,
    stage::{CLOSE_ENOUGH, REPLICATION, lead},
};
use crate::{
    certificate::{self, AuthCertificate, KeySize},
    connectors::Session,
    discovery::on,
    exchange, pfx,
    sealing::KeyPair,
};

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    match &context.plan()?.certificate {
        CertificateSource::Generate { key_size, lifetime_days } => {
            check_unchanged(context).await?;
            make(context, *key_size, *lifetime_days).await
        }
        CertificateSource::Adopt { thumbprint, from } => {
            // Order: its date may be near, and a look at the whole organization takes its time.
            let held_off = context.on_any(async |session| hold_off(context, session).await).await?;
            let HeldOff::Until(date) = held_off else { return Ok(context.again(REPLICATION, None)) };
            check_unchanged(context).await?;
            take_over(context, thumbprint, from, date).await
        }
    }
}

/// What has become of the date of a certificate that somebody has staged before.
enum HeldOff {
    /// Every domain controller shows that Exchange publishes it then and not before, or that it has done so already. Nothing where it is not staged any more.
    Until(Option<DateTime<Utc>>),
    /// Not every domain controller shows it yet.
    NotYet,
}

/// Exchange publishes at the date of whoever has staged it, whether or not every server and Entra have the key by then: that comes only after this.
async fn hold_off(context: &Context<'_>, session: &mut Session) -> Result<HeldOff> {
    let (place, seen) = context.place(session, context.pinned()?).await?;
    let date = match place {
        Place::Before => return Ok(HeldOff::Until(None)),
        Place::Staged => push_out(context, session, &seen).await?,
        // The guard of the publication takes down what lacked its key.
        _ => context.now(),
    };
    let shown = |place: Place, seen: &AuthConfig| {
        place >= Place::Published || seen.next_effective_at.is_some_and(|at| at >= date)
    };
    let (_, complete) = context.replicated(session, shown).await?;
    Ok(if complete || place >= Place::Published { HeldOff::Until(Some(date)) } else { HeldOff::NotYet })
}

/// The date at which Exchange publishes it by itself, which is not near.
async fn push_out(context: &Context<'_>, session: &mut Session, seen: &AuthConfig) -> Result<DateTime<Utc>> {
    let (now, hold) = (context.now(), lead(context.plan()?.held_off_hours()));
    // A date that this step has set only waits to be replicated.
    let least =
        if context.intended("-NewCertificateEffectiveDate").await? { now + GUARD } else { now + hold - CLOSE_ENOUGH };
    if let Some(date) = seen.next_effective_at.filter(|date| *date >= least) {
        return Ok(date);
    }
    let command = exchange::stage(&context.thumbprint()?, now + hold, context.pinned()?);
    let moved = |place: Place, after: &AuthConfig| {
        place >= Place::Published
            || after.next_effective_at.is_some_and(|at| seen.next_effective_at.is_none_or(|before| at > before))
    };
    let after = context.change_auth_config(session, command, moved).await?;
    Ok(after.next_effective_at.unwrap_or(now))
}

/// The plan may be days old, and a database that was restored from a backup does not know what this run has done after it: no second certificate is
/// made where there is one already.
async fn check_unchanged(context: &Context<'_>) -> Result<()> {
    context.on_any(async |session| context.place(session, context.pinned()?).await).await?;
    let renewal = context.claimed.run.renewal.id;
    let before = context.worker.db.read(async |tx| tx.snapshot_of(renewal, Purpose::Before).await).await?;
    let Some(before) = before else { return Ok(()) };
    let now = context.look().await?;
    // Exchange itself brings a staged certificate to more servers.
    let adopted = context.plan()?.adopted();
    let added = |server: &Server| {
        let known = before.servers.iter().find(|known| known.fqdn == server.fqdn && known.is_reachable())?;
        let is_new = |thumbprint: &Thumbprint| known.certificate(thumbprint).is_none() && adopted != Some(thumbprint);
        let new = server.certificates().iter().find(|certificate| is_new(&certificate.thumbprint))?;
        Some(format!("{} on {}", new.thumbprint, server.fqdn))
    };
    let added: Vec<String> = now.participants().filter_map(added).collect();
    if added.is_empty() { Ok(()) } else { Err(StepError::Attention(certificates_changed(&added))) }
}

fn certificates_changed(added: &[String]) -> Trouble {
    Trouble::new(
        "certificates_changed",
        format!("There are Auth certificates that the plan did not see: {}", added.join(", ")),
        "Find out whose they are; if rekey was restored from a backup, this run has made them. Cancel and raise a new renewal, whose plan sees them; or remove them and retry",
    )
}

async fn make(context: &Context<'_>, key_size: u32, lifetime_days: u32) -> Result<Ended> {
    let key_size = KeySize::try_from(key_size).map_err(|error| impossible(&error.to_string()))?;
    let request = certificate::Request { key_size, lifetime_days, now: context.now() };
    let made = tokio::task::spawn_blocking(move || AuthCertificate::generate(&request)).await;
    let made = made.map_err(|error| impossible(&error.to_string()))?.map_err(|error| impossible(&error.to_string()))?;
    let pair = KeyPair { certificate_der: made.certificate_der, private_key_pkcs8: made.private_key_pkcs8 };
    // Looked at as any other certificate would be, from what was encoded.
    let outcome = describe(&pair.certificate_der, false, None)?;
    store(context, Some(&pair), outcome).await
}

async fn take_over(
    context: &Context<'_>,
    thumbprint: &Thumbprint,
    from: &str,
    exchange_publishes_at: Option<DateTime<Utc>>,
) -> Result<Ended> {
    let endpoint = context.exchange_on(from)?;
    let password = pfx::random_password().map_err(|error| impossible(&error.to_string()))?;
    let exported = on(&endpoint, async |session| exchange::export(session, from, thumbprint, &password).await).await?;
    let opened =
        pfx::decode(&Zeroizing::new(exported), &password).map_err(|error| not_exportable(from, &error.to_string()))?;
    let pair = KeyPair { certificate_der: opened.certificate_der, private_key_pkcs8: opened.private_key_pkcs8 };
    if pair.thumbprint() != *thumbprint {
        return Err(not_exportable(from, "the server exported another certificate"));
    }
    let outcome = describe(&pair.certificate_der, true, exchange_publishes_at)?;
    store(context, Some(&pair), outcome).await
}

fn describe(der: &[u8], adopted: bool, exchange_publishes_at: Option<DateTime<Utc>>) -> Result<Outcome> {
    let seen = certificate::inspect(der).map_err(|error| impossible(&error.to_string()))?;
    let certificate::Inspection { thumbprint, not_before, not_after, .. } = seen;
    let certificate = Some(STANDARD.encode(der));
    Ok(Outcome::Generated { thumbprint, not_before, not_after, adopted, certificate, exchange_publishes_at })
}

/// The key and the end of the step are one transaction: there is never a second key, and never an outcome without its key.
async fn store(context: &Context<'_>, pair: Option<&KeyPair>, outcome: Outcome) -> Result<Ended> {
    let (claimed, name, now) = (context.claimed, context.worker.name.as_str(), context.now());
    let renewal = claimed.run.renewal.id;
    let sealed: Option<SealedKey> = pair.map(|pair| context.worker.sealer.seal(renewal, pair));
    let end = StepEnd::Done(outcome);
    let written = context.worker.db.write(async |tx| {
        if let Some(sealed) = &sealed {
            tx.insert_sealed_key(renewal, sealed, now).await?;
            let detail = json!({ "thumbprint": sealed.thumbprint, "how": "AES-256-GCM" });
            tx.record(claimed, NewAudit::new(name, "key.sealed", detail), now).await?;
        }
        tx.finish_step(claimed, name, &end, now).await
    });
    written.await?;
    Ok(Ended::Stored)
}

fn impossible(why: &str) -> StepError {
    StepError::Attention(Trouble::new(
        "certificate_not_made",
        format!("The certificate could not be made: {why}"),
        "Retry; if it stays, cancel and report it with the log",
    ))
}

fn not_exportable(from: &str, why: &str) -> StepError {
    StepError::Attention(Trouble::new(
        "key_not_exportable",
        format!("The staged certificate cannot be taken over from {from}: {why}"),
        "Cancel; clear the staged certificate (Set-AuthConfig -NewCertificateThumbprint $null) and raise a new renewal, which makes one",
    ))
}
