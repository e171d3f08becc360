//! The session key, which encrypts what travels as a `SecureString`, and how the two sides agree on it.
//!
//! The client sends the public half of an RSA key; the server answers with a random key for AES-256 encrypted for it (MS-PSRP 3.1.1.4, 2.2.2.3, 2.2.2.4).
//! Blobs are those of the Windows CryptoAPI, and travel as base64.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{
    KeySize, Pkcs1PrivateDecryptingKey, Pkcs1PublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
    PublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Secret;

/// The key of one runspace pool. Wiped when dropped; `Debug` says nothing.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionKey([u8; KEY]);

/// The client's side of the exchange: an RSA key pair of 2048 bits.
pub struct KeyExchange {
    private: Pkcs1PrivateDecryptingKey,
    public: String,
}

/// A key pair for one pool or for several, made when the first of them needs it. Making it takes longer than all the rest of a short pipeline, and the
/// session keys that it protects on the way are different for each pool.
#[derive(Clone, Debug, Default)]
pub struct SharedKeyExchange(Arc<OnceLock<Arc<KeyExchange>>>);

impl SharedKeyExchange {
    /// The key pair.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when it cannot be made.
    pub fn get(&self) -> Result<Arc<KeyExchange>, KeyError> {
        if let Some(made) = self.0.get() {
            return Ok(made.clone());
        }
        let made = Arc::new(KeyExchange::generate()?);
        Ok(self.0.get_or_init(|| made).clone())
    }
}

/// Why keys or secrets cannot be used. Never says what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No RSA key could be made.
    #[error("an RSA key cannot be made")]
    Generate,
    /// Text that should be base64 is none.
    #[error("not base64")]
    NotBase64,
    /// Not a PUBLICKEYBLOB of an RSA key of 2048 bits.
    #[error("not a public RSA key of 2048 bits")]
    PublicKey,
    /// Not a SIMPLEBLOB, or not made for this key pair.
    #[error("an encrypted session key that is malformed or made for another key")]
    EncryptedSessionKey,
    /// Not encrypted with this session key, or damaged.
    #[error("a SecureString that is malformed or encrypted with another key")]
    SecureString,
}

impl KeyExchange {
    /// Makes a key pair.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when the machine has no randomness to give.
    pub fn generate() -> Result<Self, KeyError> {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(|_| KeyError::Generate)?;
        let public = public_key_blob(&private.public_key()).ok_or(KeyError::Generate)?;
        let private = Pkcs1PrivateDecryptingKey::new(private).map_err(|_| KeyError::Generate)?;
        Ok(Self { private, public: STANDARD.encode(public) })
    }

    /// The PUBLICKEYBLOB for the server, as base64 (MS-PSRP 2.2.2.3).
    #[must_use]
    pub fn public_key(&self) -> &str {
        &self.public
    }

    /// Opens the SIMPLEBLOB that the server sent, base64 (MS-PSRP 2.2.2.4).
    ///
    /// # Errors
    /// [`KeyError::NotBase64`] or [`KeyError::EncryptedSessionKey`].
    pub fn accept(&self, encrypted_session_key: &str) -> Result<SessionKey, KeyError> {
        let blob = STANDARD.decode(encrypted_session_key.trim()).map_err(|_| KeyError::NotBase64)?;
        let encrypted = blob.strip_prefix(SIMPLE_BLOB).filter(|rest| rest.len() == MODULUS);
        let encrypted = encrypted.ok_or(KeyError::EncryptedSessionKey)?;
        let encrypted: Vec<u8> = encrypted.iter().rev().copied().collect();
        let mut plain = Zeroizing::new([0; MODULUS]);
        let key = self.private.decrypt(&encrypted, &mut plain[..]).map_err(|_| KeyError::EncryptedSessionKey)?;
        Ok(SessionKey((&*key).try_into().map_err(|_| KeyError::EncryptedSessionKey)?))
    }
}

impl SessionKey {
    /// A random key: the server's side of the exchange.
    ///
    /// # Panics
    /// When the machine has no randomness to give.
    #[must_use]
    pub fn generate() -> Self {
        let mut key = Self([0; KEY]);
        aws_lc_rs::rand::fill(&mut key.0).expect("the operating system has randomness");
        key
    }

    /// Encrypts this key for a client that sent its PUBLICKEYBLOB as base64. Gives a SIMPLEBLOB as base64.
    ///
    /// # Errors
    /// [`KeyError::NotBase64`] or [`KeyError::PublicKey`].
    pub fn wrap_for(&self, public_key: &str) -> Result<String, KeyError> {
        let blob = STANDARD.decode(public_key.trim()).map_err(|_| KeyError::NotBase64)?;
        let public = read_public_key_blob(&blob).ok_or(KeyError::PublicKey)?;
        let public = Pkcs1PublicEncryptingKey::new(public).map_err(|_| KeyError::PublicKey)?;
        let mut encrypted = [0; MODULUS];
        public.encrypt(&self.0, &mut encrypted).map_err(|_| KeyError::PublicKey)?;
        encrypted.reverse();
        Ok(STANDARD.encode([SIMPLE_BLOB, &encrypted].concat()))
    }

    /// What stands in `<SS>`: base64 of AES-256-CBC with an initialization vector of zeros over UTF-16LE with PKCS #7 padding (MS-PSRP 2.2.5.1.24).
    /// Equal secrets look equal on the wire; the protocol has it so.
    #[must_use]
    pub fn encrypt(&self, plain: &str) -> String {
        // Room for the padding, so that no half of the secret stays behind in freed memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(plain.len() * 2 + BLOCK));
        bytes.extend(plain.encode_utf16().flat_map(u16::to_le_bytes));
        let context = EncryptionContext::Iv128(FixedLength::from([0; BLOCK]));
        PaddedBlockEncryptingKey::cbc_pkcs7(self.unbound())
            .and_then(|key| key.less_safe_encrypt(&mut *bytes, context))
            .expect("a key of 32 bytes and a vector of 16 fit AES-256-CBC");
        STANDARD.encode(&*bytes)
    }

    /// Reads what stands in `<SS>`.
    ///
    /// # Errors
    /// [`KeyError::NotBase64`] or [`KeyError::SecureString`].
    pub fn decrypt(&self, base64: &str) -> Result<Secret, KeyError> {
        let mut bytes = Zeroizing::new(STANDARD.decode(base64.trim()).map_err(|_| KeyError::NotBase64)?);
        let context = DecryptionContext::Iv128(FixedLength::from([0; BLOCK]));
        let plain = PaddedBlockDecryptingKey::cbc_pkcs7(self.unbound())
            .and_then(|key| key.decrypt(&mut bytes, context))
            .map_err(|_| KeyError::SecureString)?;
        let (units, []) = plain.as_chunks::<2>() else { return Err(KeyError::SecureString) };
        let units = Zeroizing::new(units.iter().map(|unit| u16::from_le_bytes(*unit)).collect::<Vec<_>>());
        String::from_utf16(&units).map(Secret::new).map_err(|_| KeyError::SecureString)
    }

    fn unbound(&self) -> UnboundCipherKey {
        UnboundCipherKey::new(&AES_256, &self.0).expect("a key for AES-256 has 32 bytes")
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey")
    }
}

impl fmt::Debug for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyExchange")
    }
}

fn public_key_blob(key: &PublicEncryptingKey) -> Option<Vec<u8>> {
    let der: PublicKeyX509Der<'_> = key.as_der().ok()?;
    // A SubjectPublicKeyInfo ends with its two numbers, modulus and exponent, of known lengths here.
    let rest = der.as_ref().strip_suffix(DER_EXPONENT)?;
    let modulus = &rest[rest.len().checked_sub(MODULUS)?..];
    let mut blob = [PUBLIC_KEY_BLOB, EXPONENT_LE].concat();
    blob.extend(modulus.iter().rev());
    Some(blob)
}

fn read_public_key_blob(blob: &[u8]) -> Option<PublicEncryptingKey> {
    let (exponent, modulus) = blob.strip_prefix(PUBLIC_KEY_BLOB)?.split_first_chunk::<4>()?;
    if modulus.len() != MODULUS {
        return None;
    }
    let n: Vec<u8> = modulus.iter().rev().copied().collect();
    let e = u32::from_le_bytes(*exponent).to_be_bytes();
    let leading_zeros = e.iter().take_while(|byte| **byte == 0).count();
    PublicKeyComponents { n: &n[..], e: &e[leading_zeros..] }.try_into().ok()
}

/// Bytes of the session key: AES-256.
const KEY: usize = 32;

/// Bytes of a block of AES.
const BLOCK: usize = 16;

/// Bytes of the modulus: RSA-2048.
const MODULUS: usize = 256;

/// PUBLICKEYSTRUC of a PUBLICKEYBLOB (type 6, version 2, CALG_RSA_KEYX), then RSAPUBKEY's magic "RSA1" and length of 2048 bits. Exponent and modulus follow,
/// little endian.
const PUBLIC_KEY_BLOB: &[u8] = b"\x06\x02\x00\x00\x00\xA4\x00\x00RSA1\x00\x08\x00\x00";

/// PUBLICKEYSTRUC of a SIMPLEBLOB (type 1, version 2, CALG_AES_256), then the algorithm that encrypted it, CALG_RSA_KEYX. The ciphertext follows, little endian.
const SIMPLE_BLOB: &[u8] = b"\x01\x02\x00\x00\x10\x66\x00\x00\x00\xA4\x00\x00";

/// 65537 as the keys made here have it.
const EXPONENT_LE: &[u8] = &[1, 0, 1, 0];

/// 65537 as a DER INTEGER.
const DER_EXPONENT: &[u8] = &[2, 3, 1, 0, 1];

#[cfg(test)]
mod tests;
