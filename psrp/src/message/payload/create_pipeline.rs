//! CREATE_PIPELINE (MS-PSRP 2.2.2.10, 2.2.3.11-2.2.3.13).

use super::{HostOfPipeline, PayloadError, enumeration, no_host, type_names, unknown_apartment};
use crate::clixml::{EncodeError, encode};
use crate::session_key::SessionKey;
use crate::{Base, Command, Object, Parameter, Pipeline, Value};

/// A pipeline that takes no input, asks nobody and leaves no history.
///
/// # Errors
/// [`EncodeError::NoSessionKey`] when a parameter is a SecureString and there is no key; [`EncodeError::TooDeep`].
pub fn create_pipeline(pipeline: &Pipeline, key: Option<&SessionKey>) -> Result<String, EncodeError> {
    let power_shell = Object::default()
        .with_member("IsNested", false)
        .with_member("ExtraCmds", Value::Null)
        .with_member("Cmds", list(pipeline.commands.iter().map(command)))
        .with_member("History", Value::Null)
        .with_member("RedirectShellErrorOutputPipe", true);
    let stream_options = enumeration("System.Management.Automation.RemoteStreamOptions", "0", 0);
    let create = Object::default()
        .with_member("NoInput", true)
        .with_member("ApartmentState", unknown_apartment())
        .with_member("RemoteStreamOptions", stream_options)
        .with_member("AddToHistory", false)
        .with_member("HostInfo", no_host(HostOfPipeline::OfPool))
        .with_member("PowerShell", power_shell)
        .with_member("IsNested", false);
    encode(&create.into(), key)
}

/// The pipeline in CREATE_PIPELINE. What else it says is of no use to a server without runspaces of its own.
///
/// # Errors
/// When it has no commands where they belong, or several statements.
pub fn read_create_pipeline(value: &Value) -> Result<Pipeline, PayloadError> {
    let power_shell = value.property("PowerShell").ok_or(PayloadError::Missing("PowerShell"))?;
    let commands = statement(power_shell)?.iter().map(read_command).collect::<Result<_, _>>()?;
    Ok(Pipeline { commands })
}

/// `ExtraCmds` has all statements, if there is more than one, and `Cmds` only the first.
fn statement(power_shell: &Value) -> Result<&[Value], PayloadError> {
    let commands = |of: &'_ Value| of.property("Cmds").and_then(Value::as_list).is_some_and(|list| !list.is_empty());
    let statements = power_shell.property("ExtraCmds").and_then(Value::as_list).unwrap_or_default();
    if statements.iter().filter(|statement| commands(statement)).count() > 1 {
        return Err(PayloadError::Statements);
    }
    power_shell.property("Cmds").and_then(Value::as_list).ok_or(PayloadError::Missing("Cmds"))
}

fn command(command: &Command) -> Value {
    let merge = || enumeration("System.Management.Automation.Runspaces.PipelineResultTypes", "None", 0);
    let merges = ["MyResult", "ToResult", "PreviousResults", "Error", "Warning", "Verbose", "Debug", "Information"];
    let mut object = Object::default()
        .with_member("Cmd", command.name.as_str())
        .with_member("IsScript", command.is_script)
        .with_member("UseLocalScope", Value::Null);
    for name in merges {
        object = object.with_member(&format!("Merge{name}"), merge());
    }
    object.with_member("Args", list(command.parameters.iter().map(argument))).into()
}

fn argument(Parameter { name, value }: &Parameter) -> Value {
    Object::default().with_member("N", name.clone()).with_member("V", value.clone()).into()
}

fn list(items: impl Iterator<Item = Value>) -> Object {
    let type_names = type_names(&[LIST, "System.Object"]);
    Object { type_names, base: Base::List(items.collect()), ..Object::default() }
}

fn read_command(value: &Value) -> Result<Command, PayloadError> {
    let name = value.property("Cmd").and_then(Value::as_str).ok_or(PayloadError::Missing("Cmd"))?;
    let is_script = value.property("IsScript").and_then(Value::as_bool).ok_or(PayloadError::Missing("IsScript"))?;
    let arguments = value.property("Args").and_then(Value::as_list).ok_or(PayloadError::Missing("Args"))?;
    let parameters = arguments.iter().map(read_argument).collect();
    Ok(Command { name: name.to_owned(), is_script, parameters })
}

fn read_argument(value: &Value) -> Parameter {
    Parameter {
        name: value.property("N").and_then(Value::as_str).map(str::to_owned),
        value: value.property("V").cloned().unwrap_or_default(),
    }
}

/// The type of `Cmds` and `Args`.
const LIST: &str = "System.Collections.Generic.List`1[[System.Management.Automation.PSObject, \
    System.Management.Automation, Version=3.0.0.0, Culture=neutral, PublicKeyToken=31bf3856ad364e35]]";
