//! The keys of an issuer: found by discovery (OpenID Connect Discovery 1.0, 4), kept, asked for again when they change.
//!
//! Requests with a key that is known never wait for the issuer, and go on when it is away.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use jsonwebtoken::{AlgorithmFamily, DecodingKey, jwk::Jwk};
use reqwest::{Client, Url, redirect::Policy};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Cause, Issuer, Pace, SignatureAlgorithm};

/// The largest document that is read from an issuer, in bytes.
const LARGEST: usize = 256 * 1024;
/// Keys that are taken from one document.
const MOST_KEYS: usize = 64;

/// What is known of an issuer's keys.
pub(super) struct Keys {
    issuer: String,
    jwks_url: Option<Url>,
    http: Client,
    pace: Pace,
    known: RwLock<Known>,
    /// Held by whoever asks: one at a time.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    keys: Arc<[Key]>,
    /// When the issuer answered last.
    told_at: Option<Instant>,
    /// When it was asked last.
    asked_at: Option<Instant>,
}

/// A key that an issuer signs with.
#[derive(Clone)]
struct Key {
    id: Option<String>,
    /// The only algorithm that it is for, if it says so.
    algorithm: Option<String>,
    decoding: DecodingKey,
    /// When the issuer was seen to publish it no more.
    gone_since: Option<Instant>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// What a look at the known keys comes to.
enum Look {
    Found(DecodingKey),
    /// Several, and the token names none.
    Several,
    Missing,
}

impl Keys {
    pub(super) fn new(issuer: &Issuer) -> Result<Self, String> {
        let base = safe_url(&issuer.issuer)?;
        let jwks_url = issuer.jwks_url.as_deref().map(safe_url).transpose()?;
        Ok(Self {
            issuer: issuer.issuer.clone(),
            jwks_url,
            http: client(issuer, &base)?,
            pace: issuer.pace,
            known: RwLock::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// The key that a token is signed with.
    pub(super) async fn key(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: SignatureAlgorithm,
    ) -> Result<DecodingKey, Cause> {
        if let Look::Found(key) = self.look(id, algorithm) {
            if self.is_due(self.pace.refresh) && self.asking.try_lock().is_ok() {
                drop(self.ask());
            }
            return Ok(key);
        }
        if let Err(error) = self.ask().await {
            tracing::error!("Asking {} for its keys was interrupted: {error}", self.issuer);
        }
        match self.look(id, algorithm) {
            Look::Found(key) => Ok(key),
            Look::Several => Err(Cause::WhichKey),
            Look::Missing if self.known().told_at.is_none() => Err(Cause::IssuerSilent(self.issuer.clone())),
            Look::Missing => Err(Cause::UnknownKey),
        }
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, id: Option<&str>, algorithm: SignatureAlgorithm) -> Look {
        let keys = self.known().keys.clone();
        let now = Instant::now();
        let mut fitting = keys.iter().filter(|key| key.fits(id, algorithm) && key.is_good(now, self.pace));
        match (fitting.next(), fitting.next()) {
            (None, _) => Look::Missing,
            (Some(key), None) => Look::Found(key.decoding.clone()),
            (Some(_), Some(_)) => Look::Several,
        }
    }

    /// Whether the issuer has not been asked for so long.
    fn is_due(&self, pause: std::time::Duration) -> bool {
        let known = self.known();
        let answered_long_ago = known.told_at.is_none_or(|at| at.elapsed() >= pause);
        // Whoever has no keys at all is asked sooner, but not by every request.
        let rest = if known.told_at.is_some() { self.pace.ask_again } else { self.pace.ask_again / 6 };
        answered_long_ago && known.asked_at.is_none_or(|at| at.elapsed() >= rest)
    }

    /// Asks the issuer, unless it was asked a moment ago. A task of its own: a caller who goes away does not end it for the others.
    fn ask(self: &Arc<Self>) -> tokio::task::JoinHandle<()> {
        let keys = self.clone();
        tokio::spawn(async move {
            let _turn = keys.asking.lock().await;
            if !keys.is_due(std::time::Duration::ZERO) {
                return;
            }
            keys.known.write().unwrap_or_else(PoisonError::into_inner).asked_at = Some(Instant::now());
            match keys.fetch().await {
                Ok(fresh) => keys.take_over(fresh),
                Err(error) => tracing::warn!("The keys of {} are those of before: {error}", keys.issuer),
            }
        })
    }

    fn take_over(&self, mut fresh: Vec<Key>) {
        let now = Instant::now();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let published = |id: &Option<String>| fresh.iter().any(|key| key.id == *id);
        let gone: Vec<Key> = known.keys.iter().filter(|key| key.id.is_some() && !published(&key.id)).cloned().collect();
        let gone = gone.into_iter().map(|key| Key { gone_since: key.gone_since.or(Some(now)), ..key });
        fresh.extend(gone.filter(|key| key.is_good(now, self.pace)).take(MOST_KEYS));
        known.keys = fresh.into();
        known.told_at = Some(now);
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let url = match &self.jwks_url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        let Jwks { keys } = self.get(url).await?;
        let usable: Vec<Key> = keys.iter().take(MOST_KEYS).filter_map(Key::read).collect();
        if usable.is_empty() { Err("it publishes no key that can be used".to_owned()) } else { Ok(usable) }
    }

    async fn discover(&self) -> Result<Url, String> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let url = safe_url(&format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/')))?;
        let local = is_local(&url);
        let document: Document = self.get(url).await?;
        if document.issuer != self.issuer {
            return Err("its discovery document is that of another issuer".to_owned());
        }
        let jwks = safe_url(&document.jwks_uri)?;
        // An issuer elsewhere does not send us to this machine.
        if is_local(&jwks) && !local {
            return Err("its discovery document names this machine".to_owned());
        }
        Ok(jwks)
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, String> {
        let mut answer = self.http.get(url.clone()).send().await.map_err(|error| why(&error))?;
        if !answer.status().is_success() {
            return Err(format!("{url} answers {}", answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| why(&error))? {
            if body.len() + chunk.len() > LARGEST {
                return Err(format!("{url} answers more than {LARGEST} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|error| format!("{url} answers something else: {error}"))
    }
}

/// A JWK Set (RFC 7517, 5). Each key is read by itself: one that is not understood spoils no other.
#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

impl Key {
    /// A public key for signatures; anything else is left out.
    fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let operations = value.get("key_ops").and_then(Value::as_array);
        let verifies = operations.is_none_or(|all| all.iter().any(|operation| operation == "verify"));
        if text("use").is_some_and(|purpose| purpose != "sig") || !verifies {
            return None;
        }
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        let decoding = DecodingKey::from_jwk(&jwk).ok().filter(|key| key.family() != AlgorithmFamily::Hmac)?;
        let (id, algorithm) = (text("kid").map(str::to_owned), text("alg").map(str::to_owned));
        Some(Self { id, algorithm, decoding, gone_since: None })
    }

    fn fits(&self, id: Option<&str>, algorithm: SignatureAlgorithm) -> bool {
        self.decoding.family() == algorithm.algorithm().family()
            && self.algorithm.as_deref().is_none_or(|only| only == algorithm.name())
            && id.is_none_or(|id| self.id.as_deref() == Some(id))
    }

    fn is_good(&self, now: Instant, pace: Pace) -> bool {
        self.gone_since.is_none_or(|since| now.duration_since(since) < pace.grace)
    }
}

/// No redirects, no waiting for long, no connection that outlives the question: each worker of the server has a runtime of its own.
fn client(issuer: &Issuer, base: &Url) -> Result<Client, String> {
    let mut builder = Client::builder()
        .redirect(Policy::none())
        .timeout(issuer.pace.patience)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("rekey/", env!("CARGO_PKG_VERSION")));
    if let Some(ca) = &issuer.ca {
        let roots = reqwest::Certificate::from_pem_bundle(ca).map_err(|error| format!("ca_file: {}", why(&error)))?;
        builder = builder.tls_certs_only(roots);
    }
    if is_local(base) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| why(&error))
}

/// What an issuer is asked at cannot be read or changed on the way.
fn safe_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("`{text}` is not a URL: {error}"))?;
    let safe = url.scheme() == "https" || (url.scheme() == "http" && is_local(&url));
    let plain =
        url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    if safe && plain { Ok(url) } else { Err(format!("`{text}`: use an https URL without query and password")) }
}

fn is_local(url: &Url) -> bool {
    matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

fn why(error: &reqwest::Error) -> String {
    let last = std::iter::successors(std::error::Error::source(error), |error| error.source()).last();
    last.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_asked_over_https_or_on_this_machine() {
        for good in
            ["https://login.example/tenant/v2.0", "http://127.0.0.1:8080", "http://localhost/realm", "http://[::1]:1"]
        {
            assert!(safe_url(good).is_ok(), "{good}");
        }
        for bad in [
            "http://login.example",
            "ftp://127.0.0.1",
            "login.example",
            "https://u:p@login.example",
            "https://x/?q",
            "file:///etc/passwd",
        ] {
            assert!(safe_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_for_other_purposes_are_left_out() {
        let key = serde_json::json!({"kty": "RSA", "kid": "1", "n": "sXch", "e": "AQAB"});
        let with = |name: &str, value: Value| {
            let mut key = key.clone();
            key[name] = value;
            key
        };
        assert!(Key::read(&key).is_some());
        assert!(Key::read(&with("use", "sig".into())).is_some());
        assert!(Key::read(&with("key_ops", serde_json::json!(["verify"]))).is_some());
        let symmetric = serde_json::json!({"kty": "oct", "kid": "2", "k": "AAAA"});
        for bad in [
            with("use", "enc".into()),
            with("key_ops", serde_json::json!(["encrypt"])),
            with("kty", "X".into()),
            symmetric,
        ] {
            assert!(Key::read(&bad).is_none(), "{bad}");
        }
    }
}
