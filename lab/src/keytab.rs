//! Keytabs: the long-term keys of services, as the tools of MIT Kerberos write them (format 0x0502).

use sspi::Secret;

/// A key with which a service opens tickets.
#[derive(Clone, Debug)]
pub(crate) struct ServiceKey {
    /// The components of the service's name, as `HTTP` and `ex01.contoso.example`.
    pub(crate) principal: Vec<String>,
    /// AES-256, 32 bytes.
    pub(crate) key: Secret<Vec<u8>>,
}

/// The keys of a keytab that can be used here: aes256-cts-hmac-sha1-96. The error says what is wrong with the file.
pub(crate) fn read(file: &[u8]) -> anyhow::Result<Vec<ServiceKey>> {
    let mut rest = Bytes(file);
    anyhow::ensure!(rest.take(2) == Some(&[5, 2]), "this is no keytab of format 0x0502");
    let mut keys = Vec::new();
    while !rest.0.is_empty() {
        let entry = rest.entry().ok_or_else(|| anyhow::anyhow!("the keytab is cut short"))?;
        if let Some(mut entry) = entry {
            keys.extend(entry.service_key().ok_or_else(|| anyhow::anyhow!("an entry of the keytab is malformed"))?);
        }
    }
    anyhow::ensure!(!keys.is_empty(), "the keytab holds no key for aes256-cts-hmac-sha1-96");
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

    /// The next entry, or none where one was deleted.
    fn entry(&mut self) -> Option<Option<Self>> {
        let size = i32::from_be_bytes(self.take(4)?.try_into().ok()?);
        let bytes = self.take(usize::try_from(size.unsigned_abs()).ok()?)?;
        Some((size > 0).then_some(Self(bytes)))
    }

    /// The key, or none if it is of another kind.
    fn service_key(&mut self) -> Option<Option<ServiceKey>> {
        let components = self.short()?;
        let _realm = self.counted()?;
        let name = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let principal = (0..components).map(|_| self.counted().and_then(name)).collect::<Option<Vec<_>>>()?;
        // The kind of the name, when it was written, and the low bits of the key's version.
        self.take(4 + 4 + 1)?;
        let encryption = self.short()?;
        let key = self.counted()?;
        Some((encryption == AES256_CTS_HMAC_SHA1_96).then(|| ServiceKey { principal, key: Secret::new(key.to_vec()) }))
    }
}

/// RFC 3962 section 7.
const AES256_CTS_HMAC_SHA1_96: u16 = 18;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(encryption: u16) -> Vec<u8> {
        let mut entry = vec![0, 2];
        for text in ["EXAMPLE.COM", "HTTP", "ex01"] {
            entry.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
            entry.extend(text.as_bytes());
        }
        entry.extend([0, 0, 0, 1, 0, 0, 0, 0, 2]);
        entry.extend(encryption.to_be_bytes());
        entry.extend([0, 32]);
        entry.extend([7; 32]);
        [u32::try_from(entry.len()).unwrap().to_be_bytes().as_slice(), &entry].concat()
    }

    #[test]
    fn the_usable_keys_are_found_between_others_and_holes() {
        let hole = [(-3_i32).to_be_bytes().as_slice(), &[0; 3]].concat();
        let file = [[5, 2].as_slice(), &entry(17), &hole, &entry(18)].concat();
        let keys = read(&file).unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].principal, ["HTTP", "ex01"]);
        assert_eq!(keys[0].key.as_ref(), &[7; 32]);
    }

    #[test]
    fn what_is_no_keytab_is_told_from_one_without_usable_keys() {
        let told = |file: &[u8]| read(file).unwrap_err().to_string();
        assert!(told(b"PK").contains("no keytab"));
        assert!(told(&[[5, 2].as_slice(), &entry(17)].concat()).contains("no key for aes256"));
        let whole = [[5, 2].as_slice(), &entry(18)].concat();
        for length in 3..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
    }
}
