//! Data planes: a session gets one when IP first flows, at both ends.
//!
//! The end that wants to send says so in a sealed `data open` message just in front of its first data packet; the other end installs its data plane and
//! acknowledges. The message is repeated until then, so that its loss costs a moment and never the session.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;

use super::{Node, Queued};
use crate::id::NodeId;
use crate::io::{DropReason, Endpoint, Path, Reinject, TimerKind};
use crate::peer::PathKind;
use crate::shard::table::{PeerId, Prefix, Removal, SessionId, ShardEvent, TableUpdate, Way};
use crate::time::Instant;
use crate::wire::PayloadKind;
use crate::wire::packet::{RELAY_HEADER_LEN, SEALED_OVERHEAD, SealedHeader};

/// Relays that a datagram of ours may pass.
pub(super) const CIRCUIT_HOPS: u8 = 3;

/// Wait before `data open` is repeated; it doubles with each repetition up to the longest. It goes on until the other end answers or the session ends:
/// once the data plane is installed no packet of the host comes by here any more that could start it anew.
const OPEN_INTERVAL: Duration = Duration::from_millis(300);
const OPEN_LONGEST: Duration = Duration::from_secs(5);

/// What the shards know.
#[derive(Debug, Default)]
pub(super) struct DataPlanes {
    installed: BTreeMap<SessionId, Plane>,
    routes: BTreeMap<Prefix, PeerId>,
}

#[derive(Debug)]
struct Plane {
    peer: PeerId,
    path: Path,
    /// The receiver index in what is sealed on it: of several peers behind one relay, it tells which one a packet is for.
    remote_index: u32,
    /// When `data open` is repeated, and how long it is waited after that; `None` once the peer has answered.
    open: Option<(Instant, Duration)>,
}

impl DataPlanes {
    pub(super) fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        self.installed.values().filter_map(|plane| plane.open).map(|(due, _)| (due, TimerKind::Pending)).min()
    }

    pub(super) fn is_installed(&self, session: SessionId) -> bool {
        self.installed.contains_key(&session)
    }
}

impl Node {
    /// Makes IP flow to a peer: installs its session's data plane, promotes it and tells the other end.
    pub(super) fn open_data(&mut self, peer: PeerId, now: Instant) {
        let Some(session) = self.peers.session(peer) else { return };
        if self.install(peer, session) {
            self.announce(session, now);
        }
    }

    /// Tells the other end that IP will flow on a session, and again until it answers.
    fn announce(&mut self, session: SessionId, now: Instant) {
        if let Some(plane) = self.data.installed.get_mut(&session) {
            plane.open = Some((now + OPEN_INTERVAL, 2 * OPEN_INTERVAL));
            self.send_open(session, false, now);
        }
    }

    /// The other end wants IP to flow on this session.
    pub(super) fn on_data_open(&mut self, session: SessionId, answer: bool, now: Instant) {
        if answer {
            if let Some(plane) = self.data.installed.get_mut(&session) {
                plane.open = None;
            }
            return;
        }
        let Some(peer) = self.peers.by_session(session) else { return };
        self.install(peer, session);
        self.send_open(session, true, now);
    }

    fn send_open(&mut self, session: SessionId, answer: bool, now: Instant) {
        let Some(path) = self.data.installed.get(&session).map(|plane| plane.path) else { return };
        self.send_control(session, path, &[PayloadKind::DataOpen.byte(), u8::from(answer)], now);
    }

    /// `true` when the data plane is new.
    fn install(&mut self, peer: PeerId, session: SessionId) -> bool {
        if self.data.is_installed(session) {
            return false;
        }
        let Some(path) = self.peers.path(peer) else { return false };
        let way = self.way(peer, path);
        let Some(install) = self.sessions.data_install(session, peer, way) else { return false };
        self.sessions.mark_data(session);
        let plane = Plane { peer, path, remote_index: install.remote_index, open: None };
        self.table(TableUpdate::Install(Box::new(install)));
        self.data.installed.insert(session, plane);
        self.tell_mtu(peer, way);
        if self.peers.session(peer) == Some(session) {
            self.table(TableUpdate::Promote { peer, session });
        }
        true
    }

    /// A peer's packets are sealed on another session from now on; its data plane follows when the old one had any.
    pub(super) fn session_changed(&mut self, peer: PeerId, session: SessionId, now: Instant) {
        if !self.data.installed.values().any(|plane| plane.peer == peer) {
            return;
        }
        if self.install(peer, session) {
            // The other end may have been restarted meanwhile, and then knows of no data plane.
            self.announce(session, now);
        } else if self.data.is_installed(session) {
            self.table(TableUpdate::Promote { peer, session });
        }
    }

    /// A peer's packets take another path from now on.
    pub(super) fn data_path_changed(&mut self, peer: PeerId, path: Path, now: Instant) {
        let way = self.way(peer, path);
        let sessions: Vec<SessionId> =
            self.data.installed.iter().filter(|(_, plane)| plane.peer == peer).map(|(session, _)| *session).collect();
        for session in sessions {
            let Some(plane) = self.data.installed.get_mut(&session) else { continue };
            let old = core::mem::replace(&mut plane.path, path);
            // What was announced on the old path may never have arrived.
            plane.open = plane.open.map(|_| (now, OPEN_INTERVAL));
            // Only a relayed way is left for a better one while it still works well: a routed one is far slower, and another is left because it is dead.
            let at_once = self.kind_of(old) != PathKind::Relay;
            self.table(TableUpdate::SetPath { session, way, at_once });
        }
        self.tell_mtu(peer, way);
    }

    /// A session is gone: so is its data plane.
    pub(super) fn data_closed(&mut self, session: SessionId) {
        if self.data.installed.remove(&session).is_some() {
            self.table(TableUpdate::Remove(Removal::Session(session)));
        }
    }

    /// A peer is gone, with all that the shards know of it.
    pub(super) fn data_peer_gone(&mut self, peer: PeerId) {
        let had = self.data.installed.values().any(|plane| plane.peer == peer) || self.data.routes.values().any(|owner| *owner == peer);
        self.data.installed.retain(|_, plane| plane.peer != peer);
        self.data.routes.retain(|_, owner| *owner != peer);
        if had {
            self.table(TableUpdate::Remove(Removal::Peer(peer)));
        }
    }

    /// Whether IP flows, or may flow, between us and a peer.
    pub(super) fn carries_data(&self, peer: PeerId) -> bool {
        self.data.installed.values().any(|plane| plane.peer == peer)
    }

    /// Packets for `prefix` go to `peer`.
    pub(super) fn route(&mut self, prefix: Prefix, peer: PeerId) {
        self.data.routes.insert(prefix, peer);
        self.table(TableUpdate::Route { prefix, peer });
    }

    /// Nobody gets packets for `prefix` any more.
    pub(super) fn unroute(&mut self, prefix: Prefix) {
        if self.data.routes.remove(&prefix).is_some() {
            self.table(TableUpdate::Remove(Removal::Route(prefix)));
        }
    }

    pub(super) fn data_due(&mut self, now: Instant) {
        let due: Vec<SessionId> = self
            .data
            .installed
            .iter()
            .filter(|(_, plane)| plane.open.is_some_and(|(due, _)| due <= now))
            .map(|(session, _)| *session)
            .collect();
        for session in due {
            let Some(plane) = self.data.installed.get_mut(&session) else { continue };
            plane.open = plane.open.map(|(_, wait)| (now + wait, (2 * wait).min(OPEN_LONGEST)));
            self.send_open(session, false, now);
        }
    }

    /// The system refused a datagram of `len` bytes to this address: whatever goes there, straight or as to a relay, has to be smaller.
    pub(super) fn path_is_small(&mut self, remote: SocketAddr, len: u16, now: Instant) {
        let Some(path) = self.paths.find(&Endpoint::Udp { socket: 0, remote }) else { return };
        let mut users: Vec<(PeerId, Path)> = self.data.installed.values().map(|plane| (plane.peer, plane.path)).collect();
        users.dedup();
        for (peer, used) in users {
            let overhead = match self.paths.resolve(used) {
                _ if used == path => SEALED_OVERHEAD,
                Some(Endpoint::Circuit { via, .. }) if via == path => SEALED_OVERHEAD + RELAY_HEADER_LEN,
                _ => continue,
            };
            self.peers.refused(peer, used, len.saturating_sub(overhead as u16), now);
        }
    }

    /// Tells the shards anew what fits through a peer's path.
    pub(super) fn size_changed(&mut self, peer: PeerId, path: Path) {
        let users: Vec<SessionId> =
            self.data.installed.iter().filter(|(_, plane)| (plane.peer, plane.path) == (peer, path)).map(|(session, _)| *session).collect();
        let way = self.way(peer, path);
        for session in &users {
            self.table(TableUpdate::SetPath { session: *session, way, at_once: false });
        }
        if !users.is_empty() {
            self.tell_mtu(peer, way);
        }
    }

    /// Lets the VPN tell senders of too large packets what the way to a peer carries.
    fn tell_mtu(&mut self, peer: PeerId, way: Way) {
        if let Some(node) = self.peers.node(peer) {
            self.vpn.set_mtu(node, way.whole);
        }
    }

    /// Sends a sealed data packet that its path does not carry whole: in parts, as a routed message, over the ring or over the small link itself.
    pub(super) fn send_in_parts(&mut self, path: Path, datagram: &[u8], now: Instant) {
        let node = match self.paths.resolve(path) {
            Some(Endpoint::Routed(node)) => Some(node),
            _ => self.addressee(path, datagram),
        };
        let sent = node.ok_or(DropReason::NoPath).and_then(|node| self.overlay.send_datagram(node, datagram, now));
        if let Err(reason) = sent {
            self.stats.dropped(reason);
        }
    }

    /// Whom a data packet is for that was sealed for a way which begins with `path`.
    fn addressee(&self, path: Path, datagram: &[u8]) -> Option<NodeId> {
        let index = SealedHeader::parse(datagram).ok()?.receiver;
        let begins = |used: Path| match self.paths.resolve(used) {
            Some(Endpoint::Circuit { via, .. }) => via == path,
            _ => used == path,
        };
        let plane = self.data.installed.values().find(|plane| plane.remote_index == index && begins(plane.path))?;
        self.peers.node(plane.peer)
    }

    /// What a shard noticed.
    pub(super) fn on_shard_event(&mut self, event: ShardEvent, now: Instant) {
        match event {
            ShardEvent::Moved { session, from } => {
                let kind = self.kind_of(from);
                self.peers.moved(session, from, kind, now);
            }
            ShardEvent::RekeyDue { session } => {
                if let Some(path) = self.data.installed.get(&session).map(|plane| plane.path) {
                    self.sessions.rekey(session, path, now);
                }
            }
            ShardEvent::Activity { session, rx_bytes, tx_bytes } => {
                self.peers.activity(session, rx_bytes, tx_bytes, now);
                if let Some(node) = self.peers.by_session(session).and_then(|peer| self.peers.node(peer)) {
                    self.overlay.traffic(node, now);
                }
            }
            ShardEvent::Confirmed { session } => {
                if let Some(plane) = self.data.installed.get_mut(&session) {
                    plane.open = None;
                }
            }
            ShardEvent::Applied(_) => {}
        }
    }

    /// A data packet that came over the ring, or reached another worker's socket, goes to the shard that owns its session.
    pub(super) fn reinject(&mut self, from: Path, datagram: Vec<u8>) {
        self.push(Queued::Reinject(Reinject::Open { from }, datagram));
    }

    fn way(&self, peer: PeerId, path: Path) -> Way {
        let rtt = self.peers.rtt(peer);
        let tunnel = self.config.tunnel_mtu;
        let (whole, told) = self.peers.size(peer, path).map_or((tunnel, true), |(size, told)| (size.min(tunnel), told));
        let mtu = if told { whole } else { tunnel };
        match self.paths.resolve(path) {
            Some(Endpoint::Circuit { via, circuit }) => {
                Way { path: via, circuit: Some((circuit, CIRCUIT_HOPS)), routed: false, whole, mtu, rtt }
            }
            _ => Way { path, circuit: None, routed: self.kind_of(path) == PathKind::Routed, whole, mtu, rtt },
        }
    }
}
