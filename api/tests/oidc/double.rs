//! An issuer on a port of its own: a discovery document and keys over real HTTP, in good and bad days. Its signatures are made by aws-lc-rs itself.

use std::sync::{Arc, Mutex};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What kind of day the issuer has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    /// It answers with an error.
    Broken,
    /// It closes every connection.
    Down,
    /// It sends elsewhere.
    Elsewhere,
    /// It publishes no key.
    Empty,
    Good,
    /// It answers far too much.
    Huge,
    /// Its document is that of somebody else.
    OtherIssuer,
    /// Its keys are to be had over plain HTTP from another machine.
    PlainHttp,
    /// It never answers.
    Slow,
}

pub(crate) struct Double {
    pub(crate) url: String,
    served: Arc<Mutex<Served>>,
    serving: tokio::task::JoinHandle<()>,
}

struct Served {
    mode: Mode,
    jwks: Value,
    asked: Vec<String>,
}

impl Double {
    pub(crate) async fn start(keys: &[Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = Arc::new(Mutex::new(Served { mode: Mode::Good, jwks: set(keys), asked: Vec::new() }));
        let (base, shared) = (url.clone(), served.clone());
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, base.clone(), shared.clone()));
            }
        });
        Self { url, served, serving }
    }

    pub(crate) fn be(&self, mode: Mode) {
        self.served.lock().unwrap().mode = mode;
    }

    pub(crate) fn publish(&self, keys: &[Key]) {
        self.publish_set(set(keys));
    }

    pub(crate) fn publish_set(&self, jwks: Value) {
        self.served.lock().unwrap().jwks = jwks;
    }

    /// How often a path was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.served.lock().unwrap().asked.iter().filter(|asked| *asked == path).count()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn set(keys: &[Key]) -> Value {
    json!({"keys": keys.iter().map(Key::jwk).chain([json!({"kty": "from the future", "kid": "?"})]).collect::<Vec<_>>()})
}

async fn serve(mut stream: TcpStream, base: String, served: Arc<Mutex<Served>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_err() {
            return;
        }
        request.push(byte[0]);
    }
    let path = String::from_utf8(request).unwrap().split(' ').nth(1).unwrap().to_owned();
    let (mode, jwks) = {
        let mut served = served.lock().unwrap();
        served.asked.push(path.clone());
        (served.mode, served.jwks.clone())
    };
    let (status, more, body) = match mode {
        Mode::Down => return,
        Mode::Slow => std::future::pending().await,
        Mode::Broken => ("500 Internal Server Error", String::new(), "{}".to_owned()),
        Mode::Elsewhere => ("302 Found", format!("Location: {base}/elsewhere\r\n"), String::new()),
        Mode::Huge => ("200 OK", String::new(), format!("{{\"keys\": [\"{}\"]}}", "x".repeat(1 << 20))),
        _ => ("200 OK", String::new(), document(mode, &base, &path, jwks).to_string()),
    };
    let head = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // Whoever has read enough hangs up.
    drop(stream.write_all(format!("{head}{body}").as_bytes()).await);
}

fn document(mode: Mode, base: &str, path: &str, jwks: Value) -> Value {
    if path == "/jwks" {
        return if mode == Mode::Empty { json!({"keys": []}) } else { jwks };
    }
    assert_eq!(path, "/.well-known/openid-configuration");
    let issuer = if mode == Mode::OtherIssuer { "https://evil.example" } else { base };
    let jwks = if mode == Mode::PlainHttp { "http://169.254.169.254/jwks".to_owned() } else { format!("{base}/jwks") };
    json!({"issuer": issuer, "jwks_uri": jwks, "authorization_endpoint": format!("{base}/authorize")})
}

/// A key that an issuer signs with.
pub(crate) struct Key {
    id: &'static str,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Key {
    pub(crate) fn rsa(id: &'static str) -> Self {
        Self { id, pair: Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()) }
    }

    pub(crate) fn ec(id: &'static str) -> Self {
        Self { id, pair: Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()) }
    }

    pub(crate) fn jwk(&self) -> Value {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.pair {
            Pair::Rsa(pair) => {
                let key = pair.public_key();
                let (n, e) =
                    (key.modulus().big_endian_without_leading_zero(), key.exponent().big_endian_without_leading_zero());
                json!({"kty": "RSA", "kid": self.id, "use": "sig", "n": part(n), "e": part(e)})
            }
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": self.id, "alg": "ES256", "x": part(&point[1..33]), "y": part(&point[33..])})
            }
        }
    }

    /// A token that says what it is signed with.
    pub(crate) fn sign(&self, algorithm: &str, claims: &Value) -> String {
        self.sign_with(&json!({"alg": algorithm, "typ": "JWT", "kid": self.id}), algorithm, claims)
    }

    /// A token whose header says what it likes.
    pub(crate) fn sign_with(&self, header: &Value, algorithm: &str, claims: &Value) -> String {
        let text = signed_part(header, claims);
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let padding: &dyn aws_lc_rs::signature::RsaEncoding =
                    if algorithm == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                pair.sign(padding, &random, text.as_bytes(), &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, text.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The confusion of RFC 8725, 2.1: HMAC with what everybody knows.
    pub(crate) fn sign_with_public_key_as_secret(&self, claims: &Value) -> String {
        let Pair::Rsa(pair) = &self.pair else { panic!("an RSA key is meant") };
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let text = signed_part(&json!({"alg": "HS256", "typ": "JWT", "kid": self.id}), claims);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, der.as_ref()), text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag))
    }
}

fn signed_part(header: &Value, claims: &Value) -> String {
    // Absent rather than null, as issuers write it.
    let said: Value = claims
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, v)| !v.is_null())
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(said.to_string()))
}
