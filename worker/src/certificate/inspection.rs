//! What a certificate says of itself, in words that can be compared and shown.

use aws_lc_rs::{
    digest,
    signature::{
        RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RsaParameters, UnparsedPublicKey,
    },
};
use chrono::{DateTime, Utc};
use domain::{Thumbprint, storable::storable};
use serde::Serialize;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{ExtendedKeyUsage, KeyUsage},
    oid_registry as oid,
    time::ASN1Time,
};

use super::{Error, parse};

/// A certificate, read.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Inspection {
    /// SHA-1 of the certificate: its name in Exchange and Windows.
    pub thumbprint: Thumbprint,
    /// SHA-256 of the certificate: 64 upper-case hexadecimal digits.
    pub sha256: String,
    /// Distinguished name of the owner, `CN=…`.
    pub subject: String,
    /// Distinguished name of the issuer.
    pub issuer: String,
    /// Who signed it.
    pub issuance: Issuance,
    /// Serial number as upper-case hexadecimal digits, without a leading zero byte.
    pub serial: String,
    /// First moment of validity.
    pub not_before: DateTime<Utc>,
    /// Last moment of validity.
    pub not_after: DateTime<Utc>,
    /// Kind and strength of the key.
    pub key: PublicKey,
    /// How it is signed.
    pub signature: Signature,
    /// `KeyUsage`, if there is one.
    pub key_usage: Option<Purposes>,
    /// `ExtendedKeyUsage`, if there is one.
    pub extended_key_usage: Option<Purposes>,
    /// `BasicConstraints`, if there is one.
    pub basic_constraints: Option<BasicConstraints>,
    /// `SubjectAlternativeName`, in the form `DNSName(mail.contoso.com)`; empty if there is none.
    pub alternative_names: Vec<String>,
}

/// Who signed a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Issuance {
    /// Subject and issuer are equal, but the signature is not of the certificate's own key.
    Broken,
    /// Somebody else: a certification authority.
    Issued,
    /// Its own key.
    SelfSigned,
}

/// Kind and strength of a public key.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum PublicKey {
    /// Anything that Exchange cannot use, by object identifier.
    Other {
        /// The algorithm, `1.2.840.10045.2.1` for elliptic curves.
        algorithm: String,
    },
    /// RSA.
    Rsa {
        /// Length of the modulus.
        bits: u32,
    },
}

/// How a certificate is signed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signature {
    /// Any other, by object identifier.
    Other(String),
    /// `sha1WithRSAEncryption`.
    Sha1WithRsa,
    /// `sha256WithRSAEncryption`, what Exchange makes.
    Sha256WithRsa,
    /// `sha384WithRSAEncryption`.
    Sha384WithRsa,
    /// `sha512WithRSAEncryption`.
    Sha512WithRsa,
}

/// A list of purposes and whether a verifier that does not know it must refuse the certificate.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Purposes {
    /// The extension is marked critical.
    pub critical: bool,
    /// Names as in RFC 5280, such as `digitalSignature` or `serverAuth`; an object identifier where it has none.
    pub names: Vec<String>,
}

impl Purposes {
    /// Whether the list holds this purpose.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }
}

/// Whether the certificate may sign others.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct BasicConstraints {
    /// The extension is marked critical.
    pub critical: bool,
    /// It may.
    pub authority: bool,
}

/// Reads a certificate in DER form.
pub fn inspect(der: &[u8]) -> Result<Inspection, Error> {
    let certificate = parse(der)?;
    let signature = signature(&certificate);
    Ok(Inspection {
        thumbprint: Thumbprint::of_der(der),
        sha256: upper_hex(digest::digest(&digest::SHA256, der).as_ref()),
        subject: storable(certificate.subject().to_string()),
        issuer: storable(certificate.issuer().to_string()),
        issuance: issuance(&certificate, &signature),
        serial: serial(&certificate),
        not_before: moment(certificate.validity().not_before)?,
        not_after: moment(certificate.validity().not_after)?,
        key: public_key(&certificate),
        key_usage: key_usage(&certificate)?,
        extended_key_usage: extended_key_usage(&certificate)?,
        basic_constraints: basic_constraints(&certificate)?,
        alternative_names: alternative_names(&certificate)?,
        signature,
    })
}

fn signature(certificate: &X509Certificate<'_>) -> Signature {
    let algorithm = &certificate.signature_algorithm.algorithm;
    let known = [
        (oid::OID_PKCS1_SHA1WITHRSA, Signature::Sha1WithRsa),
        (oid::OID_PKCS1_SHA256WITHRSA, Signature::Sha256WithRsa),
        (oid::OID_PKCS1_SHA384WITHRSA, Signature::Sha384WithRsa),
        (oid::OID_PKCS1_SHA512WITHRSA, Signature::Sha512WithRsa),
    ];
    let found = known.into_iter().find(|(oid, _)| oid == algorithm);
    found.map_or_else(|| Signature::Other(algorithm.to_id_string()), |(_, signature)| signature)
}

fn issuance(certificate: &X509Certificate<'_>, signature: &Signature) -> Issuance {
    if certificate.subject().as_raw() != certificate.issuer().as_raw() {
        return Issuance::Issued;
    }
    let Some(algorithm) = verification(signature) else {
        return Issuance::Broken;
    };
    let key = UnparsedPublicKey::new(algorithm, &certificate.public_key().subject_public_key.data);
    match key.verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data) {
        Ok(()) => Issuance::SelfSigned,
        Err(_) => Issuance::Broken,
    }
}

/// Weak keys and hashes verify too: that they are weak is a finding of its own, not a broken signature.
fn verification(signature: &Signature) -> Option<&'static RsaParameters> {
    match signature {
        Signature::Other(_) => None,
        Signature::Sha1WithRsa => Some(&RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY),
        Signature::Sha256WithRsa => Some(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY),
        Signature::Sha384WithRsa => Some(&RSA_PKCS1_2048_8192_SHA384),
        Signature::Sha512WithRsa => Some(&RSA_PKCS1_2048_8192_SHA512),
    }
}

fn serial(certificate: &X509Certificate<'_>) -> String {
    match certificate.raw_serial() {
        [0, rest @ ..] if !rest.is_empty() => upper_hex(rest),
        bytes => upper_hex(bytes),
    }
}

fn moment(time: ASN1Time) -> Result<DateTime<Utc>, Error> {
    DateTime::from_timestamp(time.timestamp(), 0)
        .ok_or_else(|| Error::Malformed("a date that the calendar does not have".to_owned()))
}

fn public_key(certificate: &X509Certificate<'_>) -> PublicKey {
    let info = certificate.public_key();
    match info.parsed() {
        Ok(x509_parser::public_key::PublicKey::RSA(rsa)) => PublicKey::Rsa { bits: bit_length(rsa.modulus) },
        _ => PublicKey::Other { algorithm: info.algorithm.algorithm.to_id_string() },
    }
}

/// Length of a big-endian number in bits, leading zeros not counted: a modulus of 2047 bits is not one of 2048.
fn bit_length(number: &[u8]) -> u32 {
    let significant = number.iter().skip_while(|byte| **byte == 0);
    let bits = significant.fold(
        (0, 0),
        |(bits, first), byte| {
            if bits == 0 { (8, byte.leading_zeros()) } else { (bits + 8, first) }
        },
    );
    bits.0 - bits.1
}

fn key_usage(certificate: &X509Certificate<'_>) -> Result<Option<Purposes>, Error> {
    let Some(extension) = certificate.key_usage().map_err(twice)? else {
        return Ok(None);
    };
    Ok(Some(Purposes { critical: extension.critical, names: key_usage_names(extension.value) }))
}

fn key_usage_names(usage: &KeyUsage) -> Vec<String> {
    let all = [
        (usage.digital_signature(), "digitalSignature"),
        (usage.non_repudiation(), "nonRepudiation"),
        (usage.key_encipherment(), "keyEncipherment"),
        (usage.data_encipherment(), "dataEncipherment"),
        (usage.key_agreement(), "keyAgreement"),
        (usage.key_cert_sign(), "keyCertSign"),
        (usage.crl_sign(), "cRLSign"),
        (usage.encipher_only(), "encipherOnly"),
        (usage.decipher_only(), "decipherOnly"),
    ];
    chosen(&all)
}

fn extended_key_usage(certificate: &X509Certificate<'_>) -> Result<Option<Purposes>, Error> {
    let Some(extension) = certificate.extended_key_usage().map_err(twice)? else {
        return Ok(None);
    };
    Ok(Some(Purposes { critical: extension.critical, names: extended_key_usage_names(extension.value) }))
}

fn extended_key_usage_names(usage: &ExtendedKeyUsage<'_>) -> Vec<String> {
    let all = [
        (usage.any, "anyExtendedKeyUsage"),
        (usage.server_auth, "serverAuth"),
        (usage.client_auth, "clientAuth"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let mut names = chosen(&all);
    names.extend(usage.other.iter().map(oid::Oid::to_id_string));
    names
}

fn chosen(all: &[(bool, &str)]) -> Vec<String> {
    all.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()).collect()
}

fn basic_constraints(certificate: &X509Certificate<'_>) -> Result<Option<BasicConstraints>, Error> {
    let extension = certificate.basic_constraints().map_err(twice)?;
    Ok(extension.map(|found| BasicConstraints { critical: found.critical, authority: found.value.ca }))
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, Error> {
    let extension = certificate.subject_alternative_name().map_err(twice)?;
    let names = extension.map(|found| &found.value.general_names);
    Ok(names.into_iter().flatten().map(|name| storable(name.to_string())).collect())
}

fn twice(error: x509_parser::error::X509Error) -> Error {
    Error::Malformed(error.to_string())
}

fn upper_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}
