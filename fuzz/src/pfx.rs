use lab::certificate::{Certificate, PrivateKey};

/// A file as Windows of either kind imports it, and the bytes as what is found inside, where a fuzzer does not get through the encryption. What was read can be
/// exported, and reads as the same.
pub fn pfx(input: &[u8]) {
    let parsed = Certificate::parse(input);
    if let (Ok(certificate), Some(key)) = (&parsed, PrivateKey::from_pkcs8(input)) {
        let _ = key.belongs_to(certificate);
    }
    for build in [WINDOWS_SERVER_2016, WINDOWS_SERVER_2022] {
        let Ok(contents) = lab::pfx::read(input, PASSWORD, build) else { continue };
        let file =
            lab::pfx::write(&contents.certificate, &contents.key, PASSWORD).expect("what was read can be written");
        let again = lab::pfx::read(&file, PASSWORD, WINDOWS_SERVER_2016).expect("what was written can be read");
        assert_eq!((again.certificate, again.key), (contents.certificate, contents.key));
    }
}

/// Of the files in the corpus.
const PASSWORD: &str = "correct horse";
const WINDOWS_SERVER_2016: u32 = 14393;
const WINDOWS_SERVER_2022: u32 = 20348;
