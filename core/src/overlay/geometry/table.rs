//! Tables of links by the prefix that they share with the own ID: the rows of Pastry and the buckets of Kademlia.
//!
//! Row `r` has one slot for each digit that may stand at place `r` behind `r` common digits, but the own one. Both ends of a link see it in the
//! same row, so one link fills a slot on both sides.

use super::View;
use crate::id::{Distance, NODE_ID_LEN, NodeId};
use crate::overlay::links::Link;
use crate::overlay::types::Roles;
use crate::rng::Rng;

/// Rows that may be wanted: in groups of up to 2^64 nodes no ID shares more bits with another one.
const MAX_ROWS: usize = 64;
/// Long links of others that are always taken; together with 4 per wanted one it is far beyond what chance brings.
const INCOMING_BASE: usize = 8;

/// The form of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    /// Bits of a digit: 1 or 4.
    pub(super) bits: u32,
    /// Links per slot.
    pub(super) capacity: usize,
}

/// A slot: the node IDs with the own first `row` digits and then `digit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) row: u32,
    pub(super) digit: u32,
}

/// Whether a link is there for the overlay's sake on either end: links for traffic come and go.
pub(super) fn is_kept(link: &Link) -> bool {
    !link.leaving && link.joined && (link.roles.0 | link.remote_roles.0) & (Roles::NEAR.0 | Roles::SHORTCUT.0) != 0
}

/// Whether a link came up for something that ends, and may be kept as a long link.
pub(super) fn is_spare(link: &Link) -> bool {
    !link.leaving && link.joined && link.roles.without(Roles::LEAF).is_none()
}

impl Table {
    /// The digit of `id` at this place.
    fn digit(self, id: &NodeId, row: u32) -> u32 {
        let bit = row * self.bits;
        u32::from(id.0[(bit / 8) as usize] >> (8 - self.bits - bit % 8)) & ((1 << self.bits) - 1)
    }

    /// How many digits both have in common.
    pub(super) fn common(self, a: &NodeId, b: &NodeId) -> u32 {
        a.common_prefix_len(b) / self.bits
    }

    /// Where `node` belongs; `None` for the own ID.
    pub(super) fn slot(self, local: &NodeId, node: &NodeId) -> Option<Slot> {
        let row = self.common(local, node);
        ((row * self.bits) < 8 * NODE_ID_LEN as u32).then(|| Slot { row, digit: self.digit(node, row) })
    }

    /// First and last ID of a slot.
    pub(super) fn span(self, local: &NodeId, slot: Slot) -> (NodeId, NodeId) {
        let bit = slot.row * self.bits;
        let (mut first, mut last) = (*local, *local);
        for place in bit..8 * NODE_ID_LEN as u32 {
            let mask = 0x80 >> (place % 8);
            let below = place - bit;
            let set = below < self.bits && slot.digit >> (self.bits - 1 - below) & 1 == 1;
            let (low, high) = (set, set || below >= self.bits);
            for (id, on) in [(&mut first, low), (&mut last, high)] {
                let byte = &mut id.0[(place / 8) as usize];
                *byte = if on { *byte | mask } else { *byte & !mask };
            }
        }
        (first, last)
    }

    /// A point of a slot.
    fn point(self, local: &NodeId, slot: Slot, rng: &mut Rng) -> NodeId {
        let (first, last) = self.span(local, slot);
        let mut point = NodeId(rng.bytes());
        // Where first and last agree, the slot says the bit; behind it chance does.
        for (place, byte) in point.0.iter_mut().enumerate() {
            let free = first.0[place] ^ last.0[place];
            *byte = *byte & free | first.0[place] & !free;
        }
        point
    }

    /// Links that a slot of this row shall have in a group of `size` nodes: no more than half of those that are expected to exist.
    fn wanted(self, size: u64, row: u32) -> usize {
        let expected = size.checked_shr(self.bits * (row + 1)).unwrap_or(0);
        self.capacity.min(usize::try_from(expected.div_ceil(2)).unwrap_or(usize::MAX))
    }

    /// The slots that need more links, each with how many it has, lowest row first. What `is_whole` is known to the last node anyway.
    fn gaps(self, view: &View<'_>, size: u64, is_whole: &dyn Fn(Slot) -> bool) -> Vec<(Slot, usize)> {
        let mut filled: Vec<Slot> =
            view.links.iter().filter(|link| is_kept(link)).filter_map(|link| self.slot(&view.local, &link.node)).collect();
        filled.sort_unstable();
        let mut gaps = Vec::new();
        for row in 0..MAX_ROWS as u32 / self.bits {
            let wanted = self.wanted(size, row);
            if wanted == 0 {
                break;
            }
            let own = self.digit(&view.local, row);
            for digit in (0..1 << self.bits).filter(|digit| *digit != own) {
                let slot = Slot { row, digit };
                let has = filled.partition_point(|other| *other <= slot) - filled.partition_point(|other| *other < slot);
                if has < wanted && !is_whole(slot) {
                    gaps.push((slot, has));
                }
            }
        }
        gaps
    }

    /// Appends spare links that fill gaps.
    pub(super) fn adopt(self, view: &View<'_>, size: u64, is_whole: &dyn Fn(Slot) -> bool, out: &mut Vec<usize>) {
        let mut gaps = self.gaps(view, size, is_whole);
        for (index, link) in view.links.iter().enumerate().filter(|(_, link)| is_spare(link) && !is_kept(link)) {
            let slot = self.slot(&view.local, &link.node);
            let gap = gaps.iter_mut().find(|(gap, has)| Some(*gap) == slot && *has < self.wanted(size, gap.row));
            if let Some((_, has)) = gap {
                *has += 1;
                out.push(index);
            }
        }
    }

    pub(super) fn lacks(self, view: &View<'_>, size: u64, is_whole: &dyn Fn(Slot) -> bool) -> bool {
        !self.gaps(view, size, is_whole).is_empty()
    }

    /// A point in a slot that needs links. Empty slots come first; among equal ones each row is asked half as often as the one before it: so
    /// a slot that nobody lives in does not keep the others from being filled.
    pub(super) fn draw(self, view: &View<'_>, size: u64, is_whole: &dyn Fn(Slot) -> bool, rng: &mut Rng) -> NodeId {
        let mut gaps = self.gaps(view, size, is_whole);
        gaps.sort_by_key(|(slot, has)| (*has > 0, slot.row));
        let mut start = 0;
        while start < gaps.len() {
            let key = |index: usize| (gaps[index].1 > 0, gaps[index].0.row);
            let end = (start..gaps.len()).find(|&index| key(index) != key(start)).unwrap_or(gaps.len());
            if end == gaps.len() || rng.next_u64() & 1 == 0 {
                let pick = start + rng.below((end - start) as u64) as usize;
                return self.point(&view.local, gaps[pick].0, rng);
            }
            start = end;
        }
        NodeId(rng.bytes())
    }

    /// Whether `node` would fill a gap.
    pub(super) fn wants(self, view: &View<'_>, node: &NodeId) -> bool {
        let Some(slot) = self.slot(&view.local, node) else { return false };
        let has = view.links.iter().filter(|link| is_kept(link) && self.slot(&view.local, &link.node) == Some(slot)).count();
        has < self.capacity
    }

    /// The newest of the own links in a slot that has more of them than it holds.
    pub(super) fn surplus(self, view: &View<'_>) -> Option<usize> {
        let own = |index: &usize| view.links[*index].roles.has(Roles::SHORTCUT);
        let slot = |index: usize| self.slot(&view.local, &view.links[index].node);
        let mut slots: Vec<(Option<Slot>, usize)> = (0..view.links.len()).filter(own).map(|index| (slot(index), index)).collect();
        slots.sort_unstable_by_key(|(slot, index)| (*slot, view.links[*index].since, *index));
        // The one behind `capacity` older ones of the same slot.
        slots.windows(self.capacity + 1).find(|run| run[0].0 == run[self.capacity].0).map(|run| run[self.capacity].1)
    }

    /// Long links of others that are taken at most.
    pub(super) fn max_incoming(self, size: u64) -> usize {
        let rows = (0..MAX_ROWS as u32 / self.bits).map(|row| self.wanted(size, row)).take_while(|wanted| *wanted > 0);
        4 * rows.sum::<usize>() * ((1 << self.bits) - 1) + INCOMING_BASE
    }

    /// The first ID behind a slot whose last one is `last`.
    pub(super) fn next_behind(last: &NodeId) -> NodeId {
        let mut one = [0; NODE_ID_LEN];
        one[NODE_ID_LEN - 1] = 1;
        last.plus(&Distance(one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    const PASTRY: Table = Table { bits: 4, capacity: 1 };
    const KADEMLIA: Table = Table { bits: 1, capacity: 8 };

    proptest! {
        #[test]
        fn every_other_node_has_exactly_one_slot_and_lies_in_its_span(local in any::<[u8; 20]>(), node in any::<[u8; 20]>(), shared in 0usize..160, seed in any::<u8>()) {
            let local = NodeId(local);
            let mut node = NodeId(node);
            for bit in 0..shared {
                let mask = 0x80 >> (bit % 8);
                node.0[bit / 8] = node.0[bit / 8] & !mask | local.0[bit / 8] & mask;
            }
            prop_assume!(node != local);
            for table in [PASTRY, KADEMLIA] {
                let slot = table.slot(&local, &node).expect("not the own ID");
                let (first, last) = table.span(&local, slot);
                prop_assert!(first <= node && node <= last && !(first <= local && local <= last));
                prop_assert_eq!((table.slot(&local, &first), table.slot(&local, &last)), (Some(slot), Some(slot)));
                prop_assert_ne!(table.slot(&local, &Table::next_behind(&last)), Some(slot));
                prop_assert_eq!(table.slot(&local, &table.point(&local, slot, &mut Rng::new([seed; 32]))), Some(slot));
            }
        }
    }

    #[test]
    fn rows_are_wanted_as_long_as_somebody_is_expected_in_their_slots() {
        assert_eq!((0..4).map(|row| PASTRY.wanted(1000, row)).collect::<Vec<_>>(), [1, 1, 0, 0]);
        assert_eq!((0..10).map(|row| KADEMLIA.wanted(1000, row)).collect::<Vec<_>>(), [8, 8, 8, 8, 8, 8, 4, 2, 1, 0]);
        assert_eq!(PASTRY.slot(&NodeId::default(), &NodeId::default()), None);
    }
}
