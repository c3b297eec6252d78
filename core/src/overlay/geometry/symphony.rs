//! Symphony: a ring with shortcuts at harmonically distributed distances (Manku, Bawa, Raghavan: "Symphony: Distributed Hashing in a Small
//! World", 2003), routed in both directions with one step of look-ahead (Naor, Wieder: "Know Thy Neighbor's Neighbor", 2004).

use core::cmp::Ordering;

use super::ways::{self, Avoid, allowed, may_route};
use super::{Geometry, Range, Shape, Step, View, log2_ceil};
use crate::config::GeometryKind;
use crate::id::{Distance, NodeId};
use crate::overlay::types::Roles;
use crate::rng::Rng;
use crate::wire::routed::RouteMode;

/// Near links per side: 2 make a ring, 4 keep it whole while nodes with one-minute sessions come and go (figures of section 2.2).
const NEAR_PER_SIDE: usize = 4;
/// Rings up to this size have no shortcuts: near links reach everybody within two hops.
const SMALL_RING: u64 = 10;
/// Incoming shortcuts that are always accepted; together with 4 per wanted one it is far beyond what chance brings.
const INCOMING_BASE: usize = 8;

/// The Symphony geometry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Symphony;

impl Symphony {
    /// Number of shortcuts that a node makes by itself.
    fn wanted(self, view: &View<'_>) -> usize {
        let size = self.estimate_size(view);
        if size <= SMALL_RING { 0 } else { (log2_ceil(size) as usize).div_ceil(2) }
    }
}

fn own(view: &View<'_>) -> impl Iterator<Item = usize> {
    (0..view.links.len()).filter(|&index| view.links[index].roles.has(Roles::SHORTCUT))
}

impl Geometry for Symphony {
    fn kind(&self) -> GeometryKind {
        GeometryKind::Symphony
    }

    fn shape(&self) -> Shape {
        Shape::Ring
    }

    fn near_per_side(&self) -> usize {
        NEAR_PER_SIDE
    }

    fn distance(&self, point: &NodeId, node: &NodeId) -> Distance {
        point.distance_to(node)
    }

    fn step(&self, view: &View<'_>, target: &NodeId, mode: RouteMode, avoid: [Option<NodeId>; 2]) -> Step {
        match mode {
            RouteMode::Exact => ways::exact(view, target, avoid, || greedy(view, target, avoid)),
            RouteMode::Closest | RouteMode::Final => ways::onward(greedy(view, target, avoid), mode),
            RouteMode::Bracket => ways::bracket(view, target, avoid, || greedy(view, target, avoid)),
            RouteMode::Before | RouteMode::After | RouteMode::Clockwise | RouteMode::CounterClockwise => {
                ways::along_the_ring(view, target, mode, avoid)
            }
        }
    }

    fn looks_ahead(&self) -> bool {
        true
    }

    fn adopt_far(&self, _: &View<'_>, _: &mut Vec<usize>) {
        // Any distance but a drawn one would bend the distribution.
    }

    fn lacks_far(&self, view: &View<'_>) -> bool {
        own(view).count() < self.wanted(view)
    }

    fn draw_far(&self, view: &View<'_>, rng: &mut Rng) -> NodeId {
        let distance = draw_distance(self.estimate_size(view), rng);
        if rng.next_u64() & 1 == 0 { view.local.plus(&distance) } else { view.local.less(&distance) }
    }

    fn wants_far(&self, _: &View<'_>, _: &NodeId) -> bool {
        true
    }

    fn surplus_far(&self, view: &View<'_>, rng: &mut Rng) -> Option<usize> {
        let count = own(view).count();
        if count <= 2 * self.wanted(view) {
            return None;
        }
        own(view).nth(rng.below(count as u64) as usize)
    }

    fn max_incoming(&self, view: &View<'_>) -> usize {
        // Chance brings about as many as are wanted.
        4 * self.wanted(view) + INCOMING_BASE
    }

    fn split(&self, view: &View<'_>, range: Range, out: &mut Vec<(usize, Range)>) {
        ways::split_clockwise(view, range, out);
    }
}

/// The link whose other end, or a neighbour of it, is closest to `target`. The other end itself is always closer than we are: that is what
/// keeps messages from running in circles, however stale the neighbours' neighbours may be.
fn greedy(view: &View<'_>, target: &NodeId, avoid: Avoid) -> Option<usize> {
    let goal = (target.prefix() >> 32) as u32;
    let reach = target.distance_to(&view.local);
    let mut best: Option<(u32, usize)> = None;
    for (index, link) in view.links.iter().enumerate() {
        if !may_route(view, link) || !allowed(link, avoid) || target.distance_to(&link.node) > reach {
            continue;
        }
        if target.closer(&link.node, &view.local) != Ordering::Less {
            continue;
        }
        let own = arc(goal, (link.node.prefix() >> 32) as u32);
        let score = link.prefixes.iter().map(|&prefix| arc(goal, prefix)).fold(own, u32::min);
        let better = best.is_none_or(|(best_score, best_index)| {
            score < best_score || score == best_score && target.closer(&link.node, &view.links[best_index].node) == Ordering::Less
        });
        if better {
            best = Some((score, index));
        }
    }
    best.map(|(_, index)| index)
}

/// Distance of two 32-bit prefixes on the ring.
const fn arc(a: u32, b: u32) -> u32 {
    let there = a.wrapping_sub(b);
    let back = b.wrapping_sub(a);
    if there < back { there } else { back }
}

/// A harmonically distributed distance in a ring of `size` nodes.
pub(super) fn draw_distance(size: u64, rng: &mut Rng) -> Distance {
    Distance::from_prefix(harmonic(size, rng))
}

/// A distance (first 64 bits) whose logarithm is uniform between the mean spacing of `size` nodes and half the ring.
///
/// Integers only: an octave is drawn uniformly, then a point of it by rejection with probability 1/x.
fn harmonic(size: u64, rng: &mut Rng) -> u64 {
    let spacing = u64::MAX / size.max(2);
    let octaves = u64::from(log2_ceil(size.max(2)));
    // Each draw succeeds with probability of at least ln 2 / 2; 64 of them fail less than once in 10^11.
    for _ in 0..64 {
        let octave = rng.below(octaves) as u32;
        let mantissa = rng.next_u64() | 1 << 63;
        let accepted = u128::from(rng.next_u64()) * u128::from(mantissa) < 1 << 127;
        let distance = mantissa >> (octave + 1).min(63);
        if accepted && distance >= spacing {
            return distance;
        }
    }
    spacing
}

#[cfg(test)]
#[path = "symphony_tests.rs"]
mod tests;
