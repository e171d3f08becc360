//! PKCS#12 files (PFX) as Windows wants them: the way a certificate and its key reach a server.
//!
//! Written here and not by a library, because what decides on Windows is in attributes that no library writes
//! (domain.md 2.2): the provider that will hold the key, the name of its container, the machine key set and the friendly
//! name. Reading leaves that to p12-keystore, which shares no code with the writer and so checks it.

mod protection;
mod structure;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use aws_lc_rs::rand;
use p12_keystore::{CertificateBag, Pkcs12Archive, PrivateKeyBag};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::certificate;

/// The provider that holds the key after the import. Exchange signs tokens through the legacy interface, and keys that
/// land in a newer key storage provider break it without a clear error (domain.md 2.1), so it is always named.
pub const KEY_PROVIDER: &str = "Microsoft RSA SChannel Cryptographic Provider";

/// What goes into a PFX. It borrows: the key has one owner, who wipes it.
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    /// X.509, DER.
    pub certificate_der: &'a [u8],
    /// PKCS#8 `PrivateKeyInfo`, DER, unencrypted.
    pub private_key_pkcs8: &'a [u8],
    /// The name that the certificate will show in the server's store.
    pub friendly_name: &'a FriendlyName,
}

impl fmt::Debug for Contents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").field("friendly_name", &self.friendly_name).finish_non_exhaustive()
    }
}

/// The name of a certificate in a Windows store: 1 to 63 characters of the Unicode basic plane, none of them a control.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FriendlyName(String);

impl FriendlyName {
    /// Refuses what Exchange would refuse: 64 characters or more, or none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let fits = (1..64).contains(&text.chars().count());
        let plain = text.chars().all(|c| !c.is_control() && u32::from(c) < 0x1_0000);
        if fits && plain { Ok(Self(text.to_owned())) } else { Err(Error::FriendlyName) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How a PFX is encrypted and sealed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Algorithm {
    /// `pbeWithSHAAnd3-KeyTripleDES-CBC` and HMAC-SHA1: every Windows reads it. Its strength is that of the password
    /// and of the channel, so use [`random_password`] once.
    TripleDesSha1,
    /// PBES2 with AES-256-CBC and PBKDF2-HMAC-SHA256, sealed with HMAC-SHA256: Windows Server 2019 and later.
    Aes256Sha256,
}

impl Algorithm {
    /// The best that a server surely reads. An older Windows answers a PFX in AES with "the network password is not
    /// correct", so an unknown version gets what every version reads.
    #[must_use]
    pub fn for_windows(version: Option<WindowsVersion>) -> Self {
        match version {
            Some(version) if version >= WindowsVersion::SERVER_2019 => Self::Aes256Sha256,
            Some(_) | None => Self::TripleDesSha1,
        }
    }
}

/// The version of a server's Windows, such as 10.0.17763 for Server 2019.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct WindowsVersion {
    /// 10 since Windows 10 and Server 2016.
    pub major: u32,
    /// 0 since then.
    pub minor: u32,
    /// Tells the releases of version 10.0 apart.
    pub build: u32,
}

impl WindowsVersion {
    /// The first Server release that reads a PFX in AES.
    pub const SERVER_2019: Self = Self { major: 10, minor: 0, build: 17763 };
}

impl FromStr for WindowsVersion {
    type Err = Error;

    /// Reads `10.0.17763` and `10.0.17763.6414` (`Win32_OperatingSystem`, the registry) and `10.0 (17763)` (the computer
    /// object in the directory).
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut numbers = text.trim_end_matches(')').split(['.', ' ', '(']).filter(|part| !part.is_empty());
        let mut next = || numbers.next().and_then(|part| part.parse().ok()).ok_or(Error::WindowsVersion);
        Ok(Self { major: next()?, minor: next()?, build: next()? })
    }
}

/// A password for one PFX: 32 characters of an alphabet of 64, which makes 192 bits, all of them printable ASCII. Windows
/// reads the password as UTF-16 up to the first NUL, so random bytes would not do (domain.md 1.7).
pub fn random_password() -> Result<SecretString, Error> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = Zeroizing::new([0; 32]);
    rand::fill(&mut *bytes).map_err(|_| Error::Random)?;
    let password: String = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 64)])).collect();
    Ok(SecretString::from(password))
}

/// Writes a PFX. The password must be printable ASCII.
pub fn encode(
    contents: &Contents<'_>,
    password: &SecretString,
    algorithm: Algorithm,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    if !password.expose_secret().bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(Error::Password);
    }
    structure::pfx(contents, &protection::Protection::new(password, algorithm))
}

/// A certificate and its key, read from a PFX that a server exported. `Debug` shows the friendly name only.
pub struct Exported {
    /// X.509, DER.
    pub certificate_der: Vec<u8>,
    /// PKCS#8 `PrivateKeyInfo`, DER, unencrypted; wiped when dropped.
    pub private_key_pkcs8: Zeroizing<Vec<u8>>,
    /// The name that the certificate had in the server's store.
    pub friendly_name: Option<String>,
}

impl fmt::Debug for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exported").field("friendly_name", &self.friendly_name).finish_non_exhaustive()
    }
}

/// Reads the one private key of a PFX and the certificate that belongs to it; other certificates are left.
pub fn decode(bytes: &[u8], password: &SecretString) -> Result<Exported, Error> {
    let archive = Pkcs12Archive::from_pkcs12(bytes, password.expose_secret()).map_err(unreadable)?;
    let [key] = archive.keys.as_slice() else {
        return Err(Error::Keys(archive.keys.len()));
    };
    let certificate = archive.certs.iter().find(|bag| belongs(bag, key)).ok_or(Error::NoCertificate)?;
    Ok(Exported {
        certificate_der: certificate.cert.as_der().to_vec(),
        private_key_pkcs8: Zeroizing::new(key.key.as_der().to_vec()),
        friendly_name: certificate.friendly_name.clone(),
    })
}

/// By the key itself: a local key id may be missing, and two certificates may carry the same.
fn belongs(certificate: &CertificateBag, key: &PrivateKeyBag) -> bool {
    certificate::key_matches(certificate.cert.as_der(), key.key.as_der()).unwrap_or(false)
}

fn unreadable(error: p12_keystore::error::Error) -> Error {
    match error {
        p12_keystore::error::Error::MacError(_) => Error::WrongPassword,
        other => Error::Malformed(other.to_string()),
    }
}

/// Why a PFX could not be written or read. Never tells anything of the password or the key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The crypto library refused.
    #[error("the PFX could not be encrypted")]
    Cipher,
    /// A structure that DER cannot hold.
    #[error("the PFX could not be encoded")]
    Encode(#[from] der::Error),
    /// A name that a Windows store does not take.
    #[error("a friendly name has 1 to 63 characters of the Unicode basic plane")]
    FriendlyName,
    /// No private key, or more than one.
    #[error("the PFX holds {0} private keys, not one")]
    Keys(usize),
    /// Bytes that are not a PFX, or one in a form that is not read.
    #[error("the PFX cannot be read: {0}")]
    Malformed(String),
    /// No certificate for the private key.
    #[error("the PFX holds no certificate for its private key")]
    NoCertificate,
    /// A password that not every Windows reads alike.
    #[error("a PFX password is printable ASCII")]
    Password,
    /// The operating system gave no random bytes.
    #[error("no random numbers to be had")]
    Random,
    /// Text that is not the version of a Windows.
    #[error("a Windows version looks like 10.0.17763")]
    WindowsVersion,
    /// The seal does not fit: another password, or the file was changed.
    #[error("wrong password, or the PFX was changed")]
    WrongPassword,
}
