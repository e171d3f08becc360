//! A connection that is logged on: it knows who it is, seals what must not be read, and logs on again when it has to.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use psrp::{client::Configuration, sealed};
use secrecy::ExposeSecret as _;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::{
    Endpoint, WireError,
    context::{Context, ContextError, Mechanism, Scheme},
    credentials::{Credentials, WindowsLogon, WindowsProtocol},
    http::{Link, Response},
};

/// A connection to one endpoint with what is needed to make it again.
pub(super) struct Connection {
    endpoint: Endpoint,
    link: Link,
    /// The security context of a Windows logon, once it is complete.
    context: Option<Context>,
    /// How it logged on, for people.
    logged_on: Option<LoggedOn>,
    /// Whether anything was answered on this link yet.
    used: bool,
}

/// How a connection logged on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct LoggedOn {
    /// E.g. `Kerberos`, `NTLM`, `Basic`.
    pub(crate) by: &'static str,
    /// Whether messages are sealed beneath HTTP.
    pub(crate) sealed: bool,
    /// Whether the connection is TLS.
    pub(crate) tls: bool,
}

impl std::fmt::Display for LoggedOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = if self.tls { "https" } else { "http" };
        let sealed = if self.sealed { ", messages sealed" } else { "" };
        write!(f, "{} over {way}{sealed}", self.by)
    }
}

/// The request with which a client says that its certificate is its logon (MS-WSMV 2.2.9.3 names the scheme only).
const MUTUAL: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual";

impl Connection {
    /// Connects, and checks the server's certificate. The logon comes with the first request.
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Self, WireError> {
        let link = Link::open(endpoint).await?;
        Ok(Self { endpoint: endpoint.clone(), link, context: None, logged_on: None, used: false })
    }

    /// Where it leads.
    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How it logged on; `None` before the first answer.
    pub(super) const fn logged_on(&self) -> Option<&LoggedOn> {
        self.logged_on.as_ref()
    }

    /// Sends one SOAP envelope. What was certainly not taken, because the connection was gone or the logon has expired, is sent once more on a new one.
    pub(super) async fn post(&mut self, body: Vec<u8>) -> Result<Response, WireError> {
        let body = Bytes::from(body);
        let was_used = self.used;
        let answered = self.exchange(&body).await;
        let again = match &answered {
            Err(WireError::NotSent { why, .. }) if was_used => {
                debug!("{} has closed the connection ({why})", self.endpoint.address());
                true
            }
            Ok(response) if was_used && response.status == StatusCode::UNAUTHORIZED => {
                debug!("{} wants a new logon", self.endpoint.address());
                true
            }
            _ => false,
        };
        if !again {
            return answered;
        }
        *self = Self::open(&self.endpoint).await?;
        self.exchange(&body).await
    }

    async fn exchange(&mut self, body: &Bytes) -> Result<Response, WireError> {
        let endpoint = self.endpoint.clone();
        let response = match &endpoint.credentials {
            Credentials::Basic(account) => {
                let pair = Zeroizing::new(format!("{}:{}", account.username, account.password.expose_secret()));
                let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
                self.with_header("Basic", &value, body).await?
            }
            Credentials::Certificate => self.with_header("client certificate", MUTUAL, body).await?,
            Credentials::Windows(_) if self.context.is_some() => self.protected(body).await?,
            Credentials::Windows(logon) => Box::pin(self.log_on(logon, body)).await?,
        };
        self.used = true;
        Ok(response)
    }

    async fn with_header(&mut self, by: &'static str, value: &str, body: &Bytes) -> Result<Response, WireError> {
        let headers = [(AUTHORIZATION, value), (CONTENT_TYPE, psrp::wsman::CONTENT_TYPE)];
        let response = self.link.send(Method::POST, &headers, body.clone()).await?;
        self.logged_on = Some(LoggedOn { by, sealed: false, tls: !self.endpoint.is_plain() });
        Ok(response)
    }

    /// Whether messages are sealed beneath HTTP: always where nothing else protects them.
    fn seals(&self, logon: &WindowsLogon) -> bool {
        self.endpoint.is_plain() || logon.always_seal
    }

    /// In an established context.
    async fn protected(&mut self, body: &Bytes) -> Result<Response, WireError> {
        let sealing = self.logged_on.as_ref().is_some_and(|how| how.sealed);
        let Some(context) = self.context.as_mut().filter(|_| sealing) else {
            return self.link.send(Method::POST, &[(CONTENT_TYPE, psrp::wsman::CONTENT_TYPE)], body.clone()).await;
        };
        let address = self.endpoint.address();
        let not_sent = |error: ContextError| WireError::NotSent { host: address.clone(), why: error.to_string() };
        let (content_type, sealed) = context.seal(body).map_err(not_sent)?;
        let response = self.link.send(Method::POST, &[(CONTENT_TYPE, content_type)], sealed.into()).await?;
        open_sealed(context, response).map_err(|why| WireError::UnknownOutcome { host: address, why })
    }

    /// Logs on and sends the envelope: with the last token inside TLS, sealed after it elsewhere.
    async fn log_on(&mut self, logon: &WindowsLogon, body: &Bytes) -> Result<Response, WireError> {
        let mechanisms: &[Mechanism] = match logon.protocol {
            WindowsProtocol::Negotiate => &[Mechanism::Kerberos, Mechanism::Ntlm],
            WindowsProtocol::Kerberos => &[Mechanism::Kerberos],
            WindowsProtocol::Ntlm => &[Mechanism::Ntlm],
        };
        let (last, others) = mechanisms.split_last().expect("each protocol has a mechanism");
        for mechanism in others {
            match self.log_on_by(*mechanism, logon, body).await {
                Err(LogonError::Context(error)) if worth_falling_back(&error) => {
                    warn!("{}: no {} ({error}): falling back to NTLM", self.endpoint.address(), mechanism.name());
                }
                done => return done.map_err(|error| self.explain(error)),
            }
        }
        let done = self.log_on_by(*last, logon, body).await;
        done.map_err(|error| self.explain(error))
    }

    /// Tries the schemes that can carry the mechanism, the likeliest first, as far as the server offers them.
    async fn log_on_by(
        &mut self,
        mechanism: Mechanism,
        logon: &WindowsLogon,
        body: &Bytes,
    ) -> Result<Response, LogonError> {
        let schemes = match (mechanism, self.endpoint.configuration) {
            (Mechanism::Ntlm, _) => [Scheme::Negotiate, Scheme::Ntlm],
            // Exchange hosts its endpoint in IIS, where Kerberos has a scheme of its own.
            (Mechanism::Kerberos, Configuration::Exchange) => [Scheme::Kerberos, Scheme::Negotiate],
            (Mechanism::Kerberos, Configuration::Windows) => [Scheme::Negotiate, Scheme::Kerberos],
        };
        let offered = match self.try_scheme(schemes[0], mechanism, logon, body).await {
            Err(LogonError::NotOffered(offered)) => offered,
            done => return done,
        };
        if offered.iter().any(|name| name.eq_ignore_ascii_case(schemes[1].name())) {
            return self.try_scheme(schemes[1], mechanism, logon, body).await;
        }
        Err(LogonError::NotOffered(offered))
    }

    async fn try_scheme(
        &mut self,
        scheme: Scheme,
        mechanism: Mechanism,
        logon: &WindowsLogon,
        body: &Bytes,
    ) -> Result<Response, LogonError> {
        let seals = self.seals(logon);
        let carried = if seals { Bytes::new() } else { body.clone() };
        let end_point = self.link.end_point.as_deref();
        let mut context = Context::new(logon, scheme, mechanism, self.endpoint.host(), end_point)?;
        let mut input = Vec::new();
        loop {
            let (stepped, leg) = context.step(input).await?;
            context = stepped;
            let value = format!("{} {}", scheme.name(), STANDARD.encode(&leg.token));
            let headers = [(AUTHORIZATION, value.as_str()), (CONTENT_TYPE, psrp::wsman::CONTENT_TYPE)];
            let response = self.link.send(Method::POST, &headers, carried.clone()).await?;
            let token = token_of(&response.headers, scheme);
            if response.status == StatusCode::UNAUTHORIZED {
                let offered = offered(&response.headers);
                match token {
                    Some(token) => input = token,
                    None if offered.iter().any(|name| name.eq_ignore_ascii_case(scheme.name()))
                        || offered.is_empty() =>
                    {
                        return Err(LogonError::Refused(mechanism));
                    }
                    None => return Err(LogonError::NotOffered(offered)),
                }
                continue;
            }
            // The server's last token proves that it is the server, and completes the keys.
            if let Some(token) = token.filter(|_| !leg.complete || mechanism == Mechanism::Kerberos) {
                context = context.step(token).await?.0;
            } else if mechanism == Mechanism::Kerberos {
                return Err(LogonError::NotMutual);
            }
            self.context = Some(context);
            self.logged_on = Some(LoggedOn { by: mechanism.name(), sealed: seals, tls: !self.endpoint.is_plain() });
            if !seals || !response.status.is_success() {
                return Ok(response);
            }
            return Ok(self.protected(body).await?);
        }
    }

    fn explain(&self, error: LogonError) -> WireError {
        let host = self.endpoint.address();
        let refused = |code, why: String, action| WireError::Refused { host: host.clone(), code, why, action };
        match error {
            LogonError::Wire(error) => error,
            LogonError::Refused(Mechanism::Ntlm) => refused(
                "credentials_refused",
                "it does not accept the user name and password (NTLM, 401)".to_owned(),
                "Correct username and password in the configuration, and see that the account may log on there; then retry",
            ),
            LogonError::Refused(Mechanism::Kerberos) => refused(
                "credentials_refused",
                "it does not accept the Kerberos ticket (401)".to_owned(),
                "See that the account may log on there and that the service principal belongs to the endpoint's account \
                 (setspn -Q); an endpoint that demands Extended Protection takes Kerberos over http, where messages are \
                 sealed, or NTLM over https; then retry",
            ),
            LogonError::NotOffered(offered) => refused(
                "authentication_not_offered",
                format!("it does not offer the authentication that is configured, only: {}", offered.join(", ")),
                "Set authentication to what the endpoint offers, or allow the other on the virtual directory; then retry",
            ),
            LogonError::NotMutual => refused(
                "server_not_proven",
                "it did not prove that it is the server that the ticket was for".to_owned(),
                "Check the service principal and whether something between intercepts the connection; then retry",
            ),
            LogonError::Context(ContextError::NoRealm) => refused(
                "realm_unknown",
                "Kerberos needs the account's realm, and neither the user name nor the configuration names one"
                    .to_owned(),
                "Write the user name as DOMAIN\\user or user@domain, or set realm; then retry",
            ),
            LogonError::Context(ContextError::Denied(why)) => refused(
                "kerberos_denied",
                format!("there is no Kerberos ticket for it: {why}"),
                "Check user name, password and realm, and that the service principal HTTP/<host> is registered (setspn -Q); \
                 behind a load balancer set service_principal; then retry",
            ),
            LogonError::Context(ContextError::Skew(why)) => refused(
                "clock_skew",
                why,
                "Set the clock of this machine by the domain's; Kerberos allows five minutes; then retry",
            ),
            LogonError::Context(error @ ContextError::NoKdc(_)) => WireError::NoKdc { host, why: error.to_string() },
            LogonError::Context(error @ ContextError::Failed(_)) => WireError::NotSent { host, why: error.to_string() },
        }
    }
}

/// Why a logon did not come about.
enum LogonError {
    Wire(WireError),
    Context(ContextError),
    /// The server offers the scheme but refused the token.
    Refused(Mechanism),
    /// What the server offers instead.
    NotOffered(Vec<String>),
    /// The server let us in without proving itself.
    NotMutual,
}

impl From<WireError> for LogonError {
    fn from(error: WireError) -> Self {
        // A lost answer to a logon has changed nothing: the envelope counts only once the logon is complete.
        Self::Wire(error)
    }
}

impl From<ContextError> for LogonError {
    fn from(error: ContextError) -> Self {
        Self::Context(error)
    }
}

/// NTLM may do what Kerberos cannot when the trouble is the KDC's or the service's name, never when the password is wrong.
fn worth_falling_back(error: &ContextError) -> bool {
    match error {
        ContextError::NoRealm | ContextError::NoKdc(_) | ContextError::Skew(_) => true,
        ContextError::Denied(why) => why.contains("server not found"),
        ContextError::Failed(_) => false,
    }
}

/// A sealed answer is opened. An answer that should be sealed and is not counts only if it says nothing.
fn open_sealed(context: &mut Context, response: Response) -> Result<Response, String> {
    let content_type = response.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if sealed::is_sealed(content_type) {
        let body = context.unseal(&response.body).map_err(|error| error.to_string())?;
        return Ok(Response { body: body.into(), ..response });
    }
    if response.status.is_success() && !response.body.is_empty() {
        return Err("its answer is not sealed".to_owned());
    }
    // Nobody vouches for what an error says: its status alone is used.
    Ok(Response { body: Bytes::new(), ..response })
}

/// The challenges of an answer: the scheme and what is behind it.
fn challenges(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let values = headers.get_all(WWW_AUTHENTICATE).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|challenge| {
        let challenge = challenge.trim();
        challenge.split_once(' ').unwrap_or((challenge, ""))
    })
}

/// The schemes that an answer offers.
fn offered(headers: &HeaderMap) -> Vec<String> {
    challenges(headers).map(|(scheme, _)| scheme.to_owned()).collect()
}

/// The token that an answer carries for a scheme.
fn token_of(headers: &HeaderMap, scheme: Scheme) -> Option<Vec<u8>> {
    let mut ours = challenges(headers).filter(|(name, _)| name.eq_ignore_ascii_case(scheme.name()));
    ours.find_map(|(_, token)| STANDARD.decode(token.trim()).ok().filter(|token| !token.is_empty()))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn challenges_are_read_from_one_header_or_several() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Negotiate, Basic realm=\"WSMAN\""));
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("kerberos AQID"));
        assert_eq!(offered(&headers), ["Negotiate", "Basic", "kerberos"]);
        assert_eq!(token_of(&headers, Scheme::Kerberos), Some(vec![1, 2, 3]));
        assert_eq!(token_of(&headers, Scheme::Negotiate), None);
    }
}
