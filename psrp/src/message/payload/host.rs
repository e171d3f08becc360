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
    /// What is to be chosen from, if this is a question that can be read.
    pub question: Option<Question>,
}

/// What PromptForChoice asks (MS-PSRP 2.2.3.17).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is shown above it.
    pub caption: String,
    /// The question.
    pub message: String,
    /// How many answers there are to choose from.
    pub choices: usize,
}

impl Question {
    /// The place of No among the answers of a confirmation: Yes, No; or Yes, Yes to All, No, No to All and perhaps Suspend. Their names are in the
    /// server's language, their order is not. `None` for any other question.
    #[must_use]
    pub const fn no(&self) -> Option<i32> {
        match self.choices {
            2 => Some(1),
            4 | 5 => Some(2),
            _ => None,
        }
    }
}

impl HostCall {
    /// Whether the pipeline waits for an answer. A method that is not known is taken to wait: an answer too many does less harm than one too few.
    #[must_use]
    pub fn wants_answer(&self) -> bool {
        !VOID.contains(&self.number)
    }
}

/// The call in a message of either type. Of its arguments only a question's are read: nobody is there to see others.
///
/// # Errors
/// When it does not say which method it is or how to answer.
pub fn read_host_call(value: &Value) -> Result<HostCall, PayloadError> {
    let id = value.property("ci").and_then(Value::as_i64).ok_or(PayloadError::Missing("ci"))?;
    let number = value.property("mi").and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok());
    let number = number.ok_or(PayloadError::Missing("mi"))?;
    let known = usize::try_from(number).ok().and_then(|number| METHODS.get(number.checked_sub(1)?));
    let method = known.map_or_else(|| number.to_string(), |name| (*name).to_owned());
    let question = value.property("mp").filter(|_| number == PROMPT_FOR_CHOICE).and_then(read_question);
    Ok(HostCall { id, number, method, question })
}

fn read_question(arguments: &Value) -> Option<Question> {
    let [caption, message, choices, ..] = arguments.as_list()? else { return None };
    Some(Question { caption: caption.text(), message: message.text(), choices: choices.as_list()?.len() })
}

/// The answer to a question: PIPELINE_HOST_RESPONSE or RUNSPACEPOOL_HOST_RESPONSE with the place of what was chosen.
#[must_use]
pub fn host_choice(call: &HostCall, choice: i32) -> String {
    plain(answer_to(call).with_member("mr", choice))
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
    plain(answer_to(call).with_member("me", error.to_value()))
}

fn answer_to(call: &HostCall) -> Object {
    let method = enumeration("System.Management.Automation.Remoting.RemoteHostMethodId", &call.method, call.number);
    Object::default().with_member("ci", call.id).with_member("mi", method)
}

const PROMPT_FOR_CHOICE: i32 = 26;

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
