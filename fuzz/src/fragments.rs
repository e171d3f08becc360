use psrp::fragment::{Reassembler, split};

use crate::clixml;

/// Bytes as fragments that come in one piece: what they make is not more than they are, and is a message or is refused. Then the bytes as messages of a
/// sender: however they are cut and mixed, they come back.
pub fn fragments(input: &[u8]) {
    received(input);
    if let Some((size, message)) = input.split_first() {
        sent(message, usize::from(*size));
    }
}

fn received(input: &[u8]) {
    let limit = input.len() / 2;
    let mut reassembler = Reassembler::new(limit);
    let Ok(messages) = reassembler.push(input) else { return };
    assert!(reassembler.held() <= limit + ROOM, "{} bytes are held, {limit} are allowed", reassembler.held());
    let bytes: usize = messages.iter().map(Vec::len).sum();
    assert!(bytes <= input.len(), "{bytes} bytes out of {}", input.len());
    for message in messages {
        assert!(message.len() <= limit, "a message of {} bytes, {limit} are allowed", message.len());
        clixml::message(&message);
    }
}

/// Both halves go their way at the same time, one fragment of each in turn.
fn sent(bytes: &[u8], max_fragment: usize) {
    let (a, b) = bytes.split_at(bytes.len() / 2);
    let (first, second) = (split(1, a, max_fragment), split(2, b, max_fragment));
    let mut reassembler = Reassembler::new(bytes.len() + ROOM);
    let mut arrived = Vec::new();
    for n in 0..first.len().max(second.len()) {
        for fragment in [first.get(n), second.get(n)].into_iter().flatten() {
            arrived.extend(reassembler.push(fragment).expect("fragments in order are taken"));
        }
    }
    arrived.sort();
    let mut expected = vec![a.to_vec(), b.to_vec()];
    expected.sort();
    assert_eq!((arrived, reassembler.held()), (expected, 0));
}

/// For what the reassembler counts besides the bytes of a message.
const ROOM: usize = 128;
