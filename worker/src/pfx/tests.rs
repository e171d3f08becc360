//! What we write is read by p12-keystore, openssl and Python's cryptography, which share no code with the writer.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use serde_json::Value;

use super::{
    protection::{Purpose, derive, password_utf16},
    *,
};
use crate::certificate::{AuthCertificate, KeySize, tests::sample};

const ALGORITHMS: [Algorithm; 2] = [Algorithm::TripleDesSha1, Algorithm::Aes256Sha256];

/// Every character that a password may hold.
fn printable_ascii() -> SecretString {
    SecretString::from((b' '..=b'~').map(char::from).collect::<String>())
}

fn name() -> FriendlyName {
    FriendlyName::parse("Microsoft Exchange Server Auth Certificate - 20261123120000").unwrap()
}

fn write(certificate: &AuthCertificate, password: &SecretString, algorithm: Algorithm) -> Zeroizing<Vec<u8>> {
    let name = name();
    let contents = Contents {
        certificate_der: &certificate.certificate_der,
        private_key_pkcs8: &certificate.private_key_pkcs8,
        friendly_name: &name,
    };
    encode(&contents, password, algorithm).unwrap()
}

/// Vectors by `openssl kdf -kdfopt … PKCS12KDF`.
#[test]
fn keys_are_derived_as_openssl_derives_them() {
    let long = "p".repeat(70);
    let cases = [
        (
            &SHA1_FOR_LEGACY_USE_ONLY,
            Purpose::Key,
            "smeg",
            "0a58cf64530d823f",
            1,
            24,
            "8aaae6297b6cb04642ab5b077851284eb7128f1a2a7fbca3",
        ),
        (&SHA1_FOR_LEGACY_USE_ONLY, Purpose::Iv, "smeg", "0a58cf64530d823f", 1, 8, "79993dfe048d3b76"),
        (
            &SHA1_FOR_LEGACY_USE_ONLY,
            Purpose::Mac,
            "queeg",
            "263216fcc2fab31c",
            2000,
            20,
            "938a7e8f89f4da3210b41f2d8325d6d635626415",
        ),
        (
            &SHA1_FOR_LEGACY_USE_ONLY,
            Purpose::Key,
            &long,
            "05dec959acff72f7",
            1000,
            64,
            "d95c2cc92fd9a39e3ff550bf2a013a8e0aad8172182a247e1e3f2cb69bcc09e8aefe30556f9338689b413c9a1f26666276a0433bd75cb5b519e9d7eeba6605eb",
        ),
        (
            &SHA256,
            Purpose::Mac,
            "smeg",
            "000102030405060708090a0b0c0d0e0f",
            10_000,
            32,
            "8780b448dc3bcd5b5751b9e18ed794d8424f0e4dc3ac32eaef8e33cdd338798e",
        ),
        (
            &SHA256,
            Purpose::Key,
            "",
            "0a58cf64530d823f",
            3,
            40,
            "617af381fc39549c1206a35a3ca84e6c7fe894ec17b7534064ad61ac534dafa0aa38bd5097a5ceb1",
        ),
    ];
    for (hash, purpose, password, salt, iterations, length, expected) in cases {
        let derived = derive(hash, purpose, &password_utf16(password), &unhex(salt), iterations, length);
        assert_eq!(hex(&derived), expected, "{password}");
    }
}

#[test]
fn what_is_written_is_read_back_by_another_library() {
    for size in [KeySize::Rsa2048, KeySize::Rsa3072, KeySize::Rsa4096] {
        for algorithm in ALGORITHMS {
            let certificate = sample(size);
            let read = decode(&write(certificate, &printable_ascii(), algorithm), &printable_ascii()).unwrap();
            assert_eq!(read.certificate_der, certificate.certificate_der);
            assert!(certificate::key_matches(&read.certificate_der, &read.private_key_pkcs8).unwrap());
            assert_eq!(read.friendly_name.as_deref(), Some(name().as_str()));
        }
    }
}

#[test]
fn what_is_read_can_be_written_again() {
    let certificate = sample(KeySize::Rsa2048);
    let read = decode(&write(certificate, &printable_ascii(), Algorithm::Aes256Sha256), &printable_ascii()).unwrap();
    let name = FriendlyName::parse(read.friendly_name.as_deref().unwrap()).unwrap();
    let contents = Contents {
        certificate_der: &read.certificate_der,
        private_key_pkcs8: &read.private_key_pkcs8,
        friendly_name: &name,
    };
    let again = encode(&contents, &printable_ascii(), Algorithm::TripleDesSha1).unwrap();
    assert_eq!(decode(&again, &printable_ascii()).unwrap().private_key_pkcs8, read.private_key_pkcs8);
}

#[test]
fn python_finds_everything_that_windows_needs_in_a_triple_des_file() {
    let told = python_reads(Algorithm::TripleDesSha1);
    let encryption =
        serde_json::json!({"scheme": "pbeWithSHAAnd3-KeyTripleDES-CBC", "iterations": 2000, "salt_bytes": 8});
    assert_eq!(
        told["seal"],
        serde_json::json!({"digest": "sha1", "iterations": 2000, "salt_bytes": 8, "verified": true})
    );
    assert_bags(&told, &encryption);
}

#[test]
fn python_finds_everything_that_windows_needs_in_an_aes_file() {
    let told = python_reads(Algorithm::Aes256Sha256);
    let encryption = serde_json::json!({
        "scheme": "PBES2", "derivation": "PBKDF2", "prf": "hmacWithSHA256", "cipher": "AES-256-CBC", "iterations": 10000, "salt_bytes": 16,
    });
    assert_eq!(
        told["seal"],
        serde_json::json!({"digest": "sha256", "iterations": 10000, "salt_bytes": 16, "verified": true})
    );
    assert_bags(&told, &encryption);
}

#[track_caller]
fn assert_bags(told: &Value, encryption: &Value) {
    let (key, certificate) = (&told["key"], &told["certificate"]);
    assert_eq!(told["order"], serde_json::json!(["key", "certificate"]));
    assert_eq!(key["provider"], "Microsoft RSA SChannel Cryptographic Provider");
    assert_eq!(key["machine_key_set"], true);
    assert_eq!(key["private_key_attributes"], serde_json::json!({"key_usage": "0410"}));
    assert_container_name(key["friendly_name"].as_str().unwrap());
    assert_eq!(certificate["friendly_name"], name().as_str());
    assert_eq!(certificate.get("provider"), None);
    assert_eq!(key["local_key_id"], "01000000");
    assert_eq!(certificate["local_key_id"], key["local_key_id"]);
    assert_eq!((&key["encryption"], &certificate["encryption"]), (encryption, encryption));
    assert_eq!(told["friendly_name"], name().as_str());
    assert_eq!(told["key_matches_certificate"], true);
    assert_eq!(told["key_bits"], 2048);
    assert_eq!(told["thumbprint"], sample(KeySize::Rsa2048).thumbprint.as_str());
}

#[track_caller]
fn assert_container_name(name: &str) {
    let inner = name.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    assert!(inner.is_some_and(|text| uuid::Uuid::parse_str(text).is_ok()), "{name}");
}

#[test]
fn openssl_shows_the_attributes_that_windows_reads() {
    let shown = [
        (
            Algorithm::TripleDesSha1,
            "MAC: sha1, Iteration 2000",
            "Shrouded Keybag: pbeWithSHA1And3-KeyTripleDES-CBC, Iteration 2000",
        ),
        (
            Algorithm::Aes256Sha256,
            "MAC: sha256, Iteration 10000",
            "Shrouded Keybag: PBES2, PBKDF2, AES-256-CBC, Iteration 10000, PRF hmacWithSHA256",
        ),
    ];
    for (algorithm, seal, encryption) in shown {
        let text = openssl_shows(algorithm);
        let key = text.split("Key Attributes").next().unwrap();
        assert!(text.contains(seal) && text.contains(encryption), "{text}");
        assert!(key.contains("Microsoft CSP Name: Microsoft RSA SChannel Cryptographic Provider"), "{text}");
        assert!(key.contains("Microsoft Local Key set: <No Values>"), "{text}");
        assert!(text.contains("X509v3 Key Usage: 10"), "{text}");
        assert!(text.contains(&format!("friendlyName: {}", name().as_str())), "{text}");
        assert_eq!(text.matches("localKeyID: 01 00 00 00").count(), 2, "{text}");
        assert!(text.contains("BEGIN CERTIFICATE") && text.contains("BEGIN PRIVATE KEY"));
    }
}

#[test]
fn two_files_of_one_certificate_share_no_container_name_and_no_secret_byte() {
    let certificate = sample(KeySize::Rsa2048);
    let files = [(); 2].map(|()| write(certificate, &printable_ascii(), Algorithm::Aes256Sha256));
    assert_ne!(files[0], files[1]);
    let key = &certificate.private_key_pkcs8[200..232];
    assert!(files.iter().all(|file| file.windows(key.len()).all(|part| part != key)));
    assert!(
        files.iter().all(|file| { file.windows(16).all(|part| !certificate.certificate_der[200..].starts_with(part)) })
    );
}

#[test]
fn a_wrong_password_and_a_changed_byte_are_told_alike() {
    for algorithm in ALGORITHMS {
        let file = write(sample(KeySize::Rsa2048), &printable_ascii(), algorithm);
        let mut changed = file.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        assert!(matches!(decode(&file, &SecretString::from("other")), Err(Error::WrongPassword)));
        assert!(matches!(decode(&changed, &printable_ascii()), Err(Error::WrongPassword)));
        assert!(matches!(decode(&file[..middle], &printable_ascii()), Err(Error::Malformed(_))));
    }
}

#[test]
fn a_file_without_the_certificate_of_its_key_is_refused() {
    let (one, other) = (sample(KeySize::Rsa2048), sample(KeySize::Rsa3072));
    let name = name();
    let contents = Contents {
        certificate_der: &one.certificate_der,
        private_key_pkcs8: &other.private_key_pkcs8,
        friendly_name: &name,
    };
    let file = encode(&contents, &printable_ascii(), Algorithm::Aes256Sha256).unwrap();
    assert!(matches!(decode(&file, &printable_ascii()), Err(Error::NoCertificate)));
}

#[test]
fn a_file_exported_by_openssl_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let subject = "/CN=Microsoft Exchange Server Auth Certificate";
    openssl(
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            &path("key"),
            "-out",
            &path("certificate"),
            "-subj",
            subject,
        ],
        "",
    );
    for way in [&["-certpbe", "PBE-SHA1-3DES", "-keypbe", "PBE-SHA1-3DES", "-macalg", "sha1"][..], &[][..]] {
        let arguments = [
            "pkcs12",
            "-export",
            "-inkey",
            &path("key"),
            "-in",
            &path("certificate"),
            "-name",
            "old",
            "-passout",
            "stdin",
            "-out",
            &path("pfx"),
        ];
        openssl(&[&arguments, way].concat(), "secret\n");
        let read = decode(&std::fs::read(path("pfx")).unwrap(), &SecretString::from("secret")).unwrap();
        assert_eq!(read.friendly_name.as_deref(), Some("old"));
        assert_eq!(format!("{read:?}"), r#"Exported { friendly_name: Some("old"), .. }"#);
    }
}

#[test]
fn the_algorithm_is_what_the_windows_of_the_server_surely_reads() {
    let cases = [
        ("6.3.9600", Algorithm::TripleDesSha1),
        ("10.0 (14393)", Algorithm::TripleDesSha1),
        ("10.0.17762", Algorithm::TripleDesSha1),
        ("10.0.17763", Algorithm::Aes256Sha256),
        ("10.0 (20348)", Algorithm::Aes256Sha256),
        ("10.0.26100.2894", Algorithm::Aes256Sha256),
    ];
    for (version, algorithm) in cases {
        assert_eq!(Algorithm::for_windows(Some(version.parse().unwrap())), algorithm, "{version}");
    }
    assert_eq!(Algorithm::for_windows(None), Algorithm::TripleDesSha1);
    for text in ["", "10", "10.0", "Windows Server 2019", "10.0.x"] {
        assert!(matches!(text.parse::<WindowsVersion>(), Err(Error::WindowsVersion)), "{text}");
    }
}

#[test]
fn a_random_password_is_long_printable_and_never_the_same() {
    let passwords: std::collections::HashSet<String> =
        (0..100).map(|_| random_password().unwrap().expose_secret().to_owned()).collect();
    assert_eq!(passwords.len(), 100);
    assert!(
        passwords.iter().all(|password| password.len() == 32 && password.bytes().all(|byte| byte.is_ascii_graphic()))
    );
}

#[test]
fn a_password_that_windows_might_read_otherwise_is_refused() {
    let certificate = sample(KeySize::Rsa2048);
    let name = name();
    let contents = Contents {
        certificate_der: &certificate.certificate_der,
        private_key_pkcs8: &certificate.private_key_pkcs8,
        friendly_name: &name,
    };
    for password in ["pässword", "two\nlines", "nul\0", "tab\t"] {
        let written = encode(&contents, &SecretString::from(password), Algorithm::Aes256Sha256);
        assert!(matches!(written, Err(Error::Password)), "{password}");
    }
}

#[test]
fn a_friendly_name_is_what_exchange_takes() {
    assert!(FriendlyName::parse(&"x".repeat(63)).is_ok());
    for text in [String::new(), "x".repeat(64), "smile \u{1f642}".to_owned(), "two\nlines".to_owned()] {
        assert!(matches!(FriendlyName::parse(&text), Err(Error::FriendlyName)), "{text}");
    }
}

fn python_reads(algorithm: Algorithm) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.pfx");
    std::fs::write(&file, &*write(sample(KeySize::Rsa2048), &printable_ascii(), algorithm)).unwrap();
    let told = run(peers::python("read_pfx.py").arg(file), printable_ascii().expose_secret());
    serde_json::from_slice(&told).unwrap()
}

fn openssl_shows(algorithm: Algorithm) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.pfx");
    std::fs::write(&file, &*write(sample(KeySize::Rsa2048), &printable_ascii(), algorithm)).unwrap();
    let password = format!("{}\n", printable_ascii().expose_secret());
    openssl(&["pkcs12", "-info", "-nodes", "-passin", "stdin", "-in", &file.display().to_string()], &password)
}

/// What openssl prints, information first.
fn openssl(arguments: &[&str], input: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let told_file = std::fs::File::create(&told).unwrap();
    let printed = run(Command::new("openssl").args(arguments).stderr(told_file), input);
    std::fs::read_to_string(told).unwrap() + &String::from_utf8(printed).unwrap()
}

fn run(command: &mut Command, input: &str) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("installed: ./test sees to it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?} failed");
    output.stdout
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
