//! Basic (RFC 7617): names and passwords of the configuration, for senders that can do no more.

use aws_lc_rs::{constant_time, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretString};

use super::{Cause, Rejected};
use crate::{
    Grants,
    caller::{Caller, Credential},
};

/// Somebody with a name and a password.
#[derive(Clone, Debug)]
pub struct BasicUser {
    /// The name that they send; also their name in the record.
    pub username: String,
    /// The password that they send.
    pub password: SecretString,
    /// What they may do.
    pub grants: Grants,
}

/// Those who are let in so.
#[derive(Default)]
pub(super) struct Passwords(Vec<Known>);

struct Known {
    username: String,
    hash: Vec<u8>,
    grants: Grants,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|known| &known.username)).finish()
    }
}

impl Passwords {
    pub(super) fn new(users: Vec<BasicUser>) -> Self {
        let known = |user: BasicUser| Known {
            hash: hash(user.password.expose_secret()),
            username: user.username,
            grants: user.grants,
        };
        Self(users.into_iter().map(known).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The owner of `base64(name:password)`. Takes as long for a name that is not known as for a wrong password.
    pub(super) fn caller(&self, encoded: &str) -> Result<Caller, Rejected> {
        let text = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or(Cause::Password)?;
        let (username, password) = text.split_once(':').ok_or(Cause::Password)?;
        let given = hash(password);
        let known = self.0.iter().find(|known| known.username == username);
        let kept = known.map_or([0; 32].as_slice(), |known| &known.hash);
        let right = constant_time::verify_slices_are_equal(&given, kept).is_ok();
        let known = known.filter(|_| right).ok_or(Cause::Password)?;
        Ok(Caller {
            subject: known.username.clone(),
            grants: known.grants.clone(),
            credential: Credential::Basic,
            expires_at: None,
            notice: None,
        })
    }
}

/// So that comparing takes the same time for passwords of every length.
fn hash(password: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, password.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords() -> Passwords {
        let user = |username: &str, password: &str| BasicUser {
            username: username.to_owned(),
            password: SecretString::from(password),
            grants: Grants { groups: vec!["senders".to_owned()], ..Grants::default() },
        };
        Passwords::new(vec![user("mid", "p:ss wörd"), user("other", "x")])
    }

    #[test]
    fn a_password_may_hold_colons_and_umlauts() {
        let caller = passwords().caller(&STANDARD.encode("mid:p:ss wörd")).unwrap();
        assert_eq!((caller.subject(), caller.groups()), ("mid", ["senders".to_owned()].as_slice()));
    }

    #[test]
    fn everything_else_is_refused_in_the_same_words() {
        for wrong in ["mid:x", "mid:", "mid", "other:p:ss wörd", "nobody:x", ":x", ""] {
            let rejected = passwords().caller(&STANDARD.encode(wrong)).unwrap_err();
            assert_eq!(rejected, Rejected::from(Cause::Password), "{wrong}");
        }
        assert_eq!(passwords().caller("no base64!").unwrap_err().cause, Cause::Password);
        let latin1 = STANDARD.encode(b"mid:p:ss w\xf6rd");
        assert_eq!(passwords().caller(&latin1).unwrap_err().cause, Cause::Password);
    }

    #[test]
    fn debug_output_holds_no_password() {
        assert_eq!(format!("{:?}", passwords()), r#"["mid", "other"]"#);
    }
}
