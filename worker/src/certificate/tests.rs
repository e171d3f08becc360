//! Certificates of all sizes, and what is found wrong with others.

use std::{process::Command, sync::LazyLock};

use chrono::{DateTime, TimeDelta, Utc};

use super::*;

/// A certificate of each size, made once: 4096 bits take seconds.
pub(crate) fn sample(size: KeySize) -> &'static AuthCertificate {
    static SAMPLES: LazyLock<[AuthCertificate; 3]> = LazyLock::new(|| {
        [KeySize::Rsa2048, KeySize::Rsa3072, KeySize::Rsa4096]
            .map(|size| AuthCertificate::generate(&request(size)).unwrap())
    });
    match size {
        KeySize::Rsa2048 => &SAMPLES[0],
        KeySize::Rsa3072 => &SAMPLES[1],
        KeySize::Rsa4096 => &SAMPLES[2],
    }
}

fn now() -> DateTime<Utc> {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn request(key_size: KeySize) -> Request {
    Request { key_size, lifetime_days: 1826, now: now() }
}

fn good() -> Inspection {
    inspect(&sample(KeySize::Rsa2048).certificate_der).unwrap()
}

#[test]
fn a_generated_certificate_is_what_exchange_itself_would_make() {
    for size in [KeySize::Rsa2048, KeySize::Rsa3072, KeySize::Rsa4096] {
        let made = sample(size);
        let found = inspect(&made.certificate_der).unwrap();
        assert_eq!(found.subject, "CN=Microsoft Exchange Server Auth Certificate");
        assert_eq!(found.issuer, found.subject);
        assert_eq!(found.issuance, Issuance::SelfSigned);
        assert_eq!(found.thumbprint, made.thumbprint);
        assert_eq!(found.key, PublicKey::Rsa { bits: size.bits() });
        assert_eq!(found.signature, Signature::Sha256WithRsa);
        let usage = found.key_usage.as_ref().unwrap();
        assert!(usage.critical);
        assert_eq!(usage.names, ["digitalSignature", "keyEncipherment"]);
        let extended = found.extended_key_usage.as_ref().unwrap();
        assert!(!extended.critical);
        assert_eq!(extended.names, ["serverAuth"]);
        assert_eq!(found.basic_constraints, Some(BasicConstraints { critical: true, authority: false }));
        assert_eq!(found.alternative_names, Vec::<String>::new());
        assert_eq!(found.serial.len(), 32);
        assert_eq!(findings(&found, now()), []);
    }
}

#[test]
fn a_certificate_of_1826_days_ends_on_the_same_day_five_years_later() {
    let found = good();
    assert_eq!(found.not_before.to_rfc3339(), "2026-11-23T11:55:00+00:00");
    assert_eq!(found.not_after.to_rfc3339(), "2031-11-23T11:55:00+00:00");
}

#[test]
fn a_certificate_has_only_the_extensions_that_exchange_writes() {
    let certificate = parse(&sample(KeySize::Rsa2048).certificate_der).unwrap();
    let mut oids: Vec<String> = certificate.extensions().iter().map(|e| e.oid.to_id_string()).collect();
    oids.sort();
    assert_eq!(oids, ["2.5.29.15", "2.5.29.19", "2.5.29.37"]);
}

#[test]
fn the_name_is_written_as_exchange_writes_it() {
    const PRINTABLE_STRING: u8 = 0x13;
    let certificate = parse(&sample(KeySize::Rsa2048).certificate_der).unwrap();
    let name = certificate.subject().as_raw();
    let (header, text) = name.split_at(name.len() - COMMON_NAME.len());
    assert_eq!(text, COMMON_NAME.as_bytes());
    assert_eq!(header[header.len() - 2], PRINTABLE_STRING);
}

#[test]
fn no_two_certificates_share_a_serial_number() {
    let serials: std::collections::HashSet<_> = (0..64).map(|_| serial_number().unwrap().to_bytes()).collect();
    assert_eq!(serials.len(), 64);
    assert!(serials.iter().all(|serial| serial.len() == 16 && (0x40..0x80).contains(&serial[0])));
}

#[test]
fn a_lifetime_beyond_five_years_is_made_when_asked_for_and_found_when_judged() {
    let made = AuthCertificate::generate(&Request { lifetime_days: 3653, ..request(KeySize::Rsa2048) }).unwrap();
    let found = findings(&inspect(&made.certificate_der).unwrap(), now());
    assert_eq!(found, [Finding::LongLived(3653)]);
    assert_eq!(found[0].severity(), Severity::Warn);
}

#[test]
fn a_certificate_that_ends_after_2049_can_be_read_back() {
    let made = AuthCertificate::generate(&Request { lifetime_days: 9_000, ..request(KeySize::Rsa2048) }).unwrap();
    assert_eq!(inspect(&made.certificate_der).unwrap().not_after.to_rfc3339(), "2051-07-15T11:55:00+00:00");
}

#[test]
fn a_lifetime_that_no_certificate_can_express_is_refused() {
    for days in [0, u32::MAX, 3_000_000] {
        let made = AuthCertificate::generate(&Request { lifetime_days: days, ..request(KeySize::Rsa2048) });
        assert!(matches!(made, Err(Error::Lifetime(refused)) if refused == days), "{made:?}");
    }
}

#[test]
fn only_three_key_sizes_are_offered() {
    assert_eq!(KeySize::try_from(3072).unwrap(), KeySize::Rsa3072);
    assert_eq!(
        KeySize::try_from(1024).unwrap_err().to_string(),
        "a key of 1024 bits is not offered: use 2048, 3072 or 4096"
    );
}

#[test]
fn debug_output_tells_the_thumbprint_and_no_key() {
    let made = sample(KeySize::Rsa2048);
    assert_eq!(format!("{made:?}"), format!("AuthCertificate {{ thumbprint: {:?}, .. }}", made.thumbprint));
}

#[test]
fn a_key_is_matched_with_its_own_certificate_only() {
    let (one, other) = (sample(KeySize::Rsa2048), sample(KeySize::Rsa3072));
    assert!(key_matches(&one.certificate_der, &one.private_key_pkcs8).unwrap());
    assert!(!key_matches(&one.certificate_der, &other.private_key_pkcs8).unwrap());
    assert!(matches!(key_matches(&one.certificate_der, b"no key"), Err(Error::PrivateKey)));
}

#[test]
fn bytes_around_or_instead_of_a_certificate_are_refused() {
    let der = &sample(KeySize::Rsa2048).certificate_der;
    assert!(matches!(inspect(b""), Err(Error::Malformed(_))));
    assert!(matches!(inspect(&der[..der.len() - 1]), Err(Error::Malformed(_))));
    assert!(matches!(inspect(&[der.as_slice(), b"\0"].concat()), Err(Error::Malformed(_))));
}

#[test]
fn a_changed_byte_breaks_the_signature() {
    let mut der = sample(KeySize::Rsa2048).certificate_der.clone();
    let last = der.len() - 1;
    der[last] ^= 1;
    let found = inspect(&der).unwrap();
    assert_eq!(found.issuance, Issuance::Broken);
    assert_eq!(findings(&found, now()), [Finding::SignatureBroken]);
}

#[test]
fn every_departure_is_found_and_says_how_bad_it_is() {
    use Finding as F;
    use Severity::{Refuse, Warn};
    type Case = (fn(&mut Inspection), Finding, Severity);
    let cases: [Case; 15] = [
        (|i| i.subject = "CN=mail".into(), F::Subject("CN=mail".into()), Warn),
        (|i| i.serial = "01".into(), F::Serial("01".into()), Warn),
        (|i| i.issuance = Issuance::Issued, F::Issued(good().issuer), Warn),
        (|i| i.issuance = Issuance::Broken, F::SignatureBroken, Refuse),
        (|i| i.key = PublicKey::Rsa { bits: 2047 }, F::KeySize(2047), Refuse),
        (|i| i.key = PublicKey::Other { algorithm: "1.2".into() }, F::KeyKind("1.2".into()), Refuse),
        (|i| i.signature = Signature::Sha1WithRsa, F::Signature(Signature::Sha1WithRsa), Warn),
        (|i| i.signature = Signature::Other("1.2".into()), F::Signature(Signature::Other("1.2".into())), Refuse),
        (|i| i.signature = Signature::Sha512WithRsa, F::Signature(Signature::Sha512WithRsa), Warn),
        (|i| i.key_usage = None, F::KeyUsage(vec![]), Refuse),
        (|i| only(&mut i.key_usage, "keyEncipherment"), F::KeyUsage(vec!["keyEncipherment".into()]), Refuse),
        (|i| only(&mut i.key_usage, "digitalSignature"), F::KeyUsage(vec!["digitalSignature".into()]), Warn),
        (|i| only(&mut i.extended_key_usage, "clientAuth"), F::ExtendedKeyUsage(vec!["clientAuth".into()]), Refuse),
        (|i| i.basic_constraints = Some(BasicConstraints { critical: true, authority: true }), F::Authority, Refuse),
        (|i| i.basic_constraints = None, F::BasicConstraints, Warn),
    ];
    for (depart, finding, severity) in cases {
        let mut inspection = good();
        depart(&mut inspection);
        assert_eq!(findings(&inspection, now()), std::slice::from_ref(&finding));
        assert_eq!(finding.severity(), severity, "{finding}");
    }
}

/// The extension as it was, with one purpose in place of all.
fn only(extension: &mut Option<Purposes>, name: &str) {
    extension.as_mut().unwrap().names = vec![name.to_owned()];
}

#[test]
fn a_certificate_is_good_from_its_first_to_its_last_second() {
    let good = good();
    let (begin, end, second) = (good.not_before, good.not_after, TimeDelta::seconds(1));
    assert_eq!(findings(&good, begin - second), [Finding::NotYetValid(begin)]);
    assert_eq!(findings(&good, begin), []);
    assert_eq!(findings(&good, end), []);
    assert_eq!(findings(&good, end + second), [Finding::Expired(end)]);
}

#[test]
fn a_certificate_made_by_openssl_for_a_web_site_is_judged_by_what_it_holds() {
    let der = openssl_certificate(&[
        "-newkey",
        "rsa:1024",
        "-sha1",
        "-subj",
        "/CN=mail.contoso.com",
        "-addext",
        "subjectAltName=DNS:mail.contoso.com",
        "-addext",
        "keyUsage=keyAgreement",
        "-addext",
        "extendedKeyUsage=clientAuth,1.2.3.4",
    ]);
    let found = inspect(&der).unwrap();
    assert_eq!(found.issuance, Issuance::SelfSigned);
    assert_eq!(found.extended_key_usage.as_ref().unwrap().names, ["clientAuth", "1.2.3.4"]);
    let found: Vec<String> = findings(&found, Utc::now()).iter().map(ToString::to_string).collect();
    expect_test::expect![[r#"
        the subject is CN=mail.contoso.com, CN=Microsoft Exchange Server Auth Certificate is expected
        the serial number is not one of 16 bytes
        the key has 1024 bits, at least 2048 are needed
        is signed with sha1WithRSAEncryption, sha256WithRSAEncryption is expected
        key usage is keyAgreement, digitalSignature and keyEncipherment are needed, critically
        extended key usage is clientAuth+1.2.3.4, serverAuth is needed
        may sign other certificates
        carries alternative names: DNSName(mail.contoso.com)
    "#]]
    .assert_eq(&without_serial(&found));
}

#[test]
fn an_elliptic_curve_key_is_refused() {
    let der = openssl_certificate(&[
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-subj",
        "/CN=Microsoft Exchange Server Auth Certificate",
    ]);
    let found = findings(&inspect(&der).unwrap(), Utc::now());
    assert!(found.contains(&Finding::KeyKind("1.2.840.10045.2.1".to_owned())), "{found:?}");
}

/// A self-signed certificate by openssl, DER; the key is thrown away.
fn openssl_certificate(arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-keyout", "/dev/null", "-days", "30", "-outform", "DER"]).args(arguments);
    let output = command.output().expect("openssl is installed: ./test sees to it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// openssl draws 20 random bytes.
fn without_serial(findings: &[String]) -> String {
    let cut = |line: &String| {
        if line.starts_with("the serial number") {
            "the serial number is not one of 16 bytes".to_owned()
        } else {
            line.clone()
        }
    };
    findings.iter().map(cut).map(|line| line + "\n").collect()
}
