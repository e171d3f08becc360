//! Faults (SOAP 1.2 section 5.4, DSP0226 section 14, MS-WSMV 2.2.4.43).

use std::fmt;

use quick_xml::escape::escape;
use uuid::Uuid;

use super::xml::{Element, Namespace};
use super::{ANONYMOUS, Malformed, Parts, envelope, shown};

/// An error of the WS-Management service or of what is behind it. The numbers are those of `wsmerror.h`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// `Code` of the WSManFault: a Windows error number. 0 when the fault has none.
    pub code: u32,
    /// The SOAP subcode with its prefix as sent, e.g. `w:InvalidSelectors`. Empty when the fault has none.
    pub subcode: String,
    /// What the server says, in its language. May carry text of the provider.
    pub message: String,
    /// `wsman:FaultDetail` when sent: a URI that narrows the subcode.
    pub detail: Option<String>,
}

impl Fault {
    /// ERROR_WSMAN_OPERATION_TIMEDOUT: nothing happened within the OperationTimeout. For a Receive that is no error: ask again.
    pub const TIMED_OUT: u32 = 2_150_858_793;
    /// ERROR_WSMAN_UNEXPECTED_SELECTORS: the shell or the command does not exist, or no more.
    pub const NO_SUCH_SHELL: u32 = 2_150_858_843;
    /// ERROR_WSMAN_QUOTA_MAX_SHELLS: the user has as many shells as allowed.
    pub const TOO_MANY_SHELLS: u32 = 2_150_859_173;
    /// ERROR_WSMAN_QUOTA_MAX_COMMANDS_PER_SHELL_PPQ: the shell has as many commands as allowed.
    pub const TOO_MANY_COMMANDS: u32 = 2_150_859_241;
    /// ERROR_WSMAN_INVALID_RESOURCE_URI: no such session configuration.
    pub const NO_SUCH_RESOURCE: u32 = 2_150_858_811;
    /// ERROR_WSMAN_SCHEMA_VALIDATION_ERROR: the request is not what the schema says.
    pub const INVALID: u32 = 2_150_858_817;
    /// ERROR_WSMAN_ENCODING_LIMIT: the request, or what it wants to have, is too large or too small.
    pub const ENCODING_LIMIT: u32 = 2_150_858_805;
    /// ERROR_ACCESS_DENIED: the account may not do this.
    pub const ACCESS_DENIED: u32 = 5;
    /// ERROR_WSMAN_ACTION_NOT_SUPPORTED: the service does not know what is asked.
    pub const NOT_SUPPORTED: u32 = 2_150_858_771;

    pub(crate) fn new(subcode: &str, code: u32, message: impl Into<String>) -> Self {
        Self { code, subcode: subcode.to_owned(), message: message.into(), detail: None }
    }

    /// What a service answers when nothing happened within the OperationTimeout.
    #[must_use]
    pub fn timed_out() -> Self {
        let message = "The WS-Management service cannot complete the operation within the time specified in \
                       OperationTimeout.";
        Self::new("w:TimedOut", Self::TIMED_OUT, message)
    }

    pub(crate) fn no_such_shell() -> Self {
        let message = "The WS-Management service cannot process the request because the request contained invalid \
                       selectors for the resource.";
        let detail = "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/UnexpectedSelectors";
        Self { detail: Some(detail.to_owned()), ..Self::new("w:InvalidSelectors", Self::NO_SUCH_SHELL, message) }
    }

    pub(crate) fn no_such_command() -> Self {
        let message = "The Windows Remote Shell received a request to perform an operation on a command identifier \
                       that does not exist.";
        Self { message: message.to_owned(), ..Self::no_such_shell() }
    }

    pub(crate) fn too_many_shells(limit: usize) -> Self {
        let message = format!(
            "Fail to create a runspace because you have exceeded the maximum number of connections allowed : {limit} \
             for the policy party : MaxConcurrency."
        );
        Self::new("w:QuotaLimit", Self::TOO_MANY_SHELLS, message)
    }

    pub(crate) fn too_many_commands(limit: usize) -> Self {
        let message = format!(
            "The WS-Management service cannot process the request. The maximum number of concurrent commands per shell \
             has been exceeded, which is {limit}."
        );
        Self::new("w:QuotaLimit", Self::TOO_MANY_COMMANDS, message)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!(
            "The WS-Management service cannot process the request because the request size exceeded the configured \
             MaxEnvelopeSize quota ({} KB).",
            limit / 1024
        );
        let detail = "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/MaxEnvelopeSize";
        Self { detail: Some(detail.to_owned()), ..Self::new("w:EncodingLimit", Self::ENCODING_LIMIT, message) }
    }

    pub(crate) fn no_such_resource() -> Self {
        let message = "The WS-Management service cannot process the request. The resource URI was not found in the \
                       WS-Management catalog.";
        let detail = "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/InvalidResourceURI";
        let fault = Self::new("w:DestinationUnreachable", Self::NO_SUCH_RESOURCE, message);
        Self { detail: Some(detail.to_owned()), ..fault }
    }

    /// The client wants answers smaller than DSP0226 6.2 lets it want.
    pub(crate) fn too_small() -> Self {
        let message = "The MaxEnvelopeSize value is too small.";
        let detail = "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/MinimumEnvelopeLimit";
        Self { detail: Some(detail.to_owned()), ..Self::new("w:EncodingLimit", Self::ENCODING_LIMIT, message) }
    }

    pub(crate) fn invalid(message: impl fmt::Display) -> Self {
        Self::new("w:SchemaValidationError", Self::INVALID, format!("The request is not valid: {message}."))
    }

    /// Whether a Receive that got this is to be asked again.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.code == Self::TIMED_OUT || (self.code == 0 && self.subcode_is("TimedOut"))
    }

    /// Whether the shell or the command does not exist.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.code == Self::NO_SUCH_SHELL || (self.code == 0 && self.subcode_is("InvalidSelectors"))
    }

    /// Whether the user has as many shells as allowed: some must end first. Exchange names the limit of its throttling policy.
    #[must_use]
    pub fn is_quota(&self) -> bool {
        self.code == Self::TOO_MANY_SHELLS || self.subcode_is("QuotaLimit") || self.message.contains("MaxConcurrency")
    }

    /// Whether the account may not do this.
    #[must_use]
    pub fn is_access_denied(&self) -> bool {
        self.code == Self::ACCESS_DENIED || self.subcode_is("AccessDenied")
    }

    /// Whether the request was larger than the service takes.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.code == Self::ENCODING_LIMIT || self.subcode_is("EncodingLimit")
    }

    fn subcode_is(&self, local: &str) -> bool {
        self.subcode.rsplit(':').next() == Some(local)
    }

    /// The envelope of the answer with HTTP status 500, as Windows writes it.
    #[must_use]
    pub fn write(&self, relates_to: Option<Uuid>) -> Vec<u8> {
        let relates = relates_to.map(|id| format!("<a:RelatesTo>uuid:{}</a:RelatesTo>", shown(id)));
        let header = format!(
            "<a:Action>{ACTION}</a:Action><a:MessageID>uuid:{}</a:MessageID><a:To>{ANONYMOUS}</a:To>{}",
            shown(Uuid::new_v4()),
            relates.unwrap_or_default()
        );
        envelope(&header, &self.body())
    }

    fn body(&self) -> String {
        let side = if self.is_timeout() { "Receiver" } else { "Sender" };
        let detail = self.detail.as_ref().map(|uri| format!("<w:FaultDetail>{}</w:FaultDetail>", escape(uri.as_str())));
        format!(
            "<s:Fault><s:Code><s:Value>s:{side}</s:Value><s:Subcode><s:Value>{subcode}</s:Value></s:Subcode></s:Code>\
             <s:Reason><s:Text xml:lang=\"en-US\">{message}</s:Text></s:Reason><s:Detail>{detail}\
             <f:WSManFault xmlns:f=\"{uri}\" Code=\"{code}\"><f:Message>{message}</f:Message></f:WSManFault></s:Detail>\
             </s:Fault>",
            subcode = escape(self.subcode.as_str()),
            message = escape(self.message.as_str()),
            detail = detail.unwrap_or_default(),
            uri = Namespace::Fault.uri(),
            code = self.code,
        )
    }

    /// Reads the fault out of an envelope; `None` when the envelope holds no fault.
    ///
    /// # Errors
    /// When the body is no envelope.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, Malformed> {
        Ok(Self::in_body(&Parts::parse(body)?.body))
    }

    /// Never fails: a fault that says less is a fault all the same.
    pub(super) fn in_body(body: &Element) -> Option<Self> {
        let fault = body.child(Namespace::Soap, "Fault")?;
        let code = fault.child(Namespace::Soap, "Code");
        let subcode = code.and_then(|code| code.child(Namespace::Soap, "Subcode"));
        let value = subcode.or(code).and_then(|element| element.child_text(Namespace::Soap, "Value"));
        let reason = fault.child(Namespace::Soap, "Reason").and_then(|r| r.child_text(Namespace::Soap, "Text"));
        let detail = fault.child(Namespace::Soap, "Detail");
        let windows = detail.and_then(|detail| detail.child(Namespace::Fault, "WSManFault"));
        let number = windows.and_then(|fault| fault.attribute("Code")).and_then(|text| number(text.trim()));
        // Message may hold a ProviderFault with a WSManFault of its own: all of it is worth reading.
        let message = windows.and_then(|fault| fault.child(Namespace::Fault, "Message")).map(Element::all_text);
        Some(Self {
            code: number.unwrap_or(0),
            subcode: value.unwrap_or_default().to_owned(),
            message: message.filter(|text| !text.is_empty()).unwrap_or_else(|| reason.unwrap_or_default().to_owned()),
            detail: detail.and_then(|d| d.child_text(Namespace::WsMan, "FaultDetail")).map(str::to_owned),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, subcode, message, .. } = self;
        write!(f, "{message} ({subcode}, {code})")
    }
}

impl std::error::Error for Fault {}

/// Windows writes decimal; some services write HRESULTs, as hexadecimal or negative numbers.
fn number(text: &str) -> Option<u32> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u32::from_str_radix(hex, 16).ok();
    }
    text.parse::<u32>().ok().or_else(|| text.parse::<i32>().ok().map(i32::cast_unsigned))
}

const ACTION: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault";
