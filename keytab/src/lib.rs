//! Keytabs: the long-term keys of Kerberos principals, as the tools of MIT Kerberos and Windows' ktpass write them (format 0x0502).

use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

/// One key of a principal.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// The components of its name, as `HTTP` and `ex01.contoso.example`, or `svc-rekey` alone.
    pub principal: Vec<String>,
    /// Its realm, in capitals as a rule.
    pub realm: String,
    /// Grows with every change of the password (kvno).
    pub version: u32,
    /// What it is for.
    pub encryption: Encryption,
    /// The key.
    pub key: Zeroizing<Vec<u8>>,
}

/// Kinds of encryption (RFC 3961 section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// aes128-cts-hmac-sha1-96 (RFC 3962), 16 bytes.
    Aes128,
    /// aes256-cts-hmac-sha1-96 (RFC 3962), 32 bytes.
    Aes256,
    /// Any other, by its number.
    Other(u16),
}

/// A file that is no keytab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// It starts otherwise.
    #[error("it is no keytab of format 0x0502")]
    Format,
    /// It ends in the middle of an entry.
    #[error("it is cut short")]
    Short,
    /// An entry does not hold what its lengths say, or a name is no UTF-8.
    #[error("one of its entries is malformed")]
    Entry,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name()).field("version", &self.version).finish_non_exhaustive()
    }
}

impl Key {
    /// `svc-rekey@CONTOSO.EXAMPLE`, `HTTP/ex01.contoso.example@CONTOSO.EXAMPLE`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}@{}", self.principal.join("/"), self.realm)
    }

    /// Whether it is one of those for AES with SHA-1 that Active Directory gives out, and as long as it must be.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!((self.encryption, self.key.len()), (Encryption::Aes128, 16) | (Encryption::Aes256, 32))
    }
}

/// The best key of an account: of the latest version the longest.
#[must_use]
pub fn best<'a>(keys: &'a [Key], account: &str, realm: &str) -> Option<&'a Key> {
    let name = format!("{account}@{realm}");
    let of_account = keys.iter().filter(|key| key.is_usable() && key.name().eq_ignore_ascii_case(&name));
    of_account.max_by_key(|key| (key.version, key.key.len()))
}

/// All keys of a keytab.
///
/// # Errors
/// [`Malformed`] says how far it could be read.
pub fn read(file: &[u8]) -> Result<Vec<Key>, Malformed> {
    let mut rest = Bytes(file);
    if rest.take(2) != Some(&[5, 2]) {
        return Err(Malformed::Format);
    }
    let mut keys = Vec::new();
    while !rest.0.is_empty() {
        // Where an entry was deleted, a hole is left.
        if let Some(mut entry) = rest.entry().ok_or(Malformed::Short)? {
            keys.push(entry.key().ok_or(Malformed::Entry)?);
        }
    }
    Ok(keys)
}

/// What is still to be read. All numbers are big-endian.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn counted(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(length.into())
    }

    fn name(&mut self) -> Option<String> {
        String::from_utf8(self.counted()?.to_vec()).ok()
    }

    /// The next entry, or none for a hole.
    fn entry(&mut self) -> Option<Option<Self>> {
        let size = i32::from_be_bytes(self.take(4)?.try_into().ok()?);
        let bytes = self.take(usize::try_from(size.unsigned_abs()).ok()?)?;
        Some((size > 0).then_some(Self(bytes)))
    }

    fn key(&mut self) -> Option<Key> {
        let components = self.short()?;
        let realm = self.name()?;
        let principal = (0..components).map(|_| self.name()).collect::<Option<_>>()?;
        // The kind of the name, and when it was written.
        self.take(4 + 4)?;
        let low = self.take(1)?.first().copied()?;
        let encryption = match self.short()? {
            17 => Encryption::Aes128,
            18 => Encryption::Aes256,
            other => Encryption::Other(other),
        };
        let key = Zeroizing::new(self.counted()?.to_vec());
        // Tools of today repeat the version in full behind the key.
        let whole = self.take(4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let version = whole.filter(|version| *version != 0).unwrap_or_else(|| low.into());
        Some(Key { principal, realm, version, encryption, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AES256: u16 = 18;

    fn entry(name: &[&str], version: u8, encryption: u16, length: u16) -> Vec<u8> {
        let mut entry = u16::try_from(name.len()).unwrap().to_be_bytes().to_vec();
        for text in ["EXAMPLE.COM"].iter().chain(name) {
            entry.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
            entry.extend(text.as_bytes());
        }
        entry.extend([0, 0, 0, 1, 0, 0, 0, 0, version]);
        entry.extend(encryption.to_be_bytes());
        entry.extend(length.to_be_bytes());
        entry.extend(vec![version; length.into()]);
        [u32::try_from(entry.len()).unwrap().to_be_bytes().as_slice(), &entry].concat()
    }

    fn file(entries: &[Vec<u8>]) -> Vec<u8> {
        [&[5, 2], entries.concat().as_slice()].concat()
    }

    #[test]
    fn keys_are_found_between_holes() {
        let hole = [(-3_i32).to_be_bytes().as_slice(), &[0; 3]].concat();
        let keys = read(&file(&[hole.clone(), entry(&["HTTP", "ex01"], 2, AES256, 32), hole])).unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!((keys[0].name().as_str(), keys[0].version), ("HTTP/ex01@EXAMPLE.COM", 2));
        assert_eq!((keys[0].encryption, keys[0].key.as_slice()), (Encryption::Aes256, [2; 32].as_slice()));
        assert!(!format!("{keys:?}").contains("2, 2"), "the key is not shown");
    }

    #[test]
    fn the_best_key_is_the_longest_of_the_latest_version_that_can_be_used() {
        let keys = read(&file(&[
            entry(&["svc"], 1, AES256, 32),
            entry(&["svc"], 3, 17, 16),
            entry(&["svc"], 3, AES256, 32),
            entry(&["svc"], 4, 23, 16),
            entry(&["svc"], 4, AES256, 31),
            entry(&["other"], 9, AES256, 32),
        ]))
        .unwrap();
        let found = best(&keys, "SVC", "example.com").unwrap();
        assert_eq!((found.version, found.encryption), (3, Encryption::Aes256));
        assert_eq!(best(&keys, "svc", "ELSEWHERE"), None);
    }

    #[test]
    fn a_version_above_255_is_read_from_behind_the_key() {
        let mut long = entry(&["svc"], 44, AES256, 32);
        long.extend(300_u32.to_be_bytes());
        let size = u32::try_from(long.len() - 4).unwrap();
        long[..4].copy_from_slice(&size.to_be_bytes());
        assert_eq!(read(&file(&[long])).unwrap()[0].version, 300);
    }

    #[test]
    fn what_is_no_keytab_is_an_error_wherever_it_is_cut() {
        assert_eq!(read(b"PK"), Err(Malformed::Format));
        assert_eq!(read(&[5, 2]), Ok(Vec::new()));
        let whole = file(&[entry(&["svc"], 1, AES256, 32)]);
        for length in 3..whole.len() {
            assert_eq!(read(&whole[..length]), Err(Malformed::Short), "{length}");
        }
        let mut lies = whole;
        lies[7] = 200;
        assert_eq!(read(&lies), Err(Malformed::Entry));
    }
}
