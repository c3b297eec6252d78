//! Parts of next hops that geometries share. Each goes strictly down an order that all nodes agree on: that is what keeps messages from
//! running in circles, whatever the links.

use super::{Range, Step, View};
use crate::id::{Distance, NodeId};
use crate::overlay::links::{Link, clockwise, counter_clockwise, find};
use crate::wire::routed::RouteMode;

/// Whom a message is never sent to: who handed it over, and who made it.
pub(super) type Avoid = [Option<NodeId>; 2];

/// It ends here.
pub(super) const DELIVER: Step = Step { deliver: true, next: None };
/// It finds no way.
pub(super) const LOST: Step = Step { deliver: false, next: None };

/// Whether messages of others may go over this link: its other end knows its place, unless we do not know ours either.
pub(super) fn may_route(view: &View<'_>, link: &Link) -> bool {
    !link.leaving && (link.joined || !view.joined)
}

pub(super) fn allowed(link: &Link, avoid: Avoid) -> bool {
    !avoid.contains(&Some(link.node))
}

/// The links that may be used, with their indices.
pub(super) fn usable<'a>(view: &View<'a>, avoid: Avoid) -> impl Iterator<Item = (usize, &'a Link)> {
    let view = *view;
    view.links.iter().enumerate().filter(move |(_, link)| may_route(&view, link) && allowed(link, avoid))
}

/// The link whose other end has the smallest `key`, if that is smaller than our own.
pub(super) fn descend<K: Ord>(view: &View<'_>, avoid: Avoid, key: impl Fn(&NodeId) -> K) -> Option<usize> {
    let (index, best) = usable(view, avoid).min_by_key(|(_, link)| key(&link.node))?;
    (key(&best.node) < key(&view.local)).then_some(index)
}

/// On to `next`, or delivered.
pub(super) fn onward(next: Option<usize>, mode: RouteMode) -> Step {
    next.map_or(DELIVER, |index| Step { deliver: false, next: Some((index, mode)) })
}

/// To the target itself, where it is linked; else as `greedy` says.
pub(super) fn exact(view: &View<'_>, target: &NodeId, avoid: Avoid, greedy: impl FnOnce() -> Option<usize>) -> Step {
    if *target == view.local {
        return DELIVER;
    }
    let linked = find(view.links, target).ok().filter(|&index| allowed(&view.links[index], avoid));
    Step { deliver: false, next: linked.or_else(greedy).map(|index| (index, RouteMode::Exact)) }
}

/// Both nodes of a ring around `target` deliver. A node that stands next to it on one side delivers and sends one message on for the other
/// side; everybody else sends it closer.
pub(super) fn bracket(view: &View<'_>, target: &NodeId, avoid: Avoid, greedy: impl FnOnce() -> Option<usize>) -> Step {
    let before = descend(view, avoid, |node| node.clockwise_to(target));
    let after = descend(view, avoid, |node| target.clockwise_to(node));
    match (before, after) {
        (None, None) => DELIVER,
        (None, Some(next)) => Step { deliver: true, next: Some((next, RouteMode::After)) },
        (Some(next), None) => Step { deliver: true, next: Some((next, RouteMode::Before)) },
        // Where only nodes that must be avoided, or that have not joined, are closer, it ends.
        (Some(_), Some(_)) => onward(greedy(), RouteMode::Bracket),
    }
}

/// The modes that mean the same in every geometry on a ring: one side of a point, and neighbour by neighbour.
pub(super) fn along_the_ring(view: &View<'_>, target: &NodeId, mode: RouteMode, avoid: Avoid) -> Step {
    match mode {
        RouteMode::Before => onward(descend(view, avoid, |node| node.clockwise_to(target)), mode),
        RouteMode::After => onward(descend(view, avoid, |node| target.clockwise_to(node)), mode),
        RouteMode::Clockwise => walk(clockwise(view.links, &view.local), view, avoid, mode, |node| target.clockwise_to(node)),
        RouteMode::CounterClockwise => {
            walk(counter_clockwise(view.links, &view.local), view, avoid, mode, |node| node.clockwise_to(target))
        }
        RouteMode::Exact | RouteMode::Closest | RouteMode::Bracket | RouteMode::Final => LOST,
    }
}

/// The next neighbour in one direction, as long as the walk does not come round to where it began (`travelled` grows).
fn walk<'a>(
    mut links: impl Iterator<Item = &'a Link>,
    view: &View<'_>,
    avoid: Avoid,
    mode: RouteMode,
    travelled: impl Fn(&NodeId) -> Distance,
) -> Step {
    let next = links
        .find(|link| may_route(view, link) && allowed(link, avoid))
        .filter(|link| travelled(&link.node) > travelled(&view.local))
        .and_then(|link| find(view.links, &link.node).ok());
    onward(next, mode)
}

/// Divides a range clockwise: each link in it gets the part from itself up to the next link. The near links make it whole: nobody stands
/// between a node and the first of them.
pub(super) fn split_clockwise(view: &View<'_>, range: Range, out: &mut Vec<(usize, Range)>) {
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
