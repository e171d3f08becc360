//! Message encryption: how a sealed envelope travels over HTTP (MS-WSMV 2.2.9.1). The sealing itself is the security context's; this is its frame.
//!
//! ```text
//! --Encrypted Boundary
//!     Content-Type: application/HTTP-SPNEGO-session-encrypted
//!     OriginalContent: type=application/soap+xml;charset=UTF-8;Length=1234
//! --Encrypted Boundary
//!     Content-Type: application/octet-stream
//! <length of the token, 4 bytes, little endian><token><1234 sealed bytes>--Encrypted Boundary--
//! ```

use thiserror::Error;

use crate::wsman::CONTENT_TYPE;

/// What sealed it: the scheme of the logon says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Logged on by `Negotiate` or `NTLM`.
    Spnego,
    /// Logged on by `Kerberos`.
    Kerberos,
}

/// How the boundary is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// `--Encrypted Boundary`: clients, and the service of Windows.
    Tight,
    /// `-- Encrypted Boundary`: endpoints that IIS hosts, such as Exchange's.
    Spaced,
}

/// One sealed envelope.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// The security context's token: signature or wrap header.
    pub token: &'a [u8],
    /// The sealed bytes, as many as were to be sealed.
    pub data: &'a [u8],
}

impl std::fmt::Debug for Sealed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").field("token", &self.token.len()).field("data", &self.data.len()).finish()
    }
}

/// A body that is not framed as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the sealed body is malformed: {0}")]
pub struct Malformed(&'static str);

impl Protocol {
    const fn name(self) -> &'static str {
        match self {
            Self::Spnego => "application/HTTP-SPNEGO-session-encrypted",
            Self::Kerberos => "application/HTTP-Kerberos-session-encrypted",
        }
    }

    /// The Content-Type of a sealed body.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Spnego => {
                "multipart/encrypted;protocol=\"application/HTTP-SPNEGO-session-encrypted\";boundary=\"Encrypted Boundary\""
            }
            Self::Kerberos => {
                "multipart/encrypted;protocol=\"application/HTTP-Kerberos-session-encrypted\";boundary=\"Encrypted Boundary\""
            }
        }
    }
}

impl Sealed<'_> {
    /// The body that carries it.
    #[must_use]
    pub fn write(&self, protocol: Protocol, spelling: Spelling) -> Vec<u8> {
        let dashes = match spelling {
            Spelling::Tight => "--",
            Spelling::Spaced => "-- ",
        };
        let head = format!(
            "{dashes}{BOUNDARY}\r\n\tContent-Type: {}\r\n\tOriginalContent: type={CONTENT_TYPE};Length={}\r\n{dashes}{BOUNDARY}\r\n\tContent-Type: {OCTETS}\r\n",
            protocol.name(),
            self.data.len()
        );
        let tail = format!("{dashes}{BOUNDARY}--\r\n");
        // No security context makes tokens of gigabytes.
        let length = u32::try_from(self.token.len()).unwrap_or(u32::MAX).to_le_bytes();
        [head.as_bytes(), &length, self.token, self.data, tail.as_bytes()].concat()
    }
}

/// Whether a body of this Content-Type is sealed.
#[must_use]
pub fn is_sealed(content_type: &str) -> bool {
    content_type.trim_start().get(..20).is_some_and(|start| start.eq_ignore_ascii_case("multipart/encrypted;"))
}

/// The sealed envelopes of a body; large ones may be sent in several pieces.
///
/// # Errors
/// When the frame is not that of MS-WSMV 2.2.9.1.
pub fn read(mut body: &[u8]) -> Result<Vec<Sealed<'_>>, Malformed> {
    let mut pieces = Vec::new();
    loop {
        let (piece, rest) = read_one(body)?;
        pieces.push(piece);
        if is_end(rest) {
            return Ok(pieces);
        }
        body = rest;
    }
}

fn read_one(body: &[u8]) -> Result<(Sealed<'_>, &[u8]), Malformed> {
    let mut rest = boundary(body).ok_or(Malformed("it does not start with the boundary"))?;
    let mut length = None;
    // Header lines up to the second boundary.
    let rest = loop {
        if let Some(after) = boundary(rest) {
            break after;
        }
        let (text, after) = line(rest).ok_or(Malformed("its head does not end"))?;
        length = length.or_else(|| original_length(text));
        rest = after;
    };
    let length = length.ok_or(Malformed("OriginalContent names no length"))?;
    let (text, rest) = line(rest).ok_or(Malformed("the content type of its data is missing"))?;
    if !text.to_ascii_lowercase().ends_with(OCTETS) {
        return Err(Malformed("its data are not octets"));
    }
    let (size, rest) = rest.split_first_chunk::<4>().ok_or(Malformed("it is cut short"))?;
    let size = usize::try_from(u32::from_le_bytes(*size)).map_err(|_| Malformed("its token is too long"))?;
    let (token, rest) = rest.split_at_checked(size).ok_or(Malformed("it is cut short"))?;
    let (data, rest) = rest.split_at_checked(length).ok_or(Malformed("it is cut short"))?;
    if !is_end(rest) && boundary(rest).is_none() {
        return Err(Malformed("no boundary follows its data"));
    }
    // Behind one of several pieces stands the closing boundary too, in some implementations.
    let rest = if is_end(rest) && line(rest).is_some_and(|(_, more)| !more.is_empty()) {
        line(rest).map_or(rest, |(_, more)| more)
    } else {
        rest
    };
    Ok((Sealed { token, data }, rest))
}

fn boundary(body: &[u8]) -> Option<&[u8]> {
    let (text, rest) = line(body)?;
    (text.strip_prefix("--")?.trim_start() == BOUNDARY).then_some(rest)
}

fn is_end(body: &[u8]) -> bool {
    let end = body.strip_suffix(b"\r\n").unwrap_or(body);
    let first = end.split(|byte| *byte == b'\r').next().unwrap_or(end);
    let text = std::str::from_utf8(first).ok().and_then(|text| text.strip_prefix("--")).map(str::trim_start);
    text.and_then(|text| text.strip_prefix(BOUNDARY)) == Some("--")
}

/// One line of the head, which is short, and what is behind it.
fn line(body: &[u8]) -> Option<(&str, &[u8])> {
    let window = body.get(..body.len().min(LONGEST_LINE))?;
    let end = window.windows(2).position(|pair| pair == b"\r\n")?;
    let text = std::str::from_utf8(body.get(..end)?).ok()?;
    Some((text.trim(), body.get(end + 2..)?))
}

fn original_length(text: &str) -> Option<usize> {
    let text = text.to_ascii_lowercase();
    let (_, value) = text.strip_prefix("originalcontent:")?.rsplit_once("length=")?;
    value.trim().parse().ok()
}

const BOUNDARY: &str = "Encrypted Boundary";
const OCTETS: &str = "application/octet-stream";
const LONGEST_LINE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const SEALED: Sealed<'_> = Sealed { token: &[1, 2, 3], data: b"--Encrypted Boundary\r\nlooks like a boundary" };

    #[test]
    fn what_is_framed_is_read_again_in_both_spellings() {
        for (protocol, spelling) in [
            (Protocol::Spnego, Spelling::Tight),
            (Protocol::Kerberos, Spelling::Spaced),
            (Protocol::Kerberos, Spelling::Tight),
        ] {
            let body = SEALED.write(protocol, spelling);
            assert_eq!(read(&body), Ok(vec![SEALED]));
        }
    }

    #[test]
    fn an_envelope_in_several_pieces_is_read_with_and_without_boundaries_between() {
        let body = SEALED.write(Protocol::Spnego, Spelling::Tight);
        assert_eq!(read(&[body.clone(), body.clone()].concat()), Ok(vec![SEALED, SEALED]));
        let open = body.strip_suffix(b"--Encrypted Boundary--\r\n").unwrap();
        assert_eq!(read(&[open, &body].concat()), Ok(vec![SEALED, SEALED]));
    }

    #[test]
    fn a_body_cut_anywhere_is_refused() {
        let body = SEALED.write(Protocol::Spnego, Spelling::Spaced);
        for length in 0..body.len() - 2 {
            assert!(read(&body[..length]).is_err(), "{length} bytes of {}", body.len());
        }
    }

    #[test]
    fn lengths_that_are_lies_are_refused() {
        let body = SEALED.write(Protocol::Spnego, Spelling::Tight);
        let text = String::from_utf8(body.clone()).unwrap();
        let length = format!("Length={}", SEALED.data.len());
        for lie in [usize::MAX.to_string(), "99999999999999999999999".to_owned(), "-1".to_owned(), String::new()] {
            assert!(read(text.replace(&length, &format!("Length={lie}")).as_bytes()).is_err(), "{lie}");
        }
        let token = body.windows(4).position(|four| four == [3, 0, 0, 0]).unwrap();
        for lie in [[0xFF; 4], [2, 0, 0, 0], [4, 0, 0, 0], [3, 0, 0, 0x80]] {
            let mut lies = body.clone();
            lies[token..token + 4].copy_from_slice(&lie);
            assert!(read(&lies).is_err(), "{lie:?}");
        }
    }

    #[test]
    fn only_encrypted_multiparts_are_sealed() {
        assert!(is_sealed(Protocol::Kerberos.content_type()));
        assert!(is_sealed("Multipart/Encrypted; boundary=x"));
        assert!(!is_sealed(CONTENT_TYPE) && !is_sealed("") && !is_sealed("multipart/é"));
    }
}
