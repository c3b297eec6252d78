//! The rule that says which links a node wants and which link brings a message closer.
//!
//! A geometry owns nothing: it sees the node's links and what it knows, and answers. Links, NAT, relays, DHT, VPN and security do not know
//! which one runs.
//!
//! | | [`Symphony`] | [`Chord`] | [`Pastry`] | [`Kademlia`] |
//! | --- | --- | --- | --- | --- |
//! | metric | ring, both ways | clockwise from the point | ring, both ways | XOR |
//! | owner of a point | numerically closest | first node at or after it | numerically closest | closest by XOR |
//! | near links | 4 per side | 4 per side | 8 per side | the 8 closest |
//! | long links | harmonic distances | successors of `n + 2^i` | one per prefix and digit of 4 bits | up to 8 per subtree |
//! | next hop | closest, with look-ahead | clockwise, never past the target | longer prefix, else numerically closer | closest by XOR |
//! | broadcast | clockwise ranges | clockwise ranges | clockwise ranges | one subtree each |
//!
//! A table entry is always a live link in both directions: behind NATs nothing else can be counted on.

mod chord;
mod kademlia;
mod pastry;
mod shape;
mod symphony;
mod table;
mod ways;

use core::cmp::Ordering;
use core::fmt;

use super::known::Known;
use super::links::Link;
use crate::config::GeometryKind;
use crate::id::{Distance, NodeId};
use crate::rng::Rng;
use crate::wire::routed::RouteMode;

pub use chord::Chord;
pub use kademlia::Kademlia;
pub use pastry::Pastry;
pub(super) use shape::SIDES;
pub use shape::{Shape, Side};
pub use symphony::Symphony;

/// What a geometry looks at: read-only, sorted by node ID.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The node itself.
    pub local: NodeId,
    /// Whether the own position is, or once was, consistent.
    pub joined: bool,
    /// The links, sorted by node ID.
    pub links: &'a [Link],
    /// Further nodes that are known, sorted by node ID.
    pub known: &'a [Known],
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Deliver it here.
    pub deliver: bool,
    /// Send it on over the link with this index, in this mode.
    pub next: Option<(usize, RouteMode)>,
}

/// A part of the ring, clockwise from `start` up to but without `end`; the whole ring when both are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First point.
    pub start: NodeId,
    /// First point behind it.
    pub end: NodeId,
}

impl Range {
    /// The whole ring, as the node `local` begins to divide it.
    #[must_use]
    pub const fn whole(local: NodeId) -> Self {
        Self { start: local, end: local }
    }

    /// Whether `point` lies in it.
    #[must_use]
    pub fn contains(&self, point: &NodeId) -> bool {
        self.start == self.end || self.start.clockwise_to(point) < self.start.clockwise_to(&self.end)
    }
}

/// A geometry: object-safe and without state, so that one reference to any of them serves the overlay and the DHT.
pub trait Geometry: fmt::Debug + Send + Sync {
    /// Which one it is.
    fn kind(&self) -> GeometryKind;

    /// How nodes surround a point: what is kept of neighbours and told about them.
    fn shape(&self) -> Shape;

    /// How many near links per side the node wants; a tree, which has no sides, twice as many in all.
    fn near_per_side(&self) -> usize;

    /// The metric: how far `node` is from `point`. The node with the smallest one is the point's owner.
    fn distance(&self, point: &NodeId, node: &NodeId) -> Distance;

    /// The metric as an order: which of `a` and `b` is closer to `point`. No ties between different nodes.
    fn closer(&self, point: &NodeId, a: &NodeId, b: &NodeId) -> Ordering {
        self.distance(point, a).cmp(&self.distance(point, b)).then_with(|| point.clockwise_to(a).cmp(&point.clockwise_to(b)))
    }

    /// Where a message for `target` goes from here. Nodes in `avoid` (who sent it, and its source) are never chosen.
    ///
    /// In every mode each hop makes strict progress by an order that all nodes agree on, so no message runs in a circle. Does not allocate.
    fn step(&self, view: &View<'_>, target: &NodeId, mode: RouteMode, avoid: [Option<NodeId>; 2]) -> Step;

    /// Whether next hops are chosen by what links are linked with in turn: only then nodes tell each other.
    fn looks_ahead(&self) -> bool;

    /// Appends the indices of links that came up for something else and shall be kept as long links, because they fill a gap.
    fn adopt_far(&self, view: &View<'_>, out: &mut Vec<usize>);

    /// Whether a long link is missing.
    fn lacks_far(&self, view: &View<'_>) -> bool;

    /// A point for a new long link: its owner is the one to be linked with.
    fn draw_far(&self, view: &View<'_>, rng: &mut Rng) -> NodeId;

    /// Whether `node`, which owns a drawn point and is not linked, is worth a long link.
    fn wants_far(&self, view: &View<'_>, node: &NodeId) -> bool;

    /// The index of a long link of the own that is one too many.
    fn surplus_far(&self, view: &View<'_>, rng: &mut Rng) -> Option<usize>;

    /// Long links of others that are taken at most: a bound against intent, far beyond what chance brings.
    fn max_incoming(&self, view: &View<'_>) -> usize;

    /// Divides `range`, which on a ring begins at this node and in a tree contains it: appends the links in it, each with the part that it
    /// shall cover. Together with this node they cover every node in the range exactly once, if near links and table are right.
    fn split(&self, view: &View<'_>, range: Range, out: &mut Vec<(usize, Range)>);

    /// Appends the indices of those links that are the node's neighbours and must live.
    fn near(&self, view: &View<'_>, out: &mut Vec<usize>) {
        self.shape().near(view, self.near_per_side(), out);
    }

    /// Appends the known nodes (by ID) that should become neighbours.
    fn wanted_near(&self, view: &View<'_>, out: &mut Vec<NodeId>) {
        self.shape().wanted_near(view, self.near_per_side(), out);
    }

    /// Whether this node is responsible for `point`.
    fn is_responsible(&self, view: &View<'_>, point: &NodeId) -> bool {
        let nearer = |link: &Link| ways::may_route(view, link) && self.closer(point, &link.node, &view.local) == Ordering::Less;
        !view.links.iter().any(nearer)
    }

    /// Appends the up to `count` nodes responsible for `point` among this node and its links, the first one first.
    fn responsible_set(&self, view: &View<'_>, point: &NodeId, count: usize, out: &mut Vec<NodeId>) {
        let start = out.len();
        out.push(view.local);
        out.extend(view.links.iter().filter(|link| ways::may_route(view, link)).map(|link| link.node));
        out[start..].sort_unstable_by(|a, b| self.closer(point, a, b));
        out.truncate(start + count);
    }

    /// Whether the neighbours agree that this node stands where it believes to stand. Meaningless without links.
    fn is_consistent(&self, view: &View<'_>) -> bool {
        self.shape().is_consistent(view)
    }

    /// Estimated number of nodes, this one included.
    fn estimate_size(&self, view: &View<'_>) -> u64 {
        self.shape().estimate_size(view, self.near_per_side())
    }
}

/// The geometry of this kind.
#[must_use]
pub fn of(kind: GeometryKind) -> &'static dyn Geometry {
    match kind {
        GeometryKind::Symphony => &Symphony,
        GeometryKind::Chord => &Chord,
        GeometryKind::Pastry => &Pastry,
        GeometryKind::Kademlia => &Kademlia,
    }
}

/// The smallest `n` with `2^n >= value`.
const fn log2_ceil(value: u64) -> u32 {
    match value {
        0 | 1 => 0,
        more => 64 - (more - 1).leading_zeros(),
    }
}

#[cfg(test)]
mod contract_tests;
