//! Errors as Exchange and PowerShell tell them (domain.md 6.4 to 6.6). Of the texts only those of 6.5 are known; the others
//! are ours and end with the resource id by which the rule is known.

use aws_lc_rs::digest;
use chrono::{DateTime, Utc};
use psrp::ErrorRecord;
use uuid::Uuid;

/// Why a cmdlet did not do what it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// A name for the rule: the resource id where one is known.
    pub id: &'static str,
    /// The text.
    pub message: String,
    /// `CategoryInfo.Category`.
    pub category: Category,
    /// The type of the exception, with its name space.
    pub exception: &'static str,
    /// How the error id is made.
    pub origin: Origin,
}

/// Who raised an error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// A cmdlet of Exchange: a long error id with server, request and time.
    Exchange,
    /// A cmdlet of PowerShell: `id,class`.
    PowerShell,
    /// PowerShell itself: `id`. It ends the pipeline.
    Engine,
}

/// `CategoryInfo.Category`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Category {
    /// 0
    NotSpecified,
    /// 5
    InvalidArgument,
    /// 7
    InvalidOperation,
    /// 11
    NotImplemented,
    /// 13
    ObjectNotFound,
    /// 18
    PermissionDenied,
    /// 22
    ReadError,
}

impl Category {
    fn number(self) -> i32 {
        match self {
            Self::NotSpecified => 0,
            Self::InvalidArgument => 5,
            Self::InvalidOperation => 7,
            Self::NotImplemented => 11,
            Self::ObjectNotFound => 13,
            Self::PermissionDenied => 18,
            Self::ReadError => 22,
        }
    }
}

impl Refusal {
    /// Whether it ends the pipeline, whatever the caller prefers.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.origin == Origin::Engine
    }

    /// What travels. `task` is the class of the cmdlet.
    #[must_use]
    pub fn record(&self, cmdlet: &str, task: &str, server: &str, now: DateTime<Utc>) -> ErrorRecord {
        let reason = self.exception.rsplit('.').next().unwrap_or_default();
        let fully_qualified_error_id = match self.origin {
            Origin::Exchange => format!(
                "[Server={server},RequestId={},TimeStamp={}] [FailureCategory=Cmdlet-{reason}] {},{task}",
                Uuid::new_v4(),
                now.format("%-m/%-d/%Y %-I:%M:%S %p"),
                number(self.id)
            ),
            Origin::PowerShell => format!("{},{task}", self.id),
            Origin::Engine => self.id.to_owned(),
        };
        ErrorRecord {
            message: self.message.clone(),
            exception: self.exception.to_owned(),
            fully_qualified_error_id,
            category: self.category.number(),
            activity: cmdlet.to_owned(),
            reason: reason.to_owned(),
            category_message: format!("{:?}: (:) [{cmdlet}], {reason}", self.category),
            ..ErrorRecord::default()
        }
    }

    fn exchange(id: &'static str, category: Category, exception: &'static str, message: String) -> Self {
        Self { id, message, category, exception, origin: Origin::Exchange }
    }

    fn special_rpc(id: &'static str, category: Category, server: &str, message: &str) -> Self {
        let message = format!("A special Rpc error occurs on server {server}: {message}");
        Self::exchange(id, category, "System.InvalidOperationException", message)
    }
}

/// The number that stands for a message in an error id.
fn number(id: &str) -> String {
    digest::digest(&digest::SHA256, id.as_bytes()).as_ref()[..4].iter().map(|byte| format!("{byte:02X}")).collect()
}

/// 6.5 row 1.
pub(super) fn certificate_not_found(server: &str, thumbprint: &str) -> Refusal {
    let message = format!("The certificate with thumbprint {thumbprint} was not found.");
    Refusal::special_rpc("CertificateNotFound", Category::NotSpecified, server, &message)
}

/// 6.5 row 2: anything but an InvalidOperationException.
pub(super) fn rpc_unavailable(server: &str) -> Refusal {
    let message =
        format!("An RPC error occurred on server {server}: error 0x6ba (The RPC server is unavailable) from cli_Call.");
    Refusal::exchange("RpcUnavailable", Category::ReadError, "Microsoft.Exchange.Rpc.RpcException", message)
}

/// 6.5 row 3.
pub(super) fn pfx_refused(server: &str) -> Refusal {
    let message = "The source data cannot be imported or the wrong password was specified.";
    Refusal::special_rpc("ImportCertificateDataInvalid", Category::ReadError, server, message)
}

/// 6.5 row 4.
pub(super) fn already_exists(server: &str, thumbprint: &str) -> Refusal {
    let message = format!("Cannot import certificate. A certificate with the thumbprint {thumbprint} already exists.");
    Refusal::special_rpc("ImportDuplicateCertificate", Category::NotSpecified, server, &message)
}

/// 6.5 row 5.
pub(super) fn not_exportable(server: &str) -> Refusal {
    let message =
        "The private key couldn't be exported as PKCS-12. It either couldn't be accessed or isn't exportable.";
    Refusal::special_rpc("PrivateKeyNotExportable", Category::NotSpecified, server, message)
}

/// 6.5 row 6.
pub(super) fn not_valid_for_exchange(thumbprint: &str, reason: &str) -> Refusal {
    let message = format!(
        "The certificate with thumbprint {thumbprint} was found but is not valid for use with Exchange Server (reason: {reason})."
    );
    task("CertificateNotValidForExchange", Category::InvalidOperation, message)
}

/// A refusal of a task of Exchange, with our words.
pub(super) fn task(id: &'static str, category: Category, message: impl Into<String>) -> Refusal {
    let message = format!("{} ({id})", message.into());
    Refusal::exchange(id, category, "System.InvalidOperationException", message)
}

/// A server or domain controller that nobody knows.
pub(super) fn object_not_found(name: &str) -> Refusal {
    let exception = "Microsoft.Exchange.Configuration.Tasks.ManagementObjectNotFoundException";
    let message = format!("The operation couldn't be performed because object '{name}' couldn't be found.");
    Refusal::exchange("ManagementObjectNotFound", Category::InvalidArgument, exception, message)
}

/// Publishing without a staged certificate.
pub(super) fn no_next_certificate() -> Refusal {
    let exception = "Microsoft.Exchange.Management.SystemConfigurationTasks.NoNextCertificateException";
    let message = "There is no next certificate to publish. (NoNextCertificateException)";
    Refusal::exchange("NoNextCertificateException", Category::InvalidArgument, exception, message.to_owned())
}

/// The account may run the cmdlet, but Windows or the directory refuses.
pub(super) fn access_denied() -> Refusal {
    let message = "Access is denied.".to_owned();
    Refusal::exchange("AccessDenied", Category::PermissionDenied, "System.UnauthorizedAccessException", message)
}

/// A question that nobody is there to answer: the client has no host.
pub(super) fn prompt(question: &str) -> Refusal {
    Refusal {
        id: "HostFunctionNotImplemented",
        message: format!(
            "A command that prompts the user failed because the host program or the command type does not support user interaction. The question was: {question}"
        ),
        category: Category::NotImplemented,
        exception: "System.Management.Automation.Host.HostException",
        origin: Origin::PowerShell,
    }
}

/// A cmdlet that is not there for this account.
pub(super) fn no_such_command(name: &str) -> Refusal {
    Refusal {
        id: "CommandNotFoundException",
        message: format!(
            "The term '{name}' is not recognized as the name of a cmdlet, function, script file, or operable program. Check the spelling of the name, or if a path was included, verify that the path is correct and try again."
        ),
        category: Category::ObjectNotFound,
        exception: "System.Management.Automation.CommandNotFoundException",
        origin: Origin::Engine,
    }
}

/// A parameter that is not there for this account.
pub(super) fn no_such_parameter(name: &str) -> Refusal {
    binding("NamedParameterNotFound", format!("A parameter cannot be found that matches parameter name '{name}'."))
}

/// A parameter that cannot do without a value.
pub(super) fn missing_parameter(name: &str) -> Refusal {
    let message = format!("Cannot process command because of one or more missing mandatory parameters: {name}.");
    binding("MissingMandatoryParameter", message)
}

/// Parameters that do not go together.
pub(super) fn ambiguous_parameters() -> Refusal {
    let message = "Parameter set cannot be resolved using the specified named parameters.";
    binding("AmbiguousParameterSet", message.to_owned())
}

/// A value of the wrong kind.
pub(super) fn bad_value(name: &str) -> Refusal {
    let message = format!("Cannot bind parameter '{name}'. Cannot convert the value to the type that it wants.");
    binding("CannotConvertArgumentNoMessage", message)
}

fn binding(id: &'static str, message: String) -> Refusal {
    let exception = "System.Management.Automation.ParameterBindingException";
    Refusal { id, message, category: Category::InvalidArgument, exception, origin: Origin::Engine }
}

/// Something that a real endpoint can do and this one cannot.
pub(super) fn not_simulated(what: &str) -> Refusal {
    Refusal {
        id: "NotSimulated",
        message: format!("The lab does not simulate {what}."),
        category: Category::NotImplemented,
        exception: "System.NotImplementedException",
        origin: Origin::Engine,
    }
}

/// An error of one of PowerShell's own cmdlets.
pub(super) fn plain(id: &'static str, exception: &'static str, message: String) -> Refusal {
    Refusal { id, message, category: Category::ObjectNotFound, exception, origin: Origin::PowerShell }
}
