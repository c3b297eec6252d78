//! What the DHT knows of the ring: its near neighbours, and by them which nodes hold a key.
//!
//! Replicas of a key are the [`DEGREE`] nodes nearest to its point (all nodes where there are fewer). Nearest nodes rather than symmetric points: the
//! replicas are near neighbours of each other, so that a crash is repaired by those who notice it, at once and without a look-up; any number of nodes from
//! one on gives exactly `min(5, N)` distinct replicas. What symmetric points would give beyond that, several independent ways to a key, comes from asking
//! at neighbouring points of the ring as well (see [`Ring::probes`]).

use crate::config::GeometryKind;
use crate::id::{Distance, NodeId};
use crate::overlay::geometry::{self, Geometry, Side};

/// Number of replicas of a record.
pub const DEGREE: usize = 5;
/// A countersigner must lie within this many mean node distances of the key: beyond it a grant is not one of a replica.
/// The fifth nearest node lies 2.5 of them away on average; the 16th is further out in one ring of a million.
pub const PLAUSIBLE_SPACINGS: u64 = 16;

pub use crate::overlay::{ReplyTo, RequestError, RingView};

/// This node's view of the ring, as the DHT uses it.
#[derive(Clone, Debug)]
pub struct Ring {
    local: NodeId,
    geometry: &'static dyn Geometry,
    consistent: bool,
    size: u64,
    /// Live neighbours in ascending order of ID, without the local node.
    near: Vec<NodeId>,
    /// [`DEGREE`] nodes on each side (in a tree twice as many in all), in ascending order: when none of them changes, neither does what the
    /// local node holds.
    vicinity: Vec<NodeId>,
    /// Live neighbours and those further ones that they told of, in ascending order, without the local node.
    all: Vec<NodeId>,
}

impl Ring {
    /// A view of nothing yet: not consistent, alone.
    #[must_use]
    pub fn new(local: NodeId, geometry: GeometryKind) -> Self {
        Self {
            local,
            geometry: geometry::of(geometry),
            consistent: false,
            size: 1,
            near: Vec::new(),
            vicinity: Vec::new(),
            all: Vec::new(),
        }
    }

    /// Takes over a new view; returns whether what the local node holds may have changed by it.
    pub fn update(&mut self, view: &RingView) -> bool {
        let mut near: Vec<NodeId> = view.successors.iter().chain(&view.predecessors).copied().filter(|node| *node != self.local).collect();
        near.sort_unstable();
        near.dedup();
        let mut all: Vec<NodeId> = near.iter().chain(&view.known).copied().filter(|node| *node != self.local).collect();
        all.sort_unstable();
        all.dedup();
        let shape = self.geometry.shape();
        let around = [Side::Ahead, Side::Behind].into_iter().zip(shape.places(DEGREE));
        let around = around.flat_map(|(side, places)| shape.side(side, &all, &self.local).take(places));
        let mut vicinity: Vec<NodeId> = around.chain(&near).copied().collect();
        vicinity.sort_unstable();
        vicinity.dedup();
        let changed = near != self.near || vicinity != self.vicinity;
        self.vicinity = vicinity;
        self.consistent = view.consistent;
        self.size = view.size_estimate.max(near.len() as u64 + 1);
        self.near = near;
        self.all = all;
        changed
    }

    /// The local node.
    #[must_use]
    pub const fn local(&self) -> NodeId {
        self.local
    }

    /// Whether the position is consistent.
    #[must_use]
    pub const fn is_consistent(&self) -> bool {
        self.consistent
    }

    /// Live neighbours in ascending order of ID.
    #[must_use]
    pub fn near(&self) -> &[NodeId] {
        &self.near
    }

    /// The nodes whose coming and going changes what the local node holds, in ascending order.
    #[must_use]
    pub fn vicinity(&self) -> &[NodeId] {
        &self.vicinity
    }

    /// Number of replicas that a record can have: [`DEGREE`], or all nodes where there are fewer.
    #[must_use]
    pub fn replicas(&self) -> usize {
        (self.near.len() + 1).min(DEGREE)
    }

    /// How many distinct countersigners a lease needs: the majority of [`Self::replicas`].
    #[must_use]
    pub fn required(&self) -> usize {
        majority(self.replicas())
    }

    /// Sorts nodes by their distance to `point`, the nearest first.
    pub fn sort(&self, nodes: &mut [NodeId], point: &NodeId) {
        nodes.sort_unstable_by(|a, b| self.geometry.closer(point, a, b));
    }

    /// How many known nodes lie closer to `point` than `node`.
    #[must_use]
    pub fn rank(&self, node: &NodeId, point: &NodeId) -> usize {
        let closer = |other: &NodeId| other != node && self.geometry.closer(point, other, node).is_lt();
        self.all.iter().filter(|other| closer(other)).count() + usize::from(closer(&self.local))
    }

    /// Whether the local node is a replica for `point`.
    #[must_use]
    pub fn holds(&self, point: &NodeId) -> bool {
        self.rank(&self.local, point) < DEGREE
    }

    /// The known nodes nearest to `point`, the local one included, nearest first; at most [`DEGREE`].
    #[must_use]
    pub fn nearest(&self, point: &NodeId) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.all.iter().copied().chain([self.local]).collect();
        self.sort(&mut nodes, point);
        nodes.truncate(DEGREE);
        nodes
    }

    /// Who becomes a replica for `point` when the local one, which is one, goes; `None` when all nodes are already.
    #[must_use]
    pub fn next_replica(&self, point: &NodeId) -> Option<NodeId> {
        let mut nodes: Vec<NodeId> = self.all.clone();
        self.sort(&mut nodes, point);
        nodes.get(DEGREE - 1).copied()
    }

    /// Whether the ring has nodes that this one does not know.
    #[must_use]
    pub fn has_strangers(&self) -> bool {
        self.size > self.all.len() as u64 + 1
    }

    /// Points around `point`: the nodes closest to them know its replicas independently of the one that is closest to it. Two lie within the replicas'
    /// arc, two beyond it but within what its nodes know; each further `round` reaches for others.
    #[must_use]
    pub fn probes(&self, point: &NodeId, round: u32) -> [NodeId; 4] {
        let spacing = u64::MAX / self.size.max(1);
        let away = |spacings: u32| Distance::from_prefix(spacing.saturating_mul(u64::from(spacings)));
        let (near, far) = (away(1 + round % 3), away(4 + 2 * (round % 3)));
        self.geometry.shape().around(point, &near, &far)
    }

    /// Whether `node` may be a replica of `point`, by its distance.
    #[must_use]
    pub fn is_plausible(&self, node: &NodeId, point: &NodeId) -> bool {
        let spacing = u64::MAX / self.size.max(1);
        self.geometry.distance(point, node).prefix() <= spacing.saturating_mul(PLAUSIBLE_SPACINGS)
    }
}

/// More than half of `count`.
#[must_use]
pub const fn majority(count: usize) -> usize {
    count / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(prefix: u64) -> NodeId {
        NodeId::default().plus(&Distance::from_prefix(prefix))
    }

    #[test]
    fn small_rings_have_as_many_replicas_as_nodes() {
        let mut ring = Ring::new(at(0), GeometryKind::Symphony);
        let needed = [1, 2, 2, 3, 3, 3, 3];
        for (others, needed) in needed.into_iter().enumerate() {
            let nodes: Vec<NodeId> = (1..=others as u64).map(|i| at(i << 60)).collect();
            let view = RingView {
                consistent: true,
                size_estimate: others as u64 + 1,
                successors: nodes.clone(),
                predecessors: nodes,
                ..RingView::default()
            };
            ring.update(&view);
            assert_eq!(ring.required(), needed);
            assert_eq!(ring.nearest(&at(5)).len(), (others + 1).min(DEGREE));
        }
    }

    #[test]
    fn a_far_node_is_no_plausible_replica_in_a_large_ring() {
        let mut ring = Ring::new(at(0), GeometryKind::Symphony);
        ring.update(&RingView { consistent: true, size_estimate: 10_000, ..RingView::default() });
        assert!(ring.is_plausible(&at(u64::MAX / 10_000 * 3), &at(0)));
        assert!(!ring.is_plausible(&at(u64::MAX / 10_000 * 17), &at(0)));
        assert!(ring.has_strangers());
    }
}
