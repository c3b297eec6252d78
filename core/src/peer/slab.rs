//! Numbering of peers: small dense numbers that rest before they are used again.

use core::time::Duration;
use std::collections::VecDeque;

use super::record::Peer;
use crate::shard::table::PeerId;
use crate::time::Instant;

/// Peers at most; a further node's session is closed at once. A node of a ring of a million has some tens of links; this many members talk to one
/// gateway, and cost it 8 MB here.
pub(super) const MAX_PEERS: usize = 16_384;
/// A number rests for as long as a receiver index: shards, circuits and requests that still name it are gone by then.
const REST: Duration = Duration::from_secs(300);
/// Resting numbers at most. When members come and go faster, the one that has rested longest is used early: after 65,536 others, which take longer to
/// shake hands than anything names a peer that is gone.
const MAX_RESTING: usize = 65_536;

/// Peers by number.
#[derive(Debug, Default)]
pub(super) struct Slab {
    slots: Vec<Option<Box<Peer>>>,
    resting: VecDeque<(PeerId, Instant)>,
    len: usize,
}

impl Slab {
    /// The number that the next peer gets; `None` when all are taken.
    pub(super) fn vacant(&mut self, now: Instant) -> Option<PeerId> {
        if self.len >= MAX_PEERS {
            return None;
        }
        let rested = self.resting.front().is_some_and(|&(_, since)| since + REST <= now);
        if rested || self.resting.len() >= MAX_RESTING {
            return self.resting.pop_front().map(|(peer, _)| peer);
        }
        self.slots.push(None);
        Some(PeerId(self.slots.len() as u32 - 1))
    }

    /// Puts a peer at the number that [`Self::vacant`] gave.
    pub(super) fn insert(&mut self, id: PeerId, peer: Peer) {
        self.slots[id.0 as usize] = Some(Box::new(peer));
        self.len += 1;
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.slots.get(id.0 as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.slots.get_mut(id.0 as usize)?.as_deref_mut()
    }

    /// Takes a peer out; its number rests from `now` on.
    pub(super) fn remove(&mut self, id: PeerId, now: Instant) -> Option<Peer> {
        let peer = self.slots.get_mut(id.0 as usize)?.take()?;
        self.len -= 1;
        self.resting.push_back((id, now));
        Some(*peer)
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// All peers in the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| slot.as_deref().map(|peer| (PeerId(index as u32), peer)))
    }
}
