//! Get-AuthConfig and Set-AuthConfig (domain.md 1.10, 6.3, 6.4).

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Call, Cmdlet, Output, Refusal,
    refusal::{self, Category, task},
    shapes,
};
use crate::{
    certificate::Thumbprint,
    directory::AuthConfig,
    journal::EffectKind,
    organization::Rule,
    server::{Entry, Export},
    world::Outcome,
};

pub(super) const CMDLETS: &[Cmdlet] = &[
    Cmdlet {
        name: "Get-AuthConfig",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.GetAuthConfig",
        parameters: &["DomainController"],
        run: get,
    },
    Cmdlet {
        name: "Set-AuthConfig",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.SetAuthConfig",
        parameters: &[
            "DomainController",
            "CertificateThumbprint",
            "ClearPreviousCertificate",
            "Force",
            "NewCertificateEffectiveDate",
            "NewCertificateThumbprint",
            "PublishCertificate",
            "Realm",
            "Server",
            "ServiceName",
            "SkipImmediateCertificateDeployment",
        ],
        run: set,
    },
];

/// The shortest lead that does not prompt.
const UNHURRIED: TimeDelta = TimeDelta::hours(48);
/// How far in the past a date may be.
const TOLERANCE: TimeDelta = TimeDelta::minutes(5);

fn get(call: &mut Call<'_>) -> Result<Output, Refusal> {
    let controller = &call.world_ref().directory().controllers()[call.controller()?];
    Output::of([shapes::auth_config(controller, &call.world_ref().organization().id)])
}

/// What Set-AuthConfig is asked to do: its parameter sets.
enum Wish {
    ClearNext,
    ClearPrevious,
    MoveDate(DateTime<Utc>),
    Nothing,
    Publish,
    PublishAndClearPrevious,
    Replace(Thumbprint),
    Stage(Thumbprint, Option<DateTime<Utc>>),
}

impl Wish {
    fn read(call: &Call<'_>) -> Result<Self, Refusal> {
        if call.value("Realm").is_some() || call.value("ServiceName").is_some() {
            return Err(refusal::not_simulated("the settings of Set-AuthConfig"));
        }
        let date = call.date("NewCertificateEffectiveDate")?;
        let next = call.value("NewCertificateThumbprint").is_some();
        let current = call.value("CertificateThumbprint").is_some();
        let (publish, clear) = (call.is_set("PublishCertificate"), call.is_set("ClearPreviousCertificate"));
        match (next || date.is_some(), publish || clear, current) {
            (true, false, false) => Self::read_next(call, date),
            (false, true, false) if publish && clear => Ok(Self::PublishAndClearPrevious),
            (false, true, false) if publish => Ok(Self::Publish),
            (false, true, false) => Ok(Self::ClearPrevious),
            (false, false, true) => Ok(Self::Replace(call.thumbprint("CertificateThumbprint")?)),
            (false, false, false) => Ok(Self::Nothing),
            _ => Err(refusal::ambiguous_parameters()),
        }
    }

    fn read_next(call: &Call<'_>, date: Option<DateTime<Utc>>) -> Result<Self, Refusal> {
        let named = call.text("NewCertificateThumbprint").is_some();
        let given = call.value("NewCertificateThumbprint").is_some();
        match date {
            _ if named => Ok(Self::Stage(call.thumbprint("NewCertificateThumbprint")?, date)),
            _ if given => Ok(Self::ClearNext),
            Some(date) => Ok(Self::MoveDate(date)),
            None => Ok(Self::Nothing),
        }
    }
}

fn set(call: &mut Call<'_>) -> Result<Output, Refusal> {
    let controller = call.controller()?;
    let config = call.world_ref().directory().controllers()[controller].auth_config.clone();
    match Wish::read(call)? {
        Wish::ClearNext => {
            prompt_unless_forced(call, "Remove the staged certificate?")?;
            write(call, EffectKind::ClearNext, config.next.as_ref(), AuthConfig::clear_next)?;
        }
        Wish::ClearPrevious => {
            write(call, EffectKind::ClearPrevious, config.previous.as_ref(), |c| c.previous = None)?;
        }
        Wish::MoveDate(date) => move_date(call, &config, date)?,
        Wish::Nothing => call.warn("The command completed successfully but no settings of AuthConfig were modified."),
        Wish::Publish => publish(call, &config)?,
        Wish::PublishAndClearPrevious => {
            publish(call, &config)?;
            write(call, EffectKind::ClearPrevious, config.current.as_ref(), |c| c.previous = None)?;
        }
        Wish::Replace(thumbprint) => replace(call, &config, &thumbprint)?,
        Wish::Stage(thumbprint, date) => stage(call, &config, &thumbprint, date)?,
    }
    Output::none()
}

fn stage(
    call: &mut Call<'_>,
    config: &AuthConfig,
    thumbprint: &Thumbprint,
    date: Option<DateTime<Utc>>,
) -> Result<(), Refusal> {
    let date = match date {
        Some(date) => Some(date),
        None if enforced(call, Rule::DateWithThumbprint) => {
            let message = "A new certificate needs the date from which it is effective.";
            return Err(task("ErrorAuthSetNewEffectDate", Category::InvalidArgument, message));
        }
        None => None,
    };
    let effective = date.unwrap_or_else(|| now(call));
    check_date(call, effective)?;
    check_certificate(call, thumbprint, effective)?;
    if enforced(call, Rule::NotCurrent) && config.current.as_ref() == Some(thumbprint) {
        let message = "The new certificate is the current one.";
        return Err(task("ErrorAuthSameAsCurrent", Category::InvalidArgument, message));
    }
    if config.previous.as_ref() == Some(thumbprint) {
        call.warn("The new certificate is the previous one.");
    }
    let other = config.next.as_ref().is_some_and(|next| next != thumbprint);
    if other && enforced(call, Rule::PromptOtherNext) {
        prompt_unless_forced(call, "Another certificate is staged. Replace it?")?;
    }
    prompt_for_early_date(call, effective)?;
    write(call, EffectKind::SetAuthConfigNext, Some(thumbprint), |c| {
        (c.next, c.next_effective) = (Some(thumbprint.clone()), Some(effective));
    })?;
    deploy(call, thumbprint)
}

fn move_date(call: &mut Call<'_>, config: &AuthConfig, date: DateTime<Utc>) -> Result<(), Refusal> {
    if config.next.is_none() && enforced(call, Rule::DateNeedsNext) {
        let message = "No certificate is staged whose date could be moved.";
        return Err(task("ErrorAuthSetNewEffectDate", Category::InvalidArgument, message));
    }
    check_date(call, date)?;
    prompt_for_early_date(call, date)?;
    write(call, EffectKind::SetAuthConfigNext, config.next.as_ref(), |c| c.next_effective = Some(date))
}

/// No check that any server has the key: that is the danger.
fn publish(call: &mut Call<'_>, config: &AuthConfig) -> Result<(), Refusal> {
    if config.next.is_none() && enforced(call, Rule::PublishNeedsNext) {
        return Err(refusal::no_next_certificate());
    }
    let early = config.next_effective.is_some_and(|date| date > now(call));
    if early && enforced(call, Rule::PromptEarlyPublish) {
        prompt_unless_forced(call, "The certificate is not effective yet. Publish it?")?;
    }
    write(call, EffectKind::Publish, config.next.as_ref(), |c| {
        if c.next.is_some() {
            c.publish();
        }
    })
}

fn replace(call: &mut Call<'_>, config: &AuthConfig, thumbprint: &Thumbprint) -> Result<(), Refusal> {
    if config.next.as_ref() == Some(thumbprint) && enforced(call, Rule::NotStaged) {
        let message = "The certificate is staged already: publish it.";
        return Err(task("ErrorCertificateAlreadyinPublish", Category::InvalidArgument, message));
    }
    check_certificate(call, thumbprint, now(call))?;
    prompt_unless_forced(call, "Replacing the current certificate at once interrupts authentication. Go on?")?;
    write(call, EffectKind::SetAuthConfigCurrent, Some(thumbprint), |c| {
        if c.current.as_ref() != Some(thumbprint) {
            c.previous = c.current.replace(thumbprint.clone());
        }
    })?;
    deploy(call, thumbprint)
}

/// Brings the certificate to the servers of the executing server's site ([L] `SkipImmediateCertificateDeployment`). What a
/// failure does is not known; here it warns.
fn deploy(call: &mut Call<'_>, thumbprint: &Thumbprint) -> Result<(), Refusal> {
    if call.is_set("SkipImmediateCertificateDeployment") {
        return Ok(());
    }
    let (origin, user) = (call.target()?, call.session().user.clone());
    let site = call.world_ref().server(origin).spec.site.clone();
    for server in 0..call.world_ref().servers().len() {
        let there = call.world_ref().server(server);
        if there.spec.site != site || there.store.find(thumbprint).is_some() {
            continue;
        }
        if there.is_up() {
            call.world().fetch(server, thumbprint, &format!("Set-AuthConfig of {user}"));
        } else {
            let name = there.spec.name.clone();
            call.warn(format!("The certificate could not be deployed to {name}."));
        }
    }
    Ok(())
}

fn check_date(call: &Call<'_>, date: DateTime<Utc>) -> Result<(), Refusal> {
    if enforced(call, Rule::DateNotPast) && date < now(call) - TOLERANCE {
        let message = "The effective date is in the past.";
        return Err(task("ErrorAuthInvalidNewEffectiveDate", Category::InvalidArgument, message));
    }
    Ok(())
}

fn prompt_for_early_date(call: &Call<'_>, date: DateTime<Utc>) -> Result<(), Refusal> {
    if enforced(call, Rule::PromptEarlyDate) && date < now(call) + UNHURRIED {
        return prompt_unless_forced(call, "The effective date is less than 48 hours away. Go on?");
    }
    Ok(())
}

fn check_certificate(call: &Call<'_>, thumbprint: &Thumbprint, date: DateTime<Utc>) -> Result<(), Refusal> {
    let unreachable = |_| {
        let message = "The server whose store was to be looked at does not answer.";
        task("ErrorCannotContactServerForCert", Category::InvalidOperation, message)
    };
    let server = call.world_ref().server(call.target().map_err(unreachable)?);
    let Some(entry) = server.store.find(thumbprint) else {
        let message = format!("The certificate {thumbprint} is not on {}.", server.spec.name);
        let missing = || task("ErrorThumbprintNotFound", Category::InvalidArgument, message);
        return if enforced(call, Rule::InStore) { Err(missing()) } else { Ok(()) };
    };
    check_fitness(call, entry)?;
    check_validity(call, entry, date)
}

fn check_fitness(call: &Call<'_>, entry: &Entry) -> Result<(), Refusal> {
    let thumbprint = entry.certificate.thumbprint.as_str();
    let reason = entry.certificate.unfit.or_else(|| entry.key.is_none().then_some("PrivateKeyMissing"));
    if let Some(reason) = reason.filter(|_| enforced(call, Rule::FitForExchange)) {
        return Err(refusal::not_valid_for_exchange(thumbprint, reason));
    }
    let kept = entry.key.as_ref().is_some_and(|key| key.export == Export::Refused);
    if kept && enforced(call, Rule::Exportable) && !call.is_set("Force") {
        let message = "The private key cannot be exported, so no other server can get it.";
        return Err(task("ErrorCertificateNotExportable", Category::InvalidOperation, message));
    }
    Ok(())
}

fn check_validity(call: &Call<'_>, entry: &Entry, date: DateTime<Utc>) -> Result<(), Refusal> {
    if enforced(call, Rule::ValidNow) && !entry.certificate.is_valid_at(now(call)) {
        let message = "The certificate is expired or not yet valid.";
        return Err(task("ErrorAuthCertificateNotValid", Category::InvalidArgument, message));
    }
    if enforced(call, Rule::OutlivesDate) && entry.certificate.not_after <= date {
        let message = "The certificate expires before the effective date.";
        return Err(task("ErrorAuthNewCertificateExpire", Category::InvalidArgument, message));
    }
    Ok(())
}

fn prompt_unless_forced(call: &Call<'_>, question: &str) -> Result<(), Refusal> {
    if call.is_set("Force") { Ok(()) } else { Err(refusal::prompt(question)) }
}

fn enforced(call: &Call<'_>, rule: Rule) -> bool {
    call.world_ref().organization().rules.enforce(rule)
}

/// By the clock of the server that executes.
fn now(call: &Call<'_>) -> DateTime<Utc> {
    call.here().local_time(call.world_ref().now())
}

/// Writes if there is anything to write, and records either way.
fn write(
    call: &mut Call<'_>,
    kind: EffectKind,
    about: Option<&Thumbprint>,
    change: impl FnOnce(&mut AuthConfig),
) -> Result<(), Refusal> {
    let (controller, user) = (call.controller()?, call.session().user.clone());
    let world = call.world();
    let before = &world.directory().controllers()[controller];
    let (place, mut after) = (before.fqdn.clone(), before.auth_config.clone());
    change(&mut after);
    let outcome = Outcome::of(!after.says_the_same_as(&before.auth_config));
    if outcome == Outcome::Changed {
        world.write_auth_config(controller, |config| *config = after);
    }
    world.record(kind, &place, about, outcome, &user);
    Ok(())
}
