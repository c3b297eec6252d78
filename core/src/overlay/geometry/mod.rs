//! The rule that says which links a node wants and which link brings a message closer.
//!
//! A geometry owns nothing: it sees the node's links and what it knows, and answers. Links, NAT, relays, DHT, VPN and security do not know
//! which one runs.

mod symphony;

use core::cmp::Ordering;
use core::fmt;

use super::known::Known;
use super::links::Link;
use crate::config::GeometryKind;
use crate::id::NodeId;
use crate::rng::Rng;
use crate::wire::routed::RouteMode;

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
    /// Whether `point` lies in it.
    #[must_use]
    pub fn contains(&self, point: &NodeId) -> bool {
        self.start == self.end || self.start.clockwise_to(point) < self.start.clockwise_to(&self.end)
    }
}

/// A geometry: object-safe, so that one box in the overlay holds any of them.
pub trait Geometry: fmt::Debug + Send {
    /// Which one it is.
    fn kind(&self) -> GeometryKind;

    /// The metric, as an order: which of `a` and `b` is closer to `point`. No ties between different nodes.
    fn closer(&self, point: &NodeId, a: &NodeId, b: &NodeId) -> Ordering;

    /// Where a message for `target` goes from here. Nodes in `avoid` (who sent it, and its source) are never chosen.
    ///
    /// In every mode each hop makes strict progress by an order that all nodes agree on, so no message runs in a circle. Does not allocate.
    fn step(&self, view: &View<'_>, target: &NodeId, mode: RouteMode, avoid: [Option<NodeId>; 2]) -> Step;

    /// Appends the indices of those links that are the node's neighbours and must live.
    fn near(&self, view: &View<'_>, out: &mut Vec<usize>);

    /// Appends the known nodes (by ID) that should become neighbours.
    fn wanted_near(&self, view: &View<'_>, out: &mut Vec<NodeId>);

    /// Number of long links that a node should make by itself.
    fn wanted_far(&self, view: &View<'_>) -> usize;

    /// A point for a new long link: the node closest to it is the one to be linked with.
    fn draw_far(&self, view: &View<'_>, rng: &mut Rng) -> NodeId;

    /// Number of long links, incoming ones included, from which on a node takes no more, and from which on its own are surplus.
    fn far_bounds(&self, view: &View<'_>) -> FarBounds;

    /// How many nodes per side the near set has.
    fn near_per_side(&self) -> usize;

    /// Whether this node is responsible for `point`.
    fn is_responsible(&self, view: &View<'_>, point: &NodeId) -> bool;

    /// Appends the up to `count` nodes responsible for `point` among this node and its links, the first one first.
    fn responsible_set(&self, view: &View<'_>, point: &NodeId, count: usize, out: &mut Vec<NodeId>);

    /// Divides `range`: appends the links in it, each with the part that it shall cover. Together with this node they cover every node in
    /// the range exactly once, if the ring is right.
    fn split(&self, view: &View<'_>, range: Range, out: &mut Vec<(usize, Range)>);

    /// Whether the neighbours agree that this node stands where it believes to stand. Meaningless without links.
    fn is_consistent(&self, view: &View<'_>) -> bool;

    /// Estimated number of nodes, this one included.
    fn estimate_size(&self, view: &View<'_>) -> u64;
}

/// See [`Geometry::far_bounds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarBounds {
    /// More own long links than this are surplus.
    pub own: usize,
    /// More incoming long links than this are refused.
    pub incoming: usize,
}

/// Builds the geometry of a realm.
#[must_use]
pub fn build(kind: GeometryKind) -> Box<dyn Geometry> {
    match kind {
        GeometryKind::Symphony => Box::new(Symphony),
    }
}
