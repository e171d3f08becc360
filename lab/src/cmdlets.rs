//! The cmdlets that the endpoints offer, and what becomes of a command that arrives.

mod auth_config;
mod call;
mod exchange_certificate;
mod forest;
mod hybrid;
mod refusal;
mod shapes;
mod windows;

#[cfg(test)]
mod tests;

use std::time::Duration;

use psrp::{Command, Pipeline, PipelineEnd, Record, Value};
use serde::{Deserialize, Serialize};

use crate::{
    directory::is_named,
    faults::{Failure, Interference, Stage},
    journal::Asked,
    world::World,
};

pub use call::Call;
pub use refusal::{Category, Origin, Refusal};

/// Who runs commands, and where.
#[derive(Clone, Debug)]
pub struct Session {
    /// Index of the server whose runspace it is.
    pub server: usize,
    /// Which of its endpoints.
    pub endpoint: Endpoint,
    /// The account.
    pub user: String,
}

/// The PowerShell endpoints of a server.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `/PowerShell/`, configuration Microsoft.Exchange, no language.
    Exchange,
    /// `/wsman`, configuration Microsoft.PowerShell. Of its full language only single commands are simulated.
    Windows,
}

impl Endpoint {
    /// For the journal.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Windows => "windows",
        }
    }

    fn cmdlets(self) -> &'static [&'static [Cmdlet]] {
        match self {
            Self::Exchange => {
                &[auth_config::CMDLETS, exchange_certificate::CMDLETS, forest::CMDLETS, hybrid::CMDLETS, COMMON]
            }
            Self::Windows => &[windows::CMDLETS, COMMON],
        }
    }

    fn find(self, name: &str) -> Option<&'static Cmdlet> {
        self.cmdlets().iter().copied().flatten().find(|cmdlet| cmdlet.name.eq_ignore_ascii_case(name))
    }
}

/// A cmdlet.
#[derive(Debug)]
pub struct Cmdlet {
    name: &'static str,
    /// The .NET class, which ends every error id.
    task: &'static str,
    /// Its own parameters; the first can be positional.
    parameters: &'static [&'static str],
    run: fn(&mut Call<'_>) -> Result<Output, Refusal>,
}

/// What a cmdlet wrote.
#[derive(Debug, Default)]
pub struct Output {
    /// Everything, in order.
    pub records: Vec<Record>,
    /// How long it takes, in real time.
    pub lasts: Duration,
}

impl Output {
    /// Objects, at once.
    fn of(values: impl IntoIterator<Item = Value>) -> Result<Self, Refusal> {
        Ok(Self { records: values.into_iter().map(Record::Output).collect(), ..Self::default() })
    }

    /// Nothing.
    fn none() -> Result<Self, Refusal> {
        Self::of([])
    }
}

/// What becomes of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub enum Reaction {
    /// It is answered.
    Answer(Box<Answer>),
    /// Nothing more is heard of it.
    Held,
    /// The connection is cut.
    Lost,
}

/// What a pipeline writes and how it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What it writes.
    pub records: Vec<Record>,
    /// How it ends.
    pub end: PipelineEnd,
    /// When it ends, in real time.
    pub lasts: Duration,
}

impl Reaction {
    fn answer(records: Vec<Record>, end: PipelineEnd) -> Self {
        Self::Answer(Box::new(Answer { records, end, lasts: Duration::ZERO }))
    }
}

/// Runs a pipeline against the world as it is now.
pub fn run(world: &mut World, session: &Session, pipeline: &Pipeline) -> Reaction {
    let [command] = pipeline.commands.as_slice() else {
        return terminated(world, session, &Command::new("pipeline"), &refusal::not_simulated("a longer pipeline"));
    };
    let asked = asked(world, session, command);
    let reaction = run_command(world, session, command);
    world.journal.cmdlets.push(Asked { outcome: outcome(&reaction), ..asked });
    reaction
}

fn run_command(world: &mut World, session: &Session, command: &Command) -> Reaction {
    let cmdlet = match bind(world, session, command) {
        Ok(cmdlet) => cmdlet,
        Err(refusal) => return terminated(world, session, command, &refusal),
    };
    let call = Call::new(world, session, command, cmdlet);
    match interference(call) {
        None => answer(Call::new(world, session, command, cmdlet)),
        Some(Interference::Fail(failure, stage)) => {
            if stage == Stage::After {
                answer(Call::new(world, session, command, cmdlet));
            }
            let refusal = failed(failure, &world.server(session.server).spec.name);
            Call::new(world, session, command, cmdlet).refused(&refusal)
        }
        Some(Interference::Hold(Stage::Before)) => Reaction::Held,
        Some(Interference::Hold(Stage::After)) => {
            answer(Call::new(world, session, command, cmdlet));
            Reaction::Held
        }
        Some(Interference::LoseReply(Stage::Before)) => Reaction::Lost,
        Some(Interference::LoseReply(Stage::After)) => {
            answer(Call::new(world, session, command, cmdlet));
            Reaction::Lost
        }
        Some(Interference::NoChange) => Reaction::answer(Vec::new(), PipelineEnd::Completed),
        Some(Interference::Slow(milliseconds)) => {
            let mut reaction = answer(Call::new(world, session, command, cmdlet));
            if let Reaction::Answer(answer) = &mut reaction {
                answer.lasts += Duration::from_millis(milliseconds.into());
            }
            reaction
        }
    }
}

fn bind(world: &World, session: &Session, command: &Command) -> Result<&'static Cmdlet, Refusal> {
    if command.is_script {
        return Err(refusal::not_simulated("a script"));
    }
    let cmdlet = session.endpoint.find(&command.name).filter(|cmdlet| world.permits(cmdlet.name));
    let cmdlet = cmdlet.ok_or_else(|| refusal::no_such_command(&command.name))?;
    let known = |name: &str| cmdlet.parameters.iter().chain(ALWAYS).any(|known| known.eq_ignore_ascii_case(name));
    let mut names = command.parameters.iter().filter_map(|parameter| parameter.name.as_deref());
    match names.find(|name| !known(plain(name))) {
        Some(unknown) => Err(refusal::no_such_parameter(plain(unknown))),
        None => Ok(cmdlet),
    }
}

fn plain(name: &str) -> &str {
    name.trim_start_matches('-').trim_end_matches(':')
}

fn interference(mut call: Call<'_>) -> Option<Interference> {
    let target = call.target_name();
    let name = call.cmdlet().name;
    call.world().interceptors.meet(name, |server| is_named(&target, server))
}

fn failed(failure: Failure, server: &str) -> Refusal {
    match failure {
        Failure::AccessDenied => refusal::access_denied(),
        Failure::PfxRefused => refusal::pfx_refused(server),
        Failure::RpcUnavailable => refusal::rpc_unavailable(server),
    }
}

fn answer(mut call: Call<'_>) -> Reaction {
    if call.is_set("WhatIf") {
        return Reaction::answer(Vec::new(), PipelineEnd::Completed);
    }
    match (call.cmdlet().run)(&mut call) {
        Ok(Output { mut records, lasts }) => {
            records.splice(0..0, call.take_warnings());
            Reaction::Answer(Box::new(Answer { records, end: PipelineEnd::Completed, lasts }))
        }
        Err(refusal) => call.refused(&refusal),
    }
}

fn terminated(world: &World, session: &Session, command: &Command, refusal: &Refusal) -> Reaction {
    let server = &world.server(session.server).spec.name;
    let record = refusal.record(&command.name, "", server, world.now());
    Reaction::answer(Vec::new(), PipelineEnd::Failed(record))
}

fn asked(world: &World, session: &Session, command: &Command) -> Asked {
    let shown = |value: &Value| match value {
        Value::SecureString(_) => "***".to_owned(),
        value => value.text(),
    };
    let parameter = |p: &psrp::Parameter| (p.name.clone().unwrap_or_default(), shown(&p.value));
    Asked {
        at: world.now(),
        server: world.server(session.server).spec.fqdn.clone(),
        endpoint: session.endpoint.name(),
        cmdlet: command.name.clone(),
        parameters: command.parameters.iter().map(parameter).collect(),
        outcome: String::new(),
    }
}

fn outcome(reaction: &Reaction) -> String {
    let answer = match reaction {
        Reaction::Answer(answer) => answer,
        Reaction::Held => return "held".to_owned(),
        Reaction::Lost => return "reply_lost".to_owned(),
    };
    let error = answer.records.iter().find_map(|record| match record {
        Record::Error(error) => Some(error),
        _ => None,
    });
    match (&answer.end, error) {
        (PipelineEnd::Failed(error), _) | (_, Some(error)) => error.fully_qualified_error_id.clone(),
        (PipelineEnd::Completed | PipelineEnd::Stopped, None) => "ok".to_owned(),
    }
}

/// Parameters that every cmdlet takes.
const ALWAYS: &[&str] = &[
    "Confirm",
    "Debug",
    "ErrorAction",
    "ErrorVariable",
    "InformationAction",
    "OutVariable",
    "ProgressAction",
    "Verbose",
    "WarningAction",
    "WhatIf",
];

/// Cmdlets of both endpoints.
const COMMON: &[Cmdlet] = &[Cmdlet {
    name: "Get-Command",
    task: "Microsoft.PowerShell.Commands.GetCommandCommand",
    parameters: &["Name", "CommandType", "Module", "ArgumentList", "ListImported", "TotalCount"],
    run: get_command,
}];

/// Shows only what the account may run: that is how Exchange's role-based access control looks from outside.
fn get_command(call: &mut Call<'_>) -> Result<Output, Refusal> {
    let endpoint = call.session().endpoint;
    let wanted = call.texts("Name");
    let permitted = |cmdlet: &&Cmdlet| call.world_ref().permits(cmdlet.name);
    let all: Vec<&Cmdlet> = endpoint.cmdlets().iter().copied().flatten().filter(permitted).collect();
    let mut output = Output::default();
    for name in if wanted.is_empty() { vec!["*".to_owned()] } else { wanted } {
        let found: Vec<_> = all.iter().filter(|cmdlet| is_like(cmdlet.name, &name)).collect();
        output.records.extend(found.iter().map(|cmdlet| Record::Output(shapes::command(cmdlet.name, endpoint))));
        if found.is_empty() && !name.contains('*') {
            output.records.push(Record::Error(call.record(&refusal::no_such_command(&name))));
        }
    }
    Ok(output)
}

/// A name against a pattern in which `*` stands for anything at the beginning or the end.
fn is_like(name: &str, pattern: &str) -> bool {
    let (name, pattern) = (name.to_ascii_lowercase(), pattern.to_ascii_lowercase());
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(_), Some(_)) => name.contains(pattern.trim_matches('*')),
        (Some(end), None) => name.ends_with(end),
        (None, Some(start)) => name.starts_with(start),
        (None, None) => name == pattern,
    }
}
