//! Where a certificate departs from what Exchange needs of an Auth certificate (domain.md 2.1), and what to do about it.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use super::{COMMON_NAME, Inspection, Issuance, PublicKey, Purposes, Signature};

/// One departure. `Display` says what is wrong, [`Finding::remedy`] what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Finding {
    /// Carries alternative names, as a certificate for TLS does.
    AlternativeNames(Vec<String>),
    /// May sign other certificates.
    Authority,
    /// Does not say, or not critically, that it may not sign other certificates.
    BasicConstraints,
    /// Its time is over.
    Expired(DateTime<Utc>),
    /// The list of extended purposes lacks `serverAuth`, or there is none.
    ExtendedKeyUsage(Vec<String>),
    /// Signed by a certification authority.
    Issued(String),
    /// Not an RSA key.
    KeyKind(String),
    /// Fewer than 2048 bits.
    KeySize(u32),
    /// The list of purposes lacks `digitalSignature` or `keyEncipherment`, is not critical, or there is none.
    KeyUsage(Vec<String>),
    /// Valid for longer than the five years that Exchange itself uses.
    LongLived(i64),
    /// Its time has not come.
    NotYetValid(DateTime<Utc>),
    /// Longer, shorter or other than 16 positive bytes.
    Serial(String),
    /// Signed in another way than Exchange's cmdlet does.
    Signature(Signature),
    /// A self-signed certificate whose signature does not verify.
    SignatureBroken,
    /// Another name than that of every Auth certificate.
    Subject(String),
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Works, but is not how Exchange would have made it.
    Warn,
    /// Must not become the Auth certificate.
    Refuse,
}

/// Every departure of a certificate from domain.md 2.1 at the time `now`; none for a good one.
#[must_use]
pub fn findings(inspection: &Inspection, now: DateTime<Utc>) -> Vec<Finding> {
    let all = [
        names(inspection),
        serial(inspection),
        issuance(inspection),
        key(inspection),
        signature(inspection),
        key_usage(inspection),
        extended_key_usage(inspection),
        authority(inspection),
        alternative_names(inspection),
        time(inspection, now),
        lifetime(inspection),
    ];
    all.into_iter().flatten().collect()
}

impl Finding {
    /// Whether the certificate may become the Auth certificate all the same.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::AlternativeNames(_)
            | Self::BasicConstraints
            | Self::Issued(_)
            | Self::LongLived(_)
            | Self::NotYetValid(_)
            | Self::Serial(_)
            | Self::Subject(_) => Severity::Warn,
            // SHA-1 among them: Exchange's own setup signs the first Auth certificate with it, and nobody builds a chain.
            Self::Signature(Signature::Sha1WithRsa | Signature::Sha384WithRsa | Signature::Sha512WithRsa) => {
                Severity::Warn
            }
            Self::KeyUsage(names) if names.iter().any(|name| name == SIGNING) => Severity::Warn,
            Self::Authority
            | Self::Expired(_)
            | Self::ExtendedKeyUsage(_)
            | Self::KeyKind(_)
            | Self::KeySize(_)
            | Self::KeyUsage(_)
            | Self::Signature(_)
            | Self::SignatureBroken => Severity::Refuse,
        }
    }

    /// What to do about it, as a sentence for the person who reads the plan.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::AlternativeNames(_) | Self::Issued(_) | Self::Subject(_) => {
                "Check that this is not the certificate of a web site or of mail transport; let rekey make a new one unless it was chosen on purpose."
            }
            Self::NotYetValid(_) => {
                "Set the effective date after the certificate's first moment of validity, or correct the clock of the machine that made it."
            }
            Self::LongLived(_) => {
                "A tenant's app management policy may refuse the key; renew with a shorter lifetime if the upload to Entra fails."
            }
            Self::BasicConstraints | Self::Serial(_) => {
                "Nothing to do: it works, but no tool of Exchange would have made it."
            }
            Self::Signature(_) => "It works, but health checks warn of it: let rekey make a new certificate.",
            Self::Authority
            | Self::Expired(_)
            | Self::ExtendedKeyUsage(_)
            | Self::KeyKind(_)
            | Self::KeySize(_)
            | Self::KeyUsage(_)
            | Self::SignatureBroken => "Do not publish it: let rekey make a new certificate.",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlternativeNames(names) => {
                write!(f, "carries alternative names: {}", names.join(", "))
            }
            Self::Authority => f.write_str("may sign other certificates"),
            Self::BasicConstraints => f.write_str("does not say, critically, that it cannot sign other certificates"),
            Self::Expired(end) => write!(f, "expired on {}", end.format(DAY)),
            Self::ExtendedKeyUsage(names) => write!(f, "extended key usage is {}, serverAuth is needed", list(names)),
            Self::Issued(issuer) => write!(f, "is not self-signed but issued by {issuer}"),
            Self::KeyKind(algorithm) => write!(f, "the key is not RSA but {algorithm}"),
            Self::KeySize(bits) => write!(f, "the key has {bits} bits, at least {STRONG_BITS} are needed"),
            Self::KeyUsage(names) => {
                write!(f, "key usage is {}, digitalSignature and keyEncipherment are needed, critically", list(names))
            }
            Self::LongLived(days) => write!(f, "is valid for {days} days, Exchange itself uses five years"),
            Self::NotYetValid(begin) => write!(f, "is not valid before {}", begin.format(DAY)),
            Self::Serial(serial) => write!(f, "the serial number {serial} is not one of 16 bytes"),
            Self::Signature(signature) => {
                write!(f, "is signed with {}, sha256WithRSAEncryption is expected", signature_name(signature))
            }
            Self::SignatureBroken => f.write_str("is self-signed but its signature is not by its own key"),
            Self::Subject(subject) => {
                write!(f, "the subject is {subject}, CN={COMMON_NAME} is expected")
            }
        }
    }
}

fn names(inspection: &Inspection) -> Option<Finding> {
    (inspection.subject != format!("CN={COMMON_NAME}")).then(|| Finding::Subject(inspection.subject.clone()))
}

fn serial(inspection: &Inspection) -> Option<Finding> {
    (inspection.serial.len() != 32).then(|| Finding::Serial(inspection.serial.clone()))
}

fn issuance(inspection: &Inspection) -> Option<Finding> {
    match inspection.issuance {
        Issuance::Broken => Some(Finding::SignatureBroken),
        Issuance::Issued => Some(Finding::Issued(inspection.issuer.clone())),
        Issuance::SelfSigned => None,
    }
}

fn key(inspection: &Inspection) -> Option<Finding> {
    match &inspection.key {
        PublicKey::Other { algorithm } => Some(Finding::KeyKind(algorithm.clone())),
        PublicKey::Rsa { bits } => (*bits < STRONG_BITS).then_some(Finding::KeySize(*bits)),
    }
}

fn signature(inspection: &Inspection) -> Option<Finding> {
    (inspection.signature != Signature::Sha256WithRsa).then(|| Finding::Signature(inspection.signature.clone()))
}

fn key_usage(inspection: &Inspection) -> Option<Finding> {
    let good = |usage: &Purposes| usage.critical && usage.allows(SIGNING) && usage.allows("keyEncipherment");
    purposes(inspection.key_usage.as_ref(), good).map(Finding::KeyUsage)
}

fn extended_key_usage(inspection: &Inspection) -> Option<Finding> {
    let good = |usage: &Purposes| usage.allows("serverAuth");
    purposes(inspection.extended_key_usage.as_ref(), good).map(Finding::ExtendedKeyUsage)
}

/// The names of the purposes if they are not good ones; no names if there are no purposes.
fn purposes(found: Option<&Purposes>, good: impl FnOnce(&Purposes) -> bool) -> Option<Vec<String>> {
    match found {
        Some(usage) if good(usage) => None,
        Some(usage) => Some(usage.names.clone()),
        None => Some(Vec::new()),
    }
}

fn authority(inspection: &Inspection) -> Option<Finding> {
    match inspection.basic_constraints {
        Some(found) if found.authority => Some(Finding::Authority),
        Some(found) if found.critical => None,
        Some(_) | None => Some(Finding::BasicConstraints),
    }
}

fn alternative_names(inspection: &Inspection) -> Option<Finding> {
    let names = &inspection.alternative_names;
    (!names.is_empty()).then(|| Finding::AlternativeNames(names.clone()))
}

fn time(inspection: &Inspection, now: DateTime<Utc>) -> Option<Finding> {
    if now > inspection.not_after {
        Some(Finding::Expired(inspection.not_after))
    } else if now < inspection.not_before {
        Some(Finding::NotYetValid(inspection.not_before))
    } else {
        None
    }
}

fn lifetime(inspection: &Inspection) -> Option<Finding> {
    let lifetime = inspection.not_after - inspection.not_before;
    (lifetime > FIVE_YEARS).then_some(Finding::LongLived(lifetime.num_days()))
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "missing".to_owned() } else { names.join("+") }
}

fn signature_name(signature: &Signature) -> &str {
    match signature {
        Signature::Other(oid) => oid,
        Signature::Sha1WithRsa => "sha1WithRSAEncryption",
        Signature::Sha256WithRsa => "sha256WithRSAEncryption",
        Signature::Sha384WithRsa => "sha384WithRSAEncryption",
        Signature::Sha512WithRsa => "sha512WithRSAEncryption",
    }
}

/// Without this purpose no signature of the certificate is a token.
const SIGNING: &str = "digitalSignature";

/// Below this Exchange's own health check shows the certificate in red.
const STRONG_BITS: u32 = 2048;

/// Five calendar years hold at most two leap days.
const FIVE_YEARS: TimeDelta = TimeDelta::days(5 * 365 + 2);

const DAY: &str = "%Y-%m-%d %H:%M UTC";
