//! The VPN's side of a node: members, their addresses, and packets that wait for them.

use core::net::IpAddr;

use bytes::Bytes;

use super::status::KnownHost;
use super::{Node, Queued};
use crate::dht::{At, DhtError, OpId, Outcome};
use crate::events::Event;
use crate::group::{Certificate, Roles};
use crate::id::NodeId;
use crate::io::{DropReason, Punt, Reinject};
use crate::overlay::{Mode, ReplyTo, RequestError, RequestId};
use crate::shard::table::{PeerId, Prefix, Removal, TableUpdate};
use crate::time::Instant;
use crate::vpn::{Vpn, VpnAction};

impl Node {
    pub(super) fn with_vpn<T>(&mut self, now: Instant, act: impl FnOnce(&mut Vpn, At<'_>) -> T) -> T {
        let at = At { trust: self.sessions.trust(), now, wall: self.clock.now(now) };
        act(&mut self.vpn, at)
    }

    pub(super) fn on_vpn(&mut self, action: VpnAction, now: Instant) {
        match action {
            VpnAction::Dht { op, operation } => self.with_dht(now, |dht, at| dht.start(op, operation, at)),
            VpnAction::Cancel(op) => self.dht.cancel(op),
            VpnAction::Request { token, point, exact, method, body } => {
                let mode = if exact { Mode::Exact } else { Mode::Closest };
                let id = self.overlay.request(point, mode, method, body, now);
                self.vpn_calls.insert(id, token);
            }
            VpnAction::Reply { to, body } => self.overlay.reply(to, body, now),
            VpnAction::Connect { node } => self.connect_member(node, now),
            VpnAction::Route { prefix, node } => self.with_peer(node, |this, peer| this.route(prefix, peer)),
            VpnAction::RemoveRoute { prefix } => self.unroute(prefix),
            VpnAction::Source { prefix, node } => self.with_peer(node, |this, peer| this.table(TableUpdate::Source { prefix, peer })),
            VpnAction::RemoveSource { prefix, node } => {
                self.with_peer(node, |this, peer| this.table(TableUpdate::Remove(Removal::Source(peer, prefix))));
            }
            VpnAction::Deliver { packet } => self.push(Queued::Deliver(packet.to_vec())),
            VpnAction::Reinject { node, packet } => self.with_peer(node, |this, peer| {
                this.open_data(peer, now);
                this.push(Queued::Reinject(Reinject::Seal, packet.to_vec()));
            }),
            VpnAction::Addresses { addresses, hosts } => {
                self.table(TableUpdate::Local { host: hosts.iter().map(|host| Prefix::host(*host)).collect(), service: Vec::new() });
                self.event(Event::Addresses { addresses, hosts });
            }
            VpnAction::Lease(bytes) => self.event(Event::Lease(bytes)),
            VpnAction::LeaseLost { address, owner } => {
                self.warn(format!("the address {address} belongs to node {owner} now; another one is being asked for"));
            }
            VpnAction::Resolved { token, node } => self.event(Event::Resolved { token, node }),
        }
    }

    fn with_peer(&mut self, node: NodeId, act: impl FnOnce(&mut Self, PeerId)) {
        match self.peers.by_node(&node) {
            Some(peer) => act(self, peer),
            None => self.stats.dropped(DropReason::NoPath),
        }
    }

    /// The VPN wants IP to flow to a member: on the session that exists, or on one that is made over the ring at once while a direct link is dialled.
    fn connect_member(&mut self, node: NodeId, now: Instant) {
        self.overlay.want_link(node, now);
        if let Some(peer) = self.peers.by_node(&node) {
            self.open_data(peer, now);
            if let Some(certificate) = self.certificate_of(peer).cloned() {
                self.member_up(node, &certificate, peer, now);
            }
        } else if self.connect_routed(node, now).is_none() {
            self.unreachable(node, now);
        }
    }

    /// A session with a node is up.
    pub(super) fn member_up(&mut self, _node: NodeId, certificate: &Certificate, _peer: PeerId, now: Instant) {
        if !certificate.roles().contains(Roles::INFRASTRUCTURE) {
            self.with_vpn(now, |vpn, at| vpn.session_up(certificate, at));
        }
    }

    /// No session with a node is left.
    pub(super) fn member_down(&mut self, node: NodeId, now: Instant) {
        self.vpn.session_down(node);
        self.react(now);
    }

    /// No session with a node could be made over the ring.
    pub(super) fn unreachable(&mut self, node: NodeId, now: Instant) {
        if self.peers.by_node(&node).is_none() {
            self.with_vpn(now, |vpn, at| vpn.connect_failed(node, at));
        }
    }

    pub(super) fn vpn_packet(&mut self, why: Punt, packet: &[u8], now: Instant) {
        self.with_vpn(now, |vpn, at| vpn.handle_packet(why, packet, at));
    }

    pub(super) fn vpn_request(&mut self, from: NodeId, method: u8, body: &Bytes, reply: ReplyTo, now: Instant) {
        self.with_vpn(now, |vpn, at| vpn.handle_request(from, method, body, reply, at));
    }

    pub(super) fn vpn_reply(&mut self, id: RequestId, from: NodeId, body: Result<Bytes, RequestError>, now: Instant) {
        if let Some(token) = self.vpn_calls.remove(&id) {
            self.with_vpn(now, |vpn, at| vpn.handle_reply(token, body.map(|body| (from, body)), at));
        }
    }

    pub(super) fn vpn_ring_changed(&mut self, now: Instant) {
        let consistent = self.is_joined();
        self.with_vpn(now, |vpn, at| vpn.ring_consistent(consistent, at));
    }

    pub(super) fn dht_done(&mut self, op: OpId, result: Result<Outcome, DhtError>, now: Instant) {
        self.with_vpn(now, |vpn, at| vpn.dht_done(op, result, at));
    }

    pub(super) fn restore_lease(&mut self, lease: &[u8], now: Instant) {
        self.with_vpn(now, |vpn, at| vpn.restore_lease(lease, at));
    }

    pub(super) fn resolve(&mut self, token: u64, name: &str, now: Instant) {
        self.with_vpn(now, |vpn, at| vpn.resolve(token, name, at));
    }

    pub(super) fn own_addresses(&self) -> Vec<IpAddr> {
        self.vpn.addresses()
    }

    pub(super) fn known_hosts(&self) -> Vec<KnownHost> {
        self.vpn.hosts().into_iter().map(|host| KnownHost { node_id: host.node, name: host.name, addresses: host.addresses }).collect()
    }
}
