//! The ExchangeCertificate cmdlets (domain.md 1.10, 6.3, 6.5).

use std::sync::Arc;

use psrp::Value;
use rcgen::RsaKeySize;

use super::{
    Call, Cmdlet, Output, Refusal,
    refusal::{self, Category, task},
    shapes,
};
use crate::{
    certificate::{self, Request},
    journal::EffectKind,
    pfx,
    server::{Entry, Export, Provider, Server, Services, StoredKey},
    world::Outcome,
};

pub(super) const CMDLETS: &[Cmdlet] = &[
    Cmdlet {
        name: "Get-ExchangeCertificate",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.GetExchangeCertificate",
        parameters: &["Thumbprint", "Server", "DomainController"],
        run: get,
    },
    Cmdlet {
        name: "Import-ExchangeCertificate",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.ImportExchangeCertificate",
        parameters: &["FileData", "Password", "PrivateKeyExportable", "FriendlyName", "Server", "DomainController"],
        run: import,
    },
    Cmdlet {
        name: "Export-ExchangeCertificate",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.ExportExchangeCertificate",
        parameters: &["Thumbprint", "Server", "BinaryEncoded", "Password", "DomainController"],
        run: export,
    },
    Cmdlet {
        name: "Remove-ExchangeCertificate",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.RemoveExchangeCertificate",
        parameters: &["Thumbprint", "Server", "DomainController"],
        run: remove,
    },
    Cmdlet {
        name: "Enable-ExchangeCertificate",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.EnableExchangeCertificate",
        parameters: &[
            "Thumbprint",
            "Server",
            "Services",
            "Force",
            "NetworkServiceAllowed",
            "DoNotRequireSsl",
            "DomainController",
        ],
        run: enable,
    },
    Cmdlet {
        name: "New-ExchangeCertificate",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.NewExchangeCertificate",
        parameters: &[
            "Server",
            "KeySize",
            "PrivateKeyExportable",
            "SubjectName",
            "FriendlyName",
            "DomainName",
            "Services",
            "SubjectKeyIdentifier",
            "Force",
            "DomainController",
        ],
        run: make,
    },
];

fn get(call: &mut Call<'_>) -> Result<Output, Refusal> {
    call.controller()?;
    let target = call.target()?;
    let server = call.world_ref().server(target);
    let shown = |entry: &Entry| shapes::exchange_certificate(&entry.certificate, &call.here().spec.fqdn);
    if call.text("Thumbprint").is_some() {
        return Output::of([shown(entry_of(call, server)?)]);
    }
    Output::of(server.store.entries().map(shown))
}

fn import(call: &mut Call<'_>) -> Result<Output, Refusal> {
    call.controller()?;
    let target = call.target()?;
    let bytes = call.value("FileData").ok_or_else(|| refusal::missing_parameter("FileData"))?;
    let bytes = bytes.as_bytes().ok_or_else(|| refusal::bad_value("FileData"))?;
    let Server { spec, store, key_provider, .. } = call.world_ref().server(target);
    let contents = pfx::read(bytes, call.secret("Password")?.expose(), spec.windows_build)
        .map_err(|_| refusal::pfx_refused(&spec.name))?;
    let thumbprint = contents.certificate.thumbprint.clone();
    if store.find(&thumbprint).is_some() {
        return Err(refusal::already_exists(&spec.name, thumbprint.as_str()));
    }
    let provider = match (key_provider, &contents.provider) {
        (Provider::Csp(_), Some(named)) => Provider::named(named),
        (fixed, _) => fixed.clone(),
    };
    let export = if call.is_set("PrivateKeyExportable") { Export::Allowed } else { Export::Refused };
    let friendly_name = call.text("FriendlyName").or(contents.friendly_name).unwrap_or_default();
    let shown = shapes::exchange_certificate(&contents.certificate, &call.here().spec.fqdn);
    let key = StoredKey { key: contents.key, export, provider };
    let (place, user) = (spec.fqdn.clone(), call.session().user.clone());
    call.world().put(target, Arc::new(contents.certificate), Some(key), &friendly_name);
    call.world().record(EffectKind::Import, &place, Some(&thumbprint), Outcome::Changed, &user);
    Output::of([shown])
}

fn export(call: &mut Call<'_>) -> Result<Output, Refusal> {
    let server = call.world_ref().server(call.target()?);
    let entry = entry_of(call, server)?;
    let refused = || refusal::not_exportable(&server.spec.name);
    let key = entry.key.as_ref().filter(|key| key.export == Export::Allowed).ok_or_else(refused)?;
    let password = call.secret("Password")?;
    let bytes = pfx::write(&entry.certificate, &key.key, password.expose()).map_err(|_| refused())?;
    Output::of([shapes::exported(bytes, &call.here().spec.fqdn)])
}

fn remove(call: &mut Call<'_>) -> Result<Output, Refusal> {
    let target = call.target()?;
    let server = call.world_ref().server(target);
    let thumbprint = entry_of(call, server)?.certificate.thumbprint.clone();
    if server.default_smtp.as_ref() == Some(&thumbprint) {
        let message = "The internal transport certificate cannot be removed because it is in use.";
        return Err(task("CannotRemoveInternalTransportCertificate", Category::InvalidArgument, message));
    }
    if !call.is_confirmed() {
        return Err(refusal::prompt("Are you sure you want to remove the certificate?"));
    }
    let (place, user) = (server.spec.fqdn.clone(), call.session().user.clone());
    call.world().server_mut(target).store.remove(&thumbprint);
    call.world().look();
    call.world().record(EffectKind::Remove, &place, Some(&thumbprint), Outcome::Changed, &user);
    Output::none()
}

/// Services are only ever added.
fn enable(call: &mut Call<'_>) -> Result<Output, Refusal> {
    let target = call.target()?;
    let services = services(call, Services::default())?;
    let server = call.world_ref().server(target);
    let entry = entry_of(call, server)?;
    let thumbprint = entry.certificate.thumbprint.clone();
    if entry.key.is_none() {
        return Err(refusal::not_valid_for_exchange(thumbprint.as_str(), "PrivateKeyMissing"));
    }
    let takes_smtp = services.contain(Services::SMTP) && server.default_smtp.as_ref() != Some(&thumbprint);
    if takes_smtp && !call.is_set("Force") {
        return Err(refusal::prompt("Overwrite the existing default SMTP certificate?"));
    }
    let all = entry.services.and(services);
    let (place, user) = (server.spec.fqdn.clone(), call.session().user.clone());
    let outcome = Outcome::of(all != entry.services);
    let server = call.world().server_mut(target);
    server.store.find_mut(&thumbprint).into_iter().for_each(|entry| entry.services = all);
    if takes_smtp {
        server.default_smtp = Some(thumbprint.clone());
    }
    call.world().record(EffectKind::Enable, &place, Some(&thumbprint), outcome, &user);
    Output::none()
}

fn make(call: &mut Call<'_>) -> Result<Output, Refusal> {
    let target = call.target()?;
    let services = services(call, Services(1 | 2 | 16))?;
    let subject = call.text("SubjectName").unwrap_or_else(|| format!("cn={}", call.here().spec.name));
    let key_size = key_size(call)?;
    let now = call.world_ref().now();
    let common_name = subject.get(3..).unwrap_or_default().trim();
    let request = Request { key_size, ..Request::five_years(common_name, now) };
    let failed = |_| task("NewCertificateFailed", Category::InvalidOperation, "The certificate could not be made.");
    let (certificate, key) = certificate::issue(&request).map_err(failed)?;
    let export = if call.is_set("PrivateKeyExportable") { Export::Allowed } else { Export::Refused };
    let server = call.world_ref().server(target);
    let stored = StoredKey { key, export, provider: server.key_provider.clone() };
    let (place, user) = (server.spec.fqdn.clone(), call.session().user.clone());
    let friendly_name = call.text("FriendlyName").unwrap_or_default();
    let thumbprint = certificate.thumbprint.clone();
    let shown = shapes::exchange_certificate(&certificate, &call.here().spec.fqdn);
    call.world().put(target, Arc::new(certificate), Some(stored), &friendly_name);
    call.world().record(EffectKind::NewCertificate, &place, Some(&thumbprint), Outcome::Changed, &user);
    let force = call.is_set("Force");
    let server = call.world().server_mut(target);
    server.store.find_mut(&thumbprint).into_iter().for_each(|entry| entry.services = services);
    match services.contain(Services::SMTP) {
        true if force => server.default_smtp = Some(thumbprint),
        true => return Err(refusal::prompt("Overwrite the existing default SMTP certificate?")),
        false => {}
    }
    Output::of([shown])
}

fn entry_of<'a>(call: &Call<'_>, server: &'a Server) -> Result<&'a Entry, Refusal> {
    let thumbprint = call.thumbprint("Thumbprint")?;
    let missing = || refusal::certificate_not_found(&server.spec.name, thumbprint.as_str());
    server.store.find(&thumbprint).ok_or_else(missing)
}

/// A text with commas, a list of texts, or a number.
fn services(call: &Call<'_>, otherwise: Services) -> Result<Services, Refusal> {
    let flags = call.value("Services").and_then(Value::as_i64).and_then(|n| u8::try_from(n).ok());
    match call.texts("Services") {
        _ if flags.is_some() => Ok(Services(flags.unwrap_or_default())),
        none if none.is_empty() => Ok(otherwise),
        names => Services::parse(&names.join(",")).ok_or_else(|| refusal::bad_value("Services")),
    }
}

fn key_size(call: &Call<'_>) -> Result<RsaKeySize, Refusal> {
    match call.value("KeySize").and_then(Value::as_i64) {
        None | Some(2048) => Ok(RsaKeySize::_2048),
        Some(4096) => Ok(RsaKeySize::_4096),
        Some(_) => Err(refusal::bad_value("KeySize")),
    }
}
