//! What runs on top of the ring: DHT and VPN, their requests and replies.

use bytes::Bytes;

use super::Node;
use crate::dht::{At, DhtAction};
use crate::group::Certificate;
use crate::id::NodeId;
use crate::overlay::{Mode, ReplyTo, RequestError, RequestId};
use crate::shard::table::PeerId;
use crate::time::Instant;

/// First method of the DHT.
const DHT_METHODS: u8 = 0x20;
/// First method of the VPN.
const VPN_METHODS: u8 = 0x40;

impl Node {
    /// Carries the services' actions; `true` when there were none.
    pub(super) fn react_services(&mut self, now: Instant) -> bool {
        let mut quiet = true;
        while let Some(action) = self.dht.poll_action() {
            self.on_dht(action, now);
            quiet = false;
        }
        while let Some(action) = self.vpn.poll_action() {
            self.on_vpn(action, now);
            quiet = false;
        }
        quiet
    }

    pub(super) fn with_dht<T>(&mut self, now: Instant, act: impl FnOnce(&mut crate::dht::Dht, At<'_>) -> T) -> T {
        let at = At { trust: self.sessions.trust(), now, wall: self.clock.now(now) };
        act(&mut self.dht, at)
    }

    fn on_dht(&mut self, action: DhtAction, now: Instant) {
        match action {
            DhtAction::Request { token, point, exact, method, body } => {
                let mode = if exact { Mode::Exact } else { Mode::Closest };
                let id = self.overlay.request(point, mode, method, body, now);
                self.dht_calls.insert(id, token);
            }
            DhtAction::Reply { to, body } => self.overlay.reply(to, body, now),
            DhtAction::Done { op, result } => self.dht_done(op, result, now),
        }
    }

    pub(super) fn on_request(&mut self, from: NodeId, method: u8, body: &Bytes, reply: ReplyTo, now: Instant) {
        match method {
            DHT_METHODS..VPN_METHODS => self.with_dht(now, |dht, at| dht.handle_request(from, method, body, reply, at)),
            _ => self.vpn_request(from, method, body, reply, now),
        }
    }

    pub(super) fn on_reply(&mut self, id: RequestId, from: NodeId, body: Result<Bytes, RequestError>, now: Instant) {
        if self.echoed(id, &body, now) {
        } else if let Some(token) = self.dht_calls.remove(&id) {
            self.with_dht(now, |dht, at| dht.handle_reply(token, body.map(|body| (from, body)), at));
        } else {
            self.vpn_reply(id, from, body, now);
        }
    }

    pub(super) fn ring_changed(&mut self, now: Instant) {
        let view = self.overlay.view();
        self.with_dht(now, |dht, at| dht.ring_changed(&view, at));
        self.vpn_ring_changed(now);
    }

    pub(super) fn dht_leave(&mut self, now: Instant) {
        self.with_dht(now, |dht, at| dht.leave(at));
    }

    pub(super) fn certificate_of(&self, peer: PeerId) -> Option<&Certificate> {
        self.peers.session(peer).and_then(|session| self.sessions.info(session)).map(|info| info.certificate)
    }

    pub(super) fn name_of(&self, node: &NodeId) -> String {
        if *node == self.local {
            return self.sessions.identity().certificate().node_name().to_owned();
        }
        self.peers
            .by_node(node)
            .and_then(|peer| self.certificate_of(peer))
            .map_or_else(String::new, |certificate| certificate.node_name().to_owned())
    }
}
