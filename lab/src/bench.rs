//! What the tests of the model share: an organization and hands to work on it.

use std::sync::{Arc, OnceLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use psrp::{Command, ErrorRecord, Parameter, Pipeline, PipelineEnd, Record, Secret, Value};

use crate::{
    certificate::{AUTH_COMMON_NAME, Certificate, PrivateKey, Request, Thumbprint, issue},
    cmdlets::{Answer, Endpoint, Reaction, Session, run},
    directory::AuthConfig,
    organization::{Hybrid, Organization},
    pfx,
    tenant::{KeyCredential, Shown, Tenant, View},
    world::World,
};

pub(crate) const PASSWORD: &str = "correct horse";

/// A lab without a wire.
pub(crate) struct Bench {
    pub(crate) world: World,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::of(Organization::contoso())
    }

    pub(crate) fn of(organization: Organization) -> Self {
        static CURRENT: OnceLock<Made> = OnceLock::new();
        let current = CURRENT.get_or_init(|| Made::valid_for(TimeDelta::days(45)));
        Self::with(organization, current)
    }

    /// With a current certificate that expires after this span.
    pub(crate) fn expiring_in(span: TimeDelta) -> Self {
        Self::with(Organization::contoso(), &Made::valid_for(span))
    }

    /// An organization that shares its users with a tenant.
    pub(crate) fn hybrid(spec: Hybrid) -> Self {
        Self::of(Organization { hybrid: Some(spec), ..Organization::contoso() })
    }

    pub(crate) fn tenant(&self) -> &Tenant {
        &self.world.cloud.as_ref().unwrap().tenant
    }

    /// The object by which servers go to the cloud.
    pub(crate) fn application(&self) -> usize {
        self.tenant().verifying(self.tenant().spec.path).unwrap()
    }

    /// What the first replica shows of it.
    pub(crate) fn cloud_keys(&self) -> Vec<KeyCredential> {
        self.tenant().keys(self.application(), View::Replica(0), self.world.now()).to_vec()
    }

    /// Writes its keys: some that are there, and perhaps a new one.
    pub(crate) fn write_cloud_keys(&mut self, kept: &[KeyCredential], new: Option<&Made>) {
        let kept = kept.iter().map(|key| key.json(Shown::WithoutKey));
        let wanted = kept.chain(new.map(Made::credential)).collect::<Vec<_>>();
        self.world.replace_cloud_keys(self.application(), &wanted.into(), "tester").unwrap();
    }

    fn with(organization: Organization, Made { certificate, key }: &Made) -> Self {
        Self { world: World::with_current(organization, start(), certificate, key).unwrap() }
    }

    pub(crate) fn pass(&mut self, span: TimeDelta) {
        self.world.catch_up(self.world.now() + span);
    }

    /// Runs a command on a server's Exchange endpoint.
    pub(crate) fn exchange(&mut self, server: &str, command: Command) -> Reaction {
        self.on(server, Endpoint::Exchange, command)
    }

    /// Runs a command on a server's Windows endpoint.
    pub(crate) fn windows(&mut self, server: &str, command: Command) -> Reaction {
        self.on(server, Endpoint::Windows, command)
    }

    fn on(&mut self, server: &str, endpoint: Endpoint, command: Command) -> Reaction {
        let server = self.world.find_server(server).unwrap();
        let session = Session { server, endpoint, user: "tester".to_owned() };
        run(&mut self.world, &session, &Pipeline::from(command))
    }

    pub(crate) fn import(&mut self, server: &str, made: &Made) -> Reaction {
        self.exchange("EX01", import(server, made.pfx()))
    }

    pub(crate) fn import_everywhere(&mut self, made: &Made) {
        for server in ["EX01", "EX02", "EX03"] {
            values(&self.import(server, made));
        }
    }

    pub(crate) fn stage(&mut self, made: &Made, lead: TimeDelta) -> Reaction {
        let command = stage(&made.thumbprint(), self.world.now() + lead).switch("Force");
        self.exchange("EX01", command)
    }

    pub(crate) fn publish(&mut self) -> Reaction {
        self.exchange("EX01", Command::new("Set-AuthConfig").switch("PublishCertificate").switch("Force"))
    }

    /// AuthConfig as a domain controller holds it.
    pub(crate) fn config(&self, controller: usize) -> &AuthConfig {
        &self.world.directory().controllers()[controller].auth_config
    }

    pub(crate) fn has(&self, server: &str, thumbprint: &Thumbprint) -> bool {
        let server = self.world.find_server(server).unwrap();
        self.world.server(server).store.find(thumbprint).is_some()
    }
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) certificate: Arc<Certificate>,
    pub(crate) key: PrivateKey,
}

impl Made {
    /// Two different ones, made once for all tests.
    pub(crate) fn number(number: usize) -> Self {
        static MADE: OnceLock<[Made; 2]> = OnceLock::new();
        MADE.get_or_init(|| [(); 2].map(|()| Self::valid_for(TimeDelta::days(1826))))[number].clone()
    }

    pub(crate) fn valid_for(span: TimeDelta) -> Self {
        let request = Request {
            not_after: start() + span,
            ..Request::five_years(AUTH_COMMON_NAME, start() - TimeDelta::days(1))
        };
        let (certificate, key) = issue(&request).unwrap();
        Self { certificate: Arc::new(certificate), key }
    }

    pub(crate) fn thumbprint(&self) -> Thumbprint {
        self.certificate.thumbprint.clone()
    }

    /// As a client adds it to an application.
    pub(crate) fn credential(&self) -> serde_json::Value {
        let key = STANDARD.encode(&self.certificate.der);
        serde_json::json!({ "type": "AsymmetricX509Cert", "usage": "Verify", "displayName": "new", "key": key })
    }

    pub(crate) fn pfx(&self) -> Vec<u8> {
        pfx::write(&self.certificate, &self.key, PASSWORD).unwrap()
    }
}

pub(crate) fn start() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-11-23T10:00:00Z").unwrap().to_utc()
}

pub(crate) fn import(server: &str, pfx: Vec<u8>) -> Command {
    Command::new("Import-ExchangeCertificate")
        .with("Server", server)
        .with("FileData", pfx)
        .with_secret("Password", Secret::new(PASSWORD))
        .with("PrivateKeyExportable", true)
}

pub(crate) fn stage(thumbprint: &Thumbprint, date: DateTime<Utc>) -> Command {
    Command::new("Set-AuthConfig")
        .with("NewCertificateThumbprint", thumbprint.as_str())
        .with("NewCertificateEffectiveDate", date)
}

/// A command without one of its parameters.
pub(crate) fn without(mut command: Command, name: &str) -> Command {
    command.parameters.retain(|Parameter { name: given, .. }| given.as_deref() != Some(name));
    command
}

/// The answer, if the connection was not cut.
#[track_caller]
pub(crate) fn answer(reaction: &Reaction) -> &Answer {
    match reaction {
        Reaction::Answer(answer) => answer,
        Reaction::Held => panic!("it never ends"),
        Reaction::Lost => panic!("the connection was cut"),
    }
}

/// The objects of an answer that had no error.
#[track_caller]
pub(crate) fn values(reaction: &Reaction) -> Vec<Value> {
    let Answer { records, end, .. } = answer(reaction);
    assert_eq!(*end, PipelineEnd::Completed);
    let value = |record: &Record| match record {
        Record::Output(value) => Some(value.clone()),
        Record::Error(error) => panic!("{error:?}"),
        _ => None,
    };
    records.iter().filter_map(value).collect()
}

/// The error of an answer, whether it ended the pipeline or not.
#[track_caller]
pub(crate) fn error(reaction: &Reaction) -> ErrorRecord {
    let Answer { records, end, .. } = answer(reaction);
    match (end, records.last()) {
        (PipelineEnd::Failed(error), _) | (_, Some(Record::Error(error))) => error.clone(),
        _ => panic!("no error in {reaction:?}"),
    }
}

/// Asserts that the rule known by this id refused.
#[track_caller]
pub(crate) fn assert_refused(reaction: &Reaction, id: &str) {
    let error = error(reaction);
    let told = format!("{} {}", error.message, error.fully_qualified_error_id);
    assert!(told.contains(id), "{id} is not in {told}");
}
