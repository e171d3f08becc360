//! Secrets by reference, and the service's own keys.

use std::{
    fmt,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

/// Where a secret is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reference {
    Environment(String),
    File(PathBuf),
}

/// As people write it.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl Reference {
    /// Reads `env:NAME` or `file:PATH`; a relative path starts at `folder`.
    pub(crate) fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Environment(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(folder.join(path))),
            // Not repeated: it may be the secret itself.
            _ => bail!("secrets stand here by reference only: \"env:NAME\" or \"file:PATH\""),
        }
    }

    /// The secret, without a line end.
    pub(crate) fn read(&self) -> anyhow::Result<SecretString> {
        let text = match self {
            Self::Environment(name) => std::env::var(name).map_err(|_| anyhow!("{name} is not set"))?,
            Self::File(path) => {
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
            }
        };
        let text = Zeroizing::new(text);
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() { bail!("{self} is empty") } else { Ok(SecretString::from(secret)) }
    }
}

/// A key of 32 bytes: from its reference, else from a file in `data_dir` that is made when missing, readable by its owner only.
pub(crate) fn key(reference: Option<&Reference>, data_dir: &Path, name: &str) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    match reference {
        Some(reference) => read_key(reference, name),
        None => {
            let path = data_dir.join(name);
            if !path.exists() {
                make(&path).with_context(|| format!("cannot make {}", path.display()))?;
            }
            read_key(&Reference::File(path), name)
        }
    }
}

/// Whether [`key`] would find one that can be used, or make it.
pub(crate) fn check(reference: Option<&Reference>, data_dir: &Path, name: &str) -> anyhow::Result<()> {
    let path = data_dir.join(name);
    let made = path.exists().then_some(Reference::File(path));
    reference.or(made.as_ref()).map_or(Ok(()), |reference| read_key(reference, name).map(drop))
}

fn read_key(reference: &Reference, name: &str) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let text = reference.read().with_context(|| name.to_owned())?;
    parse_key(text.expose_secret()).with_context(|| format!("{name} must be 64 hexadecimal digits"))
}

fn make(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut bytes = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| anyhow!("the system has no random numbers"))?;
    let text = Zeroizing::new(domain::ids::hex(bytes.as_slice()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(())
}

fn parse_key(text: &str) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    if text.len() != 64 || !text.is_ascii() {
        bail!("it has {} characters", text.len());
    }
    let mut key = Zeroizing::new([0; 32]);
    for (index, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16)?;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_missing_key_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = key(None, folder.path(), "token.key").unwrap();
        assert_eq!(first, key(None, folder.path(), "token.key").unwrap());
        let mode = std::fs::metadata(folder.path().join("token.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_empty_secret_is_named_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty"), "\n").unwrap();
        let error = Reference::parse("file:empty", folder.path()).unwrap().read().unwrap_err().to_string();
        assert_eq!(error, format!("file:{} is empty", folder.path().join("empty").display()));
    }

    #[test]
    fn a_key_that_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        for bad in ["", "abc", &"g".repeat(64), &"é".repeat(32)] {
            std::fs::write(&path, bad).unwrap();
            assert!(key(None, folder.path(), "seal.key").is_err(), "{bad}");
            assert!(check(None, folder.path(), "seal.key").is_err(), "{bad}");
        }
    }
}
