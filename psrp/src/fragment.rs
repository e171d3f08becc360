//! Fragments: messages cut to pieces that fit an envelope (MS-PSRP 2.2.4).

use std::collections::HashMap;

/// Cuts a message into fragments of at most `max_fragment` bytes, header of 21 bytes included. Never none: an empty message is one empty fragment.
#[must_use]
pub fn split(object_id: u64, message: &[u8], max_fragment: usize) -> Vec<Vec<u8>> {
    let room = max_fragment.saturating_sub(HEADER).max(1);
    let count = message.len().div_ceil(room).max(1);
    let piece = |n: usize| &message[n * room..message.len().min((n + 1) * room)];
    (0..count)
        .map(|n| {
            let flags = (u8::from(n == 0) * START) | (u8::from(n + 1 == count) * END);
            write(object_id, n as u64, flags, piece(n))
        })
        .collect()
}

/// Puts messages together again. Fragments of several messages may come mixed, those of one message in order.
///
/// Messages begin in the order in which they were made (MS-PSRP 3.1.5.1.1). Their numbers are unique in a pool (2.2.4), and everybody counts up: one that
/// comes twice, or after its successor, is not taken.
///
/// After an error its state is of no use: what was on the way is lost and so is the pool.
#[derive(Debug)]
pub struct Reassembler {
    open: HashMap<u64, Open>,
    /// The message that began last.
    last: u64,
    held: usize,
    limit: usize,
}

/// Why fragments do not make messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// The bytes end within a fragment.
    #[error("{left} bytes are left, the fragment has {needed}")]
    Truncated {
        /// Bytes from the beginning of the fragment.
        left: usize,
        /// Bytes of the fragment, or of its header if not even that is whole.
        needed: usize,
    },
    /// A fragment came early: one before it is missing.
    #[error("fragment {found} of object {object} came before fragment {expected}")]
    OutOfOrder {
        /// The message.
        object: u64,
        /// The fragment that should have come.
        expected: u64,
        /// The fragment that came.
        found: u64,
    },
    /// A fragment came twice.
    #[error("fragment {fragment} of object {object} came twice")]
    Duplicate {
        /// The message.
        object: u64,
        /// The fragment.
        fragment: u64,
    },
    /// A message began after one that was made later, or came a second time.
    #[error("object {object} came after object {last}")]
    Late {
        /// The message.
        object: u64,
        /// The one that had begun last.
        last: u64,
    },
    /// The first fragment does not say that it is the first, or another one says so.
    #[error("fragment {fragment} of object {object} has the flags {flags:#04x}")]
    Flags {
        /// The message.
        object: u64,
        /// The fragment.
        fragment: u64,
        /// Bit 0: start, bit 1: end.
        flags: u8,
    },
    /// What is on the way is more than the limit.
    #[error("messages of more than {limit} bytes")]
    TooLarge {
        /// In bytes.
        limit: usize,
    },
}

#[derive(Debug)]
struct Open {
    next: u64,
    data: Vec<u8>,
}

struct Fragment<'a> {
    object: u64,
    id: u64,
    flags: u8,
    blob: &'a [u8],
}

impl Reassembler {
    /// Holds at most that many bytes of incomplete messages.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self { open: HashMap::new(), last: 0, held: 0, limit: limit_bytes }
    }

    /// Bytes of incomplete messages, and what these cost besides: never more than the limit, give or take one object's.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Takes one or several whole fragments and gives the messages that they complete, in that order.
    ///
    /// # Errors
    /// See [`FragmentError`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, FragmentError> {
        let mut complete = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (fragment, after) = read(rest)?;
            complete.extend(self.add(&fragment)?);
            rest = after;
        }
        Ok(complete)
    }

    fn add(&mut self, fragment: &Fragment<'_>) -> Result<Option<Vec<u8>>, FragmentError> {
        self.check(fragment)?;
        // An object counts even when it is empty, so that the limit bounds their number too.
        let cost = if fragment.id == 0 { OBJECT_COST } else { 0 } + fragment.blob.len();
        self.held = self.held.saturating_add(cost);
        if self.held > self.limit.saturating_add(OBJECT_COST) {
            return Err(FragmentError::TooLarge { limit: self.limit });
        }
        self.last = self.last.max(fragment.object);
        let open = self.open.entry(fragment.object).or_insert(Open { next: 0, data: Vec::new() });
        open.next += 1;
        open.data.extend_from_slice(fragment.blob);
        if fragment.flags & END == 0 {
            return Ok(None);
        }
        let whole = self.open.remove(&fragment.object).map(|open| open.data).unwrap_or_default();
        self.held -= OBJECT_COST + whole.len();
        Ok(Some(whole))
    }

    fn check(&self, fragment: &Fragment<'_>) -> Result<(), FragmentError> {
        let Fragment { object, id, flags, .. } = *fragment;
        let expected = self.open.get(&object).map_or(0, |open| open.next);
        if id > expected {
            return Err(FragmentError::OutOfOrder { object, expected, found: id });
        }
        if id < expected {
            return Err(FragmentError::Duplicate { object, fragment: id });
        }
        if (flags & START != 0) != (id == 0) {
            return Err(FragmentError::Flags { object, fragment: id, flags });
        }
        if id == 0 && object <= self.last {
            return Err(FragmentError::Late { object, last: self.last });
        }
        Ok(())
    }
}

fn write(object_id: u64, fragment_id: u64, flags: u8, blob: &[u8]) -> Vec<u8> {
    let length = u32::try_from(blob.len()).expect("a fragment fits an envelope, which is far below 4 GB");
    let mut bytes = Vec::with_capacity(HEADER + blob.len());
    bytes.extend_from_slice(&object_id.to_be_bytes());
    bytes.extend_from_slice(&fragment_id.to_be_bytes());
    bytes.push(flags);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(blob);
    bytes
}

fn read(bytes: &[u8]) -> Result<(Fragment<'_>, &[u8]), FragmentError> {
    let truncated = |needed| FragmentError::Truncated { left: bytes.len(), needed };
    let (header, rest) = bytes.split_at_checked(HEADER).ok_or_else(|| truncated(HEADER))?;
    let number = |range: std::ops::Range<usize>| header[range].iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let length = number(17..21) as usize;
    let (blob, rest) = rest.split_at_checked(length).ok_or_else(|| truncated(HEADER.saturating_add(length)))?;
    Ok((Fragment { object: number(0..8), id: number(8..16), flags: header[16], blob }, rest))
}

/// Object id, fragment id, flags, length of the blob.
const HEADER: usize = 21;

const START: u8 = 1;
const END: u8 = 2;

/// What an incomplete message costs besides its bytes, roughly.
const OBJECT_COST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(object: u64, id: u64, flags: u8, blob: &[u8]) -> Vec<u8> {
        write(object, id, flags, blob)
    }

    #[test]
    fn a_fragment_is_laid_out_as_powershell_does_it() {
        let expected = [&[0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2][..], b"ab"].concat();
        assert_eq!(split(0x0102, b"ab", 1000), [expected]);
    }

    #[test]
    fn messages_of_every_length_come_back_whole() {
        for length in 0..70 {
            let message = (0..length).collect::<Vec<u8>>();
            let fragments = split(1, &message, HEADER + 7);
            assert!(fragments.iter().all(|f| f.len() <= HEADER + 7), "{length} bytes");
            assert_eq!(fragments.len(), message.len().div_ceil(7).max(1));
            assert_eq!(Reassembler::new(100).push(&fragments.concat()), Ok(vec![message]));
        }
        assert_eq!(split(1, b"abc", 0).len(), 3, "no room means one byte at a time, not an endless loop");
    }

    #[test]
    fn messages_may_come_mixed() {
        let (a, b) = (split(1, b"aaaa", HEADER + 2), split(2, b"bbbb", HEADER + 2));
        let mut reassembler = Reassembler::new(100);
        assert_eq!(reassembler.push(&[&a[0][..], &b[0], &b[1]].concat()), Ok(vec![b"bbbb".to_vec()]));
        assert_eq!(reassembler.push(&a[1]), Ok(vec![b"aaaa".to_vec()]));
        assert_eq!((reassembler.held, reassembler.open.len()), (0, 0));
    }

    #[test]
    fn each_disorder_has_its_own_error() {
        let pushed = |pieces: &[Vec<u8>]| Reassembler::new(100).push(&pieces.concat()).unwrap_err();
        let first = fragment(7, 0, START, b"x");
        assert_eq!(
            pushed(&[first.clone(), fragment(7, 2, END, b"x")]),
            FragmentError::OutOfOrder { object: 7, expected: 1, found: 2 }
        );
        assert_eq!(
            pushed(&[fragment(7, 1, END, b"x")]),
            FragmentError::OutOfOrder { object: 7, expected: 0, found: 1 }
        );
        assert_eq!(pushed(&[first.clone(), first.clone()]), FragmentError::Duplicate { object: 7, fragment: 0 });
        assert_eq!(pushed(&[fragment(7, 0, END, b"x")]), FragmentError::Flags { object: 7, fragment: 0, flags: END });
        assert_eq!(
            pushed(&[first, fragment(7, 1, START | END, b"x")]),
            FragmentError::Flags { object: 7, fragment: 1, flags: START | END }
        );
    }

    #[test]
    fn a_message_that_comes_twice_or_after_its_successor_is_not_taken() {
        let [a, b] = [1, 2].map(|object| split(object, b"whole", 100).concat());
        let pushed = |pieces: &[&[u8]]| Reassembler::new(100).push(&pieces.concat()).unwrap_err();
        assert_eq!(pushed(&[&a, &a]), FragmentError::Late { object: 1, last: 1 });
        assert_eq!(pushed(&[&b, &a]), FragmentError::Late { object: 1, last: 2 });
        let zero = split(0, b"whole", 100).concat();
        assert_eq!(pushed(&[&zero]), FragmentError::Late { object: 0, last: 0 });
    }

    #[test]
    fn a_cut_anywhere_is_told() {
        let whole = fragment(7, 0, START | END, b"abc");
        for end in 1..whole.len() {
            let needed = if end < HEADER { HEADER } else { whole.len() };
            let told = Reassembler::new(100).push(&whole[..end]);
            assert_eq!(told, Err(FragmentError::Truncated { left: end, needed }));
        }
        let mut lies = whole;
        lies[17..21].copy_from_slice(&[0xFF; 4]);
        assert!(matches!(Reassembler::new(100).push(&lies), Err(FragmentError::Truncated { .. })));
    }

    #[test]
    fn the_limit_holds_for_one_message_for_all_together_and_for_empty_ones() {
        let too_large = Err(FragmentError::TooLarge { limit: 100 });
        assert!(Reassembler::new(100).push(&fragment(1, 0, START | END, &[0; 100])).is_ok());
        assert_eq!(Reassembler::new(100).push(&fragment(1, 0, START, &[0; 101])), too_large);
        let mut reassembler = Reassembler::new(100);
        assert!(reassembler.push(&fragment(1, 0, START, &[0; 20])).is_ok());
        assert!(reassembler.push(&fragment(2, 0, START, &[0; 10])).is_ok());
        assert_eq!(reassembler.push(&fragment(3, 0, START, &[])), too_large);
    }

    #[test]
    fn what_is_complete_makes_room() {
        let mut reassembler = Reassembler::new(100);
        for object in 1..1000 {
            assert!(reassembler.push(&fragment(object, 0, START | END, &[0; 100])).is_ok());
        }
    }
}
