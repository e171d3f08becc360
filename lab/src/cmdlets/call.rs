//! One call of a cmdlet: its parameters, read as PowerShell would bind them.

use chrono::{DateTime, Utc};
use psrp::{Command, ErrorRecord, PipelineEnd, Record, Secret, Value};

use super::{Cmdlet, Reaction, Refusal, Session, plain, refusal};
use crate::{certificate::Thumbprint, server::Server, world::World};

/// A call.
#[derive(Debug)]
pub struct Call<'a> {
    world: &'a mut World,
    session: &'a Session,
    command: &'a Command,
    cmdlet: &'static Cmdlet,
    warnings: Vec<String>,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        world: &'a mut World,
        session: &'a Session,
        command: &'a Command,
        cmdlet: &'static Cmdlet,
    ) -> Self {
        Self { world, session, command, cmdlet, warnings: Vec::new() }
    }

    pub(super) fn world(&mut self) -> &mut World {
        self.world
    }

    pub(super) fn world_ref(&self) -> &World {
        self.world
    }

    pub(super) fn session(&self) -> &Session {
        self.session
    }

    pub(super) fn cmdlet(&self) -> &'static Cmdlet {
        self.cmdlet
    }

    /// The server whose runspace it is.
    pub(super) fn here(&self) -> &Server {
        self.world.server(self.session.server)
    }

    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    pub(super) fn take_warnings(&mut self) -> Vec<Record> {
        self.warnings.drain(..).map(Record::Warning).collect()
    }

    /// The error record of a refusal.
    pub(super) fn record(&self, refusal: &Refusal) -> ErrorRecord {
        refusal.record(self.cmdlet.name, self.cmdlet.task, &self.here().spec.name, self.world.now())
    }

    /// The answer that a refusal makes: most errors leave the pipeline completed (domain.md 6.6).
    pub(super) fn refused(mut self, refusal: &Refusal) -> Reaction {
        let error = self.record(refusal);
        let mut records = self.take_warnings();
        let stop =
            self.value("ErrorAction").is_some_and(|v| v.text().eq_ignore_ascii_case("Stop") || v.as_i64() == Some(1));
        let end = if refusal.is_terminating() || stop {
            PipelineEnd::Failed(error)
        } else {
            records.push(Record::Error(error));
            PipelineEnd::Completed
        };
        Reaction::answer(records, end)
    }

    /// The value of a parameter; a positional argument belongs to the cmdlet's first.
    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        let positional = self.cmdlet.parameters.first().is_some_and(|first| first.eq_ignore_ascii_case(name));
        let is_it = |parameter: &&psrp::Parameter| match &parameter.name {
            Some(given) => plain(given).eq_ignore_ascii_case(name),
            None => positional,
        };
        self.command.parameters.iter().find(is_it).map(|parameter| &parameter.value)
    }

    /// A parameter as text; none if it is absent, `$null` or empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.value(name).map(Value::text).filter(|text| !text.is_empty())
    }

    /// A parameter that takes one text or several.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let value = self.value(name);
        match value.and_then(Value::as_list) {
            Some(items) => items.iter().map(Value::text).collect(),
            None => value.map(Value::text).into_iter().filter(|text| !text.is_empty()).collect(),
        }
    }

    /// Whether a switch or boolean is given and true; a client may send a switch without a value.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| *value == Value::Null || value.as_bool() == Some(true))
    }

    /// Whether `-Confirm:$false` is given.
    pub(super) fn is_confirmed(&self) -> bool {
        self.value("Confirm").and_then(Value::as_bool) == Some(false)
    }

    /// A date; text is read as RFC 3339.
    pub(super) fn date(&self, name: &str) -> Result<Option<DateTime<Utc>>, Refusal> {
        let Some(value) = self.value(name).filter(|value| **value != Value::Null) else { return Ok(None) };
        let text = || DateTime::parse_from_rfc3339(&value.text()).ok().map(|at| at.to_utc());
        value.as_date_time().or_else(text).map(Some).ok_or_else(|| refusal::bad_value(name))
    }

    /// A secret that cannot be left out.
    pub(super) fn secret(&self, name: &str) -> Result<Secret, Refusal> {
        match self.value(name) {
            Some(Value::SecureString(secret)) => Ok(secret.clone()),
            Some(_) => Err(refusal::bad_value(name)),
            None => Err(refusal::missing_parameter(name)),
        }
    }

    /// A thumbprint that cannot be left out.
    pub(super) fn thumbprint(&self, name: &str) -> Result<Thumbprint, Refusal> {
        let text = self.text(name).ok_or_else(|| refusal::missing_parameter(name))?;
        Thumbprint::parse(&text).ok_or_else(|| refusal::bad_value(name))
    }

    /// The name of the server that it concerns: `-Server`, else that of the runspace.
    pub(super) fn target_name(&self) -> String {
        let named = self.text("Server").and_then(|name| self.world.find_server(&name));
        self.world.server(named.unwrap_or(self.session.server)).spec.fqdn.clone()
    }

    /// The server that it concerns; it must run.
    pub(super) fn target(&self) -> Result<usize, Refusal> {
        let server = match self.text("Server") {
            Some(name) => self.world.find_server(&name).ok_or_else(|| refusal::object_not_found(&name))?,
            None => self.session.server,
        };
        let Server { spec, .. } = self.world.server(server);
        if self.world.server(server).is_up() { Ok(server) } else { Err(refusal::rpc_unavailable(&spec.name)) }
    }

    /// The domain controller that it reads and writes: `-DomainController`, else that of the runspace's server.
    pub(super) fn controller(&self) -> Result<usize, Refusal> {
        match self.text("DomainController") {
            Some(name) => self.world.directory().find(&name).ok_or_else(|| refusal::object_not_found(&name)),
            None => Ok(self.world.controller_of(self.session.server)),
        }
    }
}
