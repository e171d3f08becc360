//! Certificates as Exchange and Windows see them: thumbprints, keys, and what makes one unfit to sign tokens.

use std::{fmt, time::Duration};

use aws_lc_rs::{
    digest, rand, rsa,
    signature::{
        KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RSA_PSS_2048_8192_SHA256, RsaKeyPair,
        UnparsedPublicKey,
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_RSA_SHA256, RsaKeySize, SerialNumber,
};
use serde::Serialize;
use x509_parser::{certificate::X509Certificate, prelude::FromDer, time::ASN1Time};
use zeroize::Zeroizing;

/// The common name of every Auth certificate.
pub const AUTH_COMMON_NAME: &str = "Microsoft Exchange Server Auth Certificate";

/// SHA-1 of a certificate: 40 upper-case hexadecimal digits.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Thumbprint(String);

impl Thumbprint {
    /// Reads 40 hexadecimal digits, with or without spaces, as administrators paste them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_uppercase();
        (digits.len() == 40 && digits.bytes().all(|b| b.is_ascii_hexdigit())).then_some(Self(digits))
    }

    /// The thumbprint of a certificate (DER).
    #[must_use]
    pub fn of_der(der: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der);
        Self(hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect())
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hash itself, 20 bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
        self.0.as_bytes().chunks(2).filter_map(byte).collect()
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A certificate, read.
#[derive(Clone, PartialEq)]
pub struct Certificate {
    /// X.509, DER.
    pub der: Vec<u8>,
    /// Its name in Exchange and Windows.
    pub thumbprint: Thumbprint,
    /// `CN=…`.
    pub subject: String,
    /// `CN=…`.
    pub issuer: String,
    /// Upper-case hexadecimal digits.
    pub serial: String,
    /// First moment of validity.
    pub not_before: DateTime<Utc>,
    /// Last moment of validity.
    pub not_after: DateTime<Utc>,
    /// Why Exchange would refuse it whatever its key (the reasons of domain.md 6.4); none if it is fit.
    pub unfit: Option<&'static str>,
    public_key: Vec<u8>,
}

impl Certificate {
    /// Reads one certificate (DER).
    pub fn parse(der: &[u8]) -> Result<Self, Malformed> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| Malformed)?;
        if !rest.is_empty() {
            return Err(Malformed);
        }
        Ok(Self {
            der: der.to_vec(),
            thumbprint: Thumbprint::of_der(der),
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02X}")).collect(),
            not_before: instant(parsed.validity().not_before),
            not_after: instant(parsed.validity().not_after),
            unfit: unfit(&parsed),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
        })
    }

    /// Whether its time has come and is not over.
    #[must_use]
    pub fn is_valid_at(&self, now: DateTime<Utc>) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether this signature (RSA PKCS#1, SHA-256) over this text is by its key.
    #[must_use]
    pub fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key).verify(text, signature).is_ok()
    }

    /// The same for RSA-PSS with SHA-256.
    #[must_use]
    pub fn verifies_pss(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, &self.public_key).verify(text, signature).is_ok()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("thumbprint", &self.thumbprint).finish_non_exhaustive()
    }
}

/// The other hash by which tokens name a certificate.
#[must_use]
pub(crate) fn sha256(der: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, der).as_ref().to_vec()
}

/// Bytes that are not one certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Malformed;

/// An RSA private key (PKCS#8, DER). Wiped when dropped; `Debug` says nothing.
#[derive(Clone, PartialEq)]
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    /// Reads PKCS#8; none if it is no RSA key.
    #[must_use]
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        rsa::KeyPair::from_pkcs8(der).ok()?;
        Some(Self(Zeroizing::new(der.to_vec())))
    }

    /// The key as PKCS#8. Do not let it out.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the key of that certificate.
    #[must_use]
    pub fn belongs_to(&self, certificate: &Certificate) -> bool {
        rsa::KeyPair::from_pkcs8(&self.0).is_ok_and(|pair| pair.public_key().as_ref() == certificate.public_key)
    }

    /// An RS256 signature; none if the crypto library refuses.
    #[must_use]
    pub fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        let pair = RsaKeyPair::from_pkcs8(&self.0).ok()?;
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &rand::SystemRandom::new(), text, &mut signature).ok()?;
        Some(signature)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

/// What to make.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Subject and issuer.
    pub common_name: &'a str,
    /// First moment of validity.
    pub not_before: DateTime<Utc>,
    /// Last moment of validity.
    pub not_after: DateTime<Utc>,
    /// Strength of the RSA key.
    pub key_size: RsaKeySize,
}

impl<'a> Request<'a> {
    /// Two thousand bits, five years from now: what `New-ExchangeCertificate` makes.
    #[must_use]
    pub fn five_years(common_name: &'a str, now: DateTime<Utc>) -> Self {
        Self { common_name, not_before: now, not_after: now + TimeDelta::days(1826), key_size: RsaKeySize::_2048 }
    }
}

/// Makes a self-signed certificate as `New-ExchangeCertificate` does (domain.md 2.1).
pub fn issue(request: &Request<'_>) -> anyhow::Result<(Certificate, PrivateKey)> {
    let pair = Zeroizing::new(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, request.key_size)?);
    let certificate = parameters(request)?.self_signed(&*pair)?;
    let certificate = Certificate::parse(certificate.der()).map_err(|_| anyhow::anyhow!("made no certificate"))?;
    Ok((certificate, PrivateKey(Zeroizing::new(pair.serialize_der()))))
}

fn parameters(request: &Request<'_>) -> anyhow::Result<CertificateParams> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = |at: DateTime<Utc>| Duration::from_secs(at.timestamp().unsigned_abs());
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, request.common_name);
    parameters.not_before = epoch + since_epoch(request.not_before);
    parameters.not_after = epoch + since_epoch(request.not_after);
    parameters.serial_number = Some(serial_number()?);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.custom_extensions = vec![end_entity()];
    Ok(parameters)
}

fn serial_number() -> anyhow::Result<SerialNumber> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no random numbers to be had"))?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Critical `BasicConstraints` that leave `cA` at its default, without the key identifier that rcgen would add.
fn end_entity() -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x00]);
    extension.set_criticality(true);
    extension
}

fn instant(time: ASN1Time) -> DateTime<Utc> {
    DateTime::from_timestamp(time.timestamp(), 0).unwrap_or(DateTime::UNIX_EPOCH)
}

fn unfit(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    use x509_parser::public_key::PublicKey;
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() < 1024 => return Some("PublicKeyUnsupportedSize"),
        Ok(PublicKey::RSA(_)) => {}
        _ => return Some("KeyAlgorithmUnsupported"),
    }
    match certificate.key_usage() {
        Err(_) => return Some("KeyUsageCorrupted"),
        Ok(Some(usage)) if !usage.value.digital_signature() && !usage.value.non_repudiation() => {
            return Some("SigningNotSupported");
        }
        Ok(_) => {}
    }
    match certificate.extended_key_usage() {
        Err(_) => Some("EnhancedKeyUsageCorrupted"),
        Ok(Some(usage)) if !usage.value.server_auth && !usage.value.any => {
            Some("PkixKpServerAuthNotFoundInEnhancedKeyUsage")
        }
        Ok(_) => None,
    }
}
