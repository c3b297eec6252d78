//! Symphony: a ring with shortcuts at harmonically distributed distances (Manku, Bawa, Raghavan: "Symphony: Distributed Hashing in a Small
//! World", 2003), routed in both directions with one step of look-ahead (Naor, Wieder: "Know Thy Neighbor's Neighbor", 2004).

use core::cmp::Ordering;

use super::{FarBounds, Geometry, Range, Step, View};
use crate::config::GeometryKind;
use crate::id::{Distance, NodeId};
use crate::overlay::known::{Known, PASSIVE_PER_SIDE, merge};
use crate::overlay::links::{Link, clockwise, counter_clockwise, find};
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

impl Geometry for Symphony {
    fn kind(&self) -> GeometryKind {
        GeometryKind::Symphony
    }

    fn closer(&self, point: &NodeId, a: &NodeId, b: &NodeId) -> Ordering {
        point.closer(a, b)
    }

    fn step(&self, view: &View<'_>, target: &NodeId, mode: RouteMode, avoid: [Option<NodeId>; 2]) -> Step {
        match mode {
            RouteMode::Exact => exact(view, target, avoid),
            RouteMode::Closest => match greedy(view, target, avoid) {
                Some(index) => Step { deliver: false, next: Some((index, mode)) },
                None => Step { deliver: true, next: None },
            },
            RouteMode::Bracket => bracket(view, target, avoid),
            RouteMode::Before => one_sided(view, avoid, mode, |node| node.clockwise_to(target)),
            RouteMode::After => one_sided(view, avoid, mode, |node| target.clockwise_to(node)),
            RouteMode::Clockwise => walk(clockwise(view.links, &view.local), view, avoid, mode, |node| target.clockwise_to(node)),
            RouteMode::CounterClockwise => {
                walk(counter_clockwise(view.links, &view.local), view, avoid, mode, |node| node.clockwise_to(target))
            }
        }
    }

    fn near(&self, view: &View<'_>, out: &mut Vec<usize>) {
        let ahead = clockwise(view.links, &view.local).filter(|link| !link.leaving).take(NEAR_PER_SIDE);
        let behind = counter_clockwise(view.links, &view.local).filter(|link| !link.leaving).take(NEAR_PER_SIDE);
        for link in ahead.chain(behind) {
            if let Ok(index) = find(view.links, &link.node)
                && !out.contains(&index)
            {
                out.push(index);
            }
        }
    }

    fn wanted_near(&self, view: &View<'_>, out: &mut Vec<NodeId>) {
        let links = || view.links.iter().filter(|link| !link.leaving);
        let local = view.local;
        if links().count() == 0 && view.known.is_empty() {
            return;
        }
        let mut want = |node: &NodeId| {
            if !out.contains(node) {
                out.push(*node);
            }
        };
        let live = |link: &&Link| !link.leaving;
        let ahead =
            merge(clockwise(view.links, &local).filter(live), clockwise(view.known, &local).filter(|known| known.is_promising()), |node| {
                local.clockwise_to(node)
            });
        let behind = merge(
            counter_clockwise(view.links, &local).filter(live),
            counter_clockwise(view.known, &local).filter(|known| known.is_promising()),
            |node| node.clockwise_to(&local),
        );
        for (_, known) in ahead.take(NEAR_PER_SIDE).chain(behind.take(NEAR_PER_SIDE)) {
            if let Some(known) = known {
                want(&known.node);
            }
        }
        // Who failed is no reason to want nobody else, but is tried again where only links stand before it.
        let reach = |mut ranked: Box<dyn Iterator<Item = Distance> + '_>| ranked.nth(NEAR_PER_SIDE - 1);
        let farthest_ahead = reach(Box::new(clockwise(view.links, &local).filter(live).map(|link| local.clockwise_to(&link.node))));
        let farthest_behind =
            reach(Box::new(counter_clockwise(view.links, &local).filter(live).map(|link| link.node.clockwise_to(&local))));
        for known in view.known.iter().filter(|known| known.has_failed()) {
            let ahead = farthest_ahead.is_none_or(|limit| local.clockwise_to(&known.node) < limit);
            let behind = farthest_behind.is_none_or(|limit| known.node.clockwise_to(&local) < limit);
            if ahead || behind {
                want(&known.node);
            }
        }
    }

    fn wanted_far(&self, view: &View<'_>) -> usize {
        let size = self.estimate_size(view);
        if size <= SMALL_RING { 0 } else { (log2_ceil(size) as usize).div_ceil(2) }
    }

    fn draw_far(&self, view: &View<'_>, rng: &mut Rng) -> NodeId {
        let distance = Distance::from_prefix(harmonic(self.estimate_size(view), rng));
        if rng.next_u64() & 1 == 0 { view.local.plus(&distance) } else { view.local.less(&distance) }
    }

    fn far_bounds(&self, view: &View<'_>) -> FarBounds {
        let wanted = self.wanted_far(view);
        FarBounds { own: 2 * wanted, incoming: 4 * wanted + INCOMING_BASE }
    }

    fn near_per_side(&self) -> usize {
        NEAR_PER_SIDE
    }

    fn is_responsible(&self, view: &View<'_>, point: &NodeId) -> bool {
        greedy_plain(view, point, [None, None]).is_none()
    }

    fn responsible_set(&self, view: &View<'_>, point: &NodeId, count: usize, out: &mut Vec<NodeId>) {
        let start = out.len();
        out.push(view.local);
        out.extend(view.links.iter().filter(|link| may_route(view, link)).map(|link| link.node));
        out[start..].sort_unstable_by(|a, b| point.closer(a, b));
        out.truncate(start + count);
    }

    fn split(&self, view: &View<'_>, range: Range, out: &mut Vec<(usize, Range)>) {
        let start = out.len();
        for link in clockwise(view.links, &view.local).filter(|link| may_route(view, link) && range.contains(&link.node)) {
            if let Ok(index) = find(view.links, &link.node) {
                out.push((index, Range { start: link.node, end: range.end }));
            }
        }
        out[start..].sort_unstable_by_key(|(_, part)| range.start.clockwise_to(&part.start));
        for position in start + 1..out.len() {
            out[position - 1].1.end = out[position].1.start;
        }
    }

    fn is_consistent(&self, view: &View<'_>) -> bool {
        let successor = clockwise(view.links, &view.local).find(|link| !link.leaving);
        let predecessor = counter_clockwise(view.links, &view.local).find(|link| !link.leaving);
        let (Some(successor), Some(predecessor)) = (successor, predecessor) else { return false };
        successor.reported.is_some_and(|(before, _)| before == view.local)
            && predecessor.reported.is_some_and(|(_, after)| after == view.local)
    }

    fn estimate_size(&self, view: &View<'_>) -> u64 {
        // The wide look is the more exact one, unless the passive list has holes: then it sees too few nodes.
        let narrow = density(view, NEAR_PER_SIDE);
        let wide = density(view, NEAR_PER_SIDE + PASSIVE_PER_SIDE);
        let estimate = if wide < narrow / 4 { narrow } else { wide };
        estimate.max(view.links.iter().filter(|link| !link.leaving).count() as u64 + 1)
    }
}

/// Number of nodes in a ring that is everywhere as dense as among the nearest `places` nodes per side; all that are known when both sides meet.
fn density(view: &View<'_>, places: usize) -> u64 {
    let local = view.local;
    let live = |link: &&Link| !link.leaving;
    let promising = |known: &&Known| known.is_promising();
    let ahead =
        merge(clockwise(view.links, &local).filter(live), clockwise(view.known, &local).filter(promising), |node| local.clockwise_to(node));
    let behind =
        merge(counter_clockwise(view.links, &local).filter(live), counter_clockwise(view.known, &local).filter(promising), |node| {
            node.clockwise_to(&local)
        });
    let (mut count, mut ahead_span, mut behind_span) = (0u64, Distance::default(), Distance::default());
    for (distance, _) in ahead.take(places) {
        (count, ahead_span) = (count + 1, distance);
    }
    for (distance, _) in behind.take(places) {
        (count, behind_span) = (count + 1, distance);
    }
    let span = u128::from(ahead_span.prefix()) + u128::from(behind_span.prefix());
    // Cutting both to 64 bits loses less than 2.
    if span + 2 > u128::from(u64::MAX) {
        return (view.links.iter().filter(live).count() + view.known.iter().filter(promising).count()) as u64 + 1;
    }
    if count == 0 {
        return 1;
    }
    ((u128::from(count) << 64) / span.max(1)).min(u128::from(u64::MAX)) as u64
}

/// Whether messages of others may go over this link: its other end knows its place, unless we do not know ours either.
fn may_route(view: &View<'_>, link: &Link) -> bool {
    !link.leaving && (link.joined || !view.joined)
}

fn allowed(link: &Link, avoid: [Option<NodeId>; 2]) -> bool {
    !avoid.contains(&Some(link.node))
}

fn exact(view: &View<'_>, target: &NodeId, avoid: [Option<NodeId>; 2]) -> Step {
    if *target == view.local {
        return Step { deliver: true, next: None };
    }
    let linked = find(view.links, target).ok().filter(|&index| allowed(&view.links[index], avoid));
    let next = linked.or_else(|| greedy(view, target, avoid)).map(|index| (index, RouteMode::Exact));
    Step { deliver: false, next }
}

/// The link whose other end, or a neighbour of it, is closest to `target`. The other end itself is always closer than we are: that is what
/// keeps messages from running in circles, however stale the neighbours' neighbours may be.
fn greedy(view: &View<'_>, target: &NodeId, avoid: [Option<NodeId>; 2]) -> Option<usize> {
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

/// The link whose other end is closest to `target` and closer than we are.
fn greedy_plain(view: &View<'_>, target: &NodeId, avoid: [Option<NodeId>; 2]) -> Option<usize> {
    let usable = view.links.iter().enumerate().filter(|(_, link)| may_route(view, link) && allowed(link, avoid));
    let (index, best) = usable.min_by(|(_, a), (_, b)| target.closer(&a.node, &b.node))?;
    (target.closer(&best.node, &view.local) == Ordering::Less).then_some(index)
}

/// Distance of two 32-bit prefixes on the ring.
const fn arc(a: u32, b: u32) -> u32 {
    let there = a.wrapping_sub(b);
    let back = b.wrapping_sub(a);
    if there < back { there } else { back }
}

/// Both nodes around `target` deliver. A node that stands next to it on one side delivers and sends one message on for the other side;
/// everybody else sends it closer.
fn bracket(view: &View<'_>, target: &NodeId, avoid: [Option<NodeId>; 2]) -> Step {
    let before = extreme(view, avoid, |node| node.clockwise_to(target));
    let after = extreme(view, avoid, |node| target.clockwise_to(node));
    match (before, after) {
        (None, None) => Step { deliver: true, next: None },
        (None, Some(next)) => Step { deliver: true, next: Some((next, RouteMode::After)) },
        (Some(next), None) => Step { deliver: true, next: Some((next, RouteMode::Before)) },
        (Some(_), Some(_)) => match greedy(view, target, avoid) {
            Some(next) => Step { deliver: false, next: Some((next, RouteMode::Bracket)) },
            // Only nodes that must be avoided, or that have not joined, are closer.
            None => Step { deliver: true, next: None },
        },
    }
}

/// The link with the smallest `distance`, if that is smaller than our own.
fn extreme(view: &View<'_>, avoid: [Option<NodeId>; 2], distance: impl Fn(&NodeId) -> Distance) -> Option<usize> {
    let usable = view.links.iter().enumerate().filter(|(_, link)| may_route(view, link) && allowed(link, avoid));
    let (index, best) = usable.min_by_key(|(_, link)| distance(&link.node))?;
    (distance(&best.node) < distance(&view.local)).then_some(index)
}

fn one_sided(view: &View<'_>, avoid: [Option<NodeId>; 2], mode: RouteMode, distance: impl Fn(&NodeId) -> Distance) -> Step {
    match extreme(view, avoid, distance) {
        Some(index) => Step { deliver: false, next: Some((index, mode)) },
        None => Step { deliver: true, next: None },
    }
}

/// The next neighbour in one direction, as long as the walk does not come round to where it began (`travelled` grows).
fn walk<'a>(
    mut links: impl Iterator<Item = &'a Link>,
    view: &View<'_>,
    avoid: [Option<NodeId>; 2],
    mode: RouteMode,
    travelled: impl Fn(&NodeId) -> Distance,
) -> Step {
    let next = links
        .find(|link| may_route(view, link) && allowed(link, avoid))
        .filter(|link| travelled(&link.node) > travelled(&view.local))
        .and_then(|link| find(view.links, &link.node).ok());
    match next {
        Some(index) => Step { deliver: false, next: Some((index, mode)) },
        None => Step { deliver: true, next: None },
    }
}

/// The smallest `n` with `2^n >= value`.
const fn log2_ceil(value: u64) -> u32 {
    match value {
        0 | 1 => 0,
        more => 64 - (more - 1).leading_zeros(),
    }
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
