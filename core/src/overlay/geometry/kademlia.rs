//! Kademlia: buckets of nodes by the length of the prefix that they share with the own ID, routed down the XOR metric (Maymounkov, Mazieres:
//! "Kademlia: A Peer-to-peer Information System Based on the XOR Metric", 2002), hop by hop rather than by a searching asker: behind NATs only
//! links can be asked.
//!
//! Buckets hold 8 links, not 20 contacts: each costs keep-alives. There are no sides: [`RouteMode::Bracket`] is delivered by the two nodes
//! closest to the point, and walks in a direction find no way. Near links alone do not connect a group (a subtree of more nodes than are near
//! is sufficient to itself), the buckets do: they take over the links of the first contact before those end.

use super::table::{Slot, Table};
use super::ways;
use super::{Geometry, Range, Shape, Side, Step, View};
use crate::config::GeometryKind;
use crate::id::{Distance, NodeId};
use crate::overlay::links::find;
use crate::rng::Rng;
use crate::wire::routed::RouteMode;

/// Half of the closest nodes that are linked.
const NEAR_PER_SIDE: usize = 4;
/// Eight links for each subtree.
const TABLE: Table = Table { bits: 1, capacity: 8 };

/// The Kademlia geometry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kademlia;

/// Whether all nodes of a bucket are near: it lies within the farthest of them.
fn is_whole(view: &View<'_>, slot: Slot) -> bool {
    let reach = Shape::Tree.reach(Side::Ahead, view, 2 * NEAR_PER_SIDE);
    reach.is_none_or(|reach| slot.row > reach.leading_zeros())
}

/// The parts of a slot's span that lie in `range`: none, one, or two where the range begins and ends in it.
fn pieces(first: NodeId, last: NodeId, range: Range) -> [Option<Range>; 2] {
    let end = Table::next_behind(&last);
    if range.start == range.end {
        return [Some(Range { start: first, end }), None];
    }
    let span = Range { start: first, end };
    let starts = |from: NodeId| {
        // Up to the nearer of both ends.
        let end = if from.clockwise_to(&span.end) <= from.clockwise_to(&range.end) { span.end } else { range.end };
        Range { start: from, end }
    };
    let head = range.contains(&first).then(|| starts(first));
    let tail = (span.contains(&range.start) && range.start != first).then(|| starts(range.start));
    [head, tail]
}

impl Geometry for Kademlia {
    fn kind(&self) -> GeometryKind {
        GeometryKind::Kademlia
    }

    fn shape(&self) -> Shape {
        Shape::Tree
    }

    fn near_per_side(&self) -> usize {
        NEAR_PER_SIDE
    }

    fn distance(&self, point: &NodeId, node: &NodeId) -> Distance {
        point.xor(node)
    }

    fn step(&self, view: &View<'_>, target: &NodeId, mode: RouteMode, avoid: [Option<NodeId>; 2]) -> Step {
        let closer = || ways::descend(view, avoid, |node| target.xor(node));
        match mode {
            RouteMode::Exact => ways::exact(view, target, avoid, closer),
            RouteMode::Closest | RouteMode::Final => ways::onward(closer(), mode),
            RouteMode::Bracket => match closer() {
                Some(index) => Step { deliver: false, next: Some((index, mode)) },
                // We are the closest; the second closest hears of it from us.
                None => {
                    let second = ways::usable(view, avoid).min_by_key(|(_, link)| target.xor(&link.node));
                    Step { deliver: true, next: second.map(|(index, _)| (index, RouteMode::After)) }
                }
            },
            RouteMode::Before | RouteMode::After => ways::DELIVER,
            RouteMode::Clockwise | RouteMode::CounterClockwise => ways::LOST,
        }
    }

    fn looks_ahead(&self) -> bool {
        false
    }

    fn adopt_far(&self, view: &View<'_>, out: &mut Vec<usize>) {
        TABLE.adopt(view, self.estimate_size(view), &|slot| is_whole(view, slot), out);
    }

    fn lacks_far(&self, view: &View<'_>) -> bool {
        TABLE.lacks(view, self.estimate_size(view), &|slot| is_whole(view, slot))
    }

    fn draw_far(&self, view: &View<'_>, rng: &mut Rng) -> NodeId {
        TABLE.draw(view, self.estimate_size(view), &|slot| is_whole(view, slot), rng)
    }

    fn wants_far(&self, view: &View<'_>, node: &NodeId) -> bool {
        TABLE.wants(view, node)
    }

    fn surplus_far(&self, view: &View<'_>, _: &mut Rng) -> Option<usize> {
        TABLE.surplus(view)
    }

    fn max_incoming(&self, view: &View<'_>) -> usize {
        TABLE.max_incoming(self.estimate_size(view))
    }

    /// One part for each subtree beside the own one: the part that lies in the range goes to a link in it.
    fn split(&self, view: &View<'_>, range: Range, out: &mut Vec<(usize, Range)>) {
        let start = out.len();
        let within = |range: &Range, node: &NodeId| range.contains(node);
        for link in view.links.iter().filter(|link| ways::may_route(view, link) && within(&range, &link.node)) {
            let (Some(slot), Ok(index)) = (TABLE.slot(&view.local, &link.node), find(view.links, &link.node)) else { continue };
            let (first, last) = TABLE.span(&view.local, slot);
            for piece in pieces(first, last, range).into_iter().flatten().filter(|piece| within(piece, &link.node)) {
                if !out[start..].iter().any(|(_, part)| *part == piece) {
                    out.push((index, piece));
                }
            }
        }
    }
}
