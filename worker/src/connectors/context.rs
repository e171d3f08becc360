//! A security context: Kerberos, NTLM or SPNEGO on one connection (SSPI without Windows).

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use keytab::Encryption;
use picky_krb::crypto::CipherSuite;
use psrp::sealed::{self, Protocol, Sealed, Spelling};
use secrecy::ExposeSecret as _;
use sspi::{
    AuthIdentityBuffers, BufferType, ClientRequestFlags, CredentialsBuffers, DataRepresentation, EncryptionFlags,
    ErrorKind, Kerberos, KerberosConfig, KeytabIdentity, Negotiate, NegotiateConfig, NetworkRequest, Ntlm,
    SecurityBuffer, SecurityBufferRef, SecurityStatus, Sspi, Username, network_client::NetworkClient, ntlm::NtlmConfig,
};

use super::credentials::{Proof, WindowsLogon};

/// The word in front of a token in `Authorization` and `WWW-Authenticate`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scheme {
    Negotiate,
    Kerberos,
    Ntlm,
}

impl Scheme {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Negotiate => "Negotiate",
            Self::Kerberos => "Kerberos",
            Self::Ntlm => "NTLM",
        }
    }
}

/// What is spoken inside the scheme.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mechanism {
    Kerberos,
    Ntlm,
}

impl Mechanism {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kerberos => "Kerberos",
            Self::Ntlm => "NTLM",
        }
    }
}

/// Why there is no context, or nothing can be sealed in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContextError {
    /// The user name says nothing of a realm, and neither does the configuration.
    #[error("the user name names no realm")]
    NoRealm,
    /// No KDC answers.
    #[error("no Kerberos KDC answers: {0}")]
    NoKdc(String),
    /// The KDC knows the account or the service not, or not with this password.
    #[error("the Kerberos KDC refuses: {0}")]
    Denied(String),
    /// The clocks of this machine and the KDC or server are too far apart.
    #[error("the clocks are too far apart for Kerberos: {0}")]
    Skew(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// A token to send, and whether the context is complete on this side.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) token: Vec<u8>,
    pub(super) complete: bool,
}

/// A security context with one server; it belongs to one connection.
pub(super) struct Context {
    package: Package,
    /// `HTTP/host`.
    target: String,
    /// SEC_CHANNEL_BINDINGS (RFC 5929 `tls-server-end-point`), over TLS.
    bindings: Option<Vec<u8>>,
    protocol: Protocol,
}

enum Package {
    Kerberos { kerberos: Box<Kerberos>, handle: Option<CredentialsBuffers> },
    Spnego { negotiate: Box<Negotiate>, handle: Option<CredentialsBuffers> },
    Ntlm { ntlm: Box<Ntlm>, handle: Option<AuthIdentityBuffers> },
}

impl Context {
    /// A context that has not begun. `host` is that of the URL; `end_point` is the hash of the server's certificate (RFC 5929 section 4).
    pub(super) fn new(
        logon: &WindowsLogon,
        scheme: Scheme,
        mechanism: Mechanism,
        host: &str,
        end_point: Option<&[u8]>,
    ) -> Result<Self, ContextError> {
        let package = match (mechanism, scheme) {
            (Mechanism::Ntlm, _) => ntlm(logon)?,
            (Mechanism::Kerberos, Scheme::Kerberos) => kerberos(logon)?,
            (Mechanism::Kerberos, Scheme::Negotiate | Scheme::Ntlm) => spnego(logon)?,
        };
        let target = logon.kerberos.service_principal.clone().unwrap_or_else(|| format!("HTTP/{host}"));
        // sspi 0.23 writes the option by which Kerberos announces its binding (MS-KILE 3.2.5.8) in two bytes instead of four, which acceptors
        // refuse: Kerberos goes without. Endpoints that demand a binding are reached by NTLM, or sealed over plain HTTP.
        let bindings = end_point.filter(|_| mechanism == Mechanism::Ntlm);
        let protocol = if scheme == Scheme::Kerberos { Protocol::Kerberos } else { Protocol::Spnego };
        Ok(Self { package, target, bindings: bindings.map(channel_bindings), protocol })
    }

    /// The next token after the server's, which is empty at first. Asks the KDC, on a thread that may wait.
    pub(super) async fn step(mut self, input: Vec<u8>) -> Result<(Self, Leg), ContextError> {
        let stepped = tokio::task::spawn_blocking(move || {
            let leg = self.step_now(input)?;
            Ok((self, leg))
        });
        stepped.await.unwrap_or_else(|error| Err(ContextError::Failed(format!("the security context failed: {error}"))))
    }

    fn step_now(&mut self, input: Vec<u8>) -> Result<Leg, ContextError> {
        let Self { package, target, bindings, .. } = self;
        let bindings = bindings.as_deref();
        match package {
            Package::Kerberos { kerberos, handle } => leg(kerberos.as_mut(), handle, target, bindings, input),
            Package::Spnego { negotiate, handle } => leg(negotiate.as_mut(), handle, target, bindings, input),
            Package::Ntlm { ntlm, handle } => leg(ntlm.as_mut(), handle, target, bindings, input),
        }
    }

    /// The Content-Type and the body that carry `plain` so that only the server can read it.
    pub(super) fn seal(&mut self, plain: &[u8]) -> Result<(&'static str, Vec<u8>), ContextError> {
        let sealed = match &mut self.package {
            Package::Kerberos { kerberos, .. } => seal(kerberos.as_mut(), plain),
            Package::Spnego { negotiate, .. } => seal(negotiate.as_mut(), plain),
            Package::Ntlm { ntlm, .. } => seal(ntlm.as_mut(), plain),
        };
        let (token, data) = sealed.map_err(explain)?;
        let body = Sealed { token: &token, data: &data }.write(self.protocol, Spelling::Tight);
        Ok((self.protocol.content_type(), body))
    }

    /// What a sealed body says.
    pub(super) fn unseal(&mut self, body: &[u8]) -> Result<Vec<u8>, ContextError> {
        let pieces = sealed::read(body).map_err(|error| ContextError::Failed(error.to_string()))?;
        let mut plain = Vec::with_capacity(body.len());
        for piece in pieces {
            let opened = match &mut self.package {
                Package::Kerberos { kerberos, .. } => unseal(kerberos.as_mut(), piece),
                Package::Spnego { negotiate, .. } => unseal(negotiate.as_mut(), piece),
                Package::Ntlm { ntlm, .. } => unseal(ntlm.as_mut(), piece),
            };
            plain.extend_from_slice(&opened.map_err(explain)?);
        }
        Ok(plain)
    }
}

/// The token and the sealed bytes.
fn seal(package: &mut impl Sspi, plain: &[u8]) -> sspi::Result<(Vec<u8>, Vec<u8>)> {
    let trailer = package.query_context_sizes()?.security_trailer;
    let mut token = vec![0; usize::try_from(trailer)?];
    let mut data = plain.to_vec();
    let mut buffers = [SecurityBufferRef::token_buf(&mut token), SecurityBufferRef::data_buf(&mut data)];
    package.encrypt_message(EncryptionFlags::empty(), &mut buffers)?;
    Ok((token, data))
}

fn unseal(package: &mut impl Sspi, piece: Sealed<'_>) -> sspi::Result<Vec<u8>> {
    let (mut token, mut data) = (piece.token.to_vec(), piece.data.to_vec());
    let mut buffers = [SecurityBufferRef::token_buf(&mut token), SecurityBufferRef::data_buf(&mut data)];
    package.decrypt_message(&mut buffers)?;
    Ok(buffers[1].data().to_vec())
}

fn ntlm(logon: &WindowsLogon) -> Result<Package, ContextError> {
    let Proof::Password(password) = &logon.proof else {
        return Err(ContextError::Failed("NTLM needs a password, and there is only a keytab".to_owned()));
    };
    let Account { name, qualifier } = Account::as_typed(logon);
    let handle = AuthIdentityBuffers::from_utf8(name, qualifier, password.expose_secret());
    let ntlm = Ntlm::with_config(NtlmConfig::new(COMPUTER.to_owned()));
    Ok(Package::Ntlm { ntlm: Box::new(ntlm), handle: Some(handle) })
}

fn kerberos(logon: &WindowsLogon) -> Result<Package, ContextError> {
    let handle = Some(ticket_holder(logon)?);
    let kerberos = Kerberos::new_client_from_config(kerberos_config(logon)).map_err(explain)?;
    Ok(Package::Kerberos { kerberos: Box::new(kerberos), handle })
}

fn spnego(logon: &WindowsLogon) -> Result<Package, ContextError> {
    let handle = Some(ticket_holder(logon)?);
    // NTLM is not fallen back to in here: it is begun anew, with the account as its domain knows it.
    let only = Some("kerberos,!ntlm,!pku2u".to_owned());
    let config = NegotiateConfig::new(Box::new(kerberos_config(logon)), only, COMPUTER.to_owned());
    let negotiate = Negotiate::new_client(config).map_err(explain)?;
    Ok(Package::Spnego { negotiate: Box::new(negotiate), handle })
}

/// The account as its realm knows it: `name` of `REALM`.
fn ticket_holder(logon: &WindowsLogon) -> Result<CredentialsBuffers, ContextError> {
    let realm = logon.realm().ok_or(ContextError::NoRealm)?;
    let failed = |error: &dyn std::fmt::Display| ContextError::Failed(error.to_string());
    Ok(match &logon.proof {
        Proof::Password(password) => {
            let identity = AuthIdentityBuffers::from_utf8(logon.name(), &realm, password.expose_secret());
            CredentialsBuffers::AuthIdentity(identity)
        }
        Proof::Key(key) => CredentialsBuffers::Keytab(KeytabIdentity {
            principal: Username::new_down_level_logon_name(logon.name(), &realm).map_err(|error| failed(&error))?,
            key: sspi::Secret::new(key.key.to_vec()),
            key_enctype: match key.encryption {
                Encryption::Aes128 => CipherSuite::Aes128CtsHmacSha196,
                Encryption::Aes256 => CipherSuite::Aes256CtsHmacSha196,
                Encryption::Other(number) => return Err(failed(&format!("keys of kind {number} are of no use"))),
            },
        }),
    })
}

fn kerberos_config(logon: &WindowsLogon) -> KerberosConfig {
    match &logon.kerberos.kdc {
        Some(kdc) => KerberosConfig::new_with_kdc_url(kdc, COMPUTER.to_owned()),
        None => KerberosConfig {
            kdc_resolution: sspi::KdcResolution::KdcUrl(None),
            client_computer_name: COMPUTER.to_owned(),
        },
    }
}

/// The account as NTLM takes it: `DOMAIN` and `name`, or the whole user principal name.
struct Account<'a> {
    name: &'a str,
    qualifier: &'a str,
}

impl<'a> Account<'a> {
    fn as_typed(logon: &'a WindowsLogon) -> Self {
        let username = logon.username.as_str();
        match username.split_once('\\') {
            Some((qualifier, name)) => Self { name, qualifier },
            None => Self { name: username, qualifier: "" },
        }
    }
}

fn leg<P: Sspi>(
    package: &mut P,
    handle: &mut P::CredentialsHandle,
    target: &str,
    bindings: Option<&[u8]>,
    input: Vec<u8>,
) -> Result<Leg, ContextError> {
    let mut output = [SecurityBuffer::new(Vec::new(), BufferType::Token)];
    let mut input = vec![SecurityBuffer::new(input, BufferType::Token)];
    input.extend(bindings.map(|bytes| SecurityBuffer::new(bytes.to_vec(), BufferType::ChannelBindings)));
    let mut builder = package
        .initialize_security_context()
        .with_credentials_handle(handle)
        .with_context_requirements(
            ClientRequestFlags::MUTUAL_AUTH | ClientRequestFlags::INTEGRITY | ClientRequestFlags::CONFIDENTIALITY,
        )
        .with_target_data_representation(DataRepresentation::Native)
        .with_target_name(target)
        .with_input(&mut input)
        .with_output(&mut output);
    let status = {
        let mut generator = package.initialize_security_context_impl(&mut builder).map_err(explain)?;
        generator.resolve_with_client(&Kdc).map_err(explain)?.status
    };
    let complete = !matches!(status, SecurityStatus::ContinueNeeded | SecurityStatus::CompleteAndContinue);
    let [SecurityBuffer { buffer: token, .. }] = output;
    Ok(Leg { token, complete })
}

fn explain(error: sspi::Error) -> ContextError {
    let text = error.description.split(". Additional").next().unwrap_or_default().to_owned();
    match error.error_type {
        ErrorKind::NoAuthenticatingAuthority => ContextError::NoKdc(text),
        ErrorKind::TimeSkew => ContextError::Skew(text),
        ErrorKind::UnknownCredentials
        | ErrorKind::LogonDenied
        | ErrorKind::NoCredentials
        | ErrorKind::KdcInvalidRequest
        | ErrorKind::WrongPrincipalName => ContextError::Denied(text),
        kind => ContextError::Failed(format!("{kind:?}: {text}")),
    }
}

/// SEC_CHANNEL_BINDINGS without addresses: eight numbers, and `tls-server-end-point:` with the hash behind them.
fn channel_bindings(end_point: &[u8]) -> Vec<u8> {
    const HEAD: u32 = 32;
    let data = [b"tls-server-end-point:".as_slice(), end_point].concat();
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let numbers = [0, 0, 0, 0, 0, 0, length, HEAD];
    numbers.into_iter().flat_map(u32::to_le_bytes).chain(data).collect()
}

/// What this client calls its machine: the true name is nobody's business.
const COMPUTER: &str = "REKEY";

/// The way to the KDC: TCP (RFC 4120 section 7.2.2), length first.
struct Kdc;

impl NetworkClient for Kdc {
    fn send(&self, request: &NetworkRequest) -> sspi::Result<Vec<u8>> {
        ask_kdc(request).map_err(|error| {
            sspi::Error::new(ErrorKind::NoAuthenticatingAuthority, format!("{}: {error}", request.url))
        })
    }
}

fn ask_kdc(request: &NetworkRequest) -> std::io::Result<Vec<u8>> {
    let unusable = |what: &str| std::io::Error::other(what.to_owned());
    if request.url.scheme() != "tcp" {
        return Err(unusable("only KDCs on TCP are asked"));
    }
    let host = request.url.host_str().ok_or_else(|| unusable("no host"))?.trim_matches(['[', ']']);
    let mut last = unusable("the name has no address");
    for address in (host, request.url.port().unwrap_or(88)).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, KDC_PATIENCE) {
            Ok(stream) => return converse(stream, &request.data),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn converse(mut stream: TcpStream, request: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(KDC_PATIENCE))?;
    stream.set_write_timeout(Some(KDC_PATIENCE))?;
    stream.write_all(request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let size = usize::try_from(u32::from_be_bytes(length)).map_err(std::io::Error::other)?;
    if size > LARGEST_REPLY {
        return Err(std::io::Error::other("its answer is too long"));
    }
    let mut reply = length.to_vec();
    reply.resize(4 + size, 0);
    stream.read_exact(&mut reply[4..])?;
    Ok(reply)
}

const KDC_PATIENCE: Duration = Duration::from_secs(5);
const LARGEST_REPLY: usize = 1 << 20;
