//! Calls of the host: PIPELINE_HOST_CALL and RUNSPACEPOOL_HOST_CALL (MS-PSRP 2.2.2.15, 2.2.2.16, 2.2.2.27, 2.2.2.28).

use super::{PayloadError, enumeration, plain};
use crate::{ErrorRecord, Object, Value};

/// The server asks something of the client's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCall {
    /// What the answer refers to (`ci`).
    pub id: i64,
    /// The number of the method (`mi`, MS-PSRP 2.2.3.17).
    pub number: i32,
    /// Its name, e.g. `PromptForChoice`; the number again when it is not known.
    pub method: String,
}

impl HostCall {
    /// Whether the pipeline waits for an answer. A method that is not known is taken to wait: an answer too many does less harm than one too few.
    #[must_use]
    pub fn wants_answer(&self) -> bool {
        !VOID.contains(&self.number)
    }
}

/// The call in a message of either type. Its arguments are left out: nobody is there to see them.
///
/// # Errors
/// When it does not say which method it is or how to answer.
pub fn read_host_call(value: &Value) -> Result<HostCall, PayloadError> {
    let id = value.property("ci").and_then(Value::as_i64).ok_or(PayloadError::Missing("ci"))?;
    let number = value.property("mi").and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok());
    let number = number.ok_or(PayloadError::Missing("mi"))?;
    let known = usize::try_from(number).ok().and_then(|number| METHODS.get(number.checked_sub(1)?));
    Ok(HostCall { id, number, method: known.map_or_else(|| number.to_string(), |name| (*name).to_owned()) })
}

/// The answer of a host that can do nothing: PIPELINE_HOST_RESPONSE or RUNSPACEPOOL_HOST_RESPONSE with an error (MS-PSRP 2.2.2.16, 2.2.2.28).
#[must_use]
pub fn host_refusal(call: &HostCall) -> String {
    let error = ErrorRecord {
        message: format!("There is no one to answer {}: this client has no host.", call.method),
        exception: "System.Management.Automation.Host.HostException".to_owned(),
        fully_qualified_error_id: "HostFunctionNotImplemented".to_owned(),
        category: NOT_IMPLEMENTED,
        reason: "HostException".to_owned(),
        ..ErrorRecord::default()
    };
    let method = enumeration("System.Management.Automation.Remoting.RemoteHostMethodId", &call.method, call.number);
    let answer = Object::default().with_member("ci", call.id).with_member("mi", method);
    plain(answer.with_member("me", error.to_value()))
}

/// ErrorCategory.NotImplemented.
const NOT_IMPLEMENTED: i32 = 11;

/// Methods that return nothing.
const VOID: [i32; 29] =
    [6, 7, 8, 9, 10, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 28, 30, 32, 34, 36, 38, 40, 42, 47, 48, 49, 51, 52, 53];

/// Names by number, beginning with 1 (MS-PSRP 2.2.3.17).
const METHODS: [&str; 56] = [
    "GetName",
    "GetVersion",
    "GetInstanceId",
    "GetCurrentCulture",
    "GetCurrentUICulture",
    "SetShouldExit",
    "EnterNestedPrompt",
    "ExitNestedPrompt",
    "NotifyBeginApplication",
    "NotifyEndApplication",
    "ReadLine",
    "ReadLineAsSecureString",
    "Write1",
    "Write2",
    "WriteLine1",
    "WriteLine2",
    "WriteLine3",
    "WriteErrorLine",
    "WriteDebugLine",
    "WriteProgress",
    "WriteVerboseLine",
    "WriteWarningLine",
    "Prompt",
    "PromptForCredential1",
    "PromptForCredential2",
    "PromptForChoice",
    "GetForegroundColor",
    "SetForegroundColor",
    "GetBackgroundColor",
    "SetBackgroundColor",
    "GetCursorPosition",
    "SetCursorPosition",
    "GetWindowPosition",
    "SetWindowPosition",
    "GetCursorSize",
    "SetCursorSize",
    "GetBufferSize",
    "SetBufferSize",
    "GetWindowSize",
    "SetWindowSize",
    "GetWindowTitle",
    "SetWindowTitle",
    "GetMaxWindowSize",
    "GetMaxPhysicalWindowSize",
    "GetKeyAvailable",
    "ReadKey",
    "FlushInputBuffer",
    "SetBufferContents1",
    "SetBufferContents2",
    "GetBufferContents",
    "ScrollBufferContents",
    "PushRunspace",
    "PopRunspace",
    "GetIsRunspacePushed",
    "GetRunspace",
    "PromptForChoiceMultipleSelection",
];
