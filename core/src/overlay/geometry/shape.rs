//! How nodes lie around a point: what near links, the passive list, gossip and the size estimate go by.

use core::iter::{Chain, Rev};
use core::slice::Iter;
use std::vec::IntoIter;

use super::View;
use crate::id::{Distance, NodeId};
use crate::overlay::known::{Known, PASSIVE_PER_SIDE, merge};
use crate::overlay::links::{Link, Placed, clockwise, counter_clockwise, find};

/// The order in which nodes surround a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A circle with two sides: neighbours stand ahead (clockwise) and behind.
    Ring,
    /// A binary tree over the bits of the IDs (the XOR metric): there are no sides, all neighbours stand "ahead" in the order of their distance.
    Tree,
}

/// A side of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Clockwise; in a tree everywhere.
    Ahead = 0,
    /// Counter-clockwise; in a tree nobody.
    Behind = 1,
}

/// Both sides, in the order in which they are looked at.
pub(in crate::overlay) const SIDES: [Side; 2] = [Side::Ahead, Side::Behind];

/// Nodes on one side of a point, nearest first.
pub(crate) enum Surrounding<'a, T> {
    Ahead(Chain<Iter<'a, T>, Iter<'a, T>>),
    Behind(Chain<Rev<Iter<'a, T>>, Rev<Iter<'a, T>>>),
    Sorted(IntoIter<&'a T>),
}

impl<'a, T> Iterator for Surrounding<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        match self {
            Self::Ahead(items) => items.next(),
            Self::Behind(items) => items.next(),
            Self::Sorted(items) => items.next(),
        }
    }
}

impl Shape {
    /// How many places there are on each side where a geometry wants `per_side` of them: a tree has all on one.
    pub(crate) const fn places(self, per_side: usize) -> [usize; 2] {
        match self {
            Self::Ring => [per_side, per_side],
            Self::Tree => [2 * per_side, 0],
        }
    }

    /// How far `node` is away from `point` on one side.
    pub(crate) fn distance(self, side: Side, point: &NodeId, node: &NodeId) -> Distance {
        match (self, side) {
            (Self::Ring, Side::Ahead) => point.clockwise_to(node),
            (Self::Ring, Side::Behind) => node.clockwise_to(point),
            (Self::Tree, _) => point.xor(node),
        }
    }

    /// The items of `sorted` on one side of `point`, nearest first and without what stands on it.
    pub(crate) fn side<'a, T: Placed>(self, side: Side, sorted: &'a [T], point: &NodeId) -> Surrounding<'a, T> {
        match (self, side) {
            (Self::Ring, Side::Ahead) => Surrounding::Ahead(clockwise(sorted, point)),
            (Self::Ring, Side::Behind) => Surrounding::Behind(counter_clockwise(sorted, point)),
            (Self::Tree, Side::Ahead) => {
                let mut order: Vec<&T> = sorted.iter().filter(|item| item.node() != point).collect();
                order.sort_unstable_by_key(|item| point.xor(item.node()));
                Surrounding::Sorted(order.into_iter())
            }
            (Self::Tree, Side::Behind) => Surrounding::Sorted(Vec::new().into_iter()),
        }
    }

    /// The distance of the last of `places` live links on one side; `None` when there are fewer.
    pub(in crate::overlay) fn reach(self, side: Side, view: &View<'_>, places: usize) -> Option<Distance> {
        let link = self.side(side, view.links, &view.local).filter(is_live).nth(places.checked_sub(1)?)?;
        Some(self.distance(side, &view.local, &link.node))
    }

    /// Four points around `point` on both sides, two of them `near` and two `far` away.
    #[must_use]
    pub fn around(self, point: &NodeId, near: &Distance, far: &Distance) -> [NodeId; 4] {
        match self {
            Self::Ring => [point.plus(near), point.less(near), point.plus(far), point.less(far)],
            // One bit more and one bit less than the distance lead into different subtrees.
            Self::Tree => [near.prefix(), near.prefix() >> 1, far.prefix(), far.prefix() >> 1]
                .map(|prefix| NodeId(point.xor(&NodeId(Distance::from_prefix(prefix).0)).0)),
        }
    }

    /// Appends the links in the nearest places on all sides.
    pub(super) fn near(self, view: &View<'_>, per_side: usize, out: &mut Vec<usize>) {
        for (side, places) in SIDES.into_iter().zip(self.places(per_side)) {
            for link in self.side(side, view.links, &view.local).filter(is_live).take(places) {
                if let Ok(index) = find(view.links, &link.node)
                    && !out.contains(&index)
                {
                    out.push(index);
                }
            }
        }
    }

    /// Appends the known nodes that would take one of the nearest places.
    pub(super) fn wanted_near(self, view: &View<'_>, per_side: usize, out: &mut Vec<NodeId>) {
        if view.known.is_empty() {
            return;
        }
        let local = view.local;
        let mut want = |node: &NodeId| {
            if !out.contains(node) {
                out.push(*node);
            }
        };
        let places = self.places(per_side);
        for (side, places) in SIDES.into_iter().zip(places) {
            let links = self.side(side, view.links, &local).filter(is_live);
            let known = self.side(side, view.known, &local).filter(|known| known.is_promising());
            for (_, known) in merge(links, known, |node| self.distance(side, &local, node)).take(places) {
                if let Some(known) = known {
                    want(&known.node);
                }
            }
        }
        if !view.known.iter().any(Known::has_failed) {
            return;
        }
        // Who failed is no reason to want nobody else, but is tried again where only links stand before it.
        let limits = SIDES.map(|side| self.reach(side, view, places[side as usize]));
        for known in view.known.iter().filter(|known| known.has_failed()) {
            let within = |side: Side| {
                let limit = limits[side as usize];
                places[side as usize] > 0 && limit.is_none_or(|limit| self.distance(side, &local, &known.node) < limit)
            };
            if SIDES.into_iter().any(within) {
                want(&known.node);
            }
        }
    }

    /// What a status that `sender` sent says about the place of `local`: whether it names it as its neighbour on the side behind it, and on
    /// the one ahead of it. `lists` are the sender's nearest neighbours behind and ahead, nearest first.
    pub(in crate::overlay) fn confirms(self, local: &NodeId, sender: &NodeId, lists: [&[NodeId]; 2]) -> [bool; 2] {
        match self {
            Self::Ring => lists.map(|list| list.first() == Some(local)),
            Self::Tree => {
                let mut named = lists.into_iter().flatten();
                let full = lists.iter().map(|list| list.len()).sum::<usize>() >= 2 * crate::wire::overlay::MAX_NEAR;
                // Who has no place left for us but among nearer ones knows of us and is right.
                let all_nearer = full && named.clone().all(|node| sender.xor(node) < sender.xor(local));
                [named.any(|node| node == local) || all_nearer; 2]
            }
        }
    }

    /// Whether the neighbours agree that this node stands where it believes to stand.
    pub(super) fn is_consistent(self, view: &View<'_>) -> bool {
        let nearest = |side: Side| self.side(side, view.links, &view.local).find(|link| !link.leaving);
        match self {
            Self::Ring => nearest(Side::Ahead)
                .zip(nearest(Side::Behind))
                .is_some_and(|(after, before)| after.confirms[Side::Ahead as usize] && before.confirms[Side::Behind as usize]),
            Self::Tree => nearest(Side::Ahead).is_some_and(|nearest| {
                let reach = view.local.xor(&nearest.node);
                let nearer = |known: &&Known| known.is_promising() && view.local.xor(&known.node) < reach;
                nearest.confirms[Side::Ahead as usize] && !view.known.iter().any(|known| nearer(&known))
            }),
        }
    }

    /// Estimated number of nodes by how dense they stand around this one.
    pub(super) fn estimate_size(self, view: &View<'_>, per_side: usize) -> u64 {
        // The wide look is the more exact one, unless the passive list has holes: then it sees too few nodes.
        let narrow = self.density(view, per_side);
        let wide = self.density(view, per_side + PASSIVE_PER_SIDE);
        let estimate = if wide < narrow / 4 { narrow } else { wide };
        estimate.max(view.links.iter().filter(is_live).count() as u64 + 1)
    }

    /// Number of nodes where they stand everywhere as dense as among the nearest `per_side` per side; all that are known where those are fewer.
    fn density(self, view: &View<'_>, per_side: usize) -> u64 {
        let promising = |known: &&Known| known.is_promising();
        let (mut count, mut span, mut short) = (0u64, 0u128, false);
        for (side, places) in SIDES.into_iter().zip(self.places(per_side)) {
            let links = self.side(side, view.links, &view.local).filter(is_live);
            let known = self.side(side, view.known, &view.local).filter(promising);
            let (mut seen, mut reach) = (0, Distance::default());
            for (distance, _) in merge(links, known, |node| self.distance(side, &view.local, node)).take(places) {
                (seen, reach) = (seen + 1, distance);
            }
            count += seen as u64;
            span += u128::from(reach.prefix());
            short |= self == Self::Tree && seen < places;
        }
        // Both sides of a ring meet. Cutting both to 64 bits loses less than 2.
        if short || span + 2 > u128::from(u64::MAX) {
            return (view.links.iter().filter(is_live).count() + view.known.iter().filter(promising).count()) as u64 + 1;
        }
        if count == 0 {
            return 1;
        }
        ((u128::from(count) << 64) / span.max(1)).min(u128::from(u64::MAX)) as u64
    }
}

fn is_live(link: &&Link) -> bool {
    !link.leaving
}
