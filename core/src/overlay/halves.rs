//! Messages too long for one routed part: cut by their source into two, joined by their destination and nobody else.

use core::time::Duration;

use crate::id::NodeId;
use crate::time::Instant;
use crate::wire::routed::{Content, MAX_PART_LEN, Part};

/// Halves that wait for their other half at most; beyond it the oldest is dropped. At 1,111 bytes each they cost 71 kB in the worst case.
pub const MAX_HALVES: usize = 64;
/// How long a half waits: far longer than two parts of one message ever travel apart.
pub const HALF_LIFE: Duration = Duration::from_secs(1);

/// The waiting halves.
#[derive(Debug, Default)]
pub(super) struct Halves {
    /// In the order of arrival.
    waiting: Vec<Half>,
}

#[derive(Debug)]
struct Half {
    source: NodeId,
    content: Content,
    part: Part,
    bytes: Vec<u8>,
    expires: Instant,
}

/// What became of a part.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// The whole message.
    Complete(Vec<u8>),
    /// It waits for its other half; the number is of halves that were dropped for it, or that waited too long.
    Waiting(usize),
}

impl Halves {
    /// Takes one half in.
    pub(super) fn join(&mut self, source: NodeId, content: Content, part: Part, bytes: &[u8], now: Instant) -> Joined {
        let mut lost = self.expire(now);
        let (other, is_first) = match part {
            Part::Whole => return Joined::Complete(bytes.to_vec()),
            Part::First(number) => (Part::Second(number), true),
            Part::Second(number) => (Part::First(number), false),
        };
        if let Some(found) = self.waiting.iter().position(|half| half.source == source && half.content == content && half.part == other) {
            let half = self.waiting.remove(found);
            let (mut whole, second) = if is_first { (bytes.to_vec(), &half.bytes[..]) } else { (half.bytes, bytes) };
            whole.extend_from_slice(second);
            return Joined::Complete(whole);
        }
        if self.waiting.iter().any(|half| half.source == source && half.content == content && half.part == part) {
            return Joined::Waiting(lost + 1);
        }
        if self.waiting.len() >= MAX_HALVES {
            self.waiting.remove(0);
            lost += 1;
        }
        self.waiting.push(Half { source, content, part, bytes: bytes.to_vec(), expires: now + HALF_LIFE });
        Joined::Waiting(lost)
    }

    /// Drops halves that waited too long; returns how many.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|half| half.expires > now);
        before - self.waiting.len()
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.waiting.first().map(|half| half.expires)
    }
}

/// Cuts a message into parts of at most [`MAX_PART_LEN`] bytes; the caller has checked that two are enough.
pub(super) fn cut(body: &[u8], number: u32) -> impl Iterator<Item = (Part, &[u8])> {
    let (first, second) = if body.len() <= MAX_PART_LEN { (body, None) } else { (&body[..MAX_PART_LEN], Some(&body[MAX_PART_LEN..])) };
    let first_part = if second.is_some() { Part::First(number) } else { Part::Whole };
    core::iter::once((first_part, first)).chain(second.map(|bytes| (Part::Second(number), bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: NodeId = NodeId([1; 20]);

    #[test]
    fn halves_are_joined_in_either_order() {
        let body: Vec<u8> = (0..2000u32).map(|n| n as u8).collect();
        for reverse in [false, true] {
            let mut halves = Halves::default();
            let mut parts: Vec<_> = cut(&body, 7).collect();
            assert_eq!(parts.len(), 2);
            if reverse {
                parts.reverse();
            }
            assert_eq!(halves.join(SOURCE, Content::Datagram, parts[0].0, parts[0].1, Instant::ZERO), Joined::Waiting(0));
            assert_eq!(halves.join(SOURCE, Content::Datagram, parts[1].0, parts[1].1, Instant::ZERO), Joined::Complete(body.clone()));
            assert_eq!(halves.next_expiry(), None);
        }
    }

    #[test]
    fn a_half_of_another_source_kind_or_number_does_not_fit_and_waits_for_a_second_only() {
        let mut halves = Halves::default();
        let now = Instant::ZERO;
        assert_eq!(halves.join(SOURCE, Content::Datagram, Part::First(1), b"a", now), Joined::Waiting(0));
        assert_eq!(halves.join(NodeId([2; 20]), Content::Datagram, Part::Second(1), b"b", now), Joined::Waiting(0));
        assert_eq!(halves.join(SOURCE, Content::Reply, Part::Second(1), b"b", now), Joined::Waiting(0));
        assert_eq!(halves.join(SOURCE, Content::Datagram, Part::Second(2), b"b", now), Joined::Waiting(0));
        assert_eq!(halves.join(SOURCE, Content::Datagram, Part::First(1), b"a", now), Joined::Waiting(1));
        assert_eq!(halves.join(SOURCE, Content::Datagram, Part::Second(1), b"b", now + HALF_LIFE), Joined::Waiting(4));
    }

    #[test]
    fn the_oldest_half_makes_room() {
        let mut halves = Halves::default();
        for number in 0..=MAX_HALVES as u32 {
            let _ = halves.join(SOURCE, Content::Datagram, Part::First(number), b"a", Instant::ZERO);
        }
        assert_eq!(halves.waiting.len(), MAX_HALVES);
        assert!(matches!(halves.join(SOURCE, Content::Datagram, Part::Second(0), b"b", Instant::ZERO), Joined::Waiting(1)));
        assert_eq!(halves.join(SOURCE, Content::Datagram, Part::Second(64), b"b", Instant::ZERO), Joined::Complete(b"ab".to_vec()));
    }
}
