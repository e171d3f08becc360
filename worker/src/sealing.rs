//! Sealing of the new private key: the only form in which it is ever stored.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use db::SealedKey;
use domain::{RenewalId, Thumbprint};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// Seals and opens keys with one AES-256-GCM key of the service.
pub struct Sealer(LessSafeKey);

/// A certificate with its private key, in memory.
pub struct KeyPair {
    /// X.509, DER.
    pub certificate_der: Vec<u8>,
    /// PKCS#8, DER.
    pub private_key_pkcs8: Zeroizing<Vec<u8>>,
}

#[derive(Deserialize, Serialize)]
struct Payload {
    certificate: String,
    key: String,
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// The sealed key cannot be opened: it was sealed with another service key, for another renewal, or was changed.
#[derive(Debug, thiserror::Error)]
#[error("the sealed key cannot be opened with this service's seal key")]
pub struct CannotOpen;

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").field("thumbprint", &self.thumbprint()).finish_non_exhaustive()
    }
}

impl KeyPair {
    /// The thumbprint of the certificate.
    #[must_use]
    pub fn thumbprint(&self) -> Thumbprint {
        Thumbprint::of_der(&self.certificate_der)
    }
}

impl Sealer {
    /// A sealer with the service's 32-byte key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes keys of 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Seals a key pair for one renewal: nonce, then ciphertext. The renewal's id is authenticated with it.
    #[must_use]
    pub fn seal(&self, renewal: RenewalId, pair: &KeyPair) -> SealedKey {
        let payload = Payload {
            certificate: STANDARD.encode(&pair.certificate_der),
            key: STANDARD.encode(pair.private_key_pkcs8.as_slice()),
        };
        let mut buffer = serde_json::to_vec(&payload).expect("two strings are JSON");
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).expect("the system has random numbers");
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(renewal.0.as_bytes()), &mut buffer)
            .expect("a payload of a few kilobytes is far below the limit of AES-GCM");
        let sealed = [nonce.as_slice(), &buffer].concat();
        SealedKey { thumbprint: pair.thumbprint(), sealed }
    }

    /// Opens what [`Sealer::seal`] made for the same renewal.
    pub fn open(&self, renewal: RenewalId, sealed: &SealedKey) -> Result<KeyPair, CannotOpen> {
        let (nonce, ciphertext) = sealed.sealed.split_at_checked(NONCE_LEN).ok_or(CannotOpen)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CannotOpen)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let plain =
            self.0.open_in_place(nonce, Aad::from(renewal.0.as_bytes()), &mut buffer).map_err(|_| CannotOpen)?;
        let payload: Payload = serde_json::from_slice(plain).map_err(|_| CannotOpen)?;
        Ok(KeyPair {
            certificate_der: STANDARD.decode(&payload.certificate).map_err(|_| CannotOpen)?,
            private_key_pkcs8: Zeroizing::new(STANDARD.decode(&payload.key).map_err(|_| CannotOpen)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn pair() -> KeyPair {
        KeyPair { certificate_der: b"certificate".to_vec(), private_key_pkcs8: Zeroizing::new(b"private key".to_vec()) }
    }

    #[test]
    fn a_sealed_key_opens_only_for_its_renewal_with_its_seal_key() {
        let (renewal, other) = (RenewalId(Uuid::now_v7()), RenewalId(Uuid::now_v7()));
        let sealer = Sealer::new(&[7; 32]);
        let sealed = sealer.seal(renewal, &pair());
        assert_eq!(sealer.open(renewal, &sealed).unwrap().private_key_pkcs8.as_slice(), b"private key");
        assert!(sealer.open(other, &sealed).is_err());
        assert!(Sealer::new(&[8; 32]).open(renewal, &sealed).is_err());
        let mut changed = sealed;
        changed.sealed[20] ^= 1;
        assert!(sealer.open(renewal, &changed).is_err());
        changed.sealed.truncate(5);
        assert!(sealer.open(renewal, &changed).is_err());
    }

    #[test]
    fn neither_the_sealed_nor_the_open_form_shows_the_key() {
        let sealed = Sealer::new(&[7; 32]).seal(RenewalId(Uuid::now_v7()), &pair());
        assert!(!sealed.sealed.windows(7).any(|w| w == b"private"));
        assert!(!format!("{:?}{sealed:?}", pair()).contains("private key"));
    }
}
