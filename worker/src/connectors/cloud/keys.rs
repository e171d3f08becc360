//! The `keyCredentials` of an application or service principal: what is sent so that only one entry changes, and what has changed (cloud.md 2). Pure.

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use domain::Thumbprint;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use super::Holder;

/// The longest `displayName` of an entry (domain.md 3.3).
const LONGEST_NAME: usize = 90;

/// One entry, exactly as Graph gave it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(transparent)]
pub struct Credential(Map<String, Json>);

/// What differs between two reads of the same list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Difference {
    /// Key ids that are new.
    pub added: Vec<String>,
    /// Key ids that are gone.
    pub removed: Vec<String>,
    /// Key ids whose entries say something else.
    pub altered: Vec<String>,
}

impl Credential {
    /// A certificate's public key that may verify from the beginning to the end of its validity: dates that are left out are the certificate's own.
    /// The id follows from the certificate, so that one that was sent twice is there once.
    #[must_use]
    pub fn new(certificate_der: &[u8], display_name: &str) -> Self {
        let entry = json!({
            "displayName": display_name.chars().take(LONGEST_NAME).collect::<String>(),
            "key": STANDARD.encode(certificate_der),
            "keyId": key_id_of(certificate_der),
            "type": "AsymmetricX509Cert",
            "usage": "Verify",
        });
        Self(entry.as_object().cloned().unwrap_or_default())
    }

    /// `keyId`; empty when it has none.
    #[must_use]
    pub fn key_id(&self) -> &str {
        self.text("keyId")
    }

    /// Whether it has this id, in whatever spelling.
    #[must_use]
    pub fn is(&self, key_id: &str) -> bool {
        same_id(self.key_id(), key_id)
    }

    /// `displayName`; empty when it has none.
    #[must_use]
    pub fn display_name(&self) -> &str {
        self.text("displayName")
    }

    /// `startDateTime`.
    #[must_use]
    pub fn not_before(&self) -> Option<DateTime<Utc>> {
        self.time("startDateTime")
    }

    /// `endDateTime`.
    #[must_use]
    pub fn not_after(&self) -> Option<DateTime<Utc>> {
        self.time("endDateTime")
    }

    /// The certificate, where Graph tells it: in a read of the single object only.
    #[must_use]
    pub fn certificate(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.text("key")).ok().filter(|der| !der.is_empty())
    }

    /// The certificate's thumbprint: of the certificate itself, else what `customKeyIdentifier` says, as 40 hexadecimal digits or base64 of 20 bytes.
    #[must_use]
    pub fn thumbprint(&self) -> Option<Thumbprint> {
        if let Some(der) = self.certificate() {
            return Some(Thumbprint::of_der(&der));
        }
        let told = self.text("customKeyIdentifier");
        Thumbprint::parse(told).ok().or_else(|| {
            let bytes = STANDARD.decode(told).ok().filter(|bytes| bytes.len() == 20)?;
            Thumbprint::parse(&domain::ids::hex(&bytes)).ok()
        })
    }

    /// In a few words, for people.
    pub(super) fn told(&self) -> String {
        let name = if self.display_name().is_empty() { "without a name" } else { self.display_name() };
        let thumbprint = self.thumbprint().map(|one| format!(", certificate {one}")).unwrap_or_default();
        format!("\"{name}\" (key {}{thumbprint})", self.key_id())
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Json::as_str).unwrap_or_default()
    }

    fn time(&self, name: &str) -> Option<DateTime<Utc>> {
        DateTime::parse_from_rfc3339(self.text(name)).ok().map(|time| time.to_utc())
    }

    /// As it is sent back to stay as it is. `None` when it cannot be kept.
    fn kept(&self, holder: &Holder) -> Option<Json> {
        match holder {
            Holder::Application(_) => {
                let mut entry = self.0.clone();
                entry.remove("key");
                Some(Json::Object(entry))
            }
            // There an entry with its id is refused (cloud.md 2.2).
            Holder::ServicePrincipal(_) => {
                let key = self.0.get("key").filter(|key| key.is_string())?;
                Some(json!({ "key": key, "type": self.0.get("type"), "usage": self.0.get("usage") }))
            }
        }
    }

    /// What must not change. `key` is told by some reads only; a service principal gives kept entries other ids.
    fn essence(&self, holder: &Holder) -> Map<String, Json> {
        let mut entry = self.0.clone();
        entry.remove("key");
        entry.retain(|name, _| !name.contains('@'));
        if matches!(holder, Holder::ServicePrincipal(_)) {
            entry.retain(|name, _| matches!(name.as_str(), "type" | "usage"));
        }
        if let Some(thumbprint) = self.thumbprint() {
            entry.insert("customKeyIdentifier".to_owned(), thumbprint.to_string().into());
        }
        entry
    }

    /// What tells it from the others.
    fn identity(&self, holder: &Holder) -> String {
        match (holder, self.thumbprint()) {
            (Holder::ServicePrincipal(_), Some(thumbprint)) => thumbprint.to_string(),
            _ => self.key_id().to_ascii_lowercase(),
        }
    }
}

/// The id that an entry of ours has: the beginning of the certificate's SHA-256 in the form of a UUID.
#[must_use]
pub(crate) fn key_id_of(certificate_der: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, certificate_der);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// Whether two texts are the same key id.
pub(super) fn same_id(a: &str, b: &str) -> bool {
    match (Uuid::parse_str(a), Uuid::parse_str(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// The whole list to send: `held` without `removed`, unchanged, and `added` at its end. Graph replaces the list by it. `Err` names an entry that can
/// not be kept, because its key was not told.
pub(super) fn desired(
    holder: &Holder,
    held: &[Credential],
    removed: &[String],
    added: Option<&Credential>,
) -> Result<Vec<Json>, String> {
    let stays = |credential: &&Credential| !removed.iter().any(|id| same_id(id, credential.key_id()));
    let kept = held
        .iter()
        .filter(stays)
        .map(|credential| credential.kept(holder).ok_or_else(|| credential.key_id().to_owned()));
    let mut all = kept.collect::<Result<Vec<_>, _>>()?;
    all.extend(added.map(|credential| Json::Object(credential.0.clone())));
    Ok(all)
}

/// What has changed from one read to another.
pub(super) fn difference(holder: &Holder, before: &[Credential], after: &[Credential]) -> Difference {
    let find = |all: &'_ [Credential], one: &Credential| {
        all.iter().find(|other| other.identity(holder) == one.identity(holder)).cloned()
    };
    let ids = |some: Vec<&Credential>| some.into_iter().map(|c| c.key_id().to_owned()).collect();
    let added = after.iter().filter(|c| find(before, c).is_none()).collect();
    let removed = before.iter().filter(|c| find(after, c).is_none()).collect();
    let altered = after.iter().filter(|c| find(before, c).is_some_and(|old| old.essence(holder) != c.essence(holder)));
    Difference { added: ids(added), removed: ids(removed), altered: ids(altered.collect()) }
}

impl Difference {
    /// Whether both reads said the same.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "9F3B6C1D2E4A5B60718293A4B5C6D7E8F9011223";

    fn application() -> Holder {
        Holder::Application("object".to_owned())
    }

    fn principal() -> Holder {
        Holder::ServicePrincipal("object".to_owned())
    }

    fn base64_of(hex: &str) -> String {
        let byte = |n: usize| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap();
        STANDARD.encode((0..20).map(byte).collect::<Vec<_>>())
    }

    fn read(entry: Json) -> Credential {
        serde_json::from_value(entry).unwrap()
    }

    fn held(id: &str, key: Json) -> Credential {
        read(json!({
            "customKeyIdentifier": OLD, "displayName": "old", "keyId": id, "key": key, "type": "AsymmetricX509Cert",
            "usage": "Verify", "startDateTime": "2024-07-05T12:00:00Z", "endDateTime": "2029-06-09T12:00:00Z"
        }))
    }

    #[test]
    fn a_thumbprint_is_read_from_hexadecimal_digits_base64_or_the_certificate() {
        let base64 = base64_of(OLD);
        assert_eq!(base64.len(), 28);
        for told in [OLD, &OLD.to_lowercase(), &base64] {
            let entry = read(json!({ "customKeyIdentifier": told, "keyId": "1", "key": null }));
            assert_eq!(entry.thumbprint().unwrap().as_str(), OLD, "{told}");
        }
        assert_eq!(read(json!({ "customKeyIdentifier": "bmFtZQ==" })).thumbprint(), None);
        assert_eq!(read(json!({ "customKeyIdentifier": null })).thumbprint(), None);
        let named = read(json!({ "customKeyIdentifier": "bmFtZQ==", "key": STANDARD.encode("certificate") }));
        assert_eq!(named.thumbprint(), Some(Thumbprint::of_der(b"certificate")));
    }

    #[test]
    fn the_others_are_sent_back_as_they_were_read_and_ours_beside_them() {
        let ours = Credential::new(b"new", "rekey");
        let both = [held("a", json!("b2xk")), held("b", json!(null))];
        let sent = desired(&application(), &both, &[], Some(&ours)).unwrap();
        assert_eq!(sent.len(), 3);
        for (sent, held) in sent.iter().zip(&both) {
            let mut expected = Json::Object(held.0.clone());
            expected.as_object_mut().unwrap().remove("key");
            assert_eq!(sent, &expected);
        }
        assert_eq!(sent[2]["key"], "bmV3");
        assert!(Uuid::parse_str(sent[2]["keyId"].as_str().unwrap()).is_ok());
        assert!(["startDateTime", "endDateTime"].iter().all(|name| sent[2].get(*name).is_none()));
    }

    #[test]
    fn a_service_principal_is_sent_keys_without_their_ids() {
        let sent = desired(&principal(), &[held("a", json!("b2xk"))], &[], None).unwrap();
        assert_eq!(sent, [json!({ "key": "b2xk", "type": "AsymmetricX509Cert", "usage": "Verify" })]);
        let untold = [held("a", json!(null))];
        assert_eq!(desired(&principal(), &untold, &[], None).unwrap_err(), "a");
        assert_eq!(desired(&principal(), &untold, &["a".to_owned()], None).unwrap(), Vec::<Json>::new());
    }

    #[test]
    fn the_same_certificate_has_the_same_key_id() {
        assert_eq!(Credential::new(b"new", "x").key_id(), Credential::new(b"new", "y").key_id());
        assert_ne!(Credential::new(b"new", "x").key_id(), Credential::new(b"other", "x").key_id());
        assert_eq!(Credential::new(b"new", &"ä".repeat(100)).display_name().chars().count(), LONGEST_NAME);
    }

    #[test]
    fn what_has_changed_is_found_whatever_form_it_is_told_in() {
        let base64 = read(json!({
            "customKeyIdentifier": base64_of(OLD), "displayName": "old", "keyId": "A", "type":
            "AsymmetricX509Cert", "usage": "Verify", "startDateTime": "2024-07-05T12:00:00Z", "endDateTime": "2029-06-09T12:00:00Z"
        }));
        let before = [held("a", json!(null))];
        let mut same_id = base64;
        same_id.0.insert("keyId".to_owned(), "a".into());
        assert!(difference(&application(), &before, &[same_id.clone()]).is_none());
        same_id.0.insert("endDateTime".to_owned(), "2027-06-09T12:00:00Z".into());
        assert_eq!(difference(&application(), &before, &[same_id]).altered, ["a"]);
        let other = [held("b", json!(null))];
        let changed = difference(&application(), &before, &other);
        assert_eq!((changed.added, changed.removed), (vec!["b".to_owned()], vec!["a".to_owned()]));
        assert!(difference(&principal(), &before, &other).is_none(), "ids of kept entries change there");
    }
}
