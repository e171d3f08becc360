//! PKCS#12 files as `PFXImportCertStore` reads them: decrypted and checked by p12-keystore, with the outline (encryption,
//! provider name) read here, because on Windows that decides what happens (domain.md 2.2).

use p12_keystore::{
    EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, Pkcs12Archive, PrivateKey as Pkcs8, PrivateKeyChain,
};

use crate::certificate::{Certificate, PrivateKey};

/// The first Windows build that reads PBES2: Server 2019.
pub const FIRST_BUILD_WITH_PBES2: u32 = 17763;

/// What an import puts into a store.
#[derive(Debug)]
pub struct Contents {
    /// The certificate of the key.
    pub certificate: Certificate,
    /// Its key.
    pub key: PrivateKey,
    /// The name on the certificate's bag.
    pub friendly_name: Option<String>,
    /// The provider that the key's bag asks for.
    pub provider: Option<String>,
}

/// A file that Windows answers with "the source data cannot be imported or the wrong password was specified". It does not
/// say which, and neither does this.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unreadable;

/// Reads a file as a Windows of this build does.
pub fn read(bytes: &[u8], password: &str, windows_build: u32) -> Result<Contents, Unreadable> {
    let outline = Outline::read(bytes).ok_or(Unreadable)?;
    if !outline.sealed || (outline.pbes2 && windows_build < FIRST_BUILD_WITH_PBES2) {
        return Err(Unreadable);
    }
    let archive = Pkcs12Archive::from_pkcs12(bytes, password).map_err(|_| Unreadable)?;
    let [bag] = archive.keys.as_slice() else { return Err(Unreadable) };
    let key = PrivateKey::from_pkcs8(bag.key.as_der()).ok_or(Unreadable)?;
    let owned = archive.certs.iter().find_map(|bag| {
        let certificate = Certificate::parse(bag.cert.as_der()).ok()?;
        key.belongs_to(&certificate).then(|| (certificate, bag.friendly_name.clone()))
    });
    let (certificate, friendly_name) = owned.ok_or(Unreadable)?;
    Ok(Contents { certificate, key, friendly_name, provider: outline.provider })
}

/// Writes what `Export-ExchangeCertificate` gives: 3DES and SHA-1, whatever the Windows.
pub fn write(certificate: &Certificate, key: &PrivateKey, password: &str) -> anyhow::Result<Vec<u8>> {
    let certificate = p12_keystore::Certificate::from_der(&certificate.der)?;
    let chain = PrivateKeyChain::new(vec![1, 0, 0, 0], Pkcs8::from_der(key.expose())?, [certificate]);
    let mut store = KeyStore::new();
    store.add_entry("key", KeyStoreEntry::PrivateKeyChain(chain));
    let writer = store
        .writer(password)
        .encryption_algorithm(EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc)
        .encryption_iterations(2_000)
        .mac_algorithm(MacAlgorithm::HmacSha1)
        .mac_iterations(2_000);
    Ok(writer.write()?)
}

/// What a PFX shows without its password (RFC 7292 section 4).
#[derive(Debug, Default, PartialEq)]
struct Outline {
    pbes2: bool,
    sealed: bool,
    provider: Option<String>,
}

impl Outline {
    fn read(bytes: &[u8]) -> Option<Self> {
        let pfx = Der::first(bytes)?.children();
        let safes = content(pfx.get(1)?)?;
        let mut outline = Self { sealed: pfx.len() > 2, ..Self::default() };
        for safe in Der::first(safes.children().first()?.content)?.children() {
            outline.look_at_safe(&safe)?;
        }
        Some(outline)
    }

    /// One `ContentInfo`: bags in the open, or all encrypted together.
    fn look_at_safe(&mut self, safe: &Der<'_>) -> Option<()> {
        let inner = content(safe)?;
        if safe.children().first()?.content == ENCRYPTED_DATA {
            let encrypted = *inner.children().first()?;
            let algorithm = *encrypted.children().get(1)?.children().get(1)?;
            self.pbes2 |= algorithm.children().first()?.content == PBES2;
            return Some(());
        }
        for bag in Der::first(inner.children().first()?.content)?.children() {
            self.look_at_bag(&bag)?;
        }
        Some(())
    }

    fn look_at_bag(&mut self, bag: &Der<'_>) -> Option<()> {
        let parts = bag.children();
        if parts.first()?.content != SHROUDED_KEY_BAG {
            return Some(());
        }
        let shrouded = *parts.get(1)?.children().first()?;
        self.pbes2 |= shrouded.children().first()?.children().first()?.content == PBES2;
        let attributes = parts.get(2).map(Der::children).unwrap_or_default();
        self.provider = attributes.iter().find_map(provider);
        Some(())
    }
}

/// The value of the attribute that names the key's provider, a `BMPString`.
fn provider(attribute: &Der<'_>) -> Option<String> {
    let parts = attribute.children();
    let value = *parts.get(1)?.children().first()?;
    let units = value.content.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect::<Vec<_>>();
    (parts.first()?.content == PROVIDER_NAME).then(|| String::from_utf16_lossy(&units))
}

/// The wrapper `[0] EXPLICIT` of a `ContentInfo`, whose one child is the content.
fn content<'a>(info: &Der<'a>) -> Option<Der<'a>> {
    info.children().get(1).copied()
}

/// One element: tag, length, content (X.690), the tag left out.
#[derive(Clone, Copy)]
struct Der<'a> {
    content: &'a [u8],
}

impl<'a> Der<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        Some(Self::split(bytes)?.0)
    }

    fn children(&self) -> Vec<Self> {
        let mut rest = self.content;
        let mut children = Vec::new();
        while let Some((child, after)) = Self::split(rest) {
            children.push(child);
            rest = after;
        }
        children
    }

    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&short, mut rest) = bytes.get(1..)?.split_first()?;
        let mut length = usize::from(short);
        if short >= 0x80 {
            let digits = rest.get(..usize::from(short & 0x7f))?;
            rest = &rest[digits.len()..];
            length = digits.iter().try_fold(0_usize, |n, digit| n.checked_mul(256)?.checked_add((*digit).into()))?;
        }
        Some((Self { content: rest.get(..length)? }, &rest[length..]))
    }
}

/// 1.2.840.113549.1.7.6
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x06];
/// 1.2.840.113549.1.12.10.1.2
const SHROUDED_KEY_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x02];
/// 1.2.840.113549.1.5.13
const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
/// 1.3.6.1.4.1.311.17.1
const PROVIDER_NAME: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x11, 0x01];

#[cfg(test)]
mod tests;
