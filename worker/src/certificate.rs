//! The Exchange Auth certificate: made here, read back, and judged against what Exchange needs (domain.md 2.1).
//!
//! [`AuthCertificate::generate`] makes what `New-ExchangeCertificate` makes, without that cmdlet's side effect on SMTP
//! and with a lifetime of our choosing. [`inspect`] and [`findings`] judge any certificate, also one that somebody
//! else has staged already.

mod findings;
mod inspection;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, time::Duration};

use aws_lc_rs::{rand, rsa, signature::KeyPair as _};
use chrono::{DateTime, Datelike as _, TimeDelta, Utc};
use domain::Thumbprint;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize, SerialNumber, string::PrintableString,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};
use zeroize::Zeroizing;

pub use findings::{Finding, Severity, findings};
pub use inspection::{BasicConstraints, Inspection, Issuance, PublicKey, Purposes, Signature, inspect};

/// The common name that every Auth certificate carries; subject and issuer hold nothing else.
pub const COMMON_NAME: &str = "Microsoft Exchange Server Auth Certificate";

/// How far before "now" the certificate begins to be valid: as much as Kerberos lets two clocks differ. A server whose
/// clock is slower than that could not have been spoken to, so none sees a certificate from the future.
pub const BACKDATE: TimeDelta = TimeDelta::minutes(5);

/// A new Auth certificate and its private key. `Debug` shows the thumbprint only.
pub struct AuthCertificate {
    /// X.509, DER.
    pub certificate_der: Vec<u8>,
    /// PKCS#8 `PrivateKeyInfo`, DER, unencrypted; wiped when dropped.
    pub private_key_pkcs8: Zeroizing<Vec<u8>>,
    /// The name by which Exchange will know it.
    pub thumbprint: Thumbprint,
}

impl AuthCertificate {
    /// Makes a key and a self-signed certificate, reads the certificate back and checks every property.
    ///
    /// Takes up to seconds of processor time for 4096 bits: call it where blocking is allowed.
    pub fn generate(request: &Request) -> Result<Self, Error> {
        let parameters = parameters(request)?;
        let key = Zeroizing::new(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, request.key_size.into())?);
        let certificate = parameters.self_signed(&*key)?;
        let generated = Self {
            thumbprint: Thumbprint::of_der(certificate.der()),
            certificate_der: certificate.der().to_vec(),
            private_key_pkcs8: Zeroizing::new(key.serialize_der()),
        };
        generated.verify(request)?;
        Ok(generated)
    }

    /// What was asked for is what came out: rcgen, its features or a later version of it may decide otherwise.
    fn verify(&self, request: &Request) -> Result<(), Error> {
        let inspection = inspect(&self.certificate_der)?;
        let asked_for = |finding: &Finding| *finding == Finding::LongLived(request.lifetime_days.into());
        let mut departures = findings(&inspection, request.now);
        departures.retain(|finding| !asked_for(finding));
        let mut faults: Vec<String> = departures.iter().map(ToString::to_string).collect();
        if inspection.key != (PublicKey::Rsa { bits: request.key_size.bits() }) {
            faults.push(format!("the key is not RSA {}", request.key_size.bits()));
        }
        if !key_matches(&self.certificate_der, &self.private_key_pkcs8)? {
            faults.push("the private key belongs to another certificate".to_owned());
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Unfit(faults.join("; "))) }
    }
}

impl fmt::Debug for AuthCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthCertificate").field("thumbprint", &self.thumbprint).finish_non_exhaustive()
    }
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Strength of the RSA key.
    pub key_size: KeySize,
    /// Days from the first to the last moment of validity. Exchange itself uses five years, 1826 days; a tenant's app
    /// management policy may cap it. Counted from the backdated beginning, so that the whole never exceeds the cap.
    pub lifetime_days: u32,
    /// The time of making.
    pub now: DateTime<Utc>,
}

/// RSA key sizes that Exchange accepts and that are strong enough.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeySize {
    /// What Exchange itself makes.
    Rsa2048,
    /// Between the two.
    Rsa3072,
    /// Slowest to make and to use.
    Rsa4096,
}

impl KeySize {
    /// Length of the modulus in bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::Rsa2048 => 2048,
            Self::Rsa3072 => 3072,
            Self::Rsa4096 => 4096,
        }
    }
}

impl TryFrom<u32> for KeySize {
    type Error = Error;

    /// Reads a number of bits: 2048, 3072 or 4096.
    fn try_from(bits: u32) -> Result<Self, Error> {
        [Self::Rsa2048, Self::Rsa3072, Self::Rsa4096]
            .into_iter()
            .find(|size| size.bits() == bits)
            .ok_or(Error::KeySize(bits))
    }
}

impl From<KeySize> for RsaKeySize {
    fn from(size: KeySize) -> Self {
        match size {
            KeySize::Rsa2048 => Self::_2048,
            KeySize::Rsa3072 => Self::_3072,
            KeySize::Rsa4096 => Self::_4096,
        }
    }
}

/// Why a certificate could not be made or read. Never tells anything of a private key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The generator refused.
    #[error("the certificate could not be generated")]
    Generate(#[from] rcgen::Error),
    /// A key size that is not offered.
    #[error("a key of {0} bits is not offered: use 2048, 3072 or 4096")]
    KeySize(u32),
    /// A lifetime that no certificate can express.
    #[error("a certificate cannot be valid for {0} days")]
    Lifetime(u32),
    /// Bytes that are not one X.509 certificate.
    #[error("not an X.509 certificate in DER form: {0}")]
    Malformed(String),
    /// Bytes that are not an RSA private key.
    #[error("not an RSA private key in PKCS#8 form")]
    PrivateKey,
    /// The operating system gave no random bytes.
    #[error("no random numbers to be had")]
    Random,
    /// The generator made something else than was asked for.
    #[error("the generated certificate is not what was asked for: {0}")]
    Unfit(String),
}

/// Whether the private key (PKCS#8, DER) is that of the certificate (DER).
pub fn key_matches(certificate_der: &[u8], private_key_pkcs8: &[u8]) -> Result<bool, Error> {
    let certificate = parse(certificate_der)?;
    let key = rsa::KeyPair::from_pkcs8(private_key_pkcs8).map_err(|_| Error::PrivateKey)?;
    Ok(certificate.public_key().subject_public_key.data.as_ref() == key.public_key().as_ref())
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(Error::Malformed("bytes follow its end".to_owned())),
        Err(error) => Err(Error::Malformed(error.to_string())),
    }
}

fn parameters(request: &Request) -> Result<CertificateParams, Error> {
    let (not_before, not_after) = validity(request).ok_or(Error::Lifetime(request.lifetime_days))?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    let name = PrintableString::try_from(COMMON_NAME).expect("the name is printable ASCII");
    parameters.distinguished_name.push(DnType::CommonName, DnValue::PrintableString(name));
    parameters.not_before = epoch + not_before;
    parameters.not_after = epoch + not_after;
    parameters.serial_number = Some(serial_number()?);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.custom_extensions = vec![not_an_authority()];
    Ok(parameters)
}

/// First and last moment as the time since 1970; none if X.509, which writes years with four digits, cannot say it.
fn validity(request: &Request) -> Option<(Duration, Duration)> {
    let not_before = request.now - BACKDATE;
    let not_after = not_before.checked_add_signed(TimeDelta::days(request.lifetime_days.into()))?;
    let since_epoch = |time: DateTime<Utc>| u64::try_from(time.timestamp()).ok().map(Duration::from_secs);
    if not_after <= request.now || not_after.year() > 9999 {
        return None;
    }
    Some((since_epoch(not_before)?, since_epoch(not_after)?))
}

/// 16 random bytes, of which the first is kept in 0x40..0x80: positive, and never shorter once encoded.
fn serial_number() -> Result<SerialNumber, Error> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// `BasicConstraints` with `cA` at its default, false. rcgen's own way of saying so adds a subject key identifier, which
/// the certificates that Exchange makes do not have.
fn not_an_authority() -> CustomExtension {
    const EMPTY_SEQUENCE: [u8; 2] = [0x30, 0x00];
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 19], EMPTY_SEQUENCE.to_vec());
    extension.set_criticality(true);
    extension
}
