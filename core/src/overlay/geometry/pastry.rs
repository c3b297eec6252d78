//! Pastry: a leaf set on a ring, and a table with one node for each digit behind each prefix of the own ID (Rowstron, Druschel: "Pastry:
//! Scalable, Decentralized Object Location, and Routing for Large-Scale Peer-to-Peer Systems", 2001). Digits of 4 bits, 16 leaves.
//!
//! A message goes to a node that shares more digits with the point, or as many and is numerically closer. That order has no circles, but its end
//! need not be the numerically closest node; so from where the leaves surround the point, the rest goes by the metric in [`RouteMode::Final`].

use core::cmp::Reverse;

use super::table::{Slot, Table};
use super::ways;
use super::{Geometry, Range, SIDES, Shape, Side, Step, View};
use crate::config::GeometryKind;
use crate::id::{Distance, NodeId};
use crate::rng::Rng;
use crate::wire::routed::RouteMode;

/// Leaves per side.
const LEAVES_PER_SIDE: usize = 8;
/// One node per slot, 15 slots per row.
const TABLE: Table = Table { bits: 4, capacity: 1 };

/// The Pastry geometry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pastry;

/// The order along the way: more common digits first, then numerically closer. Without ties.
fn order<'a>(target: &'a NodeId) -> impl Fn(&NodeId) -> (Reverse<u32>, Distance, Distance) + 'a {
    move |node| (Reverse(TABLE.common(node, target)), target.distance_to(node), target.clockwise_to(node))
}

/// The metric. Without ties.
fn nearness<'a>(target: &'a NodeId) -> impl Fn(&NodeId) -> (Distance, Distance) + 'a {
    move |node| (target.distance_to(node), target.clockwise_to(node))
}

/// Whether the leaves reach as far as `point`: then its owner is one of them, or we are.
fn covers(view: &View<'_>, point: &NodeId) -> bool {
    SIDES.into_iter().any(|side| {
        let reach = Shape::Ring.reach(side, view, LEAVES_PER_SIDE);
        reach.is_none_or(|reach| Shape::Ring.distance(side, &view.local, point) <= reach)
    })
}

/// Whether the leaves reach over a whole slot: then nobody else lives in it.
fn is_whole(view: &View<'_>, slot: Slot) -> bool {
    let (first, last) = TABLE.span(&view.local, slot);
    let reached = |side: Side, end: &NodeId| {
        let reach = Shape::Ring.reach(side, view, LEAVES_PER_SIDE);
        reach.is_none_or(|reach| Shape::Ring.distance(side, &view.local, end) <= reach)
    };
    reached(Side::Ahead, &last) || reached(Side::Behind, &first)
}

impl Geometry for Pastry {
    fn kind(&self) -> GeometryKind {
        GeometryKind::Pastry
    }

    fn shape(&self) -> Shape {
        Shape::Ring
    }

    fn near_per_side(&self) -> usize {
        LEAVES_PER_SIDE
    }

    fn distance(&self, point: &NodeId, node: &NodeId) -> Distance {
        point.distance_to(node)
    }

    fn step(&self, view: &View<'_>, target: &NodeId, mode: RouteMode, avoid: [Option<NodeId>; 2]) -> Step {
        let longer = || ways::descend(view, avoid, order(target));
        let nearer = || ways::descend(view, avoid, nearness(target));
        match mode {
            RouteMode::Exact => ways::exact(view, target, avoid, longer),
            RouteMode::Closest if !covers(view, target) => match longer() {
                Some(index) => ways::onward(Some(index), mode),
                None => ways::onward(nearer(), RouteMode::Final),
            },
            RouteMode::Closest | RouteMode::Final => ways::onward(nearer(), RouteMode::Final),
            RouteMode::Bracket => ways::bracket(view, target, avoid, nearer),
            RouteMode::Before | RouteMode::After | RouteMode::Clockwise | RouteMode::CounterClockwise => {
                ways::along_the_ring(view, target, mode, avoid)
            }
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

    /// By clockwise ranges rather than one message per slot: the leaves alone make them whole, whatever is missing in the table.
    fn split(&self, view: &View<'_>, range: Range, out: &mut Vec<(usize, Range)>) {
        ways::split_clockwise(view, range, out);
    }
}
