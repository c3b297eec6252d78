//! Messages in parts: cut when they are sent, joined within the handshake that waits for them.

use super::mac::RealmMac;
use crate::wire::handshake::{Abilities, HEADER_LEN, HandshakeHeader, MAC_LEN, MAX_BODY, MAX_PARTS};

/// Cuts `message` into datagrams with MACs. `None` when it does not fit [`MAX_PARTS`].
pub(super) fn cut(header: HandshakeHeader, message: &[u8], mac: &RealmMac) -> Option<Vec<Vec<u8>>> {
    let parts = u8::try_from(message.len().div_ceil(MAX_BODY).max(1)).ok().filter(|&parts| parts <= MAX_PARTS)?;
    let datagrams = message.chunks(MAX_BODY).zip(0..).map(|(body, part)| {
        let mut datagram = Vec::with_capacity(HEADER_LEN + body.len());
        HandshakeHeader { part, parts, ..header }.write(&mut datagram);
        datagram.extend_from_slice(body);
        mac.sign(&mut datagram);
        datagram
    });
    Some(datagrams.collect())
}

/// The parts of a message that have come so far: at most [`MAX_PARTS`] bodies, all of one sender.
#[derive(Debug, Default)]
pub(super) struct Parts {
    from: Option<(u32, Abilities, u8)>,
    bodies: [Option<Box<[u8]>>; MAX_PARTS as usize],
    macs: [[u8; MAC_LEN]; MAX_PARTS as usize],
}

impl Parts {
    /// Keeps a part. Returns the joined message when it was the last one missing.
    ///
    /// A part that contradicts the earlier ones replaces them: nobody can block a handshake by being first, as all messages are repeated.
    pub(super) fn add(&mut self, header: &HandshakeHeader, mac: [u8; MAC_LEN], body: &[u8]) -> Option<Vec<u8>> {
        let from = (header.sender, header.abilities, header.parts);
        if self.from != Some(from) {
            *self = Self { from: Some(from), ..Self::default() };
        }
        let place = self.bodies.get_mut(usize::from(header.part))?;
        if place.is_some() {
            return None;
        }
        *place = Some(body.into());
        self.macs[usize::from(header.part)] = mac;
        let bodies = self.bodies.get(..usize::from(header.parts))?;
        bodies.iter().all(Option::is_some).then(|| bodies.iter().flatten().flat_map(|body| body.iter().copied()).collect())
    }

    /// Forgets all parts.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether part `part` is still to come, as far as is known.
    pub(super) fn misses(&self, part: u8) -> bool {
        let parts = self.from.map_or(MAX_PARTS, |(_, _, parts)| parts);
        part < parts && self.bodies.get(usize::from(part)).is_some_and(Option::is_none)
    }

    /// The MACs of the parts that have come: what a repeated part is known by.
    pub(super) const fn macs(&self) -> &[[u8; MAC_LEN]; MAX_PARTS as usize] {
        &self.macs
    }

    /// Number of parts, once one has come.
    pub(super) fn number(&self) -> Option<u8> {
        self.from.map(|(_, _, parts)| parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::RealmKey;
    use crate::wire::handshake::Kind;
    use proptest::prelude::*;

    fn header() -> HandshakeHeader {
        HandshakeHeader { abilities: Abilities::local(true), part: 0, parts: 1, kind: Kind::M2, receiver: 1, sender: 2 }
    }

    proptest! {
        #[test]
        fn parts_in_any_order_and_number_join_to_the_message(len in 1usize..3 * MAX_BODY, order in proptest::collection::vec(0usize..3, 3..20)) {
            let mac = RealmMac::new(&RealmKey::new([1; 32]));
            let message: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256) as u8).collect();
            let datagrams = cut(header(), &message, &mac).unwrap();
            let mut parts = Parts::default();
            let mut came = std::collections::BTreeSet::new();
            for at in order {
                let at = at % datagrams.len();
                prop_assert!(mac.verify(&datagrams[at]));
                let (header, tag, body) = HandshakeHeader::parse(&datagrams[at]).unwrap();
                let new = came.insert(at);
                let joined = parts.add(&header, tag, body);
                prop_assert_eq!(joined, (new && came.len() == datagrams.len()).then(|| message.clone()));
                prop_assert!(!parts.misses(header.part));
            }
        }
    }

    #[test]
    fn a_message_beyond_three_parts_is_not_cut() {
        let mac = RealmMac::new(&RealmKey::new([1; 32]));
        assert!(cut(header(), &vec![0; 3 * MAX_BODY], &mac).is_some());
        assert!(cut(header(), &vec![0; 3 * MAX_BODY + 1], &mac).is_none());
    }

    #[test]
    fn parts_of_two_senders_are_never_joined() {
        let mut parts = Parts::default();
        assert_eq!(parts.add(&HandshakeHeader { parts: 2, sender: 9, ..header() }, [0; MAC_LEN], b"x"), None);
        assert_eq!(parts.add(&HandshakeHeader { parts: 2, part: 1, ..header() }, [0; MAC_LEN], b"b"), None);
        assert_eq!(parts.add(&HandshakeHeader { parts: 2, ..header() }, [0; MAC_LEN], b"a"), Some(b"ab".to_vec()));
    }
}
