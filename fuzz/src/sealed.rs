use psrp::sealed::{Protocol, Spelling, is_sealed, read};

/// A sealed body: its pieces lie within it, and written again they are read as the same.
pub fn sealed(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = is_sealed(text);
    }
    let Ok(pieces) = read(input) else { return };
    let inside: usize = pieces.iter().map(|piece| piece.token.len() + piece.data.len()).sum();
    assert!(inside < input.len() && !pieces.is_empty());
    for (protocol, spelling) in [(Protocol::Spnego, Spelling::Tight), (Protocol::Kerberos, Spelling::Spaced)] {
        let written: Vec<u8> = pieces.iter().flat_map(|piece| piece.write(protocol, spelling)).collect();
        assert_eq!(read(&written).as_ref(), Ok(&pieces));
    }
}
