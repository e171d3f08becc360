//! Pipelines of typed commands: what a runspace is asked to run (MS-PSRP 2.2.2.10, 2.2.3.11-2.2.3.14).

use std::fmt;

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

/// The command line as an administrator would type it; bytes and secrets are named, not shown.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for Parameter { name, value } in &self.parameters {
            match (name, value) {
                (Some(name), Value::Bool(true)) if is_switch(name) => write!(f, " -{name}")?,
                (Some(name), Value::Bool(false)) => write!(f, " -{name}:$false")?,
                (Some(name), value) => write!(f, " -{name} {}", shown(value))?,
                (None, value) => write!(f, " {}", shown(value))?,
            }
        }
        Ok(())
    }
}

/// Boolean parameters of Exchange are told from switches by their names: a switch takes no value when typed.
fn is_switch(name: &str) -> bool {
    !matches!(name, "PrivateKeyExportable" | "ViewEntireForest")
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "$null".to_owned(),
        Value::Bool(value) => format!("${value}"),
        Value::Bytes(bytes) => format!("<{} bytes>", bytes.len()),
        Value::SecureString(_) => "<secret>".to_owned(),
        Value::Object(_) => match value.as_list() {
            Some(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
            None => "<object>".to_owned(),
        },
        other => quoted(&other.text()),
    }
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:\\/+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_shows_everything_but_bytes_and_secrets() {
        let command = Command::new("Import-ExchangeCertificate")
            .with("Server", "ex01.contoso.example")
            .with("FileData", vec![7; 40])
            .with_secret("Password", Secret::new("not to be seen"))
            .with("PrivateKeyExportable", true)
            .with("Confirm", false)
            .switch("Force");
        assert_eq!(
            command.to_string(),
            "Import-ExchangeCertificate -Server ex01.contoso.example -FileData <40 bytes> -Password <secret> \
             -PrivateKeyExportable $true -Confirm:$false -Force"
        );
        assert_eq!(Command::new("Get-X").with("Filter", "Name = 'a'").to_string(), "Get-X -Filter 'Name = ''a'''");
    }
}
