//! Orders of the daemon, and the questions that they start.

use core::net::SocketAddr;
use core::time::Duration;

use bytes::Bytes;

use super::Node;
use crate::events::{Command, EchoResult, Event};
use crate::group::{Certificate, Identity};
use crate::id::NodeId;
use crate::overlay::{Mode, RequestError, RequestId};
use crate::peer::PathKind;
use crate::shard::table::PeerId;
use crate::time::Instant;
use crate::wire::link::CloseReason;
use crate::wire::overlay::METHOD_ECHO;

/// Addresses that peers see us at: kept at most, the one reported by most first. A host behind a handful of networks has fewer.
const MAX_OBSERVED: usize = 8;

/// Bootstrap addresses that `status` looks at; the overlay uses as many.
const MAX_BOOTSTRAP: usize = 64;

/// A trace under way.
#[derive(Debug)]
pub(super) struct Trace {
    token: u64,
    hops: Vec<(NodeId, String, u64)>,
}

impl Node {
    /// Takes an order or a fact from the daemon.
    pub fn handle_command(&mut self, command: Command, now: Instant) {
        let now = self.advance(now);
        match command {
            Command::WallClock(host) => self.set_wall(host, now),
            Command::Resumed => {
                self.peers.resumed(now);
            }
            Command::LocalAddresses(addresses) => {
                if addresses != self.local_addresses {
                    self.local_addresses = addresses;
                    self.peers.readdressed(now);
                }
                self.tell_candidates();
            }
            Command::PathTooSmall { remote, len } => self.path_is_small(remote, len, now),
            Command::Bootstrap(addresses) => {
                self.overlay.add_bootstrap(&addresses, now);
                self.bootstrap.extend(addresses);
                self.bootstrap.sort_unstable();
                self.bootstrap.dedup();
                self.bootstrap.truncate(MAX_BOOTSTRAP);
            }
            Command::RevocationList(signed) => self.revocations(signed, now),
            Command::Certificate(der) => self.renewed(&der, now),
            Command::RestoreLease(lease) => self.restore_lease(&lease, now),
            Command::Resolve { token, name } => self.resolve(token, &name, now),
            Command::Ping { token, node } => {
                let id = self.overlay.request(node, Mode::Exact, METHOD_ECHO, Bytes::new(), now);
                self.echoes.insert(id, (token, now, node));
            }
            Command::Trace { token, node } => {
                let id = self.overlay.trace(node, now);
                self.traces.insert(id, Trace { token, hops: Vec::new() });
            }
            Command::Leave => self.leave(now),
        }
        self.react(now);
    }

    fn set_wall(&mut self, host: crate::time::UnixTime, now: Instant) {
        let behind = self.clock.is_behind(now);
        self.clock.set(now, host);
        if self.clock.is_behind(now) != behind {
            self.event(Event::ClockBehind(!behind));
        }
        let wall = self.clock.now(now);
        self.sessions.recheck(wall, now);
    }

    fn revocations(&mut self, signed: Bytes, now: Instant) {
        let wall = self.clock.now(now);
        match self.sessions.trust_mut().update_revocations(&signed, wall) {
            Ok(true) => {
                if let Some(issued) = self.sessions.trust().revocations().map(|list| list.issued())
                    && self.clock.seen_signed(issued)
                {
                    self.event(Event::SignedTime(issued));
                }
                self.event(Event::RevocationList(signed));
                let wall = self.clock.now(now);
                self.sessions.recheck(wall, now);
            }
            Ok(false) => {}
            Err(error) => self.warn(format!("the revocation list is refused: {error}")),
        }
    }

    /// Takes over a renewed certificate of this node's own key.
    fn renewed(&mut self, der: &[u8], now: Instant) {
        let wall = self.clock.now(now);
        match self
            .sessions
            .trust()
            .verify(der, wall)
            .map_err(|error| error.to_string())
            .and_then(|certificate| self.identity_with(certificate))
        {
            Ok(identity) => {
                self.dht.set_identity(identity.clone());
                self.with_vpn(now, |vpn, at| vpn.set_identity(identity.clone(), at));
                self.sessions.set_identity(identity);
            }
            Err(error) => self.warn(format!("the renewed certificate is refused: {error}")),
        }
    }

    fn identity_with(&self, certificate: Certificate) -> Result<Identity, String> {
        self.sessions.identity().renewed(certificate).map_err(|error| error.to_string())
    }

    fn leave(&mut self, now: Instant) {
        if self.left {
            return;
        }
        self.left = true;
        self.dht_leave(now);
        self.overlay.leave(now);
        self.react(now);
        let peers: Vec<PeerId> = self.peers.iter(now).map(|peer| peer.peer).collect();
        for peer in peers {
            self.peers.close(peer, CloseReason::Leaving, now);
        }
        self.react(now);
        self.event(Event::Left);
    }

    /// A peer told at which address it sees us.
    pub(super) fn observed(&mut self, _peer: PeerId, address: SocketAddr, _now: Instant) {
        if let Some(known) = self.observed.iter_mut().find(|(known, _)| *known == address) {
            known.1 = known.1.saturating_add(1);
        } else {
            if self.observed.len() == MAX_OBSERVED {
                self.observed.pop();
            }
            self.observed.push((address, 1));
        }
        self.observed.sort_by_key(|(_, reports)| core::cmp::Reverse(*reports));
        self.tell_candidates();
    }

    /// What connect requests name as our addresses: the local ones, and those that peers see us at.
    fn tell_candidates(&mut self) {
        let mut candidates = self.local_addresses.clone();
        for (address, _) in &self.observed {
            if !candidates.contains(address) {
                candidates.push(*address);
            }
        }
        self.overlay.set_candidates(&candidates);
    }

    /// An echo came back, or did not.
    pub(super) fn echoed(&mut self, id: RequestId, body: &Result<Bytes, RequestError>, now: Instant) -> bool {
        let Some((token, sent, node)) = self.echoes.remove(&id) else { return false };
        let peer = self.peers.by_node(&node);
        let path = peer.and_then(|peer| self.peers.path(peer));
        let result = body.is_ok().then(|| EchoResult {
            rtt_us: now.saturating_since(sent).as_micros() as u64,
            path: path.map_or(PathKind::Routed, |path| self.kind_of(path)).name(),
            remote: path.and_then(|path| self.remote_of(path)),
        });
        self.event(Event::Echo { token, result });
        true
    }

    pub(super) fn trace_hop(&mut self, id: RequestId, node: NodeId, after: Duration) {
        let name = self.name_of(&node);
        if let Some(trace) = self.traces.get_mut(&id) {
            trace.hops.push((node, name, after.as_micros() as u64));
        }
    }

    pub(super) fn trace_done(&mut self, id: RequestId, reached: bool) {
        if let Some(trace) = self.traces.remove(&id) {
            self.event(Event::Trace { token: trace.token, hops: trace.hops, reached });
        }
    }
}
