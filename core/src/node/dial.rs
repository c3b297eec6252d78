//! Attempts to reach a node, on several paths at once.

use core::time::Duration;
use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::Node;
use crate::id::NodeId;
use crate::io::{Candidates, Endpoint, Path, TimerKind};
use crate::overlay::DialId;
use crate::peer::PathKind;
use crate::session::HandshakeId;
use crate::shard::table::PeerId;
use crate::time::Instant;

/// How long a dial may take. A handshake repeats its messages for 5 s; then the overlay decides what comes next.
const DIAL_TIME: Duration = Duration::from_secs(6);

#[derive(Debug)]
struct Dial {
    node: Option<NodeId>,
    handshakes: SmallVec<[HandshakeId; 4]>,
    /// Candidates of a peer that a session exists with: challenges are under way.
    challenged: bool,
    deadline: Instant,
}

/// The attempts under way. Bounded by the overlay, which starts them.
#[derive(Debug, Default)]
pub(super) struct Dials {
    open: BTreeMap<DialId, Dial>,
}

impl Dials {
    pub(super) fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        self.open.values().map(|dial| (dial.deadline, TimerKind::Handshake)).min()
    }
}

impl Node {
    /// Starts handshakes (or challenges, where a session exists) on each address, and one over the ring when `routed`.
    pub(super) fn dial(&mut self, id: DialId, node: Option<NodeId>, addresses: &Candidates, routed: bool, now: Instant) {
        let known = node.and_then(|node| self.peers.by_node(&node));
        if let Some(peer) = known
            && self.is_link(peer)
        {
            self.overlay.dial_result(id, Ok(peer), now);
            return;
        }
        let mut dial = Dial { node, handshakes: SmallVec::new(), challenged: false, deadline: now + DIAL_TIME };
        for address in addresses {
            if self.local_addresses.contains(address) {
                continue;
            }
            let path = self.paths.intern(Endpoint::Udp { socket: 0, remote: *address });
            if let Some(peer) = known {
                self.peers.add_path(peer, path, PathKind::Direct, now);
                dial.challenged = true;
            } else if let Ok(handshake) = self.sessions.connect(path, node, now) {
                dial.handshakes.push(handshake);
            }
        }
        if let (true, None, Some(node)) = (routed, known, node)
            && let Some(handshake) = self.connect_routed(node, now)
        {
            dial.handshakes.push(handshake);
        }
        if dial.handshakes.is_empty() && !dial.challenged {
            self.overlay.dial_result(id, Err(()), now);
        } else {
            self.dials.open.insert(id, dial);
        }
    }

    /// Starts a handshake with `node` over the ring.
    pub(super) fn connect_routed(&mut self, node: NodeId, now: Instant) -> Option<HandshakeId> {
        let path = self.paths.intern(Endpoint::Routed(node));
        self.sessions.connect(path, Some(node), now).ok()
    }

    /// A handshake ended without a session: the dial fails when it was the last.
    pub(super) fn dial_lost(&mut self, handshake: HandshakeId, now: Instant) {
        let Some((&id, dial)) = self.dials.open.iter_mut().find(|(_, dial)| dial.handshakes.contains(&handshake)) else { return };
        dial.handshakes.retain(|other| *other != handshake);
        if dial.handshakes.is_empty() && !dial.challenged {
            self.dials.open.remove(&id);
            self.overlay.dial_result(id, Err(()), now);
        }
    }

    /// A peer became reachable directly or by relay: dials for it, and the dial that made it, are done.
    pub(super) fn dial_won(&mut self, handshake: Option<HandshakeId>, node: NodeId, peer: PeerId, now: Instant) {
        let won: SmallVec<[DialId; 2]> = self
            .dials
            .open
            .iter()
            .filter(|(_, dial)| dial.node == Some(node) || handshake.is_some_and(|handshake| dial.handshakes.contains(&handshake)))
            .map(|(id, _)| *id)
            .collect();
        for id in won {
            if let Some(dial) = self.dials.open.remove(&id) {
                for other in dial.handshakes.iter().filter(|other| Some(**other) != handshake) {
                    self.sessions.abandon(*other);
                }
            }
            self.overlay.dial_result(id, Ok(peer), now);
        }
    }

    pub(super) fn dials_due(&mut self, now: Instant) {
        let late: SmallVec<[DialId; 4]> = self.dials.open.iter().filter(|(_, dial)| dial.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(dial) = self.dials.open.remove(&id) {
                for handshake in dial.handshakes {
                    self.sessions.abandon(handshake);
                }
            }
            self.overlay.dial_result(id, Err(()), now);
        }
    }

    /// Whether the overlay may route over this peer: its active path is direct or relayed.
    pub(super) fn is_link(&self, peer: PeerId) -> bool {
        self.peers.path(peer).is_some_and(|path: Path| self.kind_of(path) != PathKind::Routed)
    }
}
