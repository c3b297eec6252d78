//! The table of links, sorted by node ID: what routing and the geometry look at.

use core::iter::{Chain, Rev};
use core::net::SocketAddr;
use core::slice::Iter;
use core::time::Duration;

use super::hint::Hint;
use super::types::{LinkView, Roles};
use crate::id::NodeId;
use crate::shard::table::PeerId;
use crate::time::Instant;

/// Links that a node holds at most. A seed that many join at once needs room for their leaf links, a server for those of its clients; what comes beyond
/// is closed at once.
pub const MAX_LINKS: usize = 2_048;

/// A session with a direct or relayed path, as the overlay sees it.
#[derive(Clone, Debug)]
pub struct Link {
    /// The other end.
    pub node: NodeId,
    /// The other end as numbered locally.
    pub peer: PeerId,
    /// What we keep it for.
    pub roles: Roles,
    /// What the other end keeps it for.
    pub remote_roles: Roles,
    /// Whether the other end said that its position is settled.
    pub joined: bool,
    /// Whether the other end said that it leaves: nothing is sent through it any more.
    pub leaving: bool,
    /// The other end's immediate neighbours (counter-clockwise, clockwise) by its latest status.
    pub reported: Option<(NodeId, NodeId)>,
    /// Whether the latest status bears out that it stands beside us: on the side ahead of us, and on the one behind us.
    pub confirms: [bool; 2],
    /// First 32 bits of the nodes that the other end is linked with, for look-ahead.
    pub prefixes: Box<[u32]>,
    pub(super) direct: bool,
    pub(super) infrastructure: bool,
    /// Whether closing was asked for.
    pub(super) dropping: bool,
    pub(super) address: Option<SocketAddr>,
    /// Where others may reach it: what it said about itself.
    pub(super) hint: Hint,
    pub(super) since: Instant,
    /// Since when neither end keeps it for anything.
    pub(super) idle_since: Option<Instant>,
    /// Round-trip time in µs; 0 when not measured.
    pub(super) rtt_us: u32,
    pub(super) gossip: GossipState,
}

/// What one link's other end has been told and has told.
#[derive(Clone, Debug, Default)]
pub(super) struct GossipState {
    /// When the next status is due.
    pub(super) due: Option<Instant>,
    /// When the latest status was sent.
    pub(super) sent: Option<Instant>,
    /// Number of the latest status.
    pub(super) number: u16,
    /// Whether that one was acknowledged.
    pub(super) acknowledged: bool,
    /// How often that one was sent.
    pub(super) tries: u8,
    /// Number of the latest status received.
    pub(super) received: Option<u16>,
}

impl Link {
    pub(super) fn new(peer: PeerId, node: NodeId, now: Instant) -> Self {
        Self {
            node,
            peer,
            roles: Roles::NONE,
            remote_roles: Roles::NONE,
            joined: false,
            leaving: false,
            reported: None,
            confirms: [false; 2],
            prefixes: Box::default(),
            direct: true,
            infrastructure: false,
            dropping: false,
            address: None,
            hint: Hint::default(),
            since: now,
            idle_since: None,
            rtt_us: 0,
            gossip: GossipState::default(),
        }
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        (self.rtt_us > 0).then(|| Duration::from_micros(u64::from(self.rtt_us)))
    }

    pub(super) fn view(&self, now: Instant) -> LinkView {
        LinkView {
            peer: self.peer,
            node: self.node,
            roles: self.roles,
            remote_roles: self.remote_roles,
            since: self.since,
            age: now.saturating_since(self.since),
            direct: self.direct,
            infrastructure: self.infrastructure,
            address: self.address,
            rtt: self.rtt(),
            joined: self.joined,
        }
    }
}

/// Something with a place on the ring.
pub(crate) trait Placed {
    /// The place.
    fn node(&self) -> &NodeId;
}

impl Placed for NodeId {
    fn node(&self) -> &NodeId {
        self
    }
}

impl Placed for Link {
    fn node(&self) -> &NodeId {
        &self.node
    }
}

/// The items of `sorted` clockwise from `from`, once round and without it.
pub(super) fn clockwise<'a, T: Placed>(sorted: &'a [T], from: &NodeId) -> Chain<Iter<'a, T>, Iter<'a, T>> {
    let start = sorted.partition_point(|item| item.node() <= from);
    let end = sorted.partition_point(|item| item.node() < from);
    sorted[start..].iter().chain(sorted[..end].iter())
}

/// The items of `sorted` counter-clockwise from `from`, once round and without it.
pub(super) fn counter_clockwise<'a, T: Placed>(sorted: &'a [T], from: &NodeId) -> Chain<Rev<Iter<'a, T>>, Rev<Iter<'a, T>>> {
    let start = sorted.partition_point(|item| item.node() <= from);
    let end = sorted.partition_point(|item| item.node() < from);
    sorted[..end].iter().rev().chain(sorted[start..].iter().rev())
}

/// Where `node` stands in `sorted`, or where it would.
pub(super) fn find<T: Placed>(sorted: &[T], node: &NodeId) -> Result<usize, usize> {
    sorted.binary_search_by(|item| item.node().cmp(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_round_start_at_the_neighbours_and_leave_out_the_start() {
        let id = |n: u8| NodeId([n; 20]);
        let links: Vec<Link> = [10, 20, 30, 40].iter().map(|&n| Link::new(PeerId(u32::from(n)), id(n), Instant::ZERO)).collect();
        let order = |iter: &mut dyn Iterator<Item = &Link>| iter.map(|link| link.node.0[0]).collect::<Vec<_>>();
        assert_eq!(order(&mut clockwise(&links, &id(25))), [30, 40, 10, 20]);
        assert_eq!(order(&mut counter_clockwise(&links, &id(25))), [20, 10, 40, 30]);
        assert_eq!(order(&mut clockwise(&links, &id(30))), [40, 10, 20]);
        assert_eq!(order(&mut counter_clockwise(&links, &id(30))), [20, 10, 40]);
        assert_eq!(order(&mut clockwise(&links, &id(50))), [10, 20, 30, 40]);
    }
}
