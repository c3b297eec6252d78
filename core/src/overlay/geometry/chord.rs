//! Chord: a ring with fingers to the successors of `n + 2^i`, routed clockwise only (Stoica, Morris, Karger, Kaashoek, Balakrishnan: "Chord: A
//! Scalable Peer-to-peer Lookup Service for Internet Applications", 2001).
//!
//! A point belongs to the first node at or behind it. Messages for a point never overshoot it until they stand right before it; the last hop to
//! its owner goes in [`RouteMode::Final`], so that both legs descend an order of their own.

use super::table::{is_kept, is_spare};
use super::ways;
use super::{Geometry, Range, Shape, Side, Step, View, log2_ceil};
use crate::config::GeometryKind;
use crate::id::{Distance, NODE_ID_LEN, NodeId};
use crate::overlay::links::Link;
use crate::overlay::types::Roles;
use crate::rng::Rng;
use crate::wire::routed::RouteMode;

/// Successors that are linked, and as many predecessors: those have this node as one of their successors.
const NEAR_PER_SIDE: usize = 4;
/// Incoming fingers that are always taken.
const INCOMING_BASE: usize = 8;
/// Incoming fingers per own one: how many a node gets follows the length of its arc, which is 16 times the mean once in 10^7 nodes.
const INCOMING_PER_FINGER: usize = 16;

/// The Chord geometry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chord;

/// Where the fingers of a node start that lie beyond its successors, the farthest first.
fn starts(view: &View<'_>) -> impl Iterator<Item = NodeId> {
    let local = view.local;
    let reach = Shape::Ring.reach(Side::Ahead, view, NEAR_PER_SIDE);
    let power = |bit: usize| {
        let mut power = [0; NODE_ID_LEN];
        power[bit / 8] = 0x80 >> (bit % 8);
        Distance(power)
    };
    let powers = (0..8 * NODE_ID_LEN).map(power).take_while(move |power| reach.is_some_and(|reach| *power > reach));
    powers.map(move |power| local.plus(&power))
}

/// The link that is the finger with this start: nobody is known to stand between both.
fn finger(view: &View<'_>, start: &NodeId) -> Option<usize> {
    let first = view.links.partition_point(|link| link.node < *start);
    let order = (first..view.links.len()).chain(0..first);
    let index = order.into_iter().find(|&index| view.links[index].joined && !view.links[index].leaving)?;
    let link = &view.links[index];
    let between = |before: &NodeId| start.clockwise_to(before) < start.clockwise_to(&link.node);
    let past_us = start.clockwise_to(&view.local) < start.clockwise_to(&link.node);
    (!past_us && !link.reported.is_some_and(|(before, _)| between(&before))).then_some(index)
}

fn is_missing(view: &View<'_>, start: &NodeId) -> bool {
    finger(view, start).is_none_or(|index| !is_kept(&view.links[index]))
}

fn before<'a>(target: &'a NodeId) -> impl Fn(&NodeId) -> Distance + 'a {
    move |node| node.clockwise_to(target)
}

fn behind<'a>(target: &'a NodeId) -> impl Fn(&NodeId) -> Distance + 'a {
    move |node| target.clockwise_to(node)
}

impl Geometry for Chord {
    fn kind(&self) -> GeometryKind {
        GeometryKind::Chord
    }

    fn shape(&self) -> Shape {
        Shape::Ring
    }

    fn near_per_side(&self) -> usize {
        NEAR_PER_SIDE
    }

    fn distance(&self, point: &NodeId, node: &NodeId) -> Distance {
        point.clockwise_to(node)
    }

    fn step(&self, view: &View<'_>, target: &NodeId, mode: RouteMode, avoid: [Option<NodeId>; 2]) -> Step {
        let closer = || ways::descend(view, avoid, before(target));
        match mode {
            RouteMode::Exact => ways::exact(view, target, avoid, closer),
            RouteMode::Closest => match ways::descend(view, avoid, behind(target)) {
                // Nobody stands between the point and us: it is ours.
                None => ways::DELIVER,
                Some(owner) => Step { deliver: false, next: Some(closer().map_or((owner, RouteMode::Final), |index| (index, mode))) },
            },
            RouteMode::Final => ways::onward(ways::descend(view, avoid, behind(target)), mode),
            RouteMode::Bracket => ways::bracket(view, target, avoid, closer),
            RouteMode::Before | RouteMode::After | RouteMode::Clockwise | RouteMode::CounterClockwise => {
                ways::along_the_ring(view, target, mode, avoid)
            }
        }
    }

    fn looks_ahead(&self) -> bool {
        false
    }

    fn adopt_far(&self, view: &View<'_>, out: &mut Vec<usize>) {
        for index in starts(view).filter_map(|start| finger(view, &start)) {
            if is_spare(&view.links[index]) && !out.contains(&index) {
                out.push(index);
            }
        }
    }

    fn lacks_far(&self, view: &View<'_>) -> bool {
        starts(view).any(|start| is_missing(view, &start))
    }

    fn draw_far(&self, view: &View<'_>, rng: &mut Rng) -> NodeId {
        let missing: Vec<NodeId> = starts(view).filter(|start| is_missing(view, start)).collect();
        if missing.is_empty() { NodeId(rng.bytes()) } else { missing[rng.below(missing.len() as u64) as usize] }
    }

    fn wants_far(&self, _: &View<'_>, _: &NodeId) -> bool {
        true
    }

    fn surplus_far(&self, view: &View<'_>, _: &mut Rng) -> Option<usize> {
        let own = |link: &Link| link.roles.has(Roles::SHORTCUT);
        // As long as a finger is missing, the node behind its start does its work.
        if !view.links.iter().any(own) || self.lacks_far(view) {
            return None;
        }
        let fingers: Vec<usize> = starts(view).filter_map(|start| finger(view, &start)).collect();
        (0..view.links.len()).find(|index| own(&view.links[*index]) && !fingers.contains(index))
    }

    fn max_incoming(&self, view: &View<'_>) -> usize {
        INCOMING_PER_FINGER * log2_ceil(self.estimate_size(view)) as usize + INCOMING_BASE
    }

    fn split(&self, view: &View<'_>, range: Range, out: &mut Vec<(usize, Range)>) {
        ways::split_clockwise(view, range, out);
    }
}
