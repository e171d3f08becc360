//! The shape of a PFX: RFC 7292 (PKCS#12) sections 4 and 5, RFC 5652 (CMS) sections 3 and 8, RFC 5208 (PKCS#8) section 5.
//!
//! One safe with the encrypted key comes first and one encrypted safe with the certificate second, as in the files that
//! Windows exports.

use der::{
    Any, Encode, EncodeValue, Sequence, Tagged, ValueOrd,
    asn1::{BitString, BmpString, OctetString, SetOfVec},
    oid::ObjectIdentifier,
};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Contents, Error, KEY_PROVIDER, protection::Protection};

/// A whole PFX, DER.
pub(super) fn pfx(contents: &Contents<'_>, protection: &Protection<'_>) -> Result<Zeroizing<Vec<u8>>, Error> {
    let safes = vec![key_safe(contents, protection)?, certificate_safe(contents, protection)?].to_der()?;
    let pfx = Pfx { version: 3, mac_data: protection.seal(&safes)?, auth_safe: ContentInfo::data(&safes)? };
    Ok(Zeroizing::new(pfx.to_der()?))
}

/// A safe that is not encrypted as a whole: its one bag is.
fn key_safe(contents: &Contents<'_>, protection: &Protection<'_>) -> Result<ContentInfo, Error> {
    let key = for_key_exchange(contents.private_key_pkcs8)?;
    let (algorithm, data) = protection.encrypt(&key)?;
    let bag = SafeBag {
        id: SHROUDED_KEY_BAG,
        value: Any::encode_from(&EncryptedPrivateKeyInfo { algorithm, data })?,
        attributes: attributes([
            local_key_id()?,
            friendly_name(&container_name())?,
            Attribute::new(PROVIDER_NAME, &BmpString::from_utf8(KEY_PROVIDER)?)?,
            Attribute { id: MACHINE_KEY_SET, values: SetOfVec::new() },
        ])?,
    };
    ContentInfo::data(&vec![bag].to_der()?)
}

fn certificate_safe(contents: &Contents<'_>, protection: &Protection<'_>) -> Result<ContentInfo, Error> {
    let certificate = CertBag { id: X509_CERTIFICATE, value: OctetString::new(contents.certificate_der)? };
    let bag = SafeBag {
        id: CERTIFICATE_BAG,
        value: Any::encode_from(&certificate)?,
        attributes: attributes([local_key_id()?, friendly_name(contents.friendly_name.as_str())?])?,
    };
    let (algorithm, encrypted_content) = protection.encrypt(&vec![bag].to_der()?)?;
    let content = EncryptedContentInfo { content_type: DATA, algorithm, encrypted_content };
    ContentInfo::new(ENCRYPTED_DATA, &EncryptedData { version: 0, content })
}

/// The private key with the attribute by which Windows tells a key for exchange (`AT_KEYEXCHANGE`, what Exchange needs)
/// from one for signatures only. Windows writes it when it exports; so do we, rather than trust a default.
fn for_key_exchange(pkcs8: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    use der::Decode as _;
    const KEY_ENCIPHERMENT: u8 = 0b0001_0000;
    let mut key = PrivateKeyInfo::from_der(pkcs8)?;
    key.attributes = Some(attributes([Attribute::new(KEY_USAGE, &BitString::new(4, [KEY_ENCIPHERMENT])?)?])?);
    let encoded = Zeroizing::new(key.to_der()?);
    zeroize::Zeroize::zeroize(&mut key.private_key.into_bytes().into_vec());
    Ok(encoded)
}

/// Windows takes the friendly name of the key bag for the name of the key container, or a new one if it is in use
/// (OctopusDeploy/Issues#3689, dotnet/runtime-assets#9). A name with spaces broke programs that open the container, and
/// an equal name in two imports makes them race for one container: hence a name that nobody has used.
fn container_name() -> String {
    format!("{{{}}}", Uuid::new_v4().hyphenated())
}

fn friendly_name(name: &str) -> Result<Attribute, Error> {
    Attribute::new(FRIENDLY_NAME, &BmpString::from_utf8(name)?)
}

/// Links the key to its certificate; with one of each, any value does. This is the one that Windows writes.
fn local_key_id() -> Result<Attribute, Error> {
    Attribute::new(LOCAL_KEY_ID, &OctetString::new([1, 0, 0, 0])?)
}

fn attributes<const N: usize>(list: [Attribute; N]) -> Result<SetOfVec<Attribute>, Error> {
    Ok(SetOfVec::try_from(list)?)
}

/// `PFX`, RFC 7292 section 4.
#[derive(Sequence)]
struct Pfx {
    version: u8,
    auth_safe: ContentInfo,
    mac_data: MacData,
}

/// `MacData`, RFC 7292 section 4.
#[derive(Sequence)]
pub(super) struct MacData {
    pub(super) mac: DigestInfo,
    pub(super) salt: OctetString,
    pub(super) iterations: u32,
}

/// `DigestInfo`, RFC 2315 section 9.4.
#[derive(Sequence)]
pub(super) struct DigestInfo {
    pub(super) algorithm: AlgorithmIdentifier,
    pub(super) digest: OctetString,
}

/// `ContentInfo`, RFC 5652 section 3.
#[derive(Sequence)]
struct ContentInfo {
    content_type: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    content: Any,
}

impl ContentInfo {
    fn new(content_type: ObjectIdentifier, content: &(impl EncodeValue + Tagged)) -> Result<Self, Error> {
        Ok(Self { content_type, content: Any::encode_from(content)? })
    }

    fn data(bytes: &[u8]) -> Result<Self, Error> {
        Self::new(DATA, &OctetString::new(bytes)?)
    }
}

/// `EncryptedData`, RFC 5652 section 8.
#[derive(Sequence)]
struct EncryptedData {
    version: u8,
    content: EncryptedContentInfo,
}

/// `EncryptedContentInfo`, RFC 5652 section 6.1.
#[derive(Sequence)]
struct EncryptedContentInfo {
    content_type: ObjectIdentifier,
    algorithm: AlgorithmIdentifier,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    encrypted_content: OctetString,
}

/// `SafeBag`, RFC 7292 section 4.2.
#[derive(Sequence)]
struct SafeBag {
    id: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    value: Any,
    attributes: SetOfVec<Attribute>,
}

/// `PKCS12Attribute`, RFC 7292 section 4.2.
#[derive(Clone, Sequence, ValueOrd)]
struct Attribute {
    id: ObjectIdentifier,
    values: SetOfVec<Any>,
}

impl Attribute {
    fn new(id: ObjectIdentifier, value: &(impl EncodeValue + Tagged)) -> Result<Self, Error> {
        Ok(Self { id, values: SetOfVec::try_from([Any::encode_from(value)?])? })
    }
}

/// `CertBag`, RFC 7292 section 4.2.3.
#[derive(Sequence)]
struct CertBag {
    id: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    value: OctetString,
}

/// `PrivateKeyInfo`, RFC 5208 section 5.
#[derive(Sequence)]
struct PrivateKeyInfo {
    version: u8,
    algorithm: AlgorithmIdentifier,
    private_key: OctetString,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    attributes: Option<SetOfVec<Attribute>>,
}

/// `EncryptedPrivateKeyInfo`, RFC 5208 section 6.
#[derive(Sequence)]
struct EncryptedPrivateKeyInfo {
    algorithm: AlgorithmIdentifier,
    data: OctetString,
}

/// `AlgorithmIdentifier`, RFC 5280 section 4.1.1.2; all of ours have parameters.
#[derive(Sequence)]
pub(super) struct AlgorithmIdentifier {
    algorithm: ObjectIdentifier,
    parameters: Any,
}

impl AlgorithmIdentifier {
    pub(super) fn new(algorithm: ObjectIdentifier, parameters: &(impl EncodeValue + Tagged)) -> Result<Self, Error> {
        Ok(Self { algorithm, parameters: Any::encode_from(parameters)? })
    }
}

/// `pkcs-12PbeParams`, RFC 7292 appendix C.
#[derive(Sequence)]
pub(super) struct PbeParameters {
    pub(super) salt: OctetString,
    pub(super) iterations: u32,
}

/// `PBES2-params`, RFC 8018 appendix A.4.
#[derive(Sequence)]
pub(super) struct Pbes2Parameters {
    pub(super) derivation: AlgorithmIdentifier,
    pub(super) encryption: AlgorithmIdentifier,
}

/// `PBKDF2-params`, RFC 8018 appendix A.2, with a salt of its own and no key length.
#[derive(Sequence)]
pub(super) struct Pbkdf2Parameters {
    pub(super) salt: OctetString,
    pub(super) iterations: u32,
    pub(super) prf: AlgorithmIdentifier,
}

const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const ENCRYPTED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.6");
const SHROUDED_KEY_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.2");
const CERTIFICATE_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.3");
const X509_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.22.1");
const FRIENDLY_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.20");
const LOCAL_KEY_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.21");
const PROVIDER_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.17.1");
const MACHINE_KEY_SET: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.17.2");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
