//! What a pipeline writes, and how it ends.

use crate::{Base, Object, Value};

/// One record of one of a pipeline's streams.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// DEBUG_RECORD.
    Debug(String),
    /// ERROR_RECORD: an error that did not end the pipeline. A pipeline that completed may have written some: completed is not success.
    Error(ErrorRecord),
    /// INFORMATION_RECORD.
    Information(Value),
    /// PIPELINE_OUTPUT.
    Output(Value),
    /// PROGRESS_RECORD.
    Progress(Value),
    /// VERBOSE_RECORD.
    Verbose(String),
    /// WARNING_RECORD.
    Warning(String),
}

/// How a pipeline ended (PIPELINE_STATE, MS-PSRP 2.2.2.21).
#[derive(Clone, Debug, PartialEq)]
pub enum PipelineEnd {
    /// It ran to its end; look for [`Record::Error`] all the same.
    Completed,
    /// It was ended by this error.
    Failed(ErrorRecord),
    /// It was stopped.
    Stopped,
}

/// An error as PowerShell tells it (MS-PSRP 2.2.3.15; shape in domain.md 6.6).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorRecord {
    /// The text of the exception, in the language of the server.
    pub message: String,
    /// The type name of the exception, most derived.
    pub exception: String,
    /// E.g. `[Server=EX01,RequestId=…] [FailureCategory=Cmdlet-InvalidOperationException] 1A2B3C,…GetExchangeCertificate`.
    pub fully_qualified_error_id: String,
    /// Number of the category: 0 NotSpecified, 5 InvalidArgument, 7 InvalidOperation, 13 ObjectNotFound, 18 PermissionDenied, 22 ReadError.
    pub category: i32,
    /// `CategoryInfo.Activity`: the cmdlet.
    pub activity: String,
    /// `CategoryInfo.Reason`: the short name of the exception's type. Not localised.
    pub reason: String,
    /// `CategoryInfo.TargetName`.
    pub target_name: String,
    /// `CategoryInfo.TargetType`.
    pub target_type: String,
    /// The category in words, for people.
    pub category_message: String,
}

impl ErrorRecord {
    /// Reads an ErrorRecord object. Never fails: what is missing is empty, and a value that is no error record becomes its message.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        let text = |name: &str| value.property(name).map(Value::text).unwrap_or_default();
        let exception = value.property("Exception");
        let message = exception.and_then(|e| e.property("Message")).map_or_else(|| value.text(), Value::text);
        let type_name = exception.and_then(Value::as_object).and_then(|o| o.type_names.first());
        let type_name = type_name.map(|name| name.trim_start_matches("Deserialized.").to_owned());
        Self {
            message,
            exception: type_name.unwrap_or_default(),
            fully_qualified_error_id: text("FullyQualifiedErrorId"),
            category: value.property("ErrorCategory_Category").and_then(Value::as_i64).map_or(0, |n| n as i32),
            activity: text("ErrorCategory_Activity"),
            reason: text("ErrorCategory_Reason"),
            target_name: text("ErrorCategory_TargetName"),
            target_type: text("ErrorCategory_TargetType"),
            category_message: text("ErrorCategory_Message"),
        }
    }

    /// The object that travels.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let exception = Object {
            type_names: vec![self.exception.clone(), "System.Exception".to_owned(), "System.Object".to_owned()],
            to_string: Some(format!("{}: {}", self.exception, self.message)),
            base: Base::None,
            properties: vec![("Message".to_owned(), self.message.as_str().into())],
            members: Vec::new(),
        };
        let type_names = ["System.Management.Automation.ErrorRecord", "System.Object"];
        Object { type_names: type_names.map(str::to_owned).to_vec(), ..Object::default() }
            .shown_as(&self.message)
            .with_member("Exception", exception)
            .with_member("TargetObject", Value::Null)
            .with_member("FullyQualifiedErrorId", self.fully_qualified_error_id.as_str())
            .with_member("InvocationInfo", Value::Null)
            .with_member("ErrorCategory_Category", self.category)
            .with_member("ErrorCategory_Activity", self.activity.as_str())
            .with_member("ErrorCategory_Reason", self.reason.as_str())
            .with_member("ErrorCategory_TargetName", self.target_name.as_str())
            .with_member("ErrorCategory_TargetType", self.target_type.as_str())
            .with_member("ErrorCategory_Message", self.category_message.as_str())
            .with_member("SerializeExtendedInfo", false)
            .into()
    }
}
