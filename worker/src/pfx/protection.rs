//! How a PFX is encrypted and sealed: RFC 7292 (PKCS#12) section 4 and appendices B and C, RFC 8018 (PBES2) section 6.2.

use aws_lc_rs::{
    cipher::{AES_256, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey},
    digest, hmac,
    iv::FixedLength,
    pbkdf2, rand,
};
use der::{
    asn1::{Null, OctetString},
    oid::ObjectIdentifier,
};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{
    Algorithm, Error,
    structure::{AlgorithmIdentifier, DigestInfo, MacData, PbeParameters, Pbes2Parameters, Pbkdf2Parameters},
};

/// A password and the way it is used.
pub(super) struct Protection<'a> {
    password: &'a SecretString,
    algorithm: Algorithm,
}

impl<'a> Protection<'a> {
    /// `password` is printable ASCII.
    pub(super) fn new(password: &'a SecretString, algorithm: Algorithm) -> Self {
        Self { password, algorithm }
    }

    /// Encrypts, and says how.
    pub(super) fn encrypt(&self, plain: &[u8]) -> Result<(AlgorithmIdentifier, OctetString), Error> {
        match self.algorithm {
            Algorithm::TripleDesSha1 => self.encrypt_triple_des(plain),
            Algorithm::Aes256Sha256 => self.encrypt_aes(plain),
        }
    }

    /// The seal over the authenticated safe (RFC 7292 section 4 and appendix A).
    pub(super) fn seal(&self, content: &[u8]) -> Result<MacData, Error> {
        let (oid, hash, code) = match self.algorithm {
            Algorithm::TripleDesSha1 => (SHA1, &digest::SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            Algorithm::Aes256Sha256 => (SHA256, &digest::SHA256, hmac::HMAC_SHA256),
        };
        let salt = self.salt()?;
        let key = self.derive(hash, Purpose::Mac, &salt, hash.output_len());
        let tag = hmac::sign(&hmac::Key::new(code, &key), content);
        Ok(MacData {
            mac: DigestInfo {
                algorithm: AlgorithmIdentifier::new(oid, &Null)?,
                digest: OctetString::new(tag.as_ref())?,
            },
            salt: OctetString::new(salt)?,
            iterations: self.iterations(),
        })
    }

    /// `pbeWithSHAAnd3-KeyTripleDES-CBC`, RFC 7292 appendix C.
    #[expect(deprecated, reason = "Windows before Server 2019 reads no better PFX encryption")]
    fn encrypt_triple_des(&self, plain: &[u8]) -> Result<(AlgorithmIdentifier, OctetString), Error> {
        use aws_lc_rs::cipher::{DES_CBC_IV_LEN, DES_EDE3_FOR_LEGACY_USE_ONLY, DES_EDE3_KEY_LEN};
        let salt = self.salt()?;
        let hash = &digest::SHA1_FOR_LEGACY_USE_ONLY;
        let key = self.derive(hash, Purpose::Key, &salt, DES_EDE3_KEY_LEN);
        let iv = self.derive(hash, Purpose::Iv, &salt, DES_CBC_IV_LEN);
        let iv = FixedLength::<DES_CBC_IV_LEN>::try_from(iv.as_slice()).map_err(|_| Error::Cipher)?;
        let key = UnboundCipherKey::new(&DES_EDE3_FOR_LEGACY_USE_ONLY, &key).map_err(|_| Error::Cipher)?;
        let parameters = PbeParameters { salt: OctetString::new(salt)?, iterations: self.iterations() };
        let encrypted = encrypt_cbc(key, EncryptionContext::Iv64(iv), plain)?;
        Ok((AlgorithmIdentifier::new(PBE_SHA1_TRIPLE_DES, &parameters)?, encrypted))
    }

    /// PBES2, RFC 8018 section 6.2: AES-256-CBC under a key from PBKDF2-HMAC-SHA256.
    fn encrypt_aes(&self, plain: &[u8]) -> Result<(AlgorithmIdentifier, OctetString), Error> {
        let salt = self.salt()?;
        let mut iv = [0; 16];
        rand::fill(&mut iv).map_err(|_| Error::Random)?;
        let mut key = Zeroizing::new([0; 32]);
        let iterations = self.iterations().try_into().map_err(|_| Error::Cipher)?;
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            &salt,
            self.password.expose_secret().as_bytes(),
            &mut *key,
        );
        let key = UnboundCipherKey::new(&AES_256, &*key).map_err(|_| Error::Cipher)?;
        let derivation = Pbkdf2Parameters {
            salt: OctetString::new(salt)?,
            iterations: self.iterations(),
            prf: AlgorithmIdentifier::new(HMAC_SHA256, &Null)?,
        };
        let parameters = Pbes2Parameters {
            derivation: AlgorithmIdentifier::new(PBKDF2, &derivation)?,
            encryption: AlgorithmIdentifier::new(AES_256_CBC, &OctetString::new(iv)?)?,
        };
        let encrypted = encrypt_cbc(key, EncryptionContext::Iv128(FixedLength::from(iv)), plain)?;
        Ok((AlgorithmIdentifier::new(PBES2, &parameters)?, encrypted))
    }

    fn derive(
        &self,
        hash: &'static digest::Algorithm,
        purpose: Purpose,
        salt: &[u8],
        length: usize,
    ) -> Zeroizing<Vec<u8>> {
        derive(hash, purpose, &password_utf16(self.password.expose_secret()), salt, self.iterations(), length)
    }

    /// Enough for the password of 192 bits, which needs no stretching: what Windows itself writes, and more where every
    /// reader is recent.
    fn iterations(&self) -> u32 {
        match self.algorithm {
            Algorithm::TripleDesSha1 => 2_000,
            Algorithm::Aes256Sha256 => 10_000,
        }
    }

    /// As long as the ones that Windows itself writes for the same algorithm generation.
    fn salt(&self) -> Result<Vec<u8>, Error> {
        let mut salt = match self.algorithm {
            Algorithm::TripleDesSha1 => vec![0; 8],
            Algorithm::Aes256Sha256 => vec![0; 16],
        };
        rand::fill(&mut salt).map_err(|_| Error::Random)?;
        Ok(salt)
    }
}

fn encrypt_cbc(key: UnboundCipherKey, iv: EncryptionContext, plain: &[u8]) -> Result<OctetString, Error> {
    let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).map_err(|_| Error::Cipher)?;
    // Room for the padding, so that the plain text is never moved and left behind.
    let mut buffer = Vec::with_capacity(plain.len() + 16);
    buffer.extend_from_slice(plain);
    key.less_safe_encrypt(&mut buffer, iv).map_err(|_| Error::Cipher)?;
    Ok(OctetString::new(buffer)?)
}

/// What a derived key is for (RFC 7292 appendix B.3): the same password and salt give another key for each.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Key = 1,
    Iv = 2,
    Mac = 3,
}

/// The password as the derivation wants it: UTF-16, big-endian, with a terminating NUL (RFC 7292 appendix B.1).
pub(super) fn password_utf16(password: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(password.encode_utf16().chain([0]).flat_map(u16::to_be_bytes).collect())
}

/// Derives `length` bytes from a password (RFC 7292 appendix B.2, whose letters the names follow).
pub(super) fn derive(
    hash: &'static digest::Algorithm,
    purpose: Purpose,
    password: &[u8],
    salt: &[u8],
    iterations: u32,
    length: usize,
) -> Zeroizing<Vec<u8>> {
    let v = hash.block_len();
    let diversifier = vec![purpose as u8; v];
    let mut i = Zeroizing::new(repeated(salt, v));
    i.extend_from_slice(&Zeroizing::new(repeated(password, v)));
    let mut derived = Zeroizing::new(Vec::with_capacity(length + hash.output_len()));
    while derived.len() < length {
        let a = hashed(hash, &[diversifier.as_slice(), i.as_slice()].concat(), iterations);
        let b: Zeroizing<Vec<u8>> = Zeroizing::new(a.as_ref().iter().copied().cycle().take(v).collect());
        i.chunks_mut(v).for_each(|block| add_plus_one(block, &b));
        derived.extend_from_slice(a.as_ref());
    }
    derived.truncate(length);
    derived
}

/// Copies of `bytes`, the last one cut, as many as fill whole blocks.
fn repeated(bytes: &[u8], block: usize) -> Vec<u8> {
    bytes.iter().copied().cycle().take(bytes.len().next_multiple_of(block)).collect()
}

fn hashed(hash: &'static digest::Algorithm, input: &[u8], iterations: u32) -> digest::Digest {
    (1..iterations).fold(digest::digest(hash, input), |previous, _| digest::digest(hash, previous.as_ref()))
}

/// `block + addend + 1`, as big-endian numbers, the carry out of the top dropped.
fn add_plus_one(block: &mut [u8], addend: &[u8]) {
    let mut carry = 1;
    for (byte, other) in block.iter_mut().zip(addend).rev() {
        let sum = u16::from(*byte) + u16::from(*other) + carry;
        *byte = sum.to_be_bytes()[1];
        carry = sum >> 8;
    }
}

const PBE_SHA1_TRIPLE_DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.1.3");
const PBES2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.13");
const PBKDF2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.12");
const HMAC_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.2.9");
const AES_256_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.42");
const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
