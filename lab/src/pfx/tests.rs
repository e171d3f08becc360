//! Files by p12-keystore and openssl, and outlines by hand.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::*;
use crate::bench::{Made, PASSWORD};

fn aes(made: &Made) -> Vec<u8> {
    let certificate = p12_keystore::Certificate::from_der(&made.certificate.der).unwrap();
    let key = Pkcs8::from_der(made.key.expose()).unwrap();
    let mut store = KeyStore::new();
    store.add_entry("key", KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new(vec![1], key, [certificate])));
    let writer = store.writer(PASSWORD).encryption_algorithm(EncryptionAlgorithm::PbeWithHmacSha256AndAes256);
    writer.encryption_iterations(1_000).mac_iterations(1_000).write().unwrap()
}

#[test]
fn windows_before_server_2019_reads_no_aes() {
    let made = Made::number(0);
    assert_eq!(read(&aes(&made), PASSWORD, 14393).unwrap_err(), Unreadable);
    assert_eq!(read(&aes(&made), PASSWORD, 17763).unwrap().certificate, *made.certificate);
    assert_eq!(read(&made.pfx(), PASSWORD, 14393).unwrap().key, made.key);
}

/// What openssl makes of it, with a provider's name as Windows writes it.
fn by_openssl(made: &Made, algorithm: &str, provider: &str) -> Vec<u8> {
    let pem = |label: &str, der: &[u8]| {
        let text = STANDARD.encode(der);
        let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n").collect::<String>();
        format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
    };
    let mut openssl = Command::new("openssl")
        .args(["pkcs12", "-export", "-name", "A friendly name", "-LMK", "-CSP", provider])
        .args(["-keypbe", algorithm, "-certpbe", algorithm, "-macalg", "sha1", "-passout", "env:PFX_PASSWORD"])
        .env("PFX_PASSWORD", PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = pem("PRIVATE KEY", made.key.expose()) + &pem("CERTIFICATE", &made.certificate.der);
    openssl.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = openssl.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn files_by_openssl_are_read_with_the_provider_that_they_name() {
    let made = Made::number(0);
    let provider = "Microsoft RSA SChannel Cryptographic Provider";
    for (algorithm, build) in [("PBE-SHA1-3DES", 14393), ("AES-256-CBC", 20348)] {
        let contents = read(&by_openssl(&made, algorithm, provider), PASSWORD, build).unwrap();
        assert_eq!(contents.provider.as_deref(), Some(provider));
        assert_eq!(contents.friendly_name.as_deref(), Some("A friendly name"));
        assert_eq!((contents.certificate, contents.key), ((*made.certificate).clone(), made.key.clone()));
    }
    let file = by_openssl(&made, "AES-256-CBC", provider);
    assert_eq!(read(&file, PASSWORD, 14393).unwrap_err(), Unreadable);
}

#[test]
fn a_file_without_a_seal_is_not_read() {
    let made = Made::number(0);
    let file = made.pfx();
    let parts = Der::first(&file).unwrap().children();
    let sealed = parts[2].content.len() + 2;
    let sealed = sealed + usize::from(parts[2].content.len() > 127);
    let mut body = file[4..file.len() - sealed].to_vec();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    let mut unsealed = vec![0x30, 0x82, length[0], length[1]];
    unsealed.append(&mut body);
    assert!(!Outline::read(&unsealed).unwrap().sealed);
    assert_eq!(read(&unsealed, PASSWORD, 20348).unwrap_err(), Unreadable);
}

#[test]
fn the_provider_is_read_from_the_attributes_of_the_key() {
    let name: Vec<u8> = "Some Provider".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let machine = element(0x30, &[oid(&[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x11, 0x02]), element(0x31, &[])]);
    let attribute = element(0x30, &[oid(PROVIDER_NAME), element(0x31, &[element(0x1e, &[name])])]);
    let algorithm = element(0x30, &[oid(PBES2)]);
    let shrouded = element(0x30, &[algorithm, element(0x04, &[vec![0]])]);
    let bag = element(0x30, &[oid(SHROUDED_KEY_BAG), element(0xa0, &[shrouded]), element(0x31, &[machine, attribute])]);
    let data = oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01]);
    let wrapped = |bytes| element(0x30, &[data.clone(), element(0xa0, &[element(0x04, &[bytes])])]);
    let safes = element(0x30, &[wrapped(element(0x30, &[bag]))]);
    let pfx = element(0x30, &[element(0x02, &[vec![3]]), wrapped(safes), element(0x30, &[])]);
    let provider = Some("Some Provider".to_owned());
    assert_eq!(Outline::read(&pfx), Some(Outline { pbes2: true, sealed: true, provider }));
}

#[test]
fn an_outline_of_rubbish_is_none() {
    for rubbish in [&b""[..], &[0x30], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 0x03, 0x02, 0x01, 0x03], &[0; 64]]
    {
        assert_eq!(Outline::read(rubbish), None);
    }
}

fn oid(content: &[u8]) -> Vec<u8> {
    element(0x06, &[content.to_vec()])
}

fn element(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let content = parts.concat();
    let length = match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => vec![short],
        Ok(short) => vec![0x81, short],
        Err(_) => [&[0x82][..], &u16::try_from(content.len()).unwrap().to_be_bytes()].concat(),
    };
    [vec![tag], length, content].concat()
}
