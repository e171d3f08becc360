//! Pipelines of typed commands: what a runspace is asked to run (MS-PSRP 2.2.2.10, 2.2.3.11-2.2.3.14).

use crate::{Secret, Value};

/// Commands of which each reads what the one before it wrote.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pipeline {
    /// In order.
    pub commands: Vec<Command>,
}

/// One command with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The name of a cmdlet, or the text of a script.
    pub name: String,
    /// Whether `name` is a script. A no-language endpoint such as Exchange's refuses scripts.
    pub is_script: bool,
    /// In order.
    pub parameters: Vec<Parameter>,
}

/// One parameter of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Without the dash; `None` for a positional argument.
    pub name: Option<String>,
    /// `Bool(true)` for a switch that is set.
    pub value: Value,
}

impl Command {
    /// A cmdlet without parameters.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), is_script: false, parameters: Vec::new() }
    }

    /// A script, for endpoints that allow it.
    #[must_use]
    pub fn script(text: &str) -> Self {
        Self { name: text.to_owned(), is_script: true, parameters: Vec::new() }
    }

    /// Adds a named parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.parameters.push(Parameter { name: Some(name.to_owned()), value: value.into() });
        self
    }

    /// Sets a switch.
    #[must_use]
    pub fn switch(self, name: &str) -> Self {
        self.with(name, true)
    }

    /// Adds a parameter that travels as a `SecureString`.
    #[must_use]
    pub fn with_secret(self, name: &str, secret: Secret) -> Self {
        self.with(name, Value::SecureString(secret))
    }

    /// Adds a positional argument.
    #[must_use]
    pub fn argument(mut self, value: impl Into<Value>) -> Self {
        self.parameters.push(Parameter { name: None, value: value.into() });
        self
    }

    /// The value of a named parameter, in any case, with or without its dash or colon.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&Value> {
        let plain =
            |p: &Parameter| p.name.as_deref().map(|n| n.trim_start_matches('-').trim_end_matches(':').to_owned());
        self.parameters.iter().find(|p| plain(p).is_some_and(|n| n.eq_ignore_ascii_case(name))).map(|p| &p.value)
    }
}

impl Pipeline {
    /// Adds a command that reads what the one before it wrote.
    #[must_use]
    pub fn then(mut self, command: Command) -> Self {
        self.commands.push(command);
        self
    }
}

impl From<Command> for Pipeline {
    fn from(command: Command) -> Self {
        Self { commands: vec![command] }
    }
}
