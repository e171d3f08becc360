//! Windows logons as a server sees them: Kerberos, NTLM and SPNEGO, each on one connection (RFC 4559, MS-NLMP, MS-SPNG).

use std::time::Duration;

use psrp::sealed::{self, Protocol, Sealed, Spelling};
use sspi::{
    BufferType, DataRepresentation, EncryptionFlags, Kerberos, KerberosConfig, KerberosServerConfig, Negotiate,
    NegotiateConfig, Ntlm, SecurityBuffer, SecurityBufferRef, SecurityStatus, ServerRequestFlags, Sspi,
    kerberos::ServerProperties, ntlm::NtlmConfig,
};

use crate::admission::Admission;

/// The words in front of a token in `Authorization` and `WWW-Authenticate`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scheme {
    Negotiate,
    Kerberos,
    Ntlm,
}

impl Scheme {
    pub(crate) const ALL: [Self; 3] = [Self::Negotiate, Self::Kerberos, Self::Ntlm];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Negotiate => "Negotiate",
            Self::Kerberos => "Kerberos",
            Self::Ntlm => "NTLM",
        }
    }
}

/// A logon that is not accepted.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

impl Refused {
    fn because(why: impl ToString) -> Self {
        Self(why.to_string())
    }
}

impl From<sspi::Error> for Refused {
    fn from(error: sspi::Error) -> Self {
        Self(format!("{:?}: {}", error.error_type, error.description))
    }
}

/// What a step of a logon leads to. The token is to be sent, if there is one.
#[derive(Debug)]
pub(crate) enum Leg {
    Continue(Vec<u8>),
    Complete(Vec<u8>),
}

/// The server's side of a security context.
pub(crate) struct Acceptor {
    package: Package,
    protocol: Protocol,
    /// What stands for the TLS channel in a proof (RFC 5929 `tls-server-end-point`), inside TLS.
    bindings: Option<Vec<u8>>,
}

enum Package {
    Kerberos(Box<Kerberos>),
    Spnego(Box<Negotiate>),
    Ntlm(Box<Ntlm>),
}

impl Acceptor {
    /// A context that has not begun. The first token tells what is spoken, whatever the scheme: clients send NTLM bare under Negotiate, too.
    pub(crate) fn new(
        admission: &Admission,
        scheme: Scheme,
        token: &[u8],
        end_point: Option<&[u8]>,
    ) -> Result<Self, Refused> {
        let package = if token.starts_with(NTLM_SIGNATURE) {
            Package::Ntlm(Box::new(Ntlm::with_config(NtlmConfig::new(COMPUTER.to_owned()))))
        } else if starts_with_mechanism(token, KERBEROS) || starts_with_mechanism(token, KERBEROS_OF_MICROSOFT) {
            let ServerSide { config, properties } = server_side(admission, end_point.is_some())?;
            Package::Kerberos(Box::new(Kerberos::new_server_from_config(config, properties)?))
        } else if starts_with_mechanism(token, SPNEGO) {
            Package::Spnego(Box::new(spnego(admission, end_point.is_some())?))
        } else {
            return Err(Refused::because("the token is of no known mechanism"));
        };
        let protocol = if scheme == Scheme::Kerberos { Protocol::Kerberos } else { Protocol::Spnego };
        Ok(Self { package, protocol, bindings: end_point.map(channel_bindings) })
    }

    /// Takes the client's next token.
    pub(crate) fn step(&mut self, admission: &Admission, token: Vec<u8>) -> Result<Leg, Refused> {
        self.check_proof(admission, &token)?;
        let bindings = self.bindings.clone();
        let (status, answer) = match &mut self.package {
            Package::Kerberos(kerberos) => accept(kerberos.as_mut(), &mut None, bindings, token)?,
            Package::Spnego(negotiate) => accept(negotiate.as_mut(), &mut None, bindings, token)?,
            Package::Ntlm(ntlm) => accept(ntlm.as_mut(), &mut Some(admission.proof()), bindings, token)?,
        };
        if matches!(status, SecurityStatus::ContinueNeeded | SecurityStatus::CompleteAndContinue) {
            return Ok(Leg::Continue(answer));
        }
        let name = match &mut self.package {
            Package::Kerberos(kerberos) => kerberos.query_context_names()?,
            Package::Spnego(negotiate) => negotiate.query_context_names()?,
            Package::Ntlm(ntlm) => ntlm.query_context_names()?,
        };
        if !admission.is_account(&name.username) {
            return Err(Refused(format!("{} is not the account", name.username.inner())));
        }
        Ok(Leg::Complete(answer))
    }

    /// sspi checks what an NTLM proof holds, but not that it holds it: without a MIC any password would do.
    fn check_proof(&self, admission: &Admission, token: &[u8]) -> Result<(), Refused> {
        let Some(proof) = ntlm_proof(token) else { return Ok(()) };
        let values = AvPairs::of_proof(proof).ok_or_else(|| Refused::because("the NTLM proof is malformed"))?;
        if values.clone().all(|(id, value)| id != AV_FLAGS || value.first().is_none_or(|bits| bits & AV_MIC == 0)) {
            return Err(Refused::because("the NTLM proof has no message integrity code"));
        }
        let mut bindings =
            values.filter(|(id, value)| *id == AV_CHANNEL_BINDINGS && value.iter().any(|byte| *byte != 0));
        if admission.require_channel_binding && self.bindings.is_some() && bindings.next().is_none() {
            return Err(Refused::because("the NTLM proof does not name the TLS channel"));
        }
        Ok(())
    }

    /// The Content-Type and the body that carry `plain` so that only the client can read it.
    pub(crate) fn seal(&mut self, plain: &[u8], spelling: Spelling) -> Result<(&'static str, Vec<u8>), Refused> {
        let (token, data) = match &mut self.package {
            Package::Kerberos(kerberos) => seal(kerberos.as_mut(), plain)?,
            Package::Spnego(negotiate) => seal(negotiate.as_mut(), plain)?,
            Package::Ntlm(ntlm) => seal(ntlm.as_mut(), plain)?,
        };
        let body = Sealed { token: &token, data: &data }.write(self.protocol, spelling);
        Ok((self.protocol.content_type(), body))
    }

    /// What a sealed body says.
    pub(crate) fn unseal(&mut self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let mut plain = Vec::with_capacity(body.len());
        for piece in sealed::read(body).map_err(Refused::because)? {
            plain.extend(match &mut self.package {
                Package::Kerberos(kerberos) => unseal(kerberos.as_mut(), piece)?,
                Package::Spnego(negotiate) => unseal(negotiate.as_mut(), piece)?,
                Package::Ntlm(ntlm) => unseal(ntlm.as_mut(), piece)?,
            });
        }
        Ok(plain)
    }
}

struct ServerSide {
    config: KerberosConfig,
    properties: ServerProperties,
}

fn server_side(admission: &Admission, inside_tls: bool) -> Result<ServerSide, Refused> {
    let mut keys = admission.service_keys.iter().filter(|_| admission.offers_kerberos(inside_tls));
    let first = keys.next().ok_or_else(|| Refused::because("Kerberos is not offered"))?;
    let mut properties = ServerProperties::new(&components(&first.principal), None, SKEW, Some(first.key.clone()))?;
    for key in keys {
        properties.add_service_key(&components(&key.principal), key.key.clone())?;
    }
    // The server's side asks no KDC: its keys open the tickets.
    let config =
        KerberosConfig { kdc_resolution: sspi::KdcResolution::KdcUrl(None), client_computer_name: COMPUTER.to_owned() };
    Ok(ServerSide { config, properties })
}

fn components(principal: &[String]) -> Vec<&str> {
    principal.iter().map(String::as_str).collect()
}

fn spnego(admission: &Admission, inside_tls: bool) -> Result<Negotiate, Refused> {
    let identities = admission.identities();
    if !admission.offers_kerberos(inside_tls) {
        let config = NtlmConfig::new(COMPUTER.to_owned());
        let only = Some("!kerberos,ntlm,!pku2u".to_owned());
        let config = NegotiateConfig::new(Box::new(config), only, COMPUTER.to_owned());
        return Ok(Negotiate::new_server(config, identities)?);
    }
    let ServerSide { config, properties } = server_side(admission, inside_tls)?;
    let config = KerberosServerConfig { kerberos_config: config, server_properties: properties };
    let both = Some("kerberos,ntlm,!pku2u".to_owned());
    Ok(Negotiate::new_server(NegotiateConfig::new(Box::new(config), both, COMPUTER.to_owned()), identities)?)
}

fn accept<P: Sspi>(
    package: &mut P,
    handle: &mut P::CredentialsHandle,
    bindings: Option<Vec<u8>>,
    token: Vec<u8>,
) -> sspi::Result<(SecurityStatus, Vec<u8>)> {
    let mut output = vec![SecurityBuffer::new(Vec::new(), BufferType::Token)];
    let mut input = vec![SecurityBuffer::new(token, BufferType::Token)];
    input.extend(bindings.map(|bytes| SecurityBuffer::new(bytes, BufferType::ChannelBindings)));
    let builder = package
        .accept_security_context()
        .with_credentials_handle(handle)
        .with_context_requirements(ServerRequestFlags::MUTUAL_AUTH | ServerRequestFlags::CONFIDENTIALITY)
        .with_target_data_representation(DataRepresentation::Native)
        .with_input(&mut input)
        .with_output(&mut output);
    let mut status = package.accept_security_context_impl(builder)?.resolve_to_result()?.status;
    if matches!(status, SecurityStatus::CompleteNeeded | SecurityStatus::CompleteAndContinue) {
        status = package.complete_auth_token(&mut output)?;
    }
    Ok((status, output.pop().map(|buffer| buffer.buffer).unwrap_or_default()))
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

/// Whether a token starts as those of a mechanism do (RFC 2743 section 3.1): a tag, a length, the identifier.
fn starts_with_mechanism(token: &[u8], identifier: &[u8]) -> bool {
    token.first() == Some(&0x60) && token.get(..16).unwrap_or(token).windows(identifier.len()).any(|w| w == identifier)
}

/// The NtChallengeResponse of an AUTHENTICATE_MESSAGE, bare or inside SPNEGO (MS-NLMP 2.2.1.3).
fn ntlm_proof(token: &[u8]) -> Option<&[u8]> {
    let start = token.windows(AUTHENTICATE.len()).position(|window| window == AUTHENTICATE)?;
    let message = token.get(start..)?;
    let length = u16::from_le_bytes(message.get(20..22)?.try_into().ok()?);
    let offset = u32::from_le_bytes(message.get(24..28)?.try_into().ok()?);
    message.get(usize::try_from(offset).ok()?..)?.get(..usize::from(length))
}

/// The AV_PAIRs of an NTLMv2 proof (MS-NLMP 2.2.2.1): number and value of each.
#[derive(Clone)]
struct AvPairs<'a>(&'a [u8]);

impl<'a> AvPairs<'a> {
    /// They stand behind the response of 16 bytes and the head of the client's challenge, 28 bytes (MS-NLMP 2.2.2.7).
    fn of_proof(proof: &'a [u8]) -> Option<Self> {
        proof.get(44..).map(Self)
    }
}

impl<'a> Iterator for AvPairs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let id = u16::from_le_bytes(self.0.get(..2)?.try_into().ok()?);
        let length = u16::from_le_bytes(self.0.get(2..4)?.try_into().ok()?);
        let (value, rest) = self.0.get(4..)?.split_at_checked(length.into())?;
        self.0 = rest;
        (id != AV_END).then_some((id, value))
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

const COMPUTER: &str = "REKEYLAB";
/// What Kerberos allows clocks to differ.
const SKEW: Duration = Duration::from_secs(300);
const NTLM_SIGNATURE: &[u8] = b"NTLMSSP\0";
const AUTHENTICATE: &[u8] = b"NTLMSSP\0\x03\0\0\0";
/// 1.2.840.113554.1.2.2, as DER (RFC 4121 section 4.1).
const KERBEROS: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];
/// 1.2.840.48018.1.2.2 (MS-SPNG 1.9).
const KERBEROS_OF_MICROSOFT: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 0x01, 0x02, 0x02];
/// 1.3.6.1.5.5.2 (RFC 4178 section 3).
const SPNEGO: &[u8] = &[0x06, 0x06, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];
/// MsvAvEOL, MsvAvFlags with its MIC bit, MsvAvChannelBindings.
const AV_END: u16 = 0;
const AV_FLAGS: u16 = 6;
const AV_MIC: u8 = 2;
const AV_CHANNEL_BINDINGS: u16 = 10;
