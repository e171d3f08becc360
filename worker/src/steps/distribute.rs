//! Bring the certificate with its key to one server, over that server's own endpoint.

use db::StepEnd;
use domain::{
    Outcome, Thumbprint, Trouble,
    plan::{PfxAlgorithm, PlannedServer},
    snapshot::Key,
};

use super::{Context, Ended, Result, StepError};
use crate::{
    connectors::Session,
    discovery::on,
    exchange::{self, CommandError},
    pfx::{self, FriendlyName},
    sealing::KeyPair,
    windows,
};

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    let thumbprint = context.thumbprint()?;
    let endpoint = context.exchange_on(context.target())?;
    let imported = on(&endpoint, async |session| bring(context, session, &thumbprint).await).await?;
    let key = check_key(context, &thumbprint).await?;
    let already_present = imported.is_none();
    let outcome = Outcome::Distributed {
        thumbprint,
        pfx: imported.map(|algorithm| algorithm.as_str().to_owned()),
        key,
        already_present,
    };
    Ok(Ended::With(StepEnd::Done(outcome)))
}

/// Imports the certificate if the server lacks it. `None` when it was there.
async fn bring(context: &Context<'_>, session: &mut Session, thumbprint: &Thumbprint) -> Result<Option<PfxAlgorithm>> {
    let server = context.target();
    // Refuses to go on when somebody else changed AuthConfig meanwhile.
    context.place(session, context.pinned()?).await?;
    if exchange::certificate(session, server, thumbprint).await?.is_some() {
        return Ok(None);
    }
    let planned = planned(context)?;
    let pair = open_key(context).await?;
    let answer = {
        let password = pfx::random_password().map_err(|error| not_made(&error.to_string()))?;
        let file = encode(context, planned.pfx, &pair, &password)?;
        context.mutate(session, exchange::import(server, &file, &password)).await?
    };
    if exchange::certificate(session, server, thumbprint).await?.is_some() {
        return Ok(Some(planned.pfx));
    }
    Err(match exchange::succeed("Import-ExchangeCertificate", answer) {
        Err(error) => refused(server, planned.pfx, error),
        Ok(_) => StepError::Retry(super::no_effect("Import-ExchangeCertificate")),
    })
}

fn planned<'a>(context: &'a Context<'_>) -> Result<&'a PlannedServer> {
    let unknown =
        || Trouble::new("server_not_planned", "The plan does not name this server", "Cancel and raise it again");
    context.plan()?.server(context.target()).ok_or_else(|| StepError::Attention(unknown()))
}

async fn open_key(context: &Context<'_>) -> Result<KeyPair> {
    let renewal = context.claimed.run.renewal.id;
    let sealed = context.worker.db.read(async |tx| tx.sealed_key(renewal).await).await?;
    let sealed = sealed.ok_or_else(|| {
        StepError::Attention(Trouble::new(
            "key_destroyed",
            "The new key was destroyed already, and this server lacks the certificate",
            "Export the certificate from a server that has it and import it here by hand, then retry",
        ))
    })?;
    context.worker.sealer.open(renewal, &sealed).map_err(|error| {
        StepError::Attention(Trouble::new(
            "key_cannot_be_opened",
            error.to_string(),
            "Start the worker with the seal key that the renewal began with, then retry",
        ))
    })
}

fn encode(
    context: &Context<'_>,
    algorithm: PfxAlgorithm,
    pair: &KeyPair,
    password: &secrecy::SecretString,
) -> Result<zeroize::Zeroizing<Vec<u8>>> {
    let name = format!("{} {}", crate::certificate::COMMON_NAME, context.now().format("%Y-%m-%d"));
    let friendly_name = FriendlyName::parse(&name).map_err(|error| not_made(&error.to_string()))?;
    let contents = pfx::Contents {
        certificate_der: &pair.certificate_der,
        private_key_pkcs8: &pair.private_key_pkcs8,
        friendly_name: &friendly_name,
    };
    let algorithm = match algorithm {
        PfxAlgorithm::Aes256Sha256 => pfx::Algorithm::Aes256Sha256,
        PfxAlgorithm::TripleDesSha1 => pfx::Algorithm::TripleDesSha1,
    };
    pfx::encode(&contents, password, algorithm).map_err(|error| not_made(&error.to_string()))
}

/// Exchange accepts a key in a key storage provider and fails with it at run time: such a server stops the run before publication.
async fn check_key(context: &Context<'_>, thumbprint: &Thumbprint) -> Result<Key> {
    let Some(endpoint) = context.managed.endpoints.windows_on(context.target()) else { return Ok(Key::NotChecked) };
    let key = on(&endpoint, async |session| windows::key(session, thumbprint).await).await?;
    let wrong = |code: &str, what: &str| {
        let message = format!("On {} the new certificate {what}", context.target());
        let action = format!("Remove it there (Remove-ExchangeCertificate -Thumbprint {thumbprint}), then retry");
        Err(StepError::Attention(Trouble::new(code, message, action)))
    };
    match key {
        Key::Csp | Key::NotChecked => Ok(key),
        Key::Ksp => wrong("key_in_ksp", "has its key in a key storage provider, which Exchange cannot sign with"),
        Key::Missing => wrong("key_missing", "has no private key"),
    }
}

fn not_made(why: &str) -> StepError {
    StepError::Attention(Trouble::new(
        "pfx_not_made",
        format!("The PFX could not be made: {why}"),
        "Retry; if it stays, cancel and report it with the log",
    ))
}

fn refused(server: &str, algorithm: PfxAlgorithm, error: CommandError) -> StepError {
    let CommandError::Failed { .. } = &error else { return error.into() };
    let hint = match algorithm {
        PfxAlgorithm::Aes256Sha256 => {
            "Windows before Server 2019 cannot read its AES encryption: check the server's version"
        }
        PfxAlgorithm::TripleDesSha1 => "Check the server's event log and the machine key folder's permissions",
    };
    StepError::Attention(Trouble::new(
        "pfx_refused",
        format!("{server} refused the certificate: {error}"),
        format!("{hint}; then retry, or cancel"),
    ))
}
